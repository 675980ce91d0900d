"""What the box offers to the LAN: led there and open for the LAN, shut for everybody else."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from msgspec import structs

from sidegate.gateway.ruleset.services import TCP_PER_ASKER, Services
from sidegate.gateway.split.ports import RELIEF_PORT
from sidegate.packet import TCP, UDP, Ipv4, Ipv6, Tcp, Udp
from tests.kernel.gateway_rig import (
    ACK,
    CLIENT,
    CLIENT_MAC,
    GATEWAY,
    LAN,
    ROUTER_MAC,
    RST,
    SERVER,
    SHAPE,
    SYN,
    in_namespaces,
    shell,
)
from tests.kernel.steer_rig import CHOSEN, CLIENT6, GATEWAY6, SERVER6, Engine, Packet, SplitRig, syn
from tests.kernel.test_steer import ALL, LISTED

pytestmark = pytest.mark.kernel

LAN_PORT = 1080
SERVICES = Services(True, True, LAN_PORT, CHOSEN.socks, True, True)
PLAIN = structs.replace(SHAPE, services=SERVICES)
OUTSIDE = IPv4Address("203.0.113.7")


def question(to: IPv4Address, of: IPv4Address = CLIENT, port: int = 40000) -> Ipv4:
    return Ipv4(of, to, UDP, Udp(port, 53, b"?"))


def listening(port: int, kind: socket.SocketKind) -> socket.socket:
    """Of the box, at every address, as our resolver and the engine's SOCKS port are."""
    heard = socket.socket(socket.AF_INET6, kind)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    heard.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        heard.listen(16)
    heard.settimeout(15)
    return heard


def is_heard(heard: socket.socket, send: Callable[[], object]) -> bool:
    """send: returns when the box has dealt with it."""
    send()
    if not has_something(heard):
        return False
    heard.recv(100)
    return True


def has_something(heard: socket.socket) -> bool:
    """Now."""
    return bool(select.select([heard], [], [], 0)[0])


@pytest.mark.parametrize("proved", [False, True])
@in_namespaces
def test_names_asked_elsewhere_are_answered_here(proved: bool) -> None:
    rig = SplitRig(ALL, proved=proved, shape=PLAIN)
    resolver, _by_tcp = listening(53, socket.SOCK_DGRAM), listening(53, socket.SOCK_STREAM)
    rig.send(question(SERVER))
    _, asker = resolver.recvfrom(100)
    resolver.sendto(b"!", asker)
    answer = rig.next_sent()
    assert answer is not None
    assert (answer.src, answer.dst, answer.body) == (SERVER, CLIENT, Udp(53, 40000, b"!"))
    assert answered(rig, syn(40003, dport=53))


def answered(rig: SplitRig, first: Packet, src: str = CLIENT_MAC) -> bool:
    """Whether the box completes the handshake in the name of whoever was asked."""
    seen = rig.ask(first, src)
    assert seen is None or (seen.src, seen.dst) == (first.dst, first.src)
    return seen is not None and isinstance(seen.body, Tcp) and seen.body.flags == SYN | ACK


@pytest.mark.parametrize("relief", [False, True])
@in_namespaces
def test_nobody_holds_all_connections_to_the_resolver(relief: bool) -> None:
    """By whatever addresses it asks, and whomever it means to ask."""
    services = structs.replace(SERVICES, relief=relief)
    rig = SplitRig(ALL, shape=structs.replace(SHAPE, services=services))
    _by_tcp = listening(RELIEF_PORT if relief else 53, socket.SOCK_STREAM)
    for port in range(TCP_PER_ASKER):
        assert answered(rig, syn(41000 + port, dport=53))
    refused = rig.ask(syn(42000, dport=53))
    assert refused is not None
    assert isinstance(refused.body, Tcp)
    assert refused.body.flags & RST
    assert answered(rig, syn(42001, dport=53), src="02:00:00:00:00:11")


@in_namespaces
def test_names_are_answered_by_ipv6_too() -> None:
    rig = SplitRig(ALL, shape=PLAIN)
    resolver = listening(53, socket.SOCK_DGRAM)
    assert is_heard(resolver, lambda: rig.ask(Ipv6(CLIENT6, SERVER6, UDP, Udp(40000, 53, b"?"))))
    assert is_heard(resolver, lambda: rig.ask(Ipv6(CLIENT6, GATEWAY6, UDP, Udp(40000, 53, b"?"))))


@in_namespaces
def test_without_redirect_names_go_where_they_are_asked() -> None:
    rig = SplitRig(LISTED, shape=structs.replace(PLAIN, services=structs.replace(SERVICES, redirects=False)))
    Engine(CHOSEN)
    assert [rig.went(question(SERVER)), rig.went(question(OUTSIDE))] == ["engine", "masqueraded"]
    assert is_heard(listening(53, socket.SOCK_DGRAM), lambda: rig.put(question(GATEWAY)))


