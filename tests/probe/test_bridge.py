"""The bridge probe as conversations with a simulated home; the real kernel's part is in tests/kernel/test_probe.py."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from ipaddress import IPv4Address
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.packet import Echo, Frame, IcmpError, Ipv4, Redirect, Udp
from sidegate.probe.bridge import BridgeProbe, BridgeResult
from sidegate.probe.bridge_plan import Plan, error_bounds
from sidegate.reading import decode_address, encode_address

from .world import CLIENT, CLIENT_IP, EIGHT, ONE, ROUTER, US, VANTAGE, World, answer_to, error_about, is_echo


def steps(result: BridgeResult, way: str = "sent") -> list[str]:
    return [seen.step for seen in result.evidence if seen.way == way]


def test_direct() -> None:
    result = World(tracks=False).probe()
    assert (result.verdict, result.confidence, result.method, result.target) == ("direct", "strong", "icmp", ONE)
    assert steps(result) == ["control", *(["poison"] * 3 + ["treatment"]) * 2]
    assert result.took_s < 0.25


def test_masquerade() -> None:
    result = World(tracks=True).probe()
    assert (result.verdict, result.confidence, result.method, result.target) == ("masquerade", "strong", "icmp", ONE)
    assert steps(result) == ["control", *(["poison"] * 3 + ["treatment"] * 3 + ["control"]) * 2]
    assert result.took_s < 0.5


@pytest.mark.parametrize("tracks", [False, True])
def test_what_goes_out(tracks: bool) -> None:
    """The poison goes to the client with TTL 1, all else to the router; every round has an id of its own."""
    world = World(tracks=tracks)
    result = world.probe()
    for seen, (_, frame) in zip([e for e in result.evidence if e.way == "sent"], world.sent, strict=True):
        packet = frame.body
        assert isinstance(packet, Ipv4)
        assert frame.src == US
        assert (frame.dst, packet.ttl) == ((CLIENT, 1) if seen.step == "poison" else (ROUTER, 64))
    poisoned = {seen.id for seen in result.evidence if seen.step == "poison"}
    controls = {seen.id for seen in result.evidence if seen.step == "control"}
    assert len(poisoned) == 2
    assert not poisoned & controls


def test_dead_internet_is_unknown_and_poisons_nothing() -> None:
    result = World(rule=lambda frame, at_s: []).probe()
    assert (result.verdict, result.confidence, result.target) == ("unknown", "none", None)
    assert set(steps(result)) == {"control"}
    assert result.took_s == pytest.approx(4.0)


def test_next_target() -> None:
    def rule(frame: Frame, at_s: float) -> list[Any] | None:
        return [] if isinstance(frame.body, Ipv4) and frame.body.dst == ONE else None

    result = World(tracks=True, rule=rule).probe()
    assert (result.verdict, result.target) == ("masquerade", EIGHT)


@pytest.mark.parametrize("tracks", [False, True])
def test_dns_where_no_echo_is_answered(tracks: bool) -> None:
    world = World(tracks=tracks, rule=lambda frame, at_s: [] if is_echo(frame) else None)
    result = world.probe()
    assert (result.verdict, result.method) == ("masquerade" if tracks else "direct", "dns")
    assert not world.held, "every reserved port is released"


def test_refusal_spares_the_wait() -> None:
    def rule(frame: Frame, at_s: float) -> list[Any]:
        assert isinstance(frame.body, Ipv4)
        return [
            (0.001, error_about(frame, IPv4Address("192.168.1.1"), ROUTER, IcmpError("unreachable", 0, frame.body)))
        ]

    result = World(rule=rule).probe()
    assert result.verdict == "unknown"
    assert result.took_s < 0.1
    assert steps(result) == ["control"] * 4
    assert "192.168.1.1 answered ICMP unreachable (code 0)" in result.reason


def test_closed_port_of_the_target_is_an_answer() -> None:
    def rule(frame: Frame, at_s: float) -> list[Any] | None:
        if is_echo(frame) or frame.dst == CLIENT:
            return []
        assert isinstance(frame.body, Ipv4)
        return [(0.02, error_about(frame, frame.body.dst, ROUTER, IcmpError("unreachable", 3, frame.body)))]

    result = World(rule=rule).probe()
    assert (result.verdict, result.method) == ("direct", "dns")


@pytest.mark.parametrize("forge", [True, False])
def test_flood_of_answers_changes_nothing_and_is_not_kept(forge: bool) -> None:
    """One who saw the poison knows its id: he answers with every sequence number, or repeats what was right."""

    def rule(frame: Frame, at_s: float) -> list[Any] | None:
        packet = frame.body
        if frame.dst == CLIENT or not isinstance(packet, Ipv4) or not isinstance(packet.body, Echo):
            return None
        answers = []
        for n in range(2000):
            right = answer_to(frame)
            assert isinstance(right.body, Ipv4)
            body = Echo(True, packet.body.id, n, bytes(16)) if forge else right.body.body
            answers.append((0.02, msgspec.structs.replace(right, body=msgspec.structs.replace(right.body, body=body))))
        return answers if not forge else [*answers, (0.021, answer_to(frame))]

    result = World(tracks=False, rule=rule).probe()
    assert result.verdict == "direct"
    assert (len(result.evidence) <= 256, len(result.notes) <= 16) == (True, True)


@pytest.mark.parametrize("forge", ["token", "id", "seq", "source"])
def test_forged_answers_count_for_nothing(forge: str) -> None:
    """Another machine answers in the target's place, without having seen the question."""

    def rule(frame: Frame, at_s: float) -> list[Any] | None:
        packet = frame.body
        if frame.dst == CLIENT or not isinstance(packet, Ipv4) or not isinstance(packet.body, Echo):
            return None
        echo, source = Echo(True, packet.body.id, packet.body.seq, packet.body.payload), packet.dst
        if forge == "token":
            echo = msgspec.structs.replace(echo, payload=bytes(16))
        elif forge == "id":
            echo = msgspec.structs.replace(echo, id=echo.id ^ 1)
        elif forge == "seq":
            echo = msgspec.structs.replace(echo, seq=echo.seq ^ 1)
        else:
            source = IPv4Address("192.168.1.66")
        return [(0.01, error_about(frame, source, "02:00:00:00:00:66", echo))]

    result = World(rule=rule).probe(targets=(ONE,))
    assert (result.method, result.verdict) == ("dns", "direct")
    if forge != "id":
        assert any("02:00:00:00:00:66 sent an answer that fits no question" in note for note in result.notes)


