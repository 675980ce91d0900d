"""How each upstream stands after its trials, and which one is used. Pure: it knows no clock of its own.

An upstream turns down and up again as a check of `health` does. The one that is used is left when it is down, or for
another that works: with `first` one that comes before it, with `fastest` one that was clearly faster several times in a
row. While all are down, none is chosen.

One that was not tried yet counts as one that works, or every start would send what is to be proxied another way for a
moment; and trials at the start are short and follow each other quickly, so that one that does not work is known as such
before long (`Splitter.begin` gives it a while before anything is steered).

What turns silent is to be known as such in seconds, for until then whatever is sent to it hangs. So a trial that takes
far longer than those before it is not just waited for: a second one is begun beside it, and both must stay unanswered;
and all other upstreams are tried meanwhile, so that the next one is one that has answered just now.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from sidegate.gateway.engine.trial import FIRST_WITHIN_S, WITHIN_S, Outcome
from sidegate.gateway.health.table import Limits, State, next_state

LIMITS = Limits(failures=2, of=3, successes=2)
EVERY_S = 5.0
"""Between trials of the one that is used."""
DOUBT_S, MOST_DOUBT_S = 1.5, 5.0
"""A trial that takes longer is doubted: twice what is usual for its upstream, within these bounds."""
GRACE_S = 2.0
"""How long the second one has, and the first one still."""
FRESH_S = 3.0
"""Whose last good answer is older is to be tried before it is chosen, if another can be."""
HEARD_S = 0.5
"""Whose latest trial ended more recently need not be tried anew because the one that is used is doubted."""
OTHERS_EVERY_S = 60.0
AGAIN_S = 1.0
"""After a failure, and until enough is known of an upstream."""
AT_FIRST_S = 0.25
"""After a failure of one that never answered: whoever is waiting for its first word shall know soon."""
SPARING = 10
"""One that is down is tried again after a part of the time it has been down, up to
OTHERS_EVERY_S: this is the part."""
KNOWN_AFTER = 3
"""Trials after which an upstream's latency is told apart from chance."""
FASTER = 0.8
"""Clearly faster: at most this part of the other's latency, and MARGIN_MS less."""
MARGIN_MS = 10.0
ROUNDS = 3
"""So many trials of the faster one in a row must say so."""
_LATENCIES = 5

Way = Literal["first", "fastest"]


class Standing(Struct):
    """How one upstream stands. Times are seconds of a monotonic clock. why: of the latest trial that counts.

    asked_s: when the latest trial began. is_doubted: whether another was begun beside it. heard_s: when one last ended.
    """

    name: str
    state: State
    since_s: float
    due_s: float
    results: deque[bool]
    latencies_ms: deque[float]
    why: str = "not tried yet"
    is_asked: bool = False
    asked_s: float = 0.0
    is_doubted: bool = False
    heard_s: float | None = None
    faster: int = 0

    @property
    def latency_ms(self) -> float | None:
        """The middle one of the latest answers'; None without one."""
        return statistics.median_low(self.latencies_ms) if self.latencies_ms else None

    @property
    def doubt_s(self) -> float:
        """How long a trial may take before it is doubted."""
        return min(max(DOUBT_S, 2 * (self.latency_ms or 0.0) / 1000), MOST_DOUBT_S)

    @property
    def patience_s(self) -> float:
        """How long a trial may take."""
        if self.state == "up":
            return self.doubt_s + GRACE_S
        return FIRST_WITHIN_S if self.state == "unknown" else WITHIN_S

    def is_fresh(self, now_s: float) -> bool:
        """Whether it answered not long ago, and did not fail since."""
        return self.heard_s is not None and now_s - self.heard_s <= FRESH_S and self.results[-1]

    @property
    def is_doubtful(self) -> bool:
        """Tried, and it never answered so far."""
        return self.state == "unknown" and bool(self.results)


class Chosen(Struct, frozen=True):
    """name: None: none works. why: of the latest change, in words."""

    name: str | None
    why: str


class Turned(Struct, frozen=True):
    """An upstream changed its state."""

    name: str
    state: State
    why: str


