"""What is checked, how often, when it counts as down, and what follows: one table. Pure: it knows no clock of its own.

A check turns down when `failures` of its last `of` results were failures, and up again after `successes` good ones in a
row: one lost frame turns nothing, and what flaps stays down until it is steady. A check whose `needs` is down is not
asked: what lies behind it is unknown, not broken; it is so at once, and asked as soon as that is up. Unknown becomes up
with the first good result. A question that cannot be put, as while `ip` hangs or is being upgraded, says nothing of
what it is about: that is unknown too.

Clients are handed to the router for one failure only: this box would not forward, although all beyond it works, and it
could not be put right meanwhile (`aside.choice`). One whose router or internet is gone has nobody to hand them to;
a daemon that is late is no reason to move packets that the kernel forwards; and clients that ask this box for names or
addresses go on asking it, by way of the router. Where what is proxied may never go straight, nobody is handed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from msgspec import Struct

AGAIN_S = 2.0
"""After a failure, and until what is down is up: the truth is wanted soon."""
REST_S = 30.0
"""After a question that could not be put: a program that hangs holds the daemon up each time."""

State = Literal["unknown", "up", "down"]
Name = Literal["router", "internet", "forwarding", "steering", "dhcp", "dns", "daemon"]


class Limits(Struct, frozen=True, kw_only=True):
    """Down after `failures` of the last `of` results, up again after `successes` in a row."""

    failures: int
    of: int
    successes: int


class Check(Limits, frozen=True):
    """One row. every_s: between questions. asks: what is asked. on_failure: what follows, as a sentence.

    steps_aside: whether clients are handed to the router (see `aside.choice`).
    """

    name: Name
    asks: str
    on_failure: str
    every_s: float
    needs: Name | None = None
    steps_aside: bool = False


TABLE: tuple[Check, ...] = (
    Check(
        "router",
        "ARP: who has the router's address?",
        "told; what was proved of it is void, since another one may come back; nothing else is changed: "
        "nobody is online without it",
        every_s=10.0,
        failures=3,
        of=4,
        successes=2,
    ),
    Check(
        "internet",
        "ICMP echo, then DNS over UDP, by way of the router to each probe target until one answers; "
        "then a TCP connection to port 443 of each",
        "told; nothing is changed: clients that are moved to the router would find the same silence",
        every_s=20.0,
        failures=3,
        of=4,
        successes=2,
        needs="router",
    ),
    Check(
        "forwarding",
        "the kernel: where would it send a client's packet to the first probe target?",
        "put right at once; if that fails, clients are handed to the router until it is up again, a minute at least; "
        'not where something is proxied with `on_failure = "block"`, for there it would go straight: that is told',
        every_s=5.0,
        failures=3,
        of=4,
        successes=3,
        needs="internet",
        steps_aside=True,
    ),
    Check(
        "steering",
        "the kernel: would a client's packet that bears our mark come to this box, whatever its destination?",
        "told; our rule is put back where it is gone; what is proxied is lost while another rule comes before it: "
        "`ip rule` shows it; give it a priority of its own, from 1 on",
        every_s=10.0,
        failures=3,
        of=4,
        successes=2,
    ),
    Check(
        "dhcp",
        "our DHCP server's socket: does it run, and does it read what comes in?",
        "told; started anew if it ended: addresses last until their leases end",
        every_s=10.0,
        failures=3,
        of=4,
        successes=2,
    ),
    Check(
        "dns",
        "our resolver, by DNS over UDP: the root's name servers",
        "told; started anew if it ended: clients that ask this box for names have none",
        every_s=10.0,
        failures=3,
        of=4,
        successes=2,
        needs="internet",
    ),
    Check(
        "daemon",
        "the daemon's own loop: was it there when it wanted to be?",
        "told; nothing is changed: the kernel forwards without the daemon, probes and proofs come late",
        every_s=10.0,
        failures=3,
        of=4,
        successes=3,
    ),
)


class Turned(Struct, frozen=True):
    """A check changed its state. why: of the result that did it."""

    name: Name
    state: State
    why: str


class Standing(Struct):
    """How one check stands. since_s, due_s: seconds of a monotonic clock. why: of the latest result that counts."""

    check: Check
    state: State
    since_s: float
    due_s: float
    results: deque[bool]
    why: str = "not asked yet"
    is_asked: bool = False


class Health:
    """All checks' standings."""

    def __init__(self, now_s: float, table: Iterable[Check] = TABLE) -> None:
        self._standings: dict[Name, Standing] = {c.name: _fresh(c, now_s) for c in table}

    def check_only(self, names: Collection[Name], now_s: float, table: Iterable[Check] = TABLE) -> None:
        """These rows of the table from now on; those that there are keep their standing."""
        self._standings = {c.name: self._standings.get(c.name) or _fresh(c, now_s) for c in table if c.name in names}

    def __contains__(self, name: Name) -> bool:
        return name in self._standings

    def __getitem__(self, name: Name) -> Standing:
        return self._standings[name]

    def standings(self) -> tuple[Standing, ...]:
        return tuple(self._standings.values())

    def due(self, now_s: float) -> list[Name]:
        """What to ask now; each counts as being asked until `result` or `unasked`."""
        due = [s for s in self._standings.values() if not s.is_asked and s.due_s <= now_s]
        for standing in due:
            standing.due_s = now_s + standing.check.every_s
            standing.is_asked = not self._is_blocked(standing)
            if not standing.is_asked:
                self._forget(standing, f"not asked while the {standing.check.needs} is down", now_s)
        return [s.check.name for s in due if s.is_asked]

    def next_due_s(self) -> float | None:
        """When `due` has something to do; None while all are being asked."""
        return min((s.due_s for s in self._standings.values() if not s.is_asked), default=None)

    def result(self, name: Name, is_good: bool, why: str, now_s: float) -> Turned | None:
        """What came of asking; the turn that it makes, if any."""
        standing = self._standings[name]
        standing.is_asked = False
        standing.results.append(is_good)
        state = next_state(standing.state, list(standing.results), standing.check)
        if not is_good or state == "down":
            standing.due_s = min(standing.due_s, now_s + AGAIN_S)
        if state == standing.state:
            # Of a check that is up, a lone failure is no reason; of one that is down, neither is a lone success.
            standing.why = why if is_good == (state == "up") else standing.why
            return None
        return self._turn(standing, state, why, now_s)

    def unknown(self, name: Name, why: str, now_s: float) -> Turned | None:
        """The question could not be put. The turn that it makes, if any."""
        standing = self._standings[name]
        standing.is_asked, standing.due_s = False, now_s + REST_S
        return self._forget(standing, why, now_s)

    def ask_all(self, now_s: float) -> None:
        """All are due, for somebody who wants to know now."""
        for standing in self._standings.values():
            standing.due_s = now_s

    def unasked(self) -> None:
        """No answers will come to what is being asked: it is asked again when due."""
        for standing in self._standings.values():
            standing.is_asked = False

    def _is_blocked(self, standing: Standing) -> bool:
        needs = self._standings.get(standing.check.needs) if standing.check.needs else None
        return needs is not None and (needs.state == "down" or self._is_blocked(needs))

    def _forget(self, standing: Standing, why: str, now_s: float) -> Turned | None:
        standing.results.clear()
        if standing.state == "unknown":
            standing.why = why
            return None
        return self._turn(standing, "unknown", why, now_s)

    def _turn(self, standing: Standing, state: State, why: str, now_s: float) -> Turned:
        standing.state, standing.since_s, standing.why = state, now_s, why
        for other in self._standings.values():
            if other.check.needs == standing.check.name:
                other.due_s = now_s
        return Turned(standing.check.name, state, why)


def _fresh(check: Check, now_s: float) -> Standing:
    return Standing(check, "unknown", now_s, now_s, deque(maxlen=max(check.of, check.successes)))


def next_state(state: State, results: Sequence[bool], limits: Limits) -> State:
    """After these results, the latest last; there is one at least."""
    if results[-limits.of :].count(False) >= limits.failures:
        return "down"
    if state == "down":
        return "up" if len(results) >= limits.successes and all(results[-limits.successes :]) else "down"
    return "up" if results[-1] else state
