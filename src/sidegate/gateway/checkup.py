"""Asks what `health` says is due, for the daemon's loop: wait for `fileno` until `next_deadline`, then `turn`."""

from __future__ import annotations

import random
import selectors
from collections.abc import Callable
from ipaddress import IPv4Address

from sidegate.gateway.health import Health, Name, Turned
from sidegate.gateway.view import HealthView
from sidegate.probe.arp import ArpResult, who_has
from sidegate.probe.internet import InternetResult, internet
from sidegate.probe.talk import Vantage
from sidegate.probe.wire import Wire
from sidegate.problems import Exit, Problem, Problems

LATE_S = 5.0
"""Behind the time it wanted to be asked: a daemon so late is no longer there when a client roams."""


class Checkup:
    """All times are `time.monotonic()`."""

    def __init__(self, now_s: float, tell: Callable[[str], None]) -> None:
        self._health, self._tell = Health(now_s), tell
        self._selector = selectors.EpollSelector()
        self._wire: Wire[ArpResult | InternetResult] | None = None
        self._at: tuple[Vantage, tuple[IPv4Address, ...]] | None = None
        self._asked: dict[int, Name] = {}
        self._wanted_s = now_s
        self._trouble = "no router is known to ask by"
        self._rng = random.SystemRandom()

    def fileno(self) -> int:
        return self._selector.fileno()

    def stand_at(self, vantage: Vantage | None, targets: tuple[IPv4Address, ...]) -> None:
        """From where to ask, and whom; None: nowhere. An interface that cannot be used is tried at the next call."""
        at = (vantage, targets) if vantage is not None else None
        if at == self._at and (self._wire is not None or at is None):
            return
        self._hang_up()
        self._at = at
        if vantage is not None:
            try:
                self._wire = Wire(vantage.interface, vantage.ip)
            except Problems as error:
                self._trouble = str(error)
                return
            self._selector.register(self._wire, selectors.EVENT_READ)

    def next_deadline(self) -> float | None:
        times = [self._health.next_due_s(), self._wire.next_deadline() if self._wire else None]
        return min((t for t in times if t is not None), default=None)

    def turn(self, now: float) -> None:
        """Asks what is due, and takes what was answered."""
        for name in self._health.due(now):
            self._ask(name, now)
        if self._wire is None:
            return
        try:
            self._wire.turn(now)
        except Problems as error:
            self._hang_up()
            self._trouble = str(error)
            return
        for key, result in self._wire.finished():
            self._take(self._asked.pop(key), result, now)

    def views(self, now: float) -> tuple[HealthView, ...]:
        """For `status`."""
        return tuple(
            HealthView(s.check.name, s.state, round(now - s.since_s, 1), s.why) for s in self._health.standings()
        )

    def faults(self) -> tuple[Problem, ...]:
        """What is down."""
        down = [s for s in self._health.standings() if s.state == "down"]
        return tuple(Problem(s.check.name, f"down: {s.why}", s.check.on_failure, Exit.FAULT) for s in down)

    def close(self) -> None:
        self._hang_up()
        self._selector.close()

    def _hang_up(self) -> None:
        if self._wire is not None:
            self._selector.unregister(self._wire)
            self._wire.close()
            self._wire = None
        self._asked.clear()
        self._health.unasked()

    def _ask(self, name: Name, now: float) -> None:
        if name == "daemon":
            self._ask_ourselves(now)
        elif self._wire is None or self._at is None:
            self._note(self._health.result(name, False, self._trouble, now))
        else:
            vantage, targets = self._at
            if name == "router":
                self._asked[self._wire.start(who_has(vantage.router_ip, vantage.mac, vantage.ip))] = name
            else:
                self._asked[self._wire.start(internet(vantage, targets, self._rng))] = name

    def _ask_ourselves(self, now: float) -> None:
        late_s = now - self._wanted_s
        self._wanted_s = self._health["daemon"].due_s
        why = f"the loop came {late_s:.1f} s late" if late_s > LATE_S else "the loop is in time"
        self._note(self._health.result("daemon", late_s <= LATE_S, why, now))

    def _take(self, name: Name, result: ArpResult | InternetResult, now: float) -> None:
        if isinstance(result, InternetResult):
            self._note(self._health.result(name, result.is_there, result.reason, now))
        else:
            why = f"{result.ip} is at {', '.join(result.macs)}" if result.macs else f"{result.ip} does not answer ARP"
            self._note(self._health.result(name, bool(result.macs), why, now))

    def _note(self, turned: Turned | None) -> None:
        if turned is not None:
            self._tell(f"{turned.name}: {turned.state}: {turned.why}")
