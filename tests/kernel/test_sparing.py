"""A proxy that stands on the LAN never gets its own traffic back, from whatever address it sends: rule by rule."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest
from msgspec import structs

from sidegate.gateway.ruleset.nft import Shape
from sidegate.gateway.split.policy import Policy
from sidegate.gateway.split.ports import engine_mark, lan_mark, upstream_mark
from sidegate.packet import BROADCAST, ICMP, TCP, UDP, IcmpError, Ipv4, Ipv6, Tcp, Udp
from tests.kernel.gateway_rig import (
    ACK,
    GATEWAY,
    GATEWAY_MAC,
    ROUTER_MAC,
    SERVER,
    SHAPE,
    SYN,
    in_namespaces,
    shell,
)
from tests.kernel.steer_rig import (
    CHOSEN,
    LAN6,
    SERVER6,
    Engine,
    Packet,
    SplitRig,
    datagram,
    syn,
)

pytestmark = pytest.mark.kernel

ALL = Policy((), "proxy")
KNOWING = structs.replace(SHAPE, router=ROUTER_MAC)
PROXY, PROXY_TOO = IPv4Address("192.168.1.9"), IPv4Address("192.168.1.200")
PROXY6, NEAR6 = LAN6[0x99], IPv6Address("fe80::99")
PROXY_MAC, PORT = "02:00:00:00:00:09", 1080
Address = IPv4Address | IPv6Address


class LanRig(SplitRig):
    """With a proxy's machine on the LAN, which does nothing by itself."""

    def __init__(self, shape: Shape = KNOWING, **settings: object) -> None:
        super().__init__(ALL, proved=False, shape=shape, spares=True, **settings)
        told = [f"ip neighbour add {it} lladdr {PROXY_MAC} dev eth0" for it in (PROXY, PROXY_TOO, PROXY6, NEAR6)]
        shell("\n".join(told))

    @contextlib.contextmanager
    def asked(self, address: Address, mark: int = upstream_mark(1), mac: str = PROXY_MAC) -> Iterator[None]:
        """A connection of this box's own to a server there, which has just been answered."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_STREAM) as it:
            it.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            it.setblocking(False)
            scope = socket.if_nametoindex("eth0") if address == NEAR6 else 0
            it.connect_ex((str(address), PORT, 0, scope) if address.version == 6 else (str(address), PORT))
            first = next(p for p in self.heard_so_far() if isinstance(p, Ipv4 | Ipv6) and p.dst == address)
            assert isinstance(first.body, Tcp)
            answer = Tcp(PORT, first.body.sport, 7000, first.body.seq + 1, SYN | ACK)
            self.put(structs.replace(first, src=first.dst, dst=first.src, body=answer), src=mac)
            it.getpeername()
            yield

    @contextlib.contextmanager
    def asking_by_datagrams(self) -> Iterator[socket.socket]:
        """A socket as the engine's: for any server, and whoever sends it something is heard."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
            it.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, upstream_mark(1))
            it.bind(("0.0.0.0", 0))
            it.setblocking(False)
            yield it

    def is_straight(self, packet: Packet, src: Address, mac: str = PROXY_MAC) -> bool:
        """Whether it goes on to where a device of the LAN sends it."""
        seen = self.ask(structs.replace(packet, src=src), src=mac)
        assert seen is not None, "nowhere"
        return seen.dst == packet.dst


@in_namespaces
def test_who_answers_for_an_upstream_sends_straight_from_all_of_its_addresses() -> None:
    """From then on: a connection that was begun before stays where it is."""
    rig = LanRig()
    Engine(CHOSEN)
    of_before = structs.replace(syn(40000), src=PROXY_TOO)
    assert not rig.is_straight(of_before, PROXY_TOO)
    with rig.asked(PROXY):
        pass
    assert not rig.is_straight(of_before, PROXY_TOO)
    for i, src in enumerate((PROXY, PROXY_TOO)):
        assert all(rig.is_straight(it(40001 + i), src) for it in (syn, datagram))
    assert all(rig.is_straight(it(40001, SERVER6), PROXY6) for it in (syn, datagram))
    assert rig.went(syn(40010)) == "engine", "another device is no proxy"


@pytest.mark.parametrize("address", [PROXY6, NEAR6])
@in_namespaces
def test_by_ipv6_it_is_known_as_well(address: IPv6Address) -> None:
    rig = LanRig()
    Engine(CHOSEN)
    assert not rig.is_straight(syn(), PROXY_TOO)
    with rig.asked(address):
        assert rig.is_straight(syn(40001), PROXY_TOO)


