"""The one loop: observe, decide, apply; meet clients, probe them, keep their proofs.

All that makes packets flow is in the kernel. Without this process nothing is lost but optimisation: proofs lapse, and
every client is masqueraded. So it ends without undoing anything; `sidegate down` undoes.
"""

from __future__ import annotations

import selectors
import signal
import socket
import time
from pathlib import Path
from typing import Any

import msgspec

from sidegate.gateway import journal as journals
from sidegate.gateway import stepaside, telling, view
from sidegate.gateway.apply import Changes, LiveBox, apply, undo
from sidegate.gateway.change import history, timer
from sidegate.gateway.change.history import Chosen
from sidegate.gateway.checkup import Checkup
from sidegate.gateway.clientele import Clientele
from sidegate.gateway.config import Config
from sidegate.gateway.control import ControlSocket, Reply, Request
from sidegate.gateway.decide import decide
from sidegate.gateway.dhcp.advertising import Advertising
from sidegate.gateway.dhcp.handout import Handout
from sidegate.gateway.eventlog import EventLog
from sidegate.gateway.events import Changed, KernelEvents, Met
from sidegate.gateway.facts import Facts, observe, vantage_of
from sidegate.gateway.places import Places
from sidegate.problems import Problem, Problems

OBSERVE_S = 30.0
"""Between looks at the box and the router, if nothing announces a change."""
SETTLE_S = 0.5
"""After an announced change: more of them will follow."""
CALM_S = 2.0
"""Between looks at the box at least, however much is announced."""
RETRY_S = 5.0
TIMER_S = 5.0
"""Between looks at the timer of a change that waits to be confirmed."""


