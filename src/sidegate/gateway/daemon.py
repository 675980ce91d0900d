"""The one loop: observe, decide, apply; meet clients, probe them, keep their proofs.

All that makes packets flow is in the kernel. Without this process nothing is lost but optimisation: proofs lapse, and
every client is masqueraded. So it ends without undoing anything; `sidegate down` undoes.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from sidegate.gateway import journal as journals
from sidegate.gateway import programs, stepaside, view
from sidegate.gateway.apply import Changes, LiveBox, apply, undo
from sidegate.gateway.change import history, pending, timer
from sidegate.gateway.change.history import Chosen
from sidegate.gateway.checkup import Checkup
from sidegate.gateway.config import Config, digest
from sidegate.gateway.control import ControlSocket, Reply, Request
from sidegate.gateway.decide import decide
from sidegate.gateway.dhcp.handout import NOT_OURS, Handout
from sidegate.gateway.eventlog import EventLog
from sidegate.gateway.events import Changed, KernelEvents, Met
from sidegate.gateway.facts import Facts, observe, vantage_of
from sidegate.gateway.nft import Client, prove, withdraw
from sidegate.gateway.places import Places
from sidegate.gateway.returnpath import Command, Prove, ReturnPaths, Standing, Withdraw
from sidegate.gateway.view import ClientsView, ClientView, ConfirmView, StatusView
from sidegate.probe.bridge import BridgeResult, Prober
from sidegate.probe.talk import Vantage
from sidegate.problems import Problem, Problems
from sidegate.reading import decode_address, encode_address

POLL_S = 5.0
"""Between looks at whose proof the kernel withdrew."""
COUNT_S = 10.0
"""Between looks at who sent something: the dearest look, 250 elements and more. Newcomers announce themselves."""
OBSERVE_S = 30.0
"""Between looks at the box and the router, if nothing announces a change."""
SETTLE_S = 0.5
"""After an announced change: more of them will follow."""
CALM_S = 2.0
"""Between looks at the box at least, however much is announced."""
RETRY_S = 5.0
EARLY_S = 60.0
"""After the start: clients that have sent nothing through this box may just have had nothing to send."""


class Daemon:
    """Made by `begin`, which has done all that can fail before anybody relies on it."""

    def __init__(self, chosen: Chosen, path: Path | None, at: Places) -> None:
        """path: where the configuration is to be read again; None: the default place."""
        self._chosen, self._path, self._places = chosen, path, at
        self._kept_badly: tuple[Problem, ...] = ()
        self._paths = ReturnPaths()
        self._counted: dict[Client, int] = {}
        self._probes: dict[int, Client] = {}
        self._log = EventLog(at.log)
        self._began_s = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._facts: Facts | None = None
        self._prober: Prober | None = None
        self._checkup = Checkup(time.monotonic(), self._log.tell)
        self._handout = Handout(at, self._log.tell)
        self._observed_s = self._observe_at_s = self._poll_at_s = self._count_at_s = 0.0
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
            raise
        self._selector.register(self._handout, selectors.EVENT_READ, lambda: None)
        self._selector.register(self._checkup, selectors.EVENT_READ, lambda: None)
        self._selector.register(self._kernel, selectors.EVENT_READ, self._on_kernel)
        self._selector.register(self._control, selectors.EVENT_READ, lambda: None)
        self._observed_s = time.monotonic()
        self._observe_at_s = self._observed_s + OBSERVE_S
        for element in () if _is_table_new(changes) else proofs:
            self._paths.adopted(view.client_of(element), float(element.expires_s or 0), self._observed_s)
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
        handed = self._handout.want(desired.dhcp)
        if is_fresh:
            try:
                self._handout.settle()
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
        self._control.close()
        self._checkup.close()
        self._handout.close()

    # What happens

    def _on_kernel(self) -> None:
        now = time.monotonic()
        for event in self._kernel.read():
            if isinstance(event, Met):
                self._meet_neighbour(event, now)
            elif isinstance(event, Changed):
                self._observe_soon(now)

    def _meet_neighbour(self, met: Met, now: float) -> None:
        if self._facts is None or met.index != _index_of(self._facts.interface.name):
            return
        router = self._facts.router
        if met.client.ip == router.address and met.client.mac != router.mac:
            self._observe_soon(now)
        self._meet(met.client, now, active=False)

    def _observe_soon(self, now: float) -> None:
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
        if now >= self._poll_at_s:
            self._poll(now)
        for client in self._paths.lapse(now):
            self._log.tell(f"{self._named(client)}: its proof lapsed, masqueraded again")
        self._probe(now)
        self._checkup.turn(now)
        self._handout.turn(now)

    def _next_time(self) -> float:
        others = [
            self._control.next_deadline(),
            self._checkup.next_deadline(),
            self._paths.next_lapse_s(),
            self._handout.next_deadline(),
        ]
        if self._prober is not None:
            others += [self._paths.next_due_s(), self._prober.next_deadline()]
        return min([self._observe_at_s, self._poll_at_s, *(t for t in others if t is not None)])

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
        for change in changes.changes:
            self._log.tell(f"put right: {change.what}: {change.why}")
        self._stand_at(facts)
        if _is_table_new(changes):
            self._perform(self._paths.proofs(time.monotonic()))

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
        before, self._chosen = self._chosen, chosen
        changes = Changes((*changes.changes, *self._handout.want(desired.dhcp)))
        for change in changes.changes:
            self._log.tell(f"{change.what}: {change.why}")
        self._keep_version()
        if before.config.probe != chosen.config.probe:
            self._open_prober(vantage_of(facts))
        self._meet_again(before.config, now)
        self._stand_at(facts)
        if _is_table_new(changes):
            self._perform(self._paths.proofs(time.monotonic()))
        return changes

    def _meet_again(self, before: Config, now: float) -> None:
        """Those about whom the configuration says something else now."""
        clients = [s.client for s in self._paths]
        changed = [c for c in clients if before.masquerade_of(c.mac) != self._config.masquerade_of(c.mac)]
        self._paths.drop(changed)
        for client in changed:
            self._meet(client, now, active=False)

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
        """Our place in the LAN; where it or the router changed, every proof is void."""
        now = time.monotonic()
        old, new = vantage_of(self._facts), vantage_of(facts)
        self._facts = facts
        if old != new or self._prober is None:
            self._open_prober(new)
        self._checkup.stand_at(new, self._config.probe.targets)
        self._handout.stand_at(new, self._config.dhcp.mode)
        if old is not None and old != new:
            self._log.tell(f"the router or our place changed: {old} -> {new}; all proofs are void")
            self._perform(self._paths.doubt_all("the router or our place changed", now))
        for neighbour in facts.neighbours:
            if neighbour.mac is not None and neighbour.state != "FAILED":
                self._meet(Client(neighbour.mac, neighbour.ip), now, active=False)

    def _open_prober(self, vantage: Vantage | None) -> None:
        self._close_prober()
        if vantage is not None:
            self._prober = Prober(vantage, self._config.probe.targets)
            self._selector.register(self._prober, selectors.EVENT_READ, lambda: None)

    def _close_prober(self) -> None:
        if self._prober is not None:
            self._selector.unregister(self._prober)
            self._prober.close()
            self._prober = None
        self._probes.clear()
        self._paths.probes_lost(time.monotonic())

    # The clients

    def _meet(self, client: Client, now: float, *, active: bool) -> None:
        if not self._is_client(client):
            return
        setting = self._config.masquerade_of(client.mac)
        if setting == "auto":
            is_new = self._paths.seen(client, now, active=active)
        else:
            is_new = self._paths.fixed(client, "direct" if setting == "never" else "masqueraded", now, active=active)
        if is_new:
            self._log.tell(f"met {self._named(client)}")

    def _is_client(self, client: Client) -> bool:
        """A LAN device that is neither the router nor ourselves."""
        facts = self._facts
        if facts is None or client.mac == facts.interface.mac or client.ip == facts.router.address:
            return False
        own = (a.ip for a in facts.interface.addresses)
        return client.ip not in own and any(client.ip in network for network in facts.lan)

    def _poll(self, now: float) -> None:
        """Whose proof the kernel has withdrawn since the last look and, less often, who sent something."""
        self._poll_at_s = now + POLL_S
        try:
            if timer.keep_alive(self._places):
                self._log.tell("a change waits to be confirmed, and its timer had died: begun anew")
            stale = [view.client_of(e) for e in view.elements("stale4")]
            if now >= self._count_at_s:
                self._count(now)
        except Problems as error:
            self._log.note_faults(error.problems)
            return
        for client in self._paths.went_stale(stale, now):
            self._log.tell(f"{self._named(client)}: connections stayed unanswered, masqueraded again")
        self._perform(self._paths.forget(now))

    def _count(self, now: float) -> None:
        """Who sent something since the last time. Raises Problems."""
        self._count_at_s = now + COUNT_S
        counted = {view.client_of(e): e.packets or 0 for e in view.elements("clients4")}
        for client, packets in counted.items():
            self._meet(client, now, active=packets != self._counted.get(client))
        self._counted = counted

    def _probe(self, now: float) -> None:
        if self._prober is None:
            return
        for client in self._paths.due(now):
            self._probes[self._prober.start(client.ip, client.mac)] = client
        try:
            self._prober.on_time(time.monotonic())
        except Problems as error:
            self._log.note_faults(error.problems)
            self._close_prober()
            self._observe_soon(now)
            return
        results = [(self._probes.pop(key, None), result) for key, result in self._prober.finished()]
        self._perform([c for client, result in results if client for c in self._conclude(client, result)])

    def _conclude(self, client: Client, result: BridgeResult) -> list[Command]:
        before = self._paths.get(client)
        was = before.path if before and before.decided else None
        evidence = msgspec.json.encode(result, enc_hook=encode_address)
        commands = self._paths.probed(client, result.verdict, result.reason, time.monotonic(), evidence)
        after = self._paths.get(client)
        if after is not None and after.path != was:
            self._log.tell(f"{self._named(client)}: {after.path} ({result.confidence}): {result.reason}")
        return commands

    def _perform(self, commands: Iterable[Command]) -> None:
        text = transaction(commands)
        if text:
            try:
                programs.run("nft", "--file", "-", text=text)
            except Problems as error:
                # Without its element a client is masqueraded: the safe side. Looked after at once.
                self._log.note_faults(error.problems)
                self._observe_soon(time.monotonic())

    # Telling

    def _named(self, client: Client) -> str:
        name = self._config.name_of(client.mac)
        return f"{client.ip} ({client.mac}{', ' + name if name else ''})"

    def _answer(self, request: Request) -> Reply:
        if request.method == "GET" and request.path == "/v1/status":
            return Reply(200, self._status())
        if request.method == "GET" and request.path == "/v1/clients":
            return Reply(200, self._clients(request.query.get("ip"), "evidence" in request.query))
        if request.method == "POST" and request.path == "/v1/probe":
            return self._probe_again(request)
        if request.method == "POST" and request.path == "/v1/reload":
            return self._answer_reload(request)
        return Reply(404, {"error": f"no such thing: {request.method} {request.path}"})

    def _probe_again(self, request: Request) -> Reply:
        if request.uid != 0:
            return Reply(403, {"error": "only root may change something", "remedy": "use sudo"})
        # What was begun before was sent before whatever the person has done.
        self._probes.clear()
        return Reply(200, {"probing": self._paths.probe_all(time.monotonic())})

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

    def _confirm(self) -> ConfirmView | None:
        try:
            return pending.view(self._places.state)
        except Problems as error:
            return ConfirmView(told=str(error))

    def _status(self) -> StatusView:
        facts, standings = self._facts, list(self._paths)
        return StatusView(
            up=True,
            daemon=True,
            pid=os.getpid(),
            since_s=round(time.monotonic() - self._began_s, 1),
            interface=facts.interface.name if facts else "",
            address=", ".join(str(a) for a in facts.interface.addresses) if facts else "",
            router=str(facts.router.address) if facts else "",
            masquerade=self._config.nat.masquerade,
            config=self._chosen.source,
            config_digest=digest(self._config),
            clients=len(standings),
            direct=sum(s.path == "direct" for s in standings),
            undecided=sum(not s.decided for s in standings),
            confirm=self._confirm(),
            health=self._checkup.views(time.monotonic()),
            dhcp=self._handout.view(),
            faults=tuple(f"{p.where}: {p.what}" for p in self._faults()),
            hints=self._hints(),
            events=self._log.events,
        )

    def _faults(self) -> tuple[Problem, ...]:
        return (
            *self._chosen.faults,
            *self._kept_badly,
            *self._log.faults,
            *self._checkup.faults(),
            *self._handout.faults(),
        )

    def _hints(self) -> tuple[str, ...]:
        if self._facts is None:
            return ()
        keep = {c.mac for c in self._config.client if c.gateway == "router"}
        is_early = time.monotonic() - self._began_s < EARLY_S
        silent = [self._named(s.client) for s in self._paths if s.active_s is None and s.client.mac not in keep]
        ours = [a.ip for a in self._facts.interface.addresses]
        return self._handout.hints(ours, () if is_early else silent, [s.client for s in self._paths])

    def _clients(self, ip: str | None, with_evidence: bool) -> ClientsView:
        counted = {(c.mac, c.ip): c for c in view.clients_in_kernel(self._config)}
        standings = [s for s in self._paths if ip in (None, str(s.client.ip))]
        views = [self._view(s, counted.get((s.client.mac, s.client.ip)), with_evidence) for s in standings]
        leases = self._handout.leases()
        if leases is not None:
            views = [msgspec.structs.replace(v, lease=leases.get((v.mac, v.ip), NOT_OURS)) for v in views]
        return ClientsView(tuple(sorted(views, key=lambda v: v.ip)), daemon=True)

    def _view(self, standing: Standing, counted: ClientView | None, with_evidence: bool) -> ClientView:
        client, now = standing.client, time.monotonic()
        name = self._config.name_of(client.mac)
        known = counted or ClientView(ip=client.ip, mac=client.mac, name=name, path=standing.path)
        evidence = standing.evidence if with_evidence else b""
        return msgspec.structs.replace(
            known,
            path=standing.path,
            why=standing.why,
            decided=standing.decided,
            since_s=round(now - standing.since_s, 1),
            last_sent_s=None if standing.active_s is None else round(now - standing.active_s, 1),
            probe=msgspec.json.decode(evidence, type=BridgeResult, dec_hook=decode_address) if evidence else None,
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


def transaction(commands: Iterable[Command]) -> str:
    """What nft is told; empty for no commands."""
    commands = list(commands)
    proofs = [c for c in commands if isinstance(c, Prove)]
    times = sorted({c.for_s for c in proofs})
    proved = [prove([c.client for c in proofs if c.for_s == for_s], for_s) for for_s in times]
    return "".join(proved) + withdraw(c.client for c in commands if isinstance(c, Withdraw))


def _index_of(interface: str) -> int | None:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return None