class Choice:
    """All upstreams' standings, and the one that is used."""

    def __init__(self) -> None:
        self._standings: dict[str, Standing] = {}
        self._way: Way = "first"
        self.chosen = Chosen(None, "there is no upstream")

    def __getitem__(self, name: str) -> Standing:
        return self._standings[name]

    def standings(self) -> tuple[Standing, ...]:
        return tuple(self._standings.values())

    def take(self, names: Iterable[str], way: Way, now_s: float, *, forget: Iterable[str] = ()) -> bool:
        """These are the upstreams now, best first; whether another one is chosen.

        forget: those of them that are not what they were under this name.
        """
        kept = {n: s for n, s in self._standings.items() if n not in set(forget)}
        self._standings = {n: kept.get(n) or _fresh(n, now_s) for n in names}
        self._way = way
        return self._choose(now_s)

    def resume(self, name: str) -> None:
        """What was used before this run, to be used on until something speaks against it. Before `take`."""
        self.chosen = Chosen(name, "it was used before")

    def due(self, now_s: float) -> list[str]:
        """Which to try now; each counts as being tried until `result` or `untried`."""
        due = [s for s in self._standings.values() if not s.is_asked and s.due_s <= now_s]
        for standing in due:
            standing.is_asked, standing.asked_s, standing.is_doubted = True, now_s, False
            standing.due_s = now_s + (EVERY_S if standing.name == self.chosen.name else OTHERS_EVERY_S)
        return [s.name for s in due]

    def doubted(self, now_s: float) -> list[str]:
        """Whom to try once more now, for `GRACE_S`, beside a trial that takes long."""
        late = [s for s in self._standings.values() if (at_s := _doubted_s(s)) is not None and at_s <= now_s]
        for standing in late:
            standing.is_doubted = True
            if standing.name == self.chosen.name:
                self._hurry(now_s)
        return [s.name for s in late]

    def next_due_s(self) -> float | None:
        """When `due` or `doubted` has something to do; None: only when a trial has ended."""
        due = (_doubted_s(s) if s.is_asked else s.due_s for s in self._standings.values())
        return min((at_s for at_s in due if at_s is not None), default=None)

    def try_all(self, now_s: float) -> None:
        """Somebody asks: each is tried as soon as may be."""
        for standing in self._standings.values():
            standing.due_s = min(standing.due_s, now_s)

    def untried(self, now_s: float) -> None:
        """No outcome will come of what is being tried: it is tried again at once."""
        for standing in self._standings.values():
            if standing.is_asked:
                standing.is_asked, standing.due_s = False, now_s

    def result(self, name: str, outcome: Outcome, now_s: float) -> Turned | None:
        """What came of a trial; the turn that it makes, if any. `chosen` may be another one then."""
        standing = self._standings.get(name)
        if standing is None:
            return None
        standing.is_asked, standing.heard_s = False, now_s
        _note(standing, outcome)
        turned = _turn(standing, outcome, now_s)
        standing.due_s = min(standing.due_s, now_s + _rest_s(standing, outcome.is_good, now_s))
        self._compare(standing, outcome)
        if not outcome.is_good and name == self.chosen.name:
            self._hurry(now_s)
        self._choose(now_s)
        return turned

    def _hurry(self, now_s: float) -> None:
        """The one that is used may have to be left: how are the others?"""
        for standing in self._standings.values():
            is_old = standing.heard_s is None or now_s - standing.heard_s > HEARD_S
            if standing.name != self.chosen.name and is_old:
                standing.due_s = min(standing.due_s, now_s)

    def explain(self, name: str, why: str) -> None:
        """More is known about one that does not work."""
        standing = self._standings.get(name)
        if standing is not None and standing.state == "down":
            standing.why = why

    def _compare(self, standing: Standing, outcome: Outcome) -> None:
        """Counts in how many trials in a row it was clearly faster than the one that is used."""
        used = self._standings.get(self.chosen.name or "")
        is_faster = outcome.is_good and used is not None and used is not standing and _is_faster(standing, used)
        standing.faster = standing.faster + 1 if is_faster else 0

    def _choose(self, now_s: float) -> bool:
        best = self._best(now_s)
        if best == self.chosen.name:
            return False
        self.chosen = Chosen(best, self._why(best))
        for standing in self._standings.values():
            standing.faster = 0
        return True

    def _best(self, now_s: float) -> str | None:
        standings = list(self._standings.values())
        good = [s for s in standings if s.state == "up" or (s.state == "unknown" and not s.results)]
        used = self._standings.get(self.chosen.name or "")
        if used in good and self._way == "first":
            return next(s.name for s in good if s is used or (s.state == "up" and s.is_fresh(now_s)))
        if used in good:
            return _fastest([used, *(s for s in good if s.faster >= ROUNDS)]).name
        if good:
            good = [s for s in good if s.is_fresh(now_s)] or good
            return (_fastest(good) if self._way == "fastest" else good[0]).name
        if used is not None and used.state != "down":
            return used.name
        return next((s.name for s in standings if s.state == "unknown"), None)

    def _why(self, best: str | None) -> str:
        before = self._standings.get(self.chosen.name or "")
        if best is None:
            return "no upstream works" if self._standings else "there is no upstream"
        if self.chosen.name is None:
            return "it comes first" if self._standings[best].state == "unknown" else "it works again"
        if before is None:
            return f"{self.chosen.name} is no longer there"
        if before.state == "down" or before.is_doubtful:
            return f"{before.name} does not work: {before.why}"
        if self._way == "first":
            return f"it works, and comes before {before.name}"
        return f"it is faster: {_ms(self._standings[best])}, {before.name} {_ms(before)}"


