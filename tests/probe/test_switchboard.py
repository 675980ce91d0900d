"""Many talks on one wire: pacing, ids, who hears what."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

import pytest

from sidegate.packet import ICMP, NO_MAC, Arp, Echo, Ipv4, frame_of
from sidegate.probe.arp import who_has
from sidegate.probe.bridge import BridgeProbe
from sidegate.probe.reach import echo
from sidegate.probe.switchboard import REUSE_AFTER_S, Ids
from sidegate.probe.talk import Clock, FreshIcmpId, FreshUdpPort, Talk, Wait, send

from .world import CLIENT, ONE, ROUTER, US, VANTAGE, World


def test_250_clients_are_paced_and_all_answered() -> None:
    world = World(tracks=True, rtt_s=0.02)
    probes = [
        BridgeProbe(VANTAGE, IPv4Address("192.168.1.0") + n, CLIENT, (ONE,), rng=world.rng).talk()
        for n in range(3, 253)
    ]
    results = world.hold(*probes)
    assert [r.client_ip for r in results] == [IPv4Address("192.168.1.0") + n for n in range(3, 253)]
    assert {r.verdict for r in results} == {"masquerade"}
    times = [at_s for at_s, _ in world.sent]
    assert all(later - earlier >= 0.99 for earlier, later in zip(times, times[220:], strict=False))
    assert max(r.took_s for r in results) < 2.0, "few at once, so that none is slow"


def test_newcomer_does_not_wait_behind_thousands() -> None:
    order: list[int] = []

    def at_once(number: int) -> Talk[None]:
        order.append(number)
        yield Wait((yield Clock()) + 1)

    World(at_once=1).hold(*(at_once(n) for n in range(5)))
    assert order == [4, 3, 2, 1, 0]


def test_ids_are_never_given_twice_within_a_minute() -> None:
    world = World(rate=100_000)
    world.hold(*(BridgeProbe(VANTAGE, ONE, CLIENT, rng=world.rng).talk() for _ in range(200)))
    tokens: dict[int, bytes] = {}
    for _, frame in world.sent:
        assert isinstance(frame.body, Ipv4)
        assert isinstance(frame.body.body, Echo)
        number, token = frame.body.body.id, frame.body.body.payload
        assert tokens.setdefault(number, token) == token, "an id of another probe"


def test_ids_rest_and_come_back() -> None:
    ids = Ids(random.Random(1))  # noqa: S311 (no secret: a simulation)
    first = {ids.fresh(0.0) for _ in range(65535)}
    assert len(first) == 65535
    with pytest.raises(RuntimeError):
        ids.fresh(REUSE_AFTER_S - 0.1)
    assert ids.fresh(REUSE_AFTER_S + 0.1) in first


def test_what_comes_while_a_frame_is_held_back_is_not_lost() -> None:
    """The answer to the first frame comes while the second one waits for the pace."""

    def two_frames() -> Talk[bool]:
        number: int = yield FreshIcmpId()
        question = frame_of(ROUTER, US, Ipv4(VANTAGE.ip, ONE, ICMP, Echo(False, number, 1)))
        yield from send(question)
        yield from send(question)
        heard = yield Wait(0.0)
        return heard is not None

    assert World(rtt_s=0.02, rate=10, burst=1).hold(two_frames()) == [True]


def test_nothing_to_do_has_no_deadline() -> None:
    world = World()
    assert world.board.next_deadline() is None
    world.probe()
    assert world.board.next_deadline() is None


def test_close_ends_talks_and_releases_ports() -> None:
    ended = []

    def endless() -> Talk[None]:
        try:
            yield FreshUdpPort()
            while True:
                yield Wait((yield Clock()) + 1)
        finally:
            ended.append(True)

    world = World()
    world.board.start(endless())
    world.board.advance(world.now)
    assert world.held
    world.board.close()
    assert (ended, world.held) == ([True], set())


def test_hold_back() -> None:
    world = World()
    world.board.start(who_has(ONE, US))
    world.board.advance(world.now)
    world.board.hold_back(world.now + 0.005)
    assert world.board.to_send(world.now) is None
    assert world.board.next_deadline() == pytest.approx(world.now + 0.005)
    assert world.board.to_send(world.now + 0.006) is not None


# The smaller talks


def _owners(*macs: str) -> World:
    def rule(frame: object, at_s: float) -> list[tuple[float, object]]:
        arp = getattr(frame, "body", None)
        assert isinstance(arp, Arp)
        return [
            (0.01 * (n + 1), frame_of(US, mac, Arp(True, mac, arp.target_ip, US, arp.sender_ip)))
            for n, mac in enumerate(macs)
        ]

    return World(rule=rule)  # type: ignore[arg-type]


@pytest.mark.parametrize("macs", [(), (ROUTER,), (ROUTER, CLIENT)])
def test_who_has(macs: tuple[str, ...]) -> None:
    world = _owners(*macs)
    (result,) = world.hold(who_has(VANTAGE.router_ip, US))
    assert result.macs == macs
    question = world.sent[0][1].body
    assert question == Arp(False, US, IPv4Address("0.0.0.0"), NO_MAC, VANTAGE.router_ip)
    assert len(world.sent) == (1 if macs else 3)


def test_two_talks_about_one_address_both_hear() -> None:
    first, second = _owners(ROUTER).hold(who_has(VANTAGE.router_ip, US), who_has(VANTAGE.router_ip, US))
    assert first.macs == second.macs == (ROUTER,)


def test_own_answers_do_not_count() -> None:
    (result,) = _owners(US).hold(who_has(VANTAGE.ip, US))
    assert result.macs == ()


def test_echo_answered_and_silent() -> None:
    rng = World().rng
    (answered,) = World(rtt_s=0.05).hold(echo(VANTAGE, ONE, rng))
    assert answered.answer == "answered"
    assert answered.rtt_s == pytest.approx(0.05)
    assert answered.text().startswith("1.1.1.1 by icmp: answered")
    (silent,) = World(rule=lambda frame, at_s: []).hold(echo(VANTAGE, ONE, rng))
    assert (silent.answer, silent.rtt_s, len(silent.evidence)) == ("silent", None, 3)
