"""One device floods, and the others do not notice: how many flows it may begin, and what becomes of the rest."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest
from msgspec import structs

from sidegate.gateway.clients import crowds
from sidegate.gateway.clients.crowds import Crowds
from sidegate.gateway.ruleset.nft import Client, parse_elements, prove, ruleset
from sidegate.gateway.ruleset.nfttext import FLOWS_SIZE
from sidegate.gateway.ruleset.restraint import (
    CONNECTIONS,
    CROWD,
    CROWDS,
    DATAGRAMS,
    NAMES,
    STRAIGHT,
    STRANGERS,
    Allowance,
    crowded,
)
from sidegate.gateway.ruleset.services import Services
from sidegate.gateway.split.ports import engine_mark
from sidegate.packet import UDP, Ipv4, Tcp, Udp, build, frame_of
from tests.kernel.gateway_rig import (
    ACK,
    CLIENT_MAC,
    GATEWAY,
    GATEWAY_MAC,
    LAN,
    OTHER_SERVER,
    RST,
    SERVER,
    SHAPE,
    in_namespaces,
    shell,
)
from tests.kernel.steer_rig import CHOSEN, LAN6, SERVER6, Engine, Packet, SplitRig, datagram, segment, syn
from tests.kernel.test_steer import LISTED, NOTHING
from tests.kernel.test_steer_services import LAN_PORT, PLAIN, answered, listening, opening

pytestmark = pytest.mark.kernel

NEIGHBOUR_MAC = "02:00:00:00:00:11"
IP_TRANSPARENT = 19
"""include/uapi/linux/in.h"""
NEIGHBOUR = LAN[0][17]
PATIENCE_S = 15.0
BOTH = pytest.mark.parametrize("to", [SERVER, SERVER6])


def flood(rig: SplitRig, count: int, packet: Callable[[int], Packet]) -> float:
    """So many packets of one device, and within how many seconds the box has dealt with them.

    Only some are on their way at a time: where a thousand wait for the processor, the kernel drops what comes then
    (net/core/dev.c, enqueue_to_backlog); and an engine that is behind has no room for what is asked next.
    """
    start = time.monotonic()
    for i in range(count):
        rig.wire.send(build(frame_of(GATEWAY_MAC, CLIENT_MAC, packet(i))))
        if i % 50 == 0:
            rig.heard_so_far()
    rig.heard_so_far()
    took_s = time.monotonic() - start
    for engine in Engine.running:
        engine.settle()
    return took_s


def elements(name: str) -> int:
    return len(parse_elements(shell(f"nft -j list set inet sidegate {name}")))


def held_back(allowance: Allowance) -> int:
    """Packets of the one device that was."""
    found = parse_elements(shell(f"nft -j list set inet sidegate {allowance.held}"))
    return sum(it.packets or 0 for it in found if it.key == (CLIENT_MAC,))


def reached(count: Callable[[], int], least: int) -> int:
    """Once it is as much, and at the end of our patience."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := count()) < least and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def of_many_addresses(packet: Packet, i: int) -> Packet:
    return structs.replace(packet, src=LAN[0][20 + i % 200] if isinstance(packet, Ipv4) else LAN6[0x1000 + i])


@pytest.mark.parametrize(("kind", "allowance"), [(datagram, DATAGRAMS), (syn, CONNECTIONS)])
@BOTH
@in_namespaces
def test_device_begins_so_much_and_no_more_whatever_its_addresses(
    to: IPv4Address | IPv6Address, kind: Callable[..., Packet], allowance: Allowance
) -> None:
    rig, sent = SplitRig(LISTED), 3 * allowance.at_once
    Engine(CHOSEN)
    took_s = flood(rig, sent, lambda i: of_many_addresses(kind(1024 + i, to), i))
    most = allowance.begun_within(took_s)
    assert sent - most <= reached(lambda: held_back(allowance), sent - most) <= sent - allowance.at_once


