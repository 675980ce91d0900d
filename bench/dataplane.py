"""What our table costs: the same client's packets through a box that only forwards, and through one with our table.

In short turns within one lab, so that whatever else the machine does slows all alike. A machine's speed changes from
second to second by more than they differ: so a ratio is that of one round's turns, and the figure the median of these.
With the interval in which it lies, the note tells how sure that is. The daemon has ended by then: the kernel alone is
measured.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from bench.figures import Figure, sureness
from bench.gateway import SERVER
from sidegate.gateway.desired import TABLE
from sidegate.home import load_home
from sidegate.lab.asking import download_mbit
from sidegate.lab.check import set_gateway, sidegate
from sidegate.lab.lab import Lab

ROUNDS = 25
SECONDS = 0.15
CLIENT, GATEWAY = "nas", "gateway"
PORTS = {"plain forwarding": 9000, "proved": 9001, "plain masquerade": 9002, "not proved": 9003}
"""Of a server that closes whatever connects: one each, so that none meets the other's lingering connections."""

NONE = f"add table inet {TABLE}\ndelete table inet {TABLE}\nadd table ip plain\ndelete table ip plain\n"
_PLAIN_MASQUERADE = """table ip plain {
    chain post {
        type nat hook postrouting priority srcnat
        oifname "eth0" masquerade
    }
}
"""
PAIRS = (("proved", "plain forwarding"), ("not proved", "plain masquerade"))
Rates = dict[str, list[float]]
"""By what is loaded; in the order of the rounds."""


def table_costs() -> list[Figure]:
    """New connections and throughput of one client: with our table, and with nothing or one line in its place."""
    with Lab.up(load_home("velop-mesh")) as lab:
        set_gateway(lab, "sidegate")
        lab.begin("internet", close_whatever_connects)
        tables = _tables(lab)
        connections = in_turns(lab, tables, lambda it: lab.call(CLIENT, connections_per_s, PORTS[it], SECONDS), ROUNDS)
        downloads = in_turns(lab, tables, lambda _: lab.call(CLIENT, download_mbit, SERVER, SECONDS), ROUNDS)
    return [*_figures("new connections", "per s", connections), *_figures("download", "Mbit/s", downloads)]


def _figures(what: str, unit: str, rates: Rates) -> Iterator[Figure]:
    yield from medians(what, unit, rates)
    for us, them in PAIRS:
        ratio, sure = ratios(rates[us], rates[them])
        yield Figure(f"{what}, {us} / {them}", ratio, "×", note=sure)


def _tables(lab: Lab) -> dict[str, str]:
    """What to load for each; ours as it stands, with its proofs."""
    ours = lab.run(GATEWAY, "nft", "list", "table", "inet", TABLE).stdout
    leave_to_the_kernel(lab)
    return {
        "plain forwarding": NONE,
        "proved": NONE + ours,
        "plain masquerade": NONE + _PLAIN_MASQUERADE,
        "not proved": f"{NONE}{ours}flush set inet {TABLE} direct4\n",
    }


def leave_to_the_kernel(lab: Lab) -> None:
    """The daemon ends, and no rules are left: an empty nat chain, as `iptables -t nat -F` makes one, has conntrack
    enter every connection, and would make plain forwarding dearer than it is."""
    lab.run(GATEWAY, "kill", str(json.loads(sidegate(lab, "status", "--json"))["pid"]))
    lab.run(GATEWAY, "nft", "flush", "ruleset")


def in_turns(lab: Lab, tables: Mapping[str, str], measure: Callable[[str], float], rounds: int) -> Rates:
    """Each of them is first as often as the others."""
    rates: Rates = {name: [] for name in tables}
    names = list(tables)
    for number in range(rounds):
        at = number % len(names)
        for name in (*names[at:], *names[:at]):
            lab.run(GATEWAY, "nft", "-f", "-", text=tables[name])
            rates[name].append(measure(name))
    return rates


def medians(what: str, unit: str, rates: Rates) -> Iterator[Figure]:
    for name, listed in rates.items():
        yield Figure(f"{what}, {name}", statistics.median(listed), unit, note=f"median of {len(listed)} turns")


def ratios(us: Sequence[float], them: Sequence[float]) -> tuple[float, str]:
    """The median of the rounds' ratios, and how sure that is."""
    found = [ours / theirs for ours, theirs in zip(us, them, strict=True)]
    return statistics.median(found), sureness(found, "pairs")


def close_whatever_connects() -> int:
    """Until the lab ends."""
    with contextlib.ExitStack() as listeners, selectors.DefaultSelector() as selector:
        for port in PORTS.values():
            listener = listeners.enter_context(socket.create_server((SERVER, port), backlog=4096))
            selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                cast(socket.socket, key.fileobj).accept()[0].close()


def connections_per_s(port: int, seconds: float) -> float:
    """Opened, closed by the server and closed here, one after the other."""
    start, done = time.monotonic(), 0
    while (took := time.monotonic() - start) < seconds:
        with contextlib.suppress(TimeoutError), socket.create_connection((SERVER, port), timeout=1) as asker:
            asker.recv(1)
            done += 1
    return done / took
