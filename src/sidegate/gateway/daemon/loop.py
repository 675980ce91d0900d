"""The one loop: observe, decide, apply; meet clients, probe them, keep their proofs.

All that makes packets flow is in the kernel. Without this process nothing is lost but optimisation: proofs lapse, and
every client is masqueraded. So it ends without undoing anything; `sidegate down` undoes.
"""

from __future__ import annotations

import selectors
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sidegate.gateway import view
from sidegate.gateway.aside.watch import StandingAside
from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.apply import Change, Changes, apply, undo
from sidegate.gateway.box.events import Changed, KernelEvents, Met
from sidegate.gateway.box.facts import Facts, list_table, observe, vantage_of
from sidegate.gateway.box.livebox import LiveBox
from sidegate.gateway.box.places import Places
from sidegate.gateway.change import timer
from sidegate.gateway.change.history import Chosen
from sidegate.gateway.clients.clientele import Clientele
from sidegate.gateway.config import Config
from sidegate.gateway.daemon import telling
from sidegate.gateway.daemon.answers import Answers
from sidegate.gateway.daemon.bringing import Brought, bring, is_table_new
from sidegate.gateway.daemon.control import ControlSocket
from sidegate.gateway.daemon.eventlog import EventLog
from sidegate.gateway.daemon.inforce import InForce
from sidegate.gateway.daemon.reloading import Reloading, Taking
from sidegate.gateway.daemon.splitplan import Plan
from sidegate.gateway.daemon.splitter import Splitter
from sidegate.gateway.decide import decide
from sidegate.gateway.desired import Desired
from sidegate.gateway.dhcp.advertising import Advertising
from sidegate.gateway.dhcp.handout import Handout
from sidegate.gateway.health.checkup import Checkup, Place
from sidegate.gateway.health.formeraddress import FormerAddress
from sidegate.gateway.health.ownaddress import OwnAddress
from sidegate.gateway.split import rules
from sidegate.problems import Exit, Problem, Problems, in_file

OBSERVE_S = 30.0
"""Between looks at the box and the router, if nothing announces a change."""
SETTLE_S = 0.5
"""After an announced change: more of them will follow."""
CALM_S = 2.0
"""Between looks at the box at least, however much is announced."""
RETRY_S = 5.0
SHORTAGE_S = 1.0
"""After a turn that the system had no means for."""
MOST_SHORTAGES = 60
"""In a row."""
SETTLE_TOLD_S = 2.0
"""For a child that tells clients something else from now on, while the loop does nothing else."""
TIMER_S = 5.0
"""Between looks at the timer of a change that waits to be confirmed."""


class Part(Protocol):
    """What the loop waits for, until it is time."""

    def fileno(self) -> int: ...

    def next_deadline(self) -> float | None: ...

    def close(self) -> None: ...