def _fresh(name: str, now_s: float) -> Standing:
    longest = max(LIMITS.of, LIMITS.successes)
    return Standing(name, "unknown", now_s, now_s, deque(maxlen=longest), deque(maxlen=_LATENCIES))


def _doubted_s(standing: Standing) -> float | None:
    """When the trial that is under way is to be doubted. One that never worked, or does not, is not used either."""
    is_new = standing.is_asked and not standing.is_doubted and standing.state == "up"
    return standing.asked_s + standing.doubt_s if is_new else None


def _note(standing: Standing, outcome: Outcome) -> None:
    standing.results.append(outcome.is_good)
    if outcome.latency_ms is not None:
        standing.latencies_ms.append(outcome.latency_ms)


def _turn(standing: Standing, outcome: Outcome, now_s: float) -> Turned | None:
    state = next_state(standing.state, list(standing.results), LIMITS)
    if state == standing.state:
        # Of one that is up, a lone failure is no reason; of one that is down, what made it so is.
        standing.why = standing.why if state == "down" or outcome.is_good != (state == "up") else outcome.why
        return None
    standing.state, standing.since_s, standing.why = state, now_s, outcome.why
    if state == "down":
        standing.latencies_ms.clear()
    return Turned(standing.name, state, outcome.why)


def _rest_s(standing: Standing, is_good: bool, now_s: float) -> float:
    if standing.state == "down" and not is_good:
        return min(max(AGAIN_S, (now_s - standing.since_s) / SPARING), OTHERS_EVERY_S)
    if standing.state == "unknown":
        return AT_FIRST_S
    is_steady = is_good and standing.state == "up" and len(standing.results) >= KNOWN_AFTER
    return OTHERS_EVERY_S if is_steady else AGAIN_S


def _is_faster(one: Standing, other: Standing) -> bool:
    if one.state != "up" or one.latency_ms is None or len(other.latencies_ms) < KNOWN_AFTER:
        return False
    known = other.latency_ms or 0.0
    return one.latency_ms <= FASTER * known and one.latency_ms <= known - MARGIN_MS


def _fastest(good: Sequence[Standing]) -> Standing:
    """Of those that were measured; the first where none was."""
    measured = [s for s in good if s.latency_ms is not None]
    return min(measured, key=lambda s: s.latency_ms or 0.0) if measured else good[0]


def _ms(standing: Standing) -> str:
    return f"{standing.latency_ms:.0f} ms" if standing.latency_ms is not None else "not measured"