@BOTH
@in_namespaces
def test_others_and_what_has_begun_and_what_goes_straight_go_on(to: IPv4Address | IPv6Address) -> None:
    rig = SplitRig(LISTED, proved=True)
    Engine(CHOSEN)
    going_on, _ = rig.connect(40000, to)
    assert rig.went(datagram(40000, to)) == "engine"
    flood(rig, 2 * DATAGRAMS.at_once, lambda i: datagram(1024 + i, to))
    assert reached(lambda: held_back(DATAGRAMS), 1)
    assert rig.went(syn(40003, to)) == "engine"
    assert [rig.went(going_on), rig.went(datagram(40000, to)), rig.went(datagram(1024, to))] == ["engine"] * 3
    assert [rig.went(syn(40001, OTHER_SERVER)), rig.went(datagram(40001, OTHER_SERVER))] == ["direct"] * 2
    seen = rig.ask(datagram(40002, to), NEIGHBOUR_MAC)
    assert seen is not None
    assert seen.src == to


@pytest.mark.parametrize("on_failure", ["direct", "block"])
@in_namespaces
def test_what_is_beyond_is_lost_and_comes_through_when_it_is_asked_again(on_failure: str) -> None:
    """Neither refused nor sent straight."""
    rig = SplitRig(LISTED, proved=True, on_failure=on_failure)
    Engine(CHOSEN)
    flood(rig, 4 * CONNECTIONS.at_once, lambda i: syn(1024 + i))
    lost = [rig.went(syn(40000 + i)) for i in range(2)]
    assert set(lost) <= {"nowhere", "engine"}
    assert reached(lambda: rig.went(syn(40009)) == "engine", 1)
    assert not rig.holds("pending4")
    assert not rig.holds("masqueraded4")


@in_namespaces
def test_one_port_reaches_so_many_strangers_and_others_go_on() -> None:
    rig, sent = SplitRig(LISTED), DATAGRAMS.at_once - 100
    Engine(CHOSEN)
    rig.nft(ruleset(rig.shape).replace(f"burst {STRANGERS.at_once} packets", "burst 100 packets"))
    flood(rig, sent, lambda i: datagram(40000, SERVER, 1024 + i))
    assert sent - 110 <= reached(lambda: held_back(STRANGERS), sent - 110) <= sent - 100
    assert [rig.went(datagram(40000, SERVER, 1024)), rig.went(datagram(40001))] == ["engine"] * 2
    assert held_back(DATAGRAMS) == 0


@BOTH
@in_namespaces
def test_device_with_a_crowd_of_connections_gets_no_more(to: IPv4Address | IPv6Address) -> None:
    rig = SplitRig(LISTED)
    Engine(CHOSEN)
    going_on, _ = rig.connect(40000, to)
    rig.nft(crowded([CLIENT_MAC]))
    assert [rig.went(going_on), rig.went(syn(40001, to)), rig.went(datagram(40001, to))] == [
        *("engine", "nowhere", "engine"),
    ]
    assert rig.ask(syn(40002, to), NEIGHBOUR_MAC) is not None
    assert held_back(CONNECTIONS) == 1


@in_namespaces
def test_nobody_is_held_back_from_an_engine_that_is_not_there() -> None:
    rig = SplitRig(LISTED, proved=True)
    flood(rig, 2 * DATAGRAMS.at_once, lambda i: datagram(1024 + i))
    assert rig.went(datagram(40000)) == "direct"
    assert held_back(DATAGRAMS) == 0


@in_namespaces
def test_device_that_floods_fills_no_memory_of_straight_flows() -> None:
    rig, sent = SplitRig(NOTHING, proved=True), STRAIGHT.at_once + 1500
    took_s = flood(rig, sent, lambda i: datagram(1024 + i))
    assert rig.went(datagram(60000)) == "direct"
    most = STRAIGHT.begun_within(took_s + 1)
    assert STRAIGHT.at_once - 500 <= elements("straight4") <= min(most, sent - 1)
    assert rig.ask(datagram(60001), NEIGHBOUR_MAC) is not None
    assert rig.holds("straight4", " . 60001 . ")


