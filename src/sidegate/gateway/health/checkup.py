"""Asks what `health` says is due, for the daemon's loop: wait for `fileno` until `next_deadline`, then `turn`."""

from __future__ import annotations

import random
import selectors
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Network
from typing import Protocol

from msgspec import Struct

from sidegate.gateway.desired import PolicyRoute
from sidegate.gateway.health.selfcheck import Answer, sends_redirects, takes_questions, would_forward, would_reach_us
from sidegate.gateway.health.table import Health, Name, State, Turned
from sidegate.gateway.view import HealthView
from sidegate.probe.arp import ArpResult, who_has
from sidegate.probe.dns_servers import DnsQuestions
from sidegate.probe.internet import InternetResult, internet
from sidegate.probe.talk import Vantage
from sidegate.probe.tcp_knock import TcpKnock
from sidegate.probe.wire import Wire
from sidegate.problems import Exit, Problem, Problems

LATE_S = 5.0
"""Behind the time it wanted to be asked: a daemon so late is no longer there when a client roams."""


_ALWAYS: tuple[Name, ...] = ("router", "internet", "forwarding", "daemon")


class Inquiry(Protocol):
    """A question by the kernel's own sockets, until an answer or its time. answered: who did; empty or None: nobody."""

    until_s: float

    @property
    def answered(self) -> object: ...

    def fileno(self) -> int: ...

    def turn(self, now: float) -> bool: ...

    def close(self) -> None: ...


class Place(Struct, frozen=True):
    """From where to ask, and whom.

    dhcp, dns: whether this box serves the LAN so. is_aside: our address is at the router's MAC address for clients, and
    no question of ours may tell them otherwise. routes: by which what is steered comes here. lan6: the LAN's networks.
    """

    vantage: Vantage
    targets: tuple[IPv4Address, ...]
    dhcp: bool = False
    dns: bool = False
    is_aside: bool = False
    routes: tuple[PolicyRoute, ...] = ()
    lan6: tuple[IPv6Network, ...] = ()

    @property
    def checks(self) -> tuple[Name, ...]:
        more: list[tuple[Name, bool]] = [("steering", bool(self.routes)), ("dhcp", self.dhcp), ("dns", self.dns)]
        return (*_ALWAYS, *(name for name, is_asked in more if is_asked))


