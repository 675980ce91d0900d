"""Which upstream is used: the laws, for any course of events."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.gateway.engine.choice import (
    AGAIN_S,
    AT_FIRST_S,
    DOUBT_S,
    EVERY_S,
    FASTER,
    GRACE_S,
    OTHERS_EVERY_S,
    ROUNDS,
    Choice,
    Way,
)
from sidegate.gateway.engine.trial import Outcome

NAMES = ("first", "second", "third")
BAD = Outcome(False, "no answer")
WAYS: tuple[Way, ...] = ("first", "fastest")


def good(latency_ms: float) -> Outcome:
    return Outcome(True, "answered 204", latency_ms)


class World:
    """Upstreams that answer after so many milliseconds, or not at all; time passes by itself."""

    def __init__(self, way: Way, *latencies_ms: float | None) -> None:
        self.choice, self.now_s = Choice(), 1000.0
        self.latency_ms = dict(zip(NAMES, latencies_ms, strict=False))
        self.choice.take(self.latency_ms, way, self.now_s)
        self.used = [self.choice.chosen.name]

    def step(self) -> None:
        """To the next trial, and its outcome."""
        due_s = self.choice.next_due_s()
        assert due_s is not None
        self.now_s = max(self.now_s, due_s)
        for name in self.choice.due(self.now_s):
            latency_ms = self.latency_ms[name]
            self.choice.result(name, BAD if latency_ms is None else good(latency_ms), self.now_s)
            if self.choice.chosen.name != self.used[-1]:
                self.used.append(self.choice.chosen.name)

    def chosen(self) -> tuple[str | None, str]:
        return self.choice.chosen.name, self.choice.chosen.why

    def state(self, name: str) -> str:
        return self.choice[name].state

    def run(self, for_s: float) -> World:
        end_s = self.now_s + for_s
        while self.now_s < end_s:
            self.step()
        return self


@pytest.mark.parametrize("way", WAYS)
def test_the_first_is_used_at_once(way: Way) -> None:
    assert World(way, 50, 40).used == ["first"]


@pytest.mark.parametrize("way", WAYS)
def test_one_that_never_worked_is_left_at_its_first_failure(way: Way) -> None:
    world = World(way, None, 40)
    world.step()
    assert world.chosen() == ("second", "first does not work: no answer")


@pytest.mark.parametrize("way", WAYS)
def test_that_none_ever_worked_is_known_soon(way: Way) -> None:
    world = World(way, None, None).run(2 * AT_FIRST_S)
    assert world.chosen() == (None, "no upstream works")


def test_away_and_back() -> None:
    world = World("first", 50, 40).run(300)
    assert world.used == ["first"]
    world.latency_ms["first"] = None
    world.run(60)
    assert world.chosen() == ("second", "first does not work: no answer")
    world.latency_ms["first"] = 50
    world.run(60)
    assert world.chosen() == ("first", "it works, and comes before second")


def test_none_works_and_then_one_does() -> None:
    world = World("first", None, None).run(60)
    assert world.chosen() == (None, "no upstream works")
    world.latency_ms["second"] = 40
    world.run(60)
    assert world.chosen() == ("second", "it works again")


def test_a_lone_failure_turns_nothing() -> None:
    world = World("first", 50, 40).run(100)
    assert world.choice.result("first", BAD, world.now_s) is None
    assert (world.choice["first"].state, world.choice["first"].why) == ("up", "answered 204")
    assert world.choice.chosen.name == "first"
    assert world.choice["first"].due_s <= world.now_s + AGAIN_S


def test_the_clearly_faster_one_is_used_after_several_rounds() -> None:
    world = World("fastest", 200, 50, 199)
    seen = 0
    while world.choice.chosen.name == "first":
        world.step()
        seen += 1
        assert seen < 50
    assert world.choice.chosen.name == "second"
    assert world.choice.chosen.why == "it is faster: 50 ms, first 200 ms"
    assert world.choice["second"].results.count(True) >= ROUNDS


@settings(deadline=None)
@given(
    st.lists(st.floats(20, 2000), min_size=2, max_size=3),
    st.randoms(use_true_random=False),
    st.sampled_from(WAYS),
)
def test_what_only_varies_by_chance_is_not_switched(bases: list[float], rng: random.Random, way: Way) -> None:
    """Latencies within the margin of each other, however they jump."""
    least = max(bases)
    world = World(way, *(least for _ in bases))
    for _ in range(50):
        world.latency_ms = {n: rng.uniform(least * (FASTER + 0.01), least) for n in world.latency_ms}
        world.step()
    assert world.used == ["first"]


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(5, 2000)), min_size=1, max_size=3), st.sampled_from(WAYS))
def test_a_steady_world_comes_to_rest_on_the_right_one(latencies_ms: list[float | None], way: Way) -> None:
    world = World(way, *latencies_ms).run(600)
    rested = list(world.used)
    world.run(600)
    assert world.used == rested
    working = {n: ms for n, ms in world.latency_ms.items() if ms is not None}
    chosen = world.choice.chosen.name
    if not working:
        assert chosen is None
    elif way == "first":
        assert chosen == next(iter(working))
    else:
        assert chosen in working
        assert working[chosen] * FASTER <= min(working.values()) or working[chosen] - min(working.values()) <= 10


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("result"), st.sampled_from(NAMES), st.one_of(st.none(), st.floats(1, 5000))),
        st.tuples(st.just("take"), st.permutations(NAMES).flatmap(lambda p: st.integers(0, 3).map(lambda n: p[:n]))),
        st.tuples(st.just("wait"), st.floats(0, 100)),
        st.tuples(st.just("untried")),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(EVENTS, st.sampled_from(WAYS))
def test_whatever_happens(events: list[tuple[object, ...]], way: Way) -> None:
    """Chosen is one that is there and not down; none only if all are down; nobody is forgotten."""
    choice, now_s = Choice(), 0.0
    choice.take(NAMES, way, now_s)
    for event in events:
        if event[0] == "result":
            latency_ms = event[2]
            choice.result(str(event[1]), good(latency_ms) if isinstance(latency_ms, float) else BAD, now_s)
        elif event[0] == "take":
            choice.take(tuple(event[1]), way, now_s)  # type: ignore[arg-type]
        elif event[0] == "wait":
            now_s += float(event[1])  # type: ignore[arg-type]
            choice.due(now_s)
        else:
            choice.untried(now_s)
        standings = {s.name: s for s in choice.standings()}
        chosen = choice.chosen.name
        assert (chosen is None) == all(s.state == "down" for s in standings.values())
        assert chosen is None or standings[chosen].state != "down"
        assert all(s.is_asked or s.due_s <= now_s + OTHERS_EVERY_S for s in standings.values())
        if way == "first" and chosen is not None:
            up = [s.name for s in standings.values() if s.state == "up" and s.is_fresh(now_s)]
            assert not up or list(standings).index(chosen) <= list(standings).index(up[0])


def test_what_is_another_upstream_under_its_name_begins_anew() -> None:
    world = World("first", None, 40).run(60)
    assert world.state("first") == "down"
    world.choice.take(NAMES[:2], "first", world.now_s, forget=["first"])
    assert (world.state("first"), world.choice.chosen.name) == ("unknown", "second")
    world.latency_ms["first"] = 50
    world.run(10)
    assert world.chosen() == ("first", "it works, and comes before second")


@pytest.mark.parametrize("way", WAYS)
def test_what_was_used_before_is_used_until_something_speaks_against_it(way: Way) -> None:
    choice = Choice()
    choice.resume("second")
    assert not choice.take(NAMES, way, 0.0)
    choice.result("third", good(1), 1.0)
    choice.result("first", BAD, 1.0)
    assert choice.chosen.name == "second"
    choice.result("first", good(1), 2.0)
    assert choice.chosen.name == ("first" if way == "first" else "second")


def test_one_that_is_down_is_asked_less_and_less() -> None:
    world = World("first", None).run(20)
    begun = world.now_s
    asked = 0
    while world.now_s < begun + 600:
        world.step()
        asked += 1
    assert 600 / OTHERS_EVERY_S <= asked < 600 / AGAIN_S / 3


class Line:
    """As `World`, with trials that take their time: an answer comes after so many milliseconds, None: never."""

    def __init__(self, way: Way, latency_ms: Callable[[str], float | None], names: int = 3) -> None:
        self.choice, self.now_s, self.latency_ms = Choice(), 1000.0, latency_ms
        self.under_way: list[tuple[float, str, Outcome]] = []
        self.trials = 0
        self.choice.take(NAMES[:names], way, self.now_s)
        self.used = [self.choice.chosen.name]

    def step(self) -> None:
        """To the next thing that happens."""
        times = [at_s for at_s, _, _ in self.under_way]
        due_s = self.choice.next_due_s()
        self.now_s = max(self.now_s, min([*times, *([] if due_s is None else [due_s])]))
        ended = sorted((it for it in self.under_way if it[0] <= self.now_s), key=lambda it: it[0])
        self.under_way = [it for it in self.under_way if it not in ended]
        for _, name, outcome in ended:
            self.choice.result(name, outcome, self.now_s)
            if outcome.is_good:
                self.under_way = [it for it in self.under_way if it[1] != name]
        for name in self.choice.due(self.now_s):
            self.begin(name, self.choice[name].patience_s)
        for name in self.choice.doubted(self.now_s):
            self.begin(name, GRACE_S)
        if self.choice.chosen.name != self.used[-1]:
            self.used.append(self.choice.chosen.name)

    def begin(self, name: str, within_s: float) -> None:
        self.trials += 1
        latency_ms = self.latency_ms(name)
        is_good = latency_ms is not None and latency_ms < within_s * 1000
        takes_s = (latency_ms or 0) / 1000 if is_good else within_s
        self.under_way.append((self.now_s + takes_s, name, good(latency_ms or 0) if is_good else BAD))

    def run(self, for_s: float) -> Line:
        end_s = self.now_s + for_s
        while self.now_s < end_s:
            self.step()
        return self


@settings(deadline=None)
@given(st.floats(5, 700), st.floats(0, 120), st.sampled_from(WAYS), st.integers(1, 3))
def test_silence_is_noticed_in_seconds(usual_ms: float, after_s: float, way: Way, names: int) -> None:
    """And the next one that is used is one that works: the second one is silent too."""
    silent: set[str] = set()
    line = Line(way, lambda name: None if name in silent else usual_ms, names).run(300 + after_s)
    assert line.used == ["first"]
    silent |= {"first", "second"}
    begun_s = line.now_s
    while line.choice.chosen.name == "first":
        line.step()
    assert line.now_s - begun_s <= EVERY_S + DOUBT_S + GRACE_S + usual_ms / 1000
    if names == 3:
        assert line.choice.chosen.name == "third"
    while names < 3 and line.choice.chosen.name is not None:
        line.step()
    assert line.now_s - begun_s <= EVERY_S + 2 * (DOUBT_S + GRACE_S) + usual_ms / 1000


@settings(deadline=None)
@given(st.integers(0, 1 << 32), st.floats(0, 0.9))
def test_a_slow_line_is_no_silent_one(seed: int, loss: float) -> None:
    """Answers that take seconds now and then, and every lost question followed by one that is not."""
    rng, lost = random.Random(seed), False  # noqa: S311 (of a test)

    def latency_ms(name: str) -> float | None:
        nonlocal lost
        lost = not lost and rng.random() < loss
        return None if lost else rng.uniform(100, 1000 * GRACE_S - 1)

    assert Line("first", latency_ms, 1).run(1200).used == ["first"]


@settings(deadline=None)
@given(st.floats(1600, 4000))
def test_one_that_always_takes_long_is_used_all_the_same(usual_ms: float) -> None:
    line = Line("first", lambda _: usual_ms, 1).run(60)
    used = len(line.used)
    assert line.choice.chosen.name == "first"
    line.run(600)
    assert len(line.used) == used


def test_quiet_days_cost_little() -> None:
    line = Line("first", lambda _: 50.0).run(60)
    before = line.trials
    line.run(600)
    assert line.trials - before <= 600 / EVERY_S + 2 * 600 / OTHERS_EVERY_S + 3


def test_when_the_one_that_is_used_fails_the_others_are_tried_at_once() -> None:
    world = World("first", 50, 40, 30).run(300)
    world.now_s += 5
    world.choice.result("first", BAD, world.now_s)
    assert set(world.choice.due(world.now_s)) >= {"second", "third"}