def test_the_internet_dying_meanwhile_is_not_masquerade() -> None:
    """A silent treatment means nothing unless the control after it is answered."""
    result = World(lost=lambda at_s: at_s > 0.06).probe()
    assert result.verdict == "unknown"


def test_a_line_that_becomes_slow_is_not_masquerade() -> None:
    """The answers take 0.4 s from the first treatment on: later than the wait that the first control suggested."""
    world = World(
        rule=lambda frame, at_s: [] if frame.dst == CLIENT else [(0.02 if at_s < 0.03 else 0.4, answer_to(frame))]
    )
    assert world.probe().verdict == "direct"


def test_a_hiccup_during_the_treatment_is_not_masquerade() -> None:
    """0.3 s for the last round's treatment, 0.1 s for the control after it, whose answer overtakes."""

    def rule(frame: Frame, at_s: float) -> list[Any]:
        delay_s = 0.02 if at_s < 0.03 else 0.3 if at_s < 0.2 else 0.1
        return [] if frame.dst == CLIENT else [(delay_s, answer_to(frame))]

    result = World(rule=rule).probe(plan=Plan(rounds=1))
    assert (result.verdict, result.target) == ("direct", ONE)


def test_contradicting_rounds_decide_nothing() -> None:
    """The first round's poison is lost, the second one's is not: the next target is asked."""
    poisons = itertools.count(1)
    world = World(tracks=True, rule=lambda frame, at_s: [] if frame.dst == CLIENT and next(poisons) <= 3 else None)
    result = world.probe()
    assert steps(result).count("poison") == 12
    assert (result.verdict, result.target) == ("masquerade", EIGHT)


def test_answered_poison_means_masquerade() -> None:
    """A router that redirects DNS answers the frame that was addressed to the client, if it handles such frames."""

    def rule(frame: Frame, at_s: float) -> list[Any] | None:
        if is_echo(frame):
            return []
        return [(0.001, answer_to(frame))]

    result = World(rule=rule).probe()
    assert (result.verdict, result.method) == ("masquerade", "dns")
    assert f"answered by way of {ROUTER}" in result.reason


def test_poison_that_another_took_proves_nothing() -> None:
    """The router reports that the frame for the client ended with itself: no `direct` from that."""

    def rule(frame: Frame, at_s: float) -> list[Any] | None:
        if frame.dst != CLIENT:
            return None
        assert isinstance(frame.body, Ipv4)
        error = IcmpError("time exceeded", 0, frame.body)
        return [(0.001, error_about(frame, IPv4Address("192.168.1.1"), ROUTER, error))]

    result = World(rule=rule).probe()
    assert result.verdict == "unknown"
    assert "192.168.1.1 took the frames that were meant for the client" in result.reason


@pytest.mark.parametrize("mac", [ROUTER, US])
def test_a_client_behind_proxy_arp_is_unknown(mac: str) -> None:
    world = World()
    (result,) = world.hold(BridgeProbe(VANTAGE, CLIENT_IP, mac, rng=world.rng).talk())
    assert (result.verdict, world.sent) == ("unknown", [])


def test_forwarding_client_and_redirects_are_noted() -> None:
    def rule(frame: Frame, at_s: float) -> list[Any] | None:
        assert isinstance(frame.body, Ipv4)
        if frame.dst == CLIENT:
            return [(0.001, error_about(frame, CLIENT_IP, CLIENT, IcmpError("time exceeded", 0, frame.body)))]
        redirect = Redirect(1, IPv4Address("192.168.1.3"), frame.body)
        return [(0.001, error_about(frame, IPv4Address("192.168.1.1"), ROUTER, redirect)), (0.02, answer_to(frame))]

    result = World(rule=rule).probe()
    assert result.verdict == "direct"
    assert any("the client forwards packets itself" in note for note in result.notes)
    assert any("192.168.1.1 sent a redirect to 192.168.1.3" in note for note in result.notes)