@in_namespaces
def test_where_ipv6_is_not_split_it_is_known_by_the_address_that_its_link_gives() -> None:
    rig = LanRig(ipv6=False, unsteered=(PROXY6,))
    Engine(CHOSEN)
    with rig.asked(PROXY6):
        assert rig.is_straight(syn(40001), PROXY_TOO)


@in_namespaces
def test_without_an_engine_what_it_sends_is_not_refused_either() -> None:
    rig = LanRig(on_failure="block")
    assert not rig.is_straight(syn(), PROXY_TOO)
    with rig.asked(PROXY):
        assert rig.is_straight(syn(40001), PROXY_TOO)


@pytest.mark.parametrize("mark", [0, engine_mark(1), lan_mark(1)])
@in_namespaces
def test_who_answers_for_no_upstream_is_no_proxy(mark: int) -> None:
    """But a name server that the engine asks, a device that somebody asks for by `lan_port`, or a client of ours."""
    rig = LanRig()
    Engine(CHOSEN)
    with rig.asked(PROXY, mark):
        assert not rig.is_straight(syn(), PROXY_TOO)


@in_namespaces
def test_a_datagram_that_nobody_asked_for_is_no_answer() -> None:
    """Though the engine's socket hears it: home devices send such ones to everybody all day."""
    rig = LanRig()
    with rig.asking_by_datagrams() as it:
        port = it.getsockname()[1]
        for to, mac in ((GATEWAY, GATEWAY_MAC), (IPv4Address("192.168.1.255"), BROADCAST)):
            rig.put(Ipv4(PROXY, to, UDP, Udp(40000, port, b"?")), src=PROXY_MAC, dst=mac)
        assert len(it.recv(64)) == 1
        assert not rig.holds("proxies", PROXY_MAC)
        it.sendto(b"?", (str(PROXY), PORT))
        rig.put(Ipv4(PROXY, GATEWAY, UDP, Udp(PORT, port, b"!")), src=PROXY_MAC)
        assert rig.holds("proxies", PROXY_MAC)


@in_namespaces
def test_who_is_behind_no_connection_answers_for_nobody() -> None:
    """A segment with the proxy's address and ports, from another device, that is not of the connection's window."""
    rig = LanRig()
    with rig.asked(PROXY):
        ours = next(it for it in shell("ss -Htn state established").splitlines() if f":{PORT}" in it).split()[2]
        made_up = Tcp(PORT, int(ours.rpartition(":")[2]), 900_000_000, 900_000_000, ACK, payload=b"x")
        rig.put(Ipv4(PROXY, GATEWAY, TCP, made_up), src="02:00:00:00:00:66")
        assert not rig.holds("proxies", "02:00:00:00:00:66")


@in_namespaces
def test_an_error_about_a_question_is_no_answer() -> None:
    rig = LanRig()
    with rig.asking_by_datagrams() as it:
        it.sendto(b"?", (str(PROXY), PORT))
        asked = next(p for p in rig.heard_so_far() if isinstance(p, Ipv4) and p.dst == PROXY)
        rig.put(Ipv4(PROXY_TOO, GATEWAY, ICMP, IcmpError("unreachable", 3, asked)), src="02:00:00:00:00:66")
        assert not rig.holds("proxies")


@in_namespaces
def test_the_router_is_no_proxy_nor_who_is_behind_it() -> None:
    rig = LanRig()
    Engine(CHOSEN)
    of_router = IPv4Address("192.168.1.254")
    shell(f"ip neighbour add {of_router} lladdr {ROUTER_MAC} dev eth0")
    with rig.asked(SERVER, mac=ROUTER_MAC), rig.asked(of_router, mac=ROUTER_MAC):
        assert not rig.holds("proxies")
    shell("ip route add 10.9.0.0/16 via 192.168.1.9")
    with rig.asked(IPv4Address("10.9.0.9")):
        assert not rig.holds("proxies")
        assert not rig.is_straight(syn(), PROXY_TOO)


@in_namespaces
def test_a_router_that_is_not_known_might_be_anybody() -> None:
    rig = LanRig(SHAPE)
    Engine(CHOSEN)
    with rig.asked(PROXY):
        assert not rig.is_straight(syn(), PROXY_TOO)


@in_namespaces
def test_it_is_known_whatever_becomes_of_the_rules() -> None:
    rig = LanRig()
    Engine(CHOSEN)
    with rig.asked(PROXY):
        pass
    rig.steer(Policy((), "proxy", quic="block"), spares=True)
    assert rig.is_straight(syn(), PROXY_TOO)