class Daemon:
    """Made by `begin`, which has done all that can fail before anybody relies on it."""

    def __init__(self, chosen: Chosen, path: Path | None, at: Places) -> None:
        """path: where the configuration is to be read again; None: the default place."""
        self._chosen, self._path, self._places = chosen, path, at
        self._kept_badly: tuple[Problem, ...] = ()
        self._log = EventLog(at.log)
        self._began_s = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._facts: Facts | None = None
        self._clientele = Clientele(chosen.config, self._log, self._observe_soon)
        self._checkup = Checkup(time.monotonic(), self._log.tell)
        self._handout = Handout(at, self._log.tell)
        self._advertising = Advertising(at, self._log.tell)
        self._observed_s = self._observe_at_s = self._timer_at_s = 0.0
        self._stopping = self._is_reload_asked = False

    @property
    def _config(self) -> Config:
        return self._chosen.config

    def begin(self) -> Changes:
        """Opens everything, observes and applies. Raises Problems; nothing is changed then."""
        self._wake_on_signals()
        facts = observe(self._config, self._places.state)
        self._kernel = KernelEvents()
        self._control = ControlSocket(self._places.control, self._answer)
        try:
            self._stand_at(facts)
            proofs = view.elements("direct4")
            changes = self._apply_first(facts)
        except Problems:
            self._control.close()
            self._handout.close()
            self._advertising.close()
            raise
        self._selector.register(self._kernel, selectors.EVENT_READ, self._on_kernel)
        for part in (self._control, self._clientele, self._checkup, self._handout, self._advertising):
            self._selector.register(part, selectors.EVENT_READ, lambda: None)
        self._observed_s = time.monotonic()
        self._observe_at_s = self._observed_s + OBSERVE_S
        self._clientele.adopt(() if _is_table_new(changes) else proofs, self._observed_s)
        for change in changes.changes:
            self._log.tell(f"{change.what}: {change.why}")
        self._keep_version()
        self._take_back()
        return changes

    def _take_back(self) -> None:
        """Clients that an earlier `down` handed to the router."""
        try:
            if stepaside.take_back(self._places):
                self._log.tell("clients were told that this box is their gateway again")
        except Problems as error:
            self._log.tell(f"fault: {error}")

    def _apply_first(self, facts: Facts) -> Changes:
        """On a box of which nothing is ours yet, all of it or nothing. Raises Problems."""
        is_fresh = journals.load(self._places.state) is None
        desired = decide(self._config, facts)
        if is_fresh:
            self._handout.ask_first(desired.dhcp)
        changes = apply(desired, facts, LiveBox(), self._places.state)
        handed = (*self._handout.want(desired.dhcp), *self._advertising.want(desired.advertiser))
        if is_fresh:
            try:
                self._handout.settle()
                self._advertising.settle()
            except Problems:
                undo(LiveBox(), self._places.state)
                raise
        return Changes((*changes.changes, *handed))

    def run(self) -> None:
        """Until a signal says to stop."""
        while not self._stopping:
            for key, _ in self._selector.select(max(0.0, self._next_time() - time.monotonic())):
                key.data()
            self._turn()
        for part in (self._control, self._clientele, self._checkup, self._handout, self._advertising):
            part.close()

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
        if now >= self._observe_at_s:
            self._reconcile(now)
        if now >= self._timer_at_s:
            self._keep_timer(now)
        self._clientele.turn(now)
        self._checkup.turn(now)
        self._handout.turn(now)
        self._advertising.turn(now)

    def _next_time(self) -> float:
        parts = (self._control, self._clientele, self._checkup, self._handout, self._advertising)
        times = (part.next_deadline() for part in parts)
        return min([self._observe_at_s, self._timer_at_s, *(t for t in times if t is not None)])

    # The box

    def _reconcile(self, now: float) -> None:
        """The box as it should be, whatever was done to it meanwhile."""
        self._observed_s, self._observe_at_s = now, now + OBSERVE_S
        try:
            facts = observe(self._config, self._places.state)
            desired = decide(self._config, facts)
            changes = apply(desired, facts, LiveBox(), self._places.state)
        except Problems as error:
            self._log.note_faults(error.problems)
            self._observe_at_s = now + RETRY_S
            return
        self._log.note_faults(())
        self._handout.want(desired.dhcp)
        self._advertising.want(desired.advertiser)
        for change in changes.changes:
            self._log.tell(f"put right: {change.what}: {change.why}")
        self._stand_at(facts)
        if _is_table_new(changes):
            self._clientele.prove_again()

    def _keep_timer(self, now: float) -> None:
        self._timer_at_s = now + TIMER_S
        try:
            if timer.keep_alive(self._places):
                self._log.tell("a change waits to be confirmed, and its timer had died: begun anew")
        except Problems as error:
            self._log.note_faults(error.problems)

    # Another configuration

    def _reload(self, chosen: Chosen) -> Changes:
        """Takes it, and touches only what it changes. Raises Problems; what was in force stays so then."""
        now = time.monotonic()
        try:
            facts = observe(chosen.config, self._places.state)
            desired = decide(chosen.config, facts)
            self._handout.ask_first(desired.dhcp)
            changes = apply(desired, facts, LiveBox(), self._places.state)
        except Problems:
            # What was begun is put right at once.
            self._observe_at_s = now
            raise
        self._chosen = chosen
        handed = (*self._handout.want(desired.dhcp), *self._advertising.want(desired.advertiser))
        changes = Changes((*changes.changes, *handed))
        for change in changes.changes:
            self._log.tell(f"{change.what}: {change.why}")
        self._keep_version()
        self._clientele.take(chosen.config, facts)
        self._stand_at(facts)
        if _is_table_new(changes):
            self._clientele.prove_again()
        return changes

    def _keep_version(self) -> None:
        """Told first: a configuration that is not the file's is nothing to be found out by chance."""
        for fault in self._chosen.faults:
            self._log.tell(f"fault: {fault.where}: {fault.what}")
        try:
            history.record(self._chosen, self._places.state)
            self._kept_badly = ()
        except Problems as error:
            self._kept_badly = error.problems
            self._log.tell(f"fault: {error}")

    def _reload_for_signal(self) -> None:
        try:
            self._reload(history.read(self._path))
            self._log.tell("configuration read again")
        except Problems as error:
            self._chosen = msgspec.structs.replace(self._chosen, faults=error.problems)
            self._log.tell(f"fault: the configuration was not taken: {error}")

    def _stand_at(self, facts: Facts) -> None:
        """Our place in the LAN."""
        self._facts = facts
        vantage = vantage_of(facts)
        self._clientele.stand_at(facts)
        self._checkup.stand_at(vantage, self._config.probe.targets)
        self._handout.stand_at(vantage, self._config.dhcp.mode)
        self._advertising.stand_at(vantage, self._config.ipv6.mode, resolves=self._config.resolves)

    # Telling

    def _answer(self, request: Request) -> Reply:
        if request.method == "GET" and request.path == "/v1/status":
            return Reply(200, telling.status(self._parts(), self._places.state, time.monotonic() - self._began_s))
        if request.method == "GET" and request.path == "/v1/clients":
            ip, with_evidence = request.query.get("ip"), "evidence" in request.query
            return Reply(200, telling.clients(self._parts(), ip, with_evidence=with_evidence))
        if request.method == "POST" and request.path == "/v1/probe":
            return self._probe_again(request)
        if request.method == "POST" and request.path == "/v1/reload":
            return self._answer_reload(request)
        return Reply(404, {"error": f"no such thing: {request.method} {request.path}"})

    def _probe_again(self, request: Request) -> Reply:
        if request.uid != 0:
            return Reply(403, {"error": "only root may change something", "remedy": "use sudo"})
        return Reply(200, {"probing": self._clientele.probe_again()})

    def _answer_reload(self, request: Request) -> Reply:
        if request.uid != 0:
            return Reply(403, {"error": "only root may change something", "remedy": "use sudo"})
        path = Path(request.query["config"]) if "config" in request.query else self._path
        is_back = request.query.get("use") == "last-good"
        try:
            chosen = history.last_good(self._places.state) if is_back else history.read(path)
            changes = self._reload(chosen)
        except Problems as error:
            return Reply(409, {"error": str(error)})
        self._path = path
        return Reply(200, changes)

    def _parts(self) -> telling.Parts:
        return telling.Parts(
            self._chosen,
            self._facts,
            self._clientele,
            self._checkup,
            self._handout,
            self._advertising,
            self._log,
            self._kept_badly,
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


def _is_table_new(changes: Changes) -> bool:
    """Whether its sets are empty now."""
    return any(c.what.startswith("nft table") for c in changes.changes)