class Daemon:
    """Made by `begin`, which has done all that can fail before anybody relies on it."""

    def __init__(self, chosen: Chosen, path: Path | None, at: Places, *, is_attended: bool = True) -> None:
        """path: where the configuration is to be read again; None: the default place.

        is_attended: whether a person sees what is wrong; else list files that cannot be used are done without.
        """
        self._places, self._is_attended = at, is_attended
        self._log = EventLog(at.log)
        self._in_force = InForce(chosen, path, at.state, self._log.tell)
        self._answers = Answers(at.state, self._told, self._reload_from)
        self._selector = selectors.DefaultSelector()
        self._facts: Facts | None = None
        self._clientele = Clientele(chosen.config, self._log, self._observe_soon)
        self._checkup = Checkup(time.monotonic(), self._log.tell, self._observe_soon)
        self._handout = Handout(at, self._log.tell)
        self._advertising = Advertising(at, self._log.tell)
        self._aside = StandingAside(at, self._log.tell)
        self._own_address = OwnAddress(self._log.tell, lambda: not self._aside.cause, self._clientele.meet)
        self._former_address = FormerAddress(at.state, self._log.tell)
        self._desired: Desired | None = None
        self._splitter = Splitter(at, self._log.tell, self._handout.own_leases)
        self._reloading = Reloading(self._splitter, self._handout, at.state)
        self._observed_s = self._observe_at_s = self._timer_at_s = 0.0
        self._shortages = 0
        self._stopping = self._is_reload_asked = False

    @property
    def _config(self) -> Config:
        return self._in_force.config

    @property
    def _parts(self) -> tuple[Part, ...]:
        return (
            self._control,
            self._clientele,
            self._checkup,
            self._handout,
            self._advertising,
            self._splitter,
            self._own_address,
        )

    def begin(self) -> Changes:
        """Opens everything, observes and applies. Raises Problems; nothing is changed then."""
        self._wake_on_signals()
        facts = observe(self._config, self._places.state)
        self._kernel = KernelEvents()
        self._control = ControlSocket(self._places.control, self._answers)
        try:
            self._aside.resume(time.monotonic())
            self._stand_at(facts)
            proofs = view.elements("direct4")
            changes = self._apply_first(facts)
        except Problems:
            for part in self._parts:
                part.close()
            raise
        self._selector.register(self._kernel, selectors.EVENT_READ, self._on_kernel)
        for part in self._parts:
            self._selector.register(part, selectors.EVENT_READ, lambda: None)
        self._observed_s = time.monotonic()
        self._observe_at_s = self._observed_s + OBSERVE_S
        self._clientele.adopt(() if is_table_new(changes) else proofs, self._observed_s)
        for change in changes.changes:
            self._log.tell(f"{change.what}: {change.why}")
        self._in_force.keep()
        self._former_address.stand_at(facts)
        self._aside.settle(facts)
        self._stand_asking()
        return changes

    def _apply_first(self, facts: Facts) -> Changes:
        """On a box of which nothing is ours yet, all of it or nothing. Raises Problems."""
        is_fresh = journals.load(self._places.state) is None
        try:
            return self._bring_up(facts, is_fresh=is_fresh)
        except Problems:
            if is_fresh:
                undo(LiveBox(), self._places.state)
            raise

    def _bring_up(self, facts: Facts, *, is_fresh: bool) -> Changes:
        """What packets are led to serves before they are led there. Raises Problems."""
        with in_file(self._in_force.chosen.source):
            plan = self._splitter.plan(self._config, is_tolerant=not self._is_attended)
        if is_fresh:
            self._handout.ask_first(decide(self._config, facts).dhcp)
            self._splitter.ask_first(plan, facts)
        split = self._splitter.begin(plan, facts)
        # Sets that the resolver fills may have been made for it.
        facts = msgspec.structs.replace(facts, table=list_table())
        situation = self._splitter.situation(plan)
        desired = decide(self._config, facts, situation)
        changes = apply(desired, facts, LiveBox(), self._places.state)
        self._splitter.applied(situation)
        if is_table_new(changes):
            # What clients have asked of the resolver until now was learned by nobody.
            self._splitter.forget()
        handed = self._hand_out(desired)
        if is_fresh:
            self._handout.settle()
            self._advertising.settle()
        return Changes((*split, *changes.changes, *handed))

    def run(self) -> None:
        """Until a signal says to stop."""
        while not self._stopping:
            try:
                for key, _ in self._selector.select(max(0.0, self._next_time() - time.monotonic())):
                    key.data()
                self._turn()
                self._shortages = 0
                self._log.note_faults((), "the daemon")
            except OSError as error:
                self._mind_shortage(error)
        for part in self._parts:
            part.close()

    def _mind_shortage(self, error: OSError) -> None:
        """No memory for a process, no file left, a full /run: what is due is done once there is some again.

        What does not pass is for whoever starts this process anew. Raises OSError then.
        """
        self._shortages += 1
        if self._shortages > MOST_SHORTAGES:
            raise error
        where = f"the daemon: {error.filename}" if error.filename else "the daemon"
        what = f"{error.strerror or error}: what is due is tried again and again"
        self._log.note_faults((Problem(where, what, "make room", Exit.FAULT),), "the daemon")
        time.sleep(SHORTAGE_S)

    # What happens

    def _on_kernel(self) -> None:
        now = time.monotonic()
        for event in self._kernel.read():
            if isinstance(event, Met):
                self._clientele.meet_neighbour(event, now)
            elif isinstance(event, Changed):
                self._observe_soon()

    def _observe_soon(self) -> None:
        now = time.monotonic()
        self._observe_at_s = min(self._observe_at_s, max(now + SETTLE_S, self._observed_s + CALM_S))

    def _turn(self) -> None:
        """What is due, because of the time or of what came in."""
        now = time.monotonic()
        self._control.turn(now)
        if self._is_reload_asked:
            self._is_reload_asked = False
            self._reload_for_signal()
        if now >= self._timer_at_s:
            self._keep_timer(now)
        self._clientele.turn(now)
        self._checkup.turn(now)
        self._clientele.mind_router(self._checkup.states()["router"], now)
        self._mind_aside(now)
        self._handout.turn(now)
        self._advertising.turn(now)
        self._own_address.turn(now)
        plan = self._turn_splitter(now)
        if plan is not None and (taking := self._reloading.waited()) is not None:
            self._take(taking, plan)
        elif plan is not None:
            self._reconcile(now, plan, "the split")
        elif now >= self._observe_at_s and not self._splitter.is_preparing:
            self._reconcile(now, self._splitter.plan_in_force, "put right")

    def _turn_splitter(self, now: float) -> Plan | None:
        """What the box is to be brought to; None: what it was brought to holds."""
        try:
            plan = self._splitter.turn(now)
        except Problems as error:
            self._log.note_faults(error.problems, "the split")
            self._splitter.give_up()
            self._reloading.give_up(error)
            self._observe_soon()
            return None
        self._log.note_faults((), "the split")
        return plan

    def _next_time(self) -> float:
        times = (part.next_deadline() for part in self._parts)
        observe_at_s = None if self._splitter.is_preparing else self._observe_at_s
        return min(t for t in (observe_at_s, self._timer_at_s, *times) if t is not None)

    # The box

    def _reconcile(self, now: float, plan: Plan, occasion: str) -> None:
        """The box as it should be, whatever was done to it meanwhile."""
        self._observed_s, self._observe_at_s = now, now + OBSERVE_S
        try:
            brought = self._bring(plan)
        except Problems as error:
            self._log.note_faults(error.problems)
            # Later than the failure, which may have held us up for as long as a program may take.
            self._observe_at_s = time.monotonic() + RETRY_S
            return
        self._log.note_faults(())
        for change in brought.changes.changes:
            self._log.tell(f"{occasion}: {change.what}: {change.why}")
        self._hand_out(brought.desired)
        self._go_on_with(brought)

    def _bring(self, plan: Plan) -> Brought:
        """Raises Problems; what was in force is to be brought back then."""
        try:
            return bring(plan, self._splitter, self._places.state)
        except Problems:
            self._splitter.give_up()
            raise

    def _go_on_with(self, brought: Brought) -> None:
        self._stand_at(brought.facts)
        self._former_address.stand_at(brought.facts)
        if is_table_new(brought.changes):
            self._clientele.prove_again()

    def _hand_out(self, desired: Desired) -> tuple[Change, ...]:
        """What clients are told when they ask: that the router is their gateway, while it stands in for us."""
        self._desired = desired
        told = self._aside.desired(desired)
        return (*self._handout.want(told.dhcp), *self._advertising.want(told.advertiser))

    def _mind_aside(self, now: float) -> None:
        """DHCP and router advertisements first, then ARP."""
        states = self._checkup.states()
        move = self._aside.due(states, now, must_stay=rules.fails_closed(self._config))
        self._log.note_faults(self._aside.faults(), "stepping aside")
        if move is not None and self._desired is not None:
            self._aside.decide(move, states, now)
            self._hand_out(self._desired)
            self._settle_what_is_told()
            self._stand_asking()
        if self._facts is not None:
            self._aside.perform(self._facts, now)

    def _settle_what_is_told(self) -> None:
        """Those that a broken server keeps from being told are told by ARP all the more."""
        for settle in (self._handout.settle, self._advertising.settle):
            try:
                settle(SETTLE_TOLD_S)
            except Problems as error:
                self._log.note_faults(error.problems)

    def _keep_timer(self, now: float) -> None:
        self._timer_at_s = now + TIMER_S
        try:
            if timer.keep_alive(self._places):
                self._log.tell("a change waits to be confirmed, and its timer had died: begun anew")
            self._log.note_faults((), "the timer")
        except Problems as error:
            self._log.note_faults(error.problems, "the timer")

    # Another configuration

    def _reload(self, it: Taking) -> None:
        """Begins to take it. Raises Problems. It touches only what it changes."""
        now = time.monotonic()
        try:
            plan = self._reloading.begin(it, now)
        except Problems:
            # What was begun is put right at once.
            self._observe_at_s = now
            raise
        if plan is not None:
            self._take(it, plan)
        else:
            self._log.tell("another configuration waits until engine and resolver are ready for it")

    def _take(self, it: Taking, plan: Plan) -> None:
        """What it needs is there."""
        try:
            brought = self._bring(plan)
        except Problems as error:
            self._observe_at_s = time.monotonic()
            it.hear(error)
            return
        handed = self._hand_out(brought.desired)
        changes = Changes((*brought.changes.changes, *brought.begun, *handed))
        for change in changes.changes:
            self._log.tell(f"{change.what}: {change.why}")
        self._in_force.take(it.chosen, it.path)
        self._clientele.take(it.chosen.config, brought.facts)
        self._go_on_with(brought)
        it.hear(changes)

    def _reload_from(self, path: Path | None, is_back: bool, hear: Callable[[Changes | Problems], None]) -> None:
        """path: None: the file in force. is_back: to the last good one instead. Raises Problems."""
        self._reload(Taking(*self._in_force.read(path, is_back=is_back), hear))

    def _reload_for_signal(self) -> None:
        try:
            self._reload_from(None, False, self._hear_of_signal)
        except Problems as error:
            self._hear_of_signal(error)

    def _hear_of_signal(self, outcome: Changes | Problems) -> None:
        if isinstance(outcome, Changes):
            self._log.tell("configuration read again")
        else:
            self._in_force.refuse(outcome)

    def _stand_at(self, facts: Facts) -> None:
        """Our place in the LAN."""
        self._facts = facts
        vantage = vantage_of(facts)
        self._clientele.stand_at(facts)
        self._stand_asking()
        self._handout.stand_at(vantage, self._config.dhcp.mode)
        self._own_address.stand_at(vantage)
        self._advertising.stand_at(vantage, self._config.ipv6.mode, resolves=self._config.resolves)

    def _stand_asking(self) -> None:
        """Whom our health is asked of, and how."""
        vantage, config = vantage_of(self._facts), self._config
        dhcp, is_aside = config.dhcp.mode != "off", bool(self._aside.cause)
        place = Place(vantage, config.probe.targets, dhcp, config.resolves, is_aside) if vantage else None
        if place is not None and self._facts is not None and self._desired is not None:
            place = msgspec.structs.replace(place, routes=self._desired.routes, lan6=self._facts.lan6)
        self._checkup.stand_at(place, time.monotonic())

    # Telling

    def _told(self) -> telling.Parts:
        return telling.Parts(
            self._in_force.chosen,
            self._facts,
            self._clientele,
            self._checkup,
            self._handout,
            self._advertising,
            self._aside,
            self._splitter,
            self._log,
            self._former_address,
            (*self._in_force.faults(), *self._own_address.faults()),
            self._own_address.callers(),
        )

    def _wake_on_signals(self) -> None:
        read_end, write_end = socket.socketpair()
        for end in (read_end, write_end):
            end.setblocking(False)
        signal.set_wakeup_fd(write_end.fileno())
        self._wakeup = (read_end, write_end)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._ask_reload)
        self._selector.register(read_end, selectors.EVENT_READ, lambda: read_end.recv(4096))

    def _stop(self, *_: Any) -> None:
        self._stopping = True

    def _ask_reload(self, *_: Any) -> None:
        self._is_reload_asked = True