@settings(max_examples=200, deadline=None)
@given(st.booleans(), st.floats(0, 0.6), st.floats(0, 3))
def test_no_single_outage_leads_astray(tracks: bool, begins_s: float, lasts_s: float) -> None:
    """However long the line is gone, once: the verdict may be unknown or fair, never wrong."""
    result = World(tracks=tracks, lost=lambda at_s: begins_s <= at_s < begins_s + lasts_s).probe()
    assert result.verdict in ("masquerade" if tracks else "direct", "unknown")


def _observed(tracks: bool, loss: float, probes: int, wrong: str) -> int:
    verdicts = Counter(World(tracks=tracks, loss=loss, rtt_s=0.02, seed=seed).probe().verdict for seed in range(probes))
    return verdicts[wrong]  # type: ignore[index]


@pytest.mark.parametrize(
    ("tracks", "loss", "wrong"),
    [(True, 0.4, "direct"), (True, 0.5, "direct"), (False, 0.25, "masquerade"), (False, 0.35, "masquerade")],
)
def test_error_rates_obey_their_bounds(tracks: bool, loss: float, wrong: str) -> None:
    """Seeded, at losses high enough to see errors at all; three standard deviations above the bound would be red."""
    probes = 1500
    bounds = error_bounds(loss)
    bound = bounds.false_direct if tracks else bounds.false_masquerade
    seen = _observed(tracks, loss, probes, wrong)
    assert 0 < seen <= probes * bound + 3 * math.sqrt(probes * bound)


def test_figures_of_the_docstring() -> None:
    assert error_bounds(0.01).false_direct == pytest.approx(4e-12)
    assert error_bounds(0.01).false_masquerade == pytest.approx(2.5e-10, rel=0.02)
    assert error_bounds(0.1).false_direct == pytest.approx(4e-6)
    assert error_bounds(0.1).false_masquerade == pytest.approx(1.9e-4, rel=0.02)


def test_moderate_loss_still_decides() -> None:
    """At 5 % loss of each frame nearly every probe comes to its verdict."""
    verdicts = Counter(World(tracks=seed % 2 == 0, loss=0.05, seed=seed).probe().verdict for seed in range(200))
    assert verdicts["unknown"] <= 2
    assert verdicts["direct"] >= 98
    assert verdicts["masquerade"] >= 98


def test_lost_controls_lower_the_confidence() -> None:
    result = World(tracks=True, lost=lambda at_s: at_s == 0).probe()
    assert (result.verdict, result.confidence) == ("masquerade", "fair")


def test_one_round_plan() -> None:
    result = World(tracks=True).probe(plan=Plan(rounds=1, copies=1))
    assert steps(result) == ["control", "poison", "treatment", "control"]


@pytest.mark.parametrize(("tracks", "name"), [(False, "direct"), (True, "masquerade")])
def test_text(golden: Any, tracks: bool, name: str) -> None:
    world = World(tracks=tracks, seed=7)
    golden(f"probe/bridge-{name}.txt", world.probe().text() + "\n")


def test_text_of_unknown(golden: Any) -> None:
    world = World(rule=lambda frame, at_s: [], seed=7)
    golden("probe/bridge-unknown.txt", world.probe().text() + "\n")


def test_json_and_back() -> None:
    result = World(tracks=True).probe()
    text = msgspec.json.encode(result, enc_hook=encode_address)
    assert msgspec.json.decode(text, type=BridgeResult, dec_hook=decode_address) == result


@settings(max_examples=50, deadline=None)
@given(st.integers(), st.lists(st.floats(0.0, 0.05), min_size=1, max_size=5))
def test_any_interleaving_of_duplicated_and_delayed_answers(seed: int, delays_s: list[float]) -> None:
    """Networks duplicate and reorder; a direct client stays direct."""
    rng = random.Random(seed)  # noqa: S311 (no secret: a simulation)

    def rule(frame: Frame, at_s: float) -> list[Any]:
        return [] if frame.dst == CLIENT else [(0.005 + rng.choice(delays_s), answer_to(frame)) for _ in range(2)]

    assert World(rule=rule).probe().verdict == "direct"


def test_dns_answers_carry_the_queries_id() -> None:
    def rule(frame: Frame, at_s: float) -> list[Any] | None:
        if is_echo(frame) or frame.dst == CLIENT:
            return []
        answer = answer_to(frame)
        assert isinstance(answer.body, Ipv4)
        assert isinstance(answer.body.body, Udp)
        forged = bytes([answer.body.body.payload[0] ^ 1]) + answer.body.body.payload[1:]
        body = msgspec.structs.replace(answer.body.body, payload=forged)
        return [(0.01, msgspec.structs.replace(answer, body=msgspec.structs.replace(answer.body, body=body)))]

    assert World(rule=rule).probe().verdict == "unknown"