@in_namespaces
def test_no_names_for_the_world() -> None:
    rig = SplitRig(ALL, shape=PLAIN)
    resolver = listening(53, socket.SOCK_DGRAM)
    assert is_heard(resolver, lambda: rig.put(question(GATEWAY)))
    assert not is_heard(resolver, lambda: rig.put(question(GATEWAY, OUTSIDE), ROUTER_MAC))
    assert not is_heard(resolver, lambda: rig.put(question(SERVER, OUTSIDE), ROUTER_MAC))


def opening(to: IPv4Address, dport: int, of: IPv4Address = CLIENT, port: int = 40000) -> Ipv4:
    return Ipv4(of, to, TCP, Tcp(port, dport, 1000, 0, SYN))


@in_namespaces
def test_proxy_port_is_open_for_the_lan_alone() -> None:
    rig = SplitRig(ALL, shape=PLAIN)
    _socks = listening(CHOSEN.socks, socket.SOCK_STREAM)
    assert answered(rig, opening(GATEWAY, LAN_PORT))
    assert not answered(rig, opening(GATEWAY, LAN_PORT, OUTSIDE), ROUTER_MAC)
    # Another flow than the first one, whose answer is sent again meanwhile.
    assert rig.ask(opening(GATEWAY, CHOSEN.socks, port=40001)) is None


@in_namespaces
def test_proxy_port_is_shut_to_devices_that_rules_know_by_their_mac_addresses() -> None:
    services = structs.replace(SERVICES, lan_barred=(CLIENT_MAC, "02:00:00:00:00:12"))
    rig = SplitRig(ALL, shape=structs.replace(SHAPE, services=services))
    _socks = listening(CHOSEN.socks, socket.SOCK_STREAM)
    assert rig.went(opening(GATEWAY, LAN_PORT)) == "refused"
    assert answered(rig, opening(GATEWAY, LAN_PORT, port=40001), src="02:00:00:00:00:11")


@in_namespaces
def test_proxy_port_is_closed_while_no_upstream_works() -> None:
    rig = SplitRig(ALL, shape=structs.replace(PLAIN, services=structs.replace(SERVICES, socks_port=None)))
    _socks = listening(CHOSEN.socks, socket.SOCK_STREAM)
    assert rig.went(opening(GATEWAY, LAN_PORT)) == "refused"


@pytest.mark.parametrize("port", [CHOSEN.decided, CHOSEN.named, CHOSEN.socks, 15999])
@in_namespaces
def test_ports_of_the_engine_answer_nobody(port: int) -> None:
    rig = SplitRig(ALL, shape=PLAIN)
    heard = [listening(port, socket.SOCK_STREAM), listening(port, socket.SOCK_DGRAM)]
    assert rig.ask(opening(GATEWAY, port)) is None
    assert rig.ask(Ipv6(CLIENT6, GATEWAY6, TCP, Tcp(40000, port, 1000, 0, SYN))) is None
    assert not is_heard(heard[1], lambda: rig.put(Ipv4(CLIENT, GATEWAY, UDP, Udp(40000, port, b"?"))))
    with socket.create_connection(("127.0.0.1", port), timeout=15):
        pass


@in_namespaces
def test_destination_port_of_the_engine_on_the_internet_is_nothing_special() -> None:
    """A listener at every address is no socket of the client's connection."""
    rig = SplitRig(LISTED, proved=True, shape=PLAIN)
    Engine(CHOSEN, wildcard=True)
    for flags in (SYN, ACK):
        packet = Ipv4(CLIENT, OUTSIDE, TCP, Tcp(40000, CHOSEN.decided, 1000, 1, flags))
        assert rig.went(packet) == "direct"
    assert rig.went(syn(40001, dport=CHOSEN.decided)) == "engine"


@in_namespaces
def test_own_mark_from_the_wire_there_is_none_and_loopback_addresses_are_refused() -> None:
    rig = SplitRig(ALL, shape=PLAIN)
    Engine(CHOSEN)
    for to in (IPv4Address("127.0.0.1"), LAN[0].broadcast_address):
        assert rig.ask(opening(to, CHOSEN.decided)) is None
    assert rig.ask(Ipv4(IPv4Address("127.0.0.1"), SERVER, TCP, Tcp(40000, 443, 1, 0, SYN)), CLIENT_MAC) is None


@in_namespaces
def test_firewall_that_drops_by_policy_lets_pass_what_is_marked() -> None:
    rig = SplitRig(ALL, shape=PLAIN)
    Engine(CHOSEN)
    resolver = listening(53, socket.SOCK_DGRAM)
    shell(
        "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; };"
        " add rule inet fw in meta mark and 0xff000000 == 0x5d000000 accept'"
    )
    assert rig.connect(40000)[1] == CHOSEN.named
    assert is_heard(resolver, lambda: rig.put(question(SERVER)))
    assert is_heard(resolver, lambda: rig.put(question(GATEWAY)))