class Checkup:
    """All times are `time.monotonic()`. repair: called where this box itself was found wrong."""

    def __init__(self, now_s: float, tell: Callable[[str], None], repair: Callable[[], None] = lambda: None) -> None:
        self._health, self._tell, self._repair = Health(now_s), tell, repair
        self._health.check_only(_ALWAYS, now_s)
        self._selector = selectors.EpollSelector()
        self._wire: Wire[ArpResult | InternetResult] | None = None
        self._at: Place | None = None
        self._asked: dict[int, Name] = {}
        self._inquiries: dict[Name, Inquiry] = {}
        self._wanted_s = now_s
        self._trouble = "no router is known to ask by"
        self._leaves_by = ""
        self._rng = random.SystemRandom()

    def fileno(self) -> int:
        return self._selector.fileno()

    def stand_at(self, at: Place | None, now: float) -> None:
        """None: nowhere. An interface that cannot be used is tried at the next call."""
        if at == self._at and (self._wire is not None or at is None):
            return
        self._hang_up()
        self._at = at
        self._health.check_only(at.checks if at else _ALWAYS, now)
        if at is not None:
            try:
                self._wire = Wire(at.vantage.interface, at.vantage.ip)
            except Problems as error:
                self._trouble = str(error)
                return
            self._selector.register(self._wire, selectors.EVENT_READ)

    def next_deadline(self) -> float | None:
        times = [self._health.next_due_s(), self._wire.next_deadline() if self._wire else None]
        times += [it.until_s for it in self._inquiries.values()]
        return min((t for t in times if t is not None), default=None)

    def turn(self, now: float) -> None:
        """Asks what is due, and takes what was answered."""
        for name in self._health.due(now):
            self._ask(name, now)
        self._hear_inquiries(now)
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

    def ask_all(self, now: float) -> None:
        """At the next turn. What the daemon wanted of itself is wanted then too: that is not late."""
        self._health.ask_all(now)
        self._wanted_s = now

    def views(self, now: float) -> tuple[HealthView, ...]:
        """For `status`."""
        return tuple(
            HealthView(s.check.name, s.state, round(now - s.since_s, 1), s.why) for s in self._health.standings()
        )

    def states(self) -> dict[Name, State]:
        return {s.check.name: s.state for s in self._health.standings()}

    def faults(self) -> tuple[Problem, ...]:
        """What is down."""
        down = [s for s in self._health.standings() if s.state == "down"]
        return tuple(Problem(s.check.name, f"down: {s.why}", s.check.on_failure, Exit.FAULT) for s in down)

    def hints(self) -> tuple[str, ...]:
        """Where clients' packets leave by another interface, as into a tunnel, or to a router that came later."""
        here = self._at.vantage.interface if self._at else ""
        if self.states()["forwarding"] != "up" or self._leaves_by in ("", here):
            return ()
        what = f"what clients send straight to the internet leaves by {self._leaves_by}, not by {here}"
        return (f"{what}, as this box's own routes have it: nothing is masqueraded there but by whoever made them",)

    def close(self) -> None:
        self._hang_up()
        self._selector.close()

    def _hang_up(self) -> None:
        if self._wire is not None:
            self._selector.unregister(self._wire)
            self._wire.close()
            self._wire = None
        for name in list(self._inquiries):
            self._end(name)
        self._asked.clear()
        self._health.unasked()

    def _ask(self, name: Name, now: float) -> None:
        if name == "daemon":
            self._ask_ourselves(now)
        elif self._wire is None or self._at is None:
            self._note(self._health.result(name, False, self._trouble, now))
        elif name in ("router", "internet"):
            self._ask_around(name, self._wire, self._at)
        elif name == "dns":
            self._inquire(name, DnsQuestions(self._at.vantage.interface, [self._at.vantage.ip]))
        else:
            self._ask_box(name, self._at, now)

    def _ask_around(self, name: Name, wire: Wire[ArpResult | InternetResult], at: Place) -> None:
        vantage = at.vantage
        if name == "router":
            sender = IPv4Address(0) if at.is_aside else vantage.ip
            self._asked[wire.start(who_has(vantage.router_ip, vantage.mac, sender))] = name
        else:
            self._asked[wire.start(internet(vantage, at.targets, self._rng))] = name

    def _ask_box(self, name: Name, at: Place, now: float) -> None:
        try:
            answer = _asked(name, at)
        except Problems as error:
            self._note(self._health.unknown(name, f"cannot be asked: {error}", now))
            return
        if name == "forwarding":
            self._leaves_by = answer.by
            if not answer.is_good or sends_redirects(at.vantage.interface):
                self._repair()
        self._note(self._health.result(name, answer.is_good, answer.why, now))

    def _inquire(self, name: Name, it: Inquiry) -> None:
        self._inquiries[name] = it
        self._selector.register(it, selectors.EVENT_READ)

    def _hear_inquiries(self, now: float) -> None:
        for name in [name for name, it in self._inquiries.items() if it.turn(now)]:
            answered = self._end(name)
            if self._at is not None:
                self._note(self._health.result(name, bool(answered), _outcome(name, answered, self._at), now))

    def _end(self, name: Name) -> object:
        """Who answered, if anybody did."""
        it = self._inquiries.pop(name)
        self._selector.unregister(it)
        it.close()
        return it.answered

    def _ask_ourselves(self, now: float) -> None:
        late_s = now - self._wanted_s
        self._wanted_s = self._health["daemon"].due_s
        why = f"the loop came {late_s:.1f} s late" if late_s > LATE_S else "the loop is in time"
        self._note(self._health.result("daemon", late_s <= LATE_S, why, now))

    def _take(self, name: Name, result: ArpResult | InternetResult, now: float) -> None:
        if isinstance(result, InternetResult) and not result.is_there and self._at is not None:
            # Asked last, and only where nothing else was answered: it takes a connection.
            self._inquire(name, TcpKnock(self._at.vantage.interface, self._at.targets))
        elif isinstance(result, InternetResult):
            self._note(self._health.result(name, result.is_there, result.reason, now))
        else:
            why = f"{result.ip} is at {', '.join(result.macs)}" if result.macs else f"{result.ip} does not answer ARP"
            self._note(self._health.result(name, bool(result.macs), why, now))

    def _note(self, turned: Turned | None) -> None:
        if turned is not None:
            self._tell(f"{turned.name}: {turned.state}: {turned.why}")


def _outcome(name: Name, answered: object, at: Place) -> str:
    """In words, what an inquiry found."""
    if name == "dns":
        return f"our resolver at {at.vantage.ip} {'answers' if answered else 'does not answer'}"
    if answered:
        return f"{answered} took a TCP connection; no echo or DNS query was answered"
    return f"none of {', '.join(map(str, at.targets))} answered an echo, a DNS query or a TCP connection"


def _asked(name: Name, at: Place) -> Answer:
    """What this box says of itself. Raises Problems."""
    if name == "dhcp":
        return takes_questions()
    if name == "steering":
        return would_reach_us(at.vantage, at.routes, at.lan6, at.targets[0])
    return would_forward(at.vantage, at.targets[0])
