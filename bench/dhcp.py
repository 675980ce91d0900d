"""DHCP: a crowd that wants addresses at once, the rate beside dnsmasq alone, and how soon another server is noticed."""

from __future__ import annotations

import json
import select
import shutil
import socket
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from bench.figures import Figure
from sidegate.home import Home, load_home
from sidegate.lab.lab import Lab
from sidegate.packet import BROADCAST, UDP, Ipv4, Udp, build, frame_of, parse
from sidegate.probe import dhcp_message as dhcp

CROWD, _FEW = 250, 16
_ROUNDS = 4
"""How often each client of the few at once comes: 250 leases take a twentieth of a second, too little to measure."""
_LABS = 7
_UNPACKED = Path(sys.prefix) / "unpacked"
_PERFDHCP = shutil.which("perfdhcp") or shutil.which(_UNPACKED / "usr/sbin/perfdhcp")
"""Where `tools/unpack` puts it."""
_FLOOD = "-4 -B -l eth0 -r 5000 -R 240 -p 1"
"""About as much as dnsmasq answers; -B: answers by broadcast."""
_ASKER = "computer"
_REQUESTED, _REQUEST, _ACK = 50, 3, 5
_AGAIN_S = 1.0
_CALM_S = 2.0
"""After the start: the daemon meets and probes who is there already."""
_NOBODY, _EVERYBODY = IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255")  # noqa: S104 (an address, not a bind)
_ALONE = (
    "dnsmasq --conf-file=/dev/null --port=0 --interface=eth0 --except-interface=lo --bind-dynamic --no-ping "
    "--dhcp-authoritative --quiet-dhcp --dhcp-range=192.168.1.3,192.168.1.254,12h --dhcp-leasefile=/run/alone "
    "--user=root --pid-file=/run/alone.pid"
)


def _home() -> Home:
    """The article's, with the router's DHCP off."""
    home = load_home("bypass")
    return msgspec.structs.replace(
        home, router=msgspec.structs.replace(home.router, dhcp=type(home.router.dhcp)(off=True))
    )


class Bound(msgspec.Struct, frozen=True):
    """count: clients with a lease. took_s: from the first question to the last answer."""

    count: int
    took_s: float


def crowd(count: int, within_s: float, at_once: int, rounds: int = 1) -> Bound:
    """Clients of which every one asks, is offered and accepts, so many at once. Runs on their machine.

    rounds: how often each does so; count in the answer is of all.
    """
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    sock.bind(("eth0", 0x0800))
    devices = [f"02:00:00:01:{n >> 8:02x}:{n & 255:02x}" for n in range(count)]
    macs = {n + 1: mac for n, mac in enumerate(devices * rounds)}
    coming, waiting = deque(macs), dict[int, float]()
    began_s = ended_s = time.monotonic()
    while (coming or waiting) and time.monotonic() < began_s + within_s:
        while coming and len(waiting) < at_once:
            waiting[coming.popleft()] = 0.0
        for xid in [xid for xid, asked_s in waiting.items() if time.monotonic() >= asked_s + _AGAIN_S]:
            waiting[xid] = time.monotonic()
            _send(sock, macs[xid], dhcp.build_discover(xid, macs[xid]))
        if not select.select([sock], [], [], 0.05)[0]:
            continue
        message = _heard(sock.recv(2000))
        if message is not None and message.kind == dhcp.OFFER and message.xid in waiting:
            _send(sock, macs[message.xid], _request(message))
        elif message is not None and message.kind == _ACK and message.xid in waiting:
            del waiting[message.xid]
            ended_s = time.monotonic()
    return Bound(len(macs) - len(waiting) - len(coming), ended_s - began_s)


def _heard(frame: bytes) -> dhcp.Message | None:
    packet = parse(frame).body
    if not isinstance(packet, Ipv4) or not isinstance(packet.body, Udp) or packet.body.dport != dhcp.CLIENT_PORT:
        return None
    return dhcp.parse_message(packet.body.payload)


def _request(offer: dhcp.Message) -> bytes:
    """Accepts an offer (RFC 2131 section 4.3.2)."""
    wanted = bytes((_REQUESTED, 4)) + offer.address.packed
    server = bytes((dhcp.SERVER, 4)) + offer.options[dhcp.SERVER]
    head = dhcp.build_discover(offer.xid, offer.mac)[:240]
    return (head + bytes((dhcp.KIND, 1, _REQUEST)) + wanted + server + b"\xff").ljust(300, b"\0")


