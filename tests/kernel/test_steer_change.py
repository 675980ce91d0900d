"""While one ruleset is replaced by the next, in a flood of datagrams that each begin a flow."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from msgspec import structs

from sidegate.gateway.split.policy import Destination, Policy, Rule, Source
from sidegate.packet import Ipv4, Ipv6, Udp, build, frame_of
from tests.kernel.gateway_rig import CLIENT_MAC, GATEWAY_MAC, LAN, SERVER, in_namespaces
from tests.kernel.steer_rig import CHOSEN, LAN6, SERVER6, Packet, SplitRig, datagram, transparent
from tests.kernel.test_steer import TO_SERVER

pytestmark = pytest.mark.kernel

CHANGES = 16
"""Where rules are asked before their sets hold anything, about one datagram gets past the engine at each."""
BY_PORTS = Policy((Rule("rule[0]", "proxy", protocol="udp", ports=((80, 80), (50000, 52000), (51000, 53000))),))
NEAR = Source((), (*LAN, IPv4Network("10.0.0.0/25")), (LAN6, IPv6Network("2001:db8:1::/48")))
BY_SENDER = Policy((Rule("rule[0]", "proxy", TO_SERVER, NEAR),))


def listing(count: int) -> Policy:
    more4 = (IPv4Network(f"9.{i >> 8}.{i & 255}.0/25") for i in range(count))
    more6 = (IPv6Network(f"2001:db8:9:{i:x}::/65") for i in range(count))
    to = Destination(networks4=(*TO_SERVER.networks4, *more4), networks6=(*TO_SERVER.networks6, *more6))
    return Policy((Rule("rule[0]", "proxy", to),))


@pytest.mark.parametrize(
    ("one", "other", "to"),
    [(BY_PORTS, BY_PORTS, SERVER), (BY_SENDER, BY_SENDER, SERVER6), (listing(100), listing(101), SERVER)],
    ids=["ports", "sender", "networks"],
)
@in_namespaces
def test_nothing_gets_past_the_engine_while_rules_change(
    one: Policy, other: Policy, to: IPv4Address | IPv6Address
) -> None:
    rig = SplitRig(one)
    assert got_past(rig, datagram(to=to), lambda i: rig.steer(other if i else one)) == []


def got_past(rig: SplitRig, like: Packet, change: Callable[[int], None]) -> list[Packet]:
    """Of a flood of such datagrams, what the gateway sent on. change: to the other ruleset, 1, and back, 0."""
    with listening(like.dst.version) as ears:
        with flood(rig.wire, like):
            for i in range(CHANGES):
                change((i + 1) % 2)
        assert select.select(ears, [], [], 0)[0], "nothing came to the engine"
        return [it for it in rig.heard_so_far() if isinstance(it, Ipv4 | Ipv6) and it.dst == like.dst]


@contextmanager
def listening(version: int) -> Iterator[list[socket.socket]]:
    """At the engine's ports, and never reading: what is lost for want of room was led there all the same."""
    family, here = (socket.AF_INET, "127.0.0.1") if version == 4 else (socket.AF_INET6, "::1")
    with transparent(family, socket.SOCK_DGRAM) as decided, transparent(family, socket.SOCK_DGRAM) as named:
        decided.bind((here, CHOSEN.decided))
        named.bind((here, CHOSEN.named))
        yield [decided, named]


@contextmanager
def flood(wire: socket.socket, like: Packet) -> Iterator[None]:
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        with suppress(BaseException):
            _send_for_ever(wire, like)
        os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _send_for_ever(wire: socket.socket, like: Packet) -> None:
    """Each from another device and another port, so that it belongs to no flow and nobody is held back.

    Two bytes of payload keep the checksum what it is.
    """
    assert isinstance(like.body, Udp)
    like = structs.replace(like, body=structs.replace(like.body, payload=b"\0\0"))
    frame = bytearray(build(frame_of(GATEWAY_MAC, CLIENT_MAC, like)))
    mac, port = slice(8, 12), slice(len(frame) - 10, len(frame) - 8)
    first = int.from_bytes(frame[port])
    while True:
        chosen = os.urandom(6)
        number = 1024 + int.from_bytes(chosen[:2]) % 60000
        frame[mac] = chosen[2:]
        frame[port] = number.to_bytes(2)
        frame[-2:] = ((first - number) % 0xFFFF).to_bytes(2)
        with suppress(OSError):
            wire.send(frame)
