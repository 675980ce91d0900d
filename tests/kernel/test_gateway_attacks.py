"""What a LAN does to the gateway, by accident and on purpose: each was tried because it might break somebody."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address

import pytest

from sidegate.home import load_home
from sidegate.lab.asking import http_get
from sidegate.lab.resolving import resolve
from sidegate.packet import UDP, Ipv4, Udp, build, frame_of
from tests.kernel.gateway_lab import SERVER, Box, Connection, gateway_in, kill, wait_for

pytestmark = pytest.mark.kernel

DEAD = "203.0.113.66"
RESOLVER = "8.8.8.8"
CALL = (SERVER, 5004)


@pytest.fixture
def box() -> Iterator[Box]:
    with gateway_in(load_home("velop-mesh")) as box:
        yield box.up().settled()


class Call:
    """A client's call: datagrams from one port, and the address under which the other side sees them."""

    def __init__(self, box: Box, who: str) -> None:
        self._far = box.lab.socket("internet", socket.AF_INET, socket.SOCK_DGRAM)
        self._far.bind(CALL)
        self._far.settimeout(15)
        self._near = box.lab.socket(who, socket.AF_INET, socket.SOCK_DGRAM)
        self._near.connect(CALL)

    def source(self) -> tuple[str, int]:
        self._near.send(b"voice")
        source: tuple[str, int] = self._far.recvfrom(64)[1]
        return source

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self._far.close()
        self._near.close()


def test_dead_server_does_not_move_the_call_of_the_same_client(box: Box) -> None:
    """Its SYNs are sent again and again: that alone ends no proof, or the call would turn up from another address."""
    with Call(box, "nas") as call:
        before = call.source()
        for _ in range(2):
            assert not box.lab.call("nas", http_get, DEAD, 80, "/", 1.4).ok
        assert (call.source(), box.in_set("stale4"), box.paths()["nas"]) == (before, 0, "direct")


def test_call_goes_on_when_the_daemon_is_dead_and_the_proof_lapses(box: Box) -> None:
    with Call(box, "nas") as call:
        before = call.source()
        kill(box.pid())
        box.expire_proofs()
        assert [call.source(), call.source()] == [before, before]


def test_roamed_client_finds_names_at_once_and_loses_its_proof_with_its_second_connection(box: Box) -> None:
    box.lab.move("nas", "router", "wifi")
    assert box.lab.call("nas", resolve, "server.example", RESOLVER, "A", "udp", 15.0).ok
    for _ in range(2):
        with Connection(box.lab, "nas") as made:
            assert (made.retransmitted > 0, made.is_alive()) == (True, True)
    with Connection(box.lab, "nas") as made:
        assert (made.retransmitted, made.is_alive()) == (0, True)
    wait_for(lambda: box.paths()["nas"] == "masqueraded")


def _make_up_clients(how_many: int, gateway_mac: str) -> int:
    """Datagrams to the internet from MAC addresses that nobody has; how many went out."""
    went_out = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        for n in range(how_many):
            source = IPv4Address("192.168.1.130") + n % 100
            packet = Ipv4(source, IPv4Address(SERVER), UDP, Udp(1000, 9, b"flood"))
            frame = build(frame_of(gateway_mac, f"02:ff:00:00:{n >> 8:02x}:{n & 255:02x}", packet))
            # "No buffer space available": the frames of all networks wait in one line (net/core/dev.c, netif_rx).
            with suppress(OSError):
                went_out += wire.send(frame) > 0
            if n % 100 == 0:
                # No faster than the other end can take in.
                time.sleep(0.01)
    return went_out


def test_newcomer_is_proved_amid_a_flood_of_made_up_ones(box: Box) -> None:
    lab = box.lab
    mac = json.loads(lab.run("gateway", "ip", "-json", "link", "show", "eth0").stdout)[0]["address"]
    assert lab.call("tablet", _make_up_clients, 3000, mac) > 2000
    box.probe_again()
    wait_for(lambda: box.status()["undecided"] > 1000)
    lab.run("nas", "ip", "address", "add", "192.168.1.99/24", "dev", "eth0")
    assert lab.call("nas", http_get, SERVER, 80, "/", 15.0, "192.168.1.99").ok
    wait_for(lambda: box.paths().get("192.168.1.99") == "direct")
    assert box.status()["undecided"] > 1000
    assert lab.call("nas", http_get, SERVER, 80, "/", 15.0).ok


def _echoed(size: int) -> int:
    """Bytes that came back of a datagram so large."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(15)
        asker.connect((SERVER, 7))
        asker.send(bytes(size))
        return len(asker.recv(65536))


def _pinged(size: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as asker:
        asker.settimeout(15)
        asker.connect((SERVER, 0))
        asker.send(struct.pack("!BBHHH", 8, 0, 0, 0, 1) + bytes(size))
        return len(asker.recv(65536)) - 8


IP_TTL, IP_MTU_DISCOVER, IP_RECVERR, IP_MTU = 2, 10, 11, 14
"""include/uapi/linux/in.h; IP_PMTUDISC_DO is 2."""


def _told_mtu(size: int) -> int:
    """The path's MTU, learned from a datagram that is not to be cut."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 2)
        asker.settimeout(15)
        asker.connect((SERVER, 7))
        asker.send(bytes(size))
        try:
            asker.recv(65536)
        except OSError:
            return asker.getsockopt(socket.IPPROTO_IP, IP_MTU)
        return 0


def _traced() -> list[str]:
    """Who says that a datagram's time is over, hop by hop, and at last that its port is closed."""
    return [_hop(ttl) for ttl in (1, 2, 3)]


def _hop(ttl: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setsockopt(socket.IPPROTO_IP, IP_TTL, ttl)
        asker.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        asker.settimeout(15)
        asker.connect((SERVER, 33434 + ttl))
        asker.send(b"trace")
        try:
            asker.recv(64)
        except OSError:
            _, ((_, _, said), *_), _, _ = asker.recvmsg(64, 256, socket.MSG_ERRQUEUE)
            # struct sock_extended_err, then the sockaddr_in of whoever said it (linux/errqueue.h)
            return socket.inet_ntoa(said[20:24])
    return "answer"


@pytest.mark.parametrize("who", ["nas", "phone"])
def test_large_datagrams_errors_and_traceroute_come_through(box: Box, who: str) -> None:
    """With a direct return path, and with a masqueraded one."""
    lab = box.lab
    assert (lab.call(who, _echoed, 3000), lab.call(who, _echoed, 60000), lab.call(who, _pinged, 4000)) == (
        *(3000, 60000, 4000),
    )
    assert lab.call(who, _traced) == ["192.168.1.2", "192.168.1.1", SERVER]
    for machine in ("router", "internet"):
        lab.run(machine, "ip", "link", "set", "wan", "mtu", "1400")
    assert lab.call(who, _told_mtu, 1450) == 1400
    assert lab.call(who, _echoed, 3000) == 3000