def _send(sock: socket.socket, mac: str, payload: bytes) -> None:
    packet = Ipv4(_NOBODY, _EVERYBODY, UDP, Udp(dhcp.CLIENT_PORT, dhcp.SERVER_PORT, payload))
    sock.send(build(frame_of(BROADCAST, mac, packet)))


def _serve(lab: Lab) -> None:
    config = '[dhcp]\nmode = "server"\nrange = "192.168.1.3-192.168.1.254"\n'
    lab.run("gateway", "sh", "-c", "cat >/run/sidegate.toml", text=config)
    lab.run("gateway", sys.executable, "-m", "sidegate", "up", "--config", "/run/sidegate.toml")


def crowd_at_once() -> list[Figure]:
    """250 clients that ask in the same moment; and how many leases a second, here and by dnsmasq alone."""
    at_once = [_crowd_here(CROWD) for _ in range(3)]
    slowest = max(b.took_s if b.count == CROWD else float("inf") for b in at_once)
    return [Figure(f"{CROWD} DHCP clients at once, all bound", slowest, "s", 5, note="worst of 3"), *rates()]


def rates() -> list[Figure]:
    figures = [_against(_own_rate, 8, "")]
    if _PERFDHCP is not None:
        figures.append(_against(_perfdhcp_rate, 3, " (perfdhcp)"))
    return figures


def _against(rate_of: Callable[[Lab], float], turns: int, by: str) -> Figure:
    """Pairs of labs side by side, asked in turn: what else this machine does meets both; labs differ by chance."""
    pairs = [_pair(rate_of, turns) for _ in range(_LABS)]
    ours, theirs = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    ratios = [here / alone for here, alone in pairs]
    note = (
        f"median of {_LABS} pairs of labs, {min(ratios):.2f} to {max(ratios):.2f}: {ours:.0f} and {theirs:.0f} a second"
    )
    name = f"DHCP leases a second, against dnsmasq alone{by}"
    return Figure(name, statistics.median(ratios), "×", 0.95, "least", note)


def _pair(rate_of: Callable[[Lab], float], turns: int) -> tuple[float, float]:
    with Lab.up(_home()) as here, Lab.up(_home()) as alone:
        _serve(here)
        alone.run("gateway", *_ALONE.split())
        time.sleep(_CALM_S)
        rates: dict[bool, list[float]] = {True: [], False: []}
        for i in range(turns):
            for is_ours in (True, False) if i % 2 else (False, True):
                rates[is_ours].append(rate_of(here if is_ours else alone))
    return statistics.median(rates[True]), statistics.median(rates[False])


def _own_rate(lab: Lab) -> float:
    return _rate(lab.call(_ASKER, crowd, CROWD, 20.0, _FEW, _ROUNDS))


def _perfdhcp_rate(lab: Lab) -> float:
    """It ends with 3 where answers were missing, as it asks for more than it can get."""
    libraries = ":".join(map(str, (_UNPACKED / "usr/lib").glob("*-linux-gnu*")))
    said = lab.run(_ASKER, "env", f"LD_LIBRARY_PATH={libraries}", str(_PERFDHCP), *_FLOOD.split(), check=False).stdout
    return float(said.partition("Rate: ")[2].split()[0])


def _rate(bound: Bound) -> float:
    return bound.count / bound.took_s


def _crowd_here(at_once: int) -> Bound:
    with Lab.up(_home()) as lab:
        _serve(lab)
        time.sleep(_CALM_S)
        return lab.call(_ASKER, crowd, CROWD, 20.0, at_once)


def other_server_noticed() -> list[Figure]:
    """From the moment another server listens to the fault in `sidegate status`."""
    with Lab.up(_home()) as lab:
        _serve(lab)
        times = []
        for _ in range(3):
            lab.run("router", *_ALONE.replace("eth0", "br-lan").split())
            began_s = time.monotonic()
            while not _faults(lab):
                time.sleep(0.1)
            times.append(time.monotonic() - began_s)
            lab.run("router", "sh", "-c", "kill $(cat /run/alone.pid); rm /run/alone")
            while _faults(lab):
                time.sleep(0.1)
    return [Figure("another DHCP server noticed", max(times), "s", 10, note=f"worst of {len(times)}")]


def _faults(lab: Lab) -> bool:
    done = lab.run("gateway", sys.executable, "-m", "sidegate", "status", "--json", check=False)
    return bool(json.loads(done.stdout)["faults"])
