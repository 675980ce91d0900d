"""The packet socket's filter, run by the kernel on a pair of local sockets: no privilege needed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from sidegate.packet import (
    BROADCAST,
    ICMP,
    TCP,
    UDP,
    Arp,
    Body,
    Echo,
    Frame,
    IcmpError,
    Ipv4,
    Redirect,
    Tcp,
    Udp,
    build,
    frame_of,
)
from sidegate.probe.wire import Ports, answers_only, assemble, attach_filter

from .world import CLIENT_IP, ONE, ROUTER, US, VANTAGE

QUESTION = Ipv4(VANTAGE.ip, ONE, ICMP, Echo(False, 1, 1))


def _to_us(protocol: int, body: Body, **fields: object) -> Frame:
    return frame_of(US, ROUTER, Ipv4(ONE, VANTAGE.ip, protocol, body, **fields))  # type: ignore[arg-type]


def _from_server(to: IPv4Address, body: Udp, **fields: object) -> Frame:
    return frame_of(BROADCAST, ROUTER, Ipv4(ONE, to, UDP, body, **fields))  # type: ignore[arg-type]


TAKEN = {
    "echo reply": _to_us(ICMP, Echo(True, 1, 1)),
    "echo reply behind IP options": _to_us(ICMP, Echo(True, 1, 1), options=bytes(8)),
    "time exceeded": _to_us(ICMP, IcmpError("time exceeded", 0, QUESTION)),
    "unreachable": _to_us(ICMP, IcmpError("unreachable", 3, QUESTION)),
    "redirect": _to_us(ICMP, Redirect(1, ONE, QUESTION)),
    "DNS answer": _to_us(UDP, Udp(53, 4000, b"x" * 12)),
    "ARP reply": frame_of(US, ROUTER, Arp(True, ROUTER, ONE, US, VANTAGE.ip)),
    "DHCP offer by broadcast": _from_server(IPv4Address("255.255.255.255"), Udp(67, 68, bytes(300))),
    "DHCP offer to its address": _from_server(CLIENT_IP, Udp(67, 68, bytes(300)), options=bytes(4)),
}
DROPPED = {
    "echo request": _to_us(ICMP, Echo(False, 1, 1)),
    "echo reply to another": frame_of(US, ROUTER, Ipv4(ONE, ONE, ICMP, Echo(True, 1, 1))),
    "DHCP question": _from_server(IPv4Address("255.255.255.255"), Udp(68, 67, bytes(300))),
    "DNS answer to another": _from_server(CLIENT_IP, Udp(53, 4000, b"x" * 12)),
    "UDP from another port": _to_us(UDP, Udp(5353, 53, b"x" * 12)),
    "TCP from port 53": _to_us(TCP, Tcp(53, 4000, 1)),
    "fragment": _to_us(UDP, b"\0\x35" * 8, fragment_offset=8),
    "ARP request": frame_of(US, ROUTER, Arp(False, ROUTER, ONE, US, VANTAGE.ip)),
    "IPv6": Frame(US, ROUTER, 0x86DD, bytes(60)),
    "runt": Frame(US, ROUTER, 0x0800, b""),
}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        attach_filter(ours, assemble(answers_only(VANTAGE.ip)))
        ours.setblocking(False)
        yield ours, theirs


def _hears(pair: tuple[socket.socket, socket.socket], frame: Frame) -> bool:
    ours, theirs = pair
    theirs.send(build(frame))
    try:
        return ours.recv(2000) == build(frame)
    except BlockingIOError:
        return False


@pytest.mark.parametrize("name", TAKEN)
def test_answers_are_heard(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    assert _hears(pair, TAKEN[name])


@pytest.mark.parametrize("name", DROPPED)
def test_everything_else_is_not(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    assert not _hears(pair, DROPPED[name])


def test_ports_rest_after_release() -> None:
    """600 free choices among the kernel's 28,000 ephemeral ports repeat one in more than 99 % of runs."""
    ports = Ports(IPv4Address("127.0.0.1"))
    seen = set()
    for _ in range(600):
        port = ports.reserve()
        assert port not in seen
        seen.add(port)
        ports.release(port)


def test_a_reserved_port_is_taken() -> None:
    ports = Ports(IPv4Address("127.0.0.1"))
    port = ports.reserve()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    ports.release(port)