@in_namespaces
def test_device_that_fills_the_sets_of_flows_breaks_nobody() -> None:
    """Law 3: whoever finds one full goes on, with his own address or with this box's. So do proxied datagrams."""
    rig = SplitRig(LISTED, on_failure="block")
    Engine(CHOSEN)
    rig.nft(ruleset(rig.shape).replace(f"size {FLOWS_SIZE}", "size 8"))
    rig.nft(prove([Client(CLIENT_MAC, LAN[0][16]), Client(NEIGHBOUR_MAC, NEIGHBOUR)]))
    flood(rig, 60, lambda i: datagram(1024 + i))
    for first, kind in ((1024, datagram), (1024, syn), (1024, segment), (2024, syn)):
        flood(rig, 60, lambda i, first=first, kind=kind: kind(first + i, OTHER_SERVER))  # type: ignore[misc]
    full = ("begun4", "straight4", f"steered{CHOSEN.decided}_4")
    assert reached(lambda: sum(map(elements, full)), 8 * len(full)) == 8 * len(full)
    assert rig.engine_port(datagram(50000)) == CHOSEN.decided
    assert rig.connect(50000)[1] == CHOSEN.decided
    for packet in (syn(50001, OTHER_SERVER), segment(50001, OTHER_SERVER), datagram(50001, OTHER_SERVER)):
        seen = rig.ask(structs.replace(packet, src=NEIGHBOUR), NEIGHBOUR_MAC)
        assert seen is not None
        assert (seen.dst, type(seen.body)) == (OTHER_SERVER, type(packet.body))


@in_namespaces
def test_device_that_asks_for_names_without_end_keeps_nobody_from_asking() -> None:
    rig, sent = SplitRig(LISTED, shape=structs.replace(SHAPE, services=Services(names=True))), 3 * NAMES.at_once
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.bind((str(GATEWAY), 53))
        took_s = flood(rig, sent, lambda i: question(LAN[0][20 + i % 200], 1024 + i))
        most = NAMES.begun_within(took_s)
        assert sent - most <= reached(lambda: held_back(NAMES), sent - most) <= sent - NAMES.at_once
        drain(resolver)
        rig.wire.send(build(frame_of(GATEWAY_MAC, NEIGHBOUR_MAC, question(NEIGHBOUR, 50000))))
        resolver.settimeout(PATIENCE_S)
        while resolver.recvfrom(64)[1] != (str(NEIGHBOUR), 50000):
            pass


def drain(it: socket.socket) -> None:
    """It held no more than its buffer."""
    it.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            it.recv(64)


def question(of: IPv4Address, port: int) -> Ipv4:
    return Ipv4(of, GATEWAY, UDP, Udp(port, 53, b"?"))


@in_namespaces
def test_device_holds_no_more_connections_to_the_port_of_the_proxy() -> None:
    rig = SplitRig(LISTED, shape=PLAIN)
    rig.nft(ruleset(rig.shape).replace(f"over {CROWD} }}", "over 3 }"))
    _socks = listening(CHOSEN.socks, socket.SOCK_STREAM)
    assert [answered(rig, opening(GATEWAY, LAN_PORT, port=41000 + i)) for i in range(3)] == [True] * 3
    refused = rig.ask(opening(GATEWAY, LAN_PORT, port=42000))
    assert refused is not None
    assert isinstance(refused.body, Tcp)
    assert refused.body.flags & RST
    assert answered(rig, opening(GATEWAY, LAN_PORT, port=42001), NEIGHBOUR_MAC)


@in_namespaces
def test_crowd_is_seen_by_the_sockets_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowds, "CROWD", 3)
    rig, told = SplitRig(LISTED), list[str]()
    looked = Crowds(told.append, str)
    with socket.socket() as engine:
        engine.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, engine_mark(1))
        engine.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        engine.bind(("127.0.0.1", CHOSEN.decided))
        engine.listen(16)
        for port in (40000, 40001):
            establish(rig, port)
        looked.look("eth0")
        assert (told, rig.holds(CROWDS)) == ([], False)
        establish(rig, 40002)
        looked.look("eth0")
    assert told == [f"{CLIENT_MAC} has 3 connections through the proxy, and gets no more until it has fewer than 3"]
    assert looked.hints() == tuple(told)
    assert rig.holds(CROWDS, CLIENT_MAC)


def establish(rig: SplitRig, port: int) -> None:
    first = syn(port)
    answer = rig.ask(first)
    assert answer is not None
    assert isinstance(first, Ipv4)
    assert isinstance(answer.body, Tcp)
    rig.put(structs.replace(first, body=Tcp(port, 443, 1001, answer.body.seq + 1, ACK)))
