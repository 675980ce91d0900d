"""Our resolver with 10,000 proxied names beside 10,000 networks: starting, changing, remembering, learning."""

from __future__ import annotations

import re
import statistics
import sys
import time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec

from bench.figures import Figure, median_ms, spread
from sidegate.gateway.dns.dnsmasq import dnsmasq_conf
from sidegate.gateway.dns.names import name_table
from sidegate.gateway.dns.places import ResolverPlaces
from sidegate.gateway.dns.resolver import Resolver
from sidegate.gateway.split.policy import Destination, Policy, Rule
from sidegate.home import load_home
from sidegate.lab.lab import Lab
from sidegate.probe.dns import ask
from sidegate.reading import encode_address

NAMES = NETWORKS = 10_000
_ENGINE_PORT, _WE, _CLIENT = 15499, "192.168.1.2", "my-computer"
_STARTS, _LEARNED = 5, 50
_ENGINE = (
    f"dnsmasq --conf-file=/dev/null --port={_ENGINE_PORT} --listen-address=127.0.0.1 --bind-interfaces --no-resolv "
    "--no-hosts --user=root --group= --pid-file= --local-ttl=600"
)
_SETS = """
table inet sidegate {
    set networks { type ipv4_addr . inet_proto; flags interval; }
    set names0_4 { type ipv4_addr; size 65536; flags timeout; timeout 2h; }
}
"""
_WANT = """
import sys, time, msgspec
from pathlib import Path
from sidegate.gateway.dns.child import Resolving
from sidegate.gateway.dns.places import ResolverPlaces
from sidegate.gateway.dns.resolver import Resolver
from sidegate.gateway.places import Places
from sidegate.reading import decode_address
wanted = [msgspec.json.decode(line, type=Resolver, dec_hook=decode_address) for line in sys.stdin]
resolving = Resolving(Places(Path("/run/state"), Path("/run/own")), lambda _: None)
for it in wanted:
    resolving.want(it)
    while not resolving.serves():
        resolving.turn(time.monotonic())
        time.sleep(0.001)
    time.sleep(0.3)
print(resolving.pid())
"""


def policy() -> Policy:
    names = tuple(sorted(f"name{n}.foreign.example" for n in range(NAMES)))
    return Policy((Rule("proxy.list", "proxy", Destination(suffixes=names)),))


def resolver(it: Policy) -> Resolver:
    return Resolver(
        interface="eth0",
        lan=(IPv4Network("192.168.1.0/24"),),
        router=IPv4Address("192.168.1.1"),
        direct=(IPv4Address("123.100.96.53"),),
        engine_port=_ENGINE_PORT,
        names=name_table(it),
    )


def resolver_with_many_names() -> list[Figure]:
    with Lab.up(load_home("split")) as lab:
        lab.run("gateway", "nft", "-f", "-", text=_SETS)
        answers = (f"--address=/new{n}.name{n}.foreign.example/6.0.0.{n}" for n in range(_LEARNED))
        lab.run("gateway", *_ENGINE.split(), "--address=/foreign.example/5.1.2.3", *answers)
        decided, runs = median_ms(decide, 5)
        gaps, pid = _silent_while_changing(lab)
        alone = _learning_ms(lab, range(_LEARNED // 2))
        rate = _answers_per_s(lab)
        memory = _memory_mb(lab, pid)
        _add_networks(lab)
        beside = _learning_ms(lab, range(_LEARNED // 2, _LEARNED))
        grown = _memory_mb(lab, pid)
    many = f"with {NAMES:,} names"
    return [
        Figure(f"resolver: other rules decided, {many}", decided, "ms", note=runs),
        Figure(f"resolver: silent while it is started anew, {many}", statistics.median(gaps), "ms", note=spread(gaps)),
        Figure(f"resolver: answers from its cache, {many}", rate, "per s", 20_000, "least", "dnsperf, 10 clients"),
        Figure(f"resolver: memory, {many}", memory, "MB"),
        Figure("resolver: a new name asked and learned", alone, "ms", note=f"mean of {_LEARNED // 2}"),
        Figure(
            f"resolver: the same beside a set of {NETWORKS:,} networks", beside, "ms", note=f"mean of {_LEARNED // 2}"
        ),
        Figure(f"resolver: memory then, {many}", grown, "MB"),
    ]


def decide() -> str:
    """The configuration for rules that were not seen before."""
    name_table.cache_clear()
    return dnsmasq_conf(resolver(policy()), ResolverPlaces(Path("/run/own")), "root")


def _silent_while_changing(lab: Lab) -> tuple[list[float], int]:
    """How long nobody answers, for each change of whom proxied names are asked at; and the last process."""
    it = resolver(policy())
    states = [msgspec.structs.replace(it, proxied=("refused", "asked")[n % 2]) for n in range(_STARTS + 1)]
    text = "".join(msgspec.json.encode(state, enc_hook=encode_address).decode() + "\n" for state in states)
    asking = lab.begin(_CLIENT, longest_silences, _STARTS, 20.0)
    pid = lab.run("gateway", sys.executable, "-c", _WANT, text=text, timeout_s=60).stdout
    return [it * 1000 for it in asking.result()], int(pid)


def longest_silences(count: int, within_s: float) -> list[float]:
    """The longest times between two answers, in seconds, once there was one. Runs at a client."""
    deadline = time.monotonic() + within_s
    silences: list[float] = []
    answered_s = 0.0
    while time.monotonic() < deadline and sum(it > 0.02 for it in silences) < count:
        if ask(_WE, "www.domestic.example", timeout_s=0.01) is None:
            continue
        now = time.monotonic()
        silences += [now - answered_s] if answered_s else []
        answered_s = now
    return sorted(silences)[-count:]


def _learning_ms(lab: Lab, which: range) -> float:
    return lab.call(_CLIENT, ask_each, which.start, which.stop) / len(which) * 1000


def ask_each(first: int, last: int) -> float:
    """Seconds for all. Runs at a client."""
    began_s = time.perf_counter()
    for n in range(first, last):
        answer = ask(_WE, f"new{n}.name{n}.foreign.example")
        if answer is None or answer.addresses != (f"6.0.0.{n}",):
            raise RuntimeError(f"no answer for name {n}: {answer}")
    return time.perf_counter() - began_s


def _answers_per_s(lab: Lab) -> float:
    names = "".join(f"name{n}.foreign.example A\n" for n in range(0, NAMES, 2))
    lab.run(_CLIENT, "sh", "-c", "cat >/run/names", text=names)
    command = ("dnsperf", "-s", _WE, "-d", "/run/names", "-c", "10")
    lab.run(_CLIENT, *command, "-n", "1")
    said = lab.run(_CLIENT, *command, "-l", "5").stdout
    found = re.search(r"Queries per second:\s+([0-9.]+)", said)
    return float(found[1]) if found else 0.0


def _memory_mb(lab: Lab, pid: int) -> float:
    status = lab.run("gateway", "cat", f"/proc/{pid}/status").stdout
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1000 if found else 0.0


def _add_networks(lab: Lab) -> None:
    """As `steer` writes them. In parts: without the machine's root a message must fit into the socket's buffer."""
    networks = [f"20.{n // 256}.{n % 256}.0/25 . 0-255" for n in range(NETWORKS)]
    for at in range(0, NETWORKS, 1000):
        listed = ", ".join(networks[at : at + 1000])
        lab.run("gateway", "nft", "-f", "-", text=f"add element inet sidegate networks {{ {listed} }}\n")
