"""The one loop: observe, decide, apply; meet clients, probe them, keep their proofs.

All that makes packets flow is in the kernel. Without this process nothing is lost but optimisation: proofs lapse, and
every client is masqueraded. So it ends without undoing anything; `sidegate down` undoes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec

from sidegate.gateway import programs, view
from sidegate.gateway.apply import Changes, LiveBox, apply
from sidegate.gateway.config import DEFAULT_PATH, Config, load_config
from sidegate.gateway.control import ControlSocket, Conversation, Reply, Request
from sidegate.gateway.decide import decide
from sidegate.gateway.events import Changed, KernelEvents, Met
from sidegate.gateway.facts import Facts, observe
from sidegate.gateway.nft import Client, prove, withdraw
from sidegate.gateway.places import Lock, Places, places, running_pid
from sidegate.gateway.returnpath import Command, Prove, ReturnPaths, Standing
from sidegate.gateway.view import ClientsView, ClientView, EventView, StatusView
from sidegate.probe.bridge import BridgeResult, Prober
from sidegate.probe.talk import Vantage
from sidegate.problems import Problem, Problems
from sidegate.reading import decode_address, encode_address

POLL_S = 5.0
"""Between looks at who sent something and whose proof the kernel withdrew."""
OBSERVE_S = 30.0
"""Between looks at the box and the router, if nothing announces a change."""
SETTLE_S = 0.5
"""After an announced change: more of them will follow."""
RETRY_S = 5.0
_EVENTS_KEPT = 200


class Daemon:
    """Made by `begin`, which has done all that can fail before anybody relies on it."""

    def __init__(self, config: Config, config_path: str, at: Places) -> None:
        self._config, self._config_path, self._places = config, config_path, at
        self._paths = ReturnPaths()
        self._evidence: dict[Client, bytes] = {}
        self._counted: dict[Client, int] = {}
        self._probes: dict[int, Client] = {}
        self._events: deque[EventView] = deque(maxlen=_EVENTS_KEPT)
        self._faults: tuple[Problem, ...] = ()
        self._began_s = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._facts: Facts | None = None
        self._prober: Prober | None = None
        self._observe_at_s = self._poll_at_s = 0.0
        self._stopping = False

    def begin(self) -> Changes:
        """Observes and applies, opens everything. Raises Problems; nothing is changed then."""
        facts = observe(self._config, self._places.state)
        changes = apply(decide(self._config, facts), facts, LiveBox(), self._places.state)
        now = time.monotonic()
        self._stand_at(facts)
        self._kernel = KernelEvents()
        self._control = ControlSocket(self._places.control, self._answer)
        self._selector.register(self._kernel, selectors.EVENT_READ, self._on_kernel)
        self._selector.register(self._control, selectors.EVENT_READ, self._on_asker)
        self._wake_on_signals()
        for element in view.elements("direct4"):
            self._paths.adopted(view.client_of(element), float(element.expires_s or 0), now)
        for neighbour in facts.neighbours:
            if neighbour.mac is not None and neighbour.state != "FAILED":
                self._meet(Client(neighbour.mac, neighbour.ip), now, active=False)
        self._observe_at_s = now + OBSERVE_S
        for change in changes.changes:
            self._tell(f"{change.what}: {change.why}")
        return changes

    def run(self) -> None:
        """Until a signal says to stop."""
        while not self._stopping:
            for key, _ in self._selector.select(max(0.0, self._next_time() - time.monotonic())):
                key.data()
            self._on_time()
        self._control.close()

    # What happens

    def _on_kernel(self) -> None:
        now = time.monotonic()
        for event in self._kernel.read():
            if isinstance(event, Met):
                self._meet_neighbour(event, now)
            elif isinstance(event, Changed):
                self._observe_at_s = min(self._observe_at_s, now + SETTLE_S)

    def _meet_neighbour(self, met: Met, now: float) -> None:
        if self._facts is not None and met.index == _index_of(self._facts.interface.name):
            self._meet(met.client, now, active=False)

    def _on_asker(self) -> None:
        conversation = self._control.accept()
        if conversation is not None:
            self._selector.register(conversation, selectors.EVENT_READ, lambda: self._converse(conversation))

    def _converse(self, conversation: Conversation) -> None:
        conversation.turn()
        if conversation.is_over:
            self._selector.unregister(conversation)
            conversation.close()
        elif conversation.wants_to_write:
            self._selector.modify(conversation, selectors.EVENT_WRITE, lambda: self._converse(conversation))

    def _on_time(self) -> None:
        now = time.monotonic()
        if now >= self._observe_at_s:
            self._reconcile(now)
        if now >= self._poll_at_s:
            self._poll(now)
        self._probe(now)

    def _next_time(self) -> float:
        times = [self._observe_at_s, self._poll_at_s]
        if self._prober is not None:
            times += [t for t in (self._paths.next_due_s(), self._prober.next_deadline()) if t is not None]
        return min(times)

    # The box

    def _reconcile(self, now: float) -> None:
        """The box as it should be, whatever was done to it meanwhile."""
        self._observe_at_s = now + OBSERVE_S
        try:
            facts = observe(self._config, self._places.state)
            changes = apply(decide(self._config, facts), facts, LiveBox(), self._places.state)
        except Problems as error:
            self._note_faults(error.problems)
            self._observe_at_s = now + RETRY_S
            return
        self._note_faults(())
        for change in changes.changes:
            self._tell(f"put right: {change.what}: {change.why}")
        self._stand_at(facts)
        if any(c.what.startswith("nft table") for c in changes.changes):
            self._perform([Prove(client) for client in self._paths.proved()])

    def _stand_at(self, facts: Facts) -> None:
        """Our place in the LAN; where it or the router changed, every proof is void."""
        old, new = _vantage(self._facts), _vantage(facts)
        self._facts = facts
        if old == new and self._prober is not None:
            return
        self._close_prober()
        self._prober = Prober(new, self._config.probe.targets) if new else None
        if self._prober is not None:
            self._selector.register(self._prober, selectors.EVENT_READ, self._on_probe)
        if old is not None and old != new:
            self._tell(f"the router or our place changed: {old} -> {new}; all proofs are void")
            self._perform(self._paths.doubt_all("the router or our place changed", time.monotonic()))

    def _close_prober(self) -> None:
        if self._prober is not None:
            self._selector.unregister(self._prober)
            self._prober.close()
            self._prober = None
        self._probes.clear()

    def _note_faults(self, problems: tuple[Problem, ...]) -> None:
        if problems != self._faults:
            for problem in problems:
                self._tell(f"fault: {problem.where}: {problem.what}")
            if not problems:
                self._tell("the fault is over")
        self._faults = problems

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
            self._tell(f"met {self._named(client)}")

    def _is_client(self, client: Client) -> bool:
        """A LAN device that is neither the router nor ourselves."""
        facts = self._facts
        if facts is None or client.mac == facts.interface.mac or client.ip == facts.router.address:
            return False
        own = (a.ip for a in facts.interface.addresses)
        return client.ip not in own and any(client.ip in network for network in facts.lan)

    def _poll(self, now: float) -> None:
        """Who sent something since the last look, and whose proof the kernel has withdrawn."""
        self._poll_at_s = now + POLL_S
        try:
            counted = {view.client_of(e): e.packets or 0 for e in view.elements("clients4")}
            stale = [view.client_of(e) for e in view.elements("stale4")]
        except Problems as error:
            self._note_faults(error.problems)
            return
        for client, packets in counted.items():
            self._meet(client, now, active=packets != self._counted.get(client))
        self._counted = counted
        for client in self._paths.went_stale(stale, now):
            self._tell(f"{self._named(client)}: connections stayed unanswered, masqueraded again")
        for client in self._paths.lapse(now):
            self._tell(f"{self._named(client)}: its proof lapsed, masqueraded again")
        self._perform(self._paths.forget(now))

    def _probe(self, now: float) -> None:
        if self._prober is None:
            return
        for client in self._paths.due(now):
            self._probes[self._prober.start(client.ip, client.mac)] = client
        self._on_probe()

    def _on_probe(self) -> None:
        if self._prober is None:
            return
        try:
            self._prober.on_readable(time.monotonic())
        except Problems as error:
            self._note_faults(error.problems)
            self._close_prober()
            self._observe_at_s = time.monotonic() + SETTLE_S
            return
        commands: list[Command] = []
        for key, result in self._prober.finished():
            client = self._probes.pop(key, None)
            if client is not None:
                commands += self._conclude(client, result)
        self._perform(commands)

    def _conclude(self, client: Client, result: BridgeResult) -> list[Command]:
        before = self._paths.get(client)
        was = before.path if before and before.decided else None
        commands = self._paths.probed(client, result.verdict, result.reason, time.monotonic())
        self._evidence[client] = msgspec.json.encode(result, enc_hook=encode_address)
        after = self._paths.get(client)
        if after is not None and after.path != was:
            self._tell(f"{self._named(client)}: {after.path} ({result.confidence}): {result.reason}")
        return commands

    def _perform(self, commands: Iterable[Command]) -> None:
        proved = [c.client for c in commands if isinstance(c, Prove)]
        withdrawn = [c.client for c in commands if not isinstance(c, Prove)]
        text = prove(proved) + withdraw(withdrawn)
        if text:
            try:
                programs.run("nft", "--file", "-", text=text)
            except Problems as error:
                # Without its element a client is masqueraded: the safe side. Looked after at once.
                self._note_faults(error.problems)
                self._observe_at_s = time.monotonic() + SETTLE_S

    # Telling

    def _tell(self, what: str) -> None:
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        self._events.append(EventView(at, what))
        print(what, file=sys.stderr, flush=True)

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
        return Reply(404, {"error": f"no such thing: {request.method} {request.path}"})

    def _probe_again(self, request: Request) -> Reply:
        if request.uid != 0:
            return Reply(403, {"error": "only root may change something", "remedy": "use sudo"})
        commands = self._paths.doubt_all("asked to probe again", time.monotonic())
        self._perform(commands)
        return Reply(200, {"probing": len(self._paths)})

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
            config=self._config_path,
            config_digest=digest(self._config),
            clients=len(standings),
            direct=sum(s.path == "direct" for s in standings),
            undecided=sum(not s.decided for s in standings),
            faults=tuple(f"{p.where}: {p.what}" for p in self._faults),
            events=tuple(self._events),
        )

    def _clients(self, ip: str | None, with_evidence: bool) -> ClientsView:
        counted = {(c.mac, c.ip): c for c in view.clients_in_kernel(self._config)}
        standings = [s for s in self._paths if ip in (None, str(s.client.ip))]
        views = [self._view(s, counted.get((s.client.mac, s.client.ip)), with_evidence) for s in standings]
        return ClientsView(tuple(sorted(views, key=lambda v: v.ip)), daemon=True)

    def _view(self, standing: Standing, counted: ClientView | None, with_evidence: bool) -> ClientView:
        client, now = standing.client, time.monotonic()
        name = self._config.name_of(client.mac)
        known = counted or ClientView(ip=client.ip, mac=client.mac, name=name, path=standing.path)
        evidence = self._evidence.get(client) if with_evidence else None
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
        self._selector.register(read_end, selectors.EVENT_READ, lambda: read_end.recv(4096))

    def _stop(self, *_: Any) -> None:
        self._stopping = True


def digest(config: Config) -> str:
    """Tells two configurations apart."""
    return hashlib.sha256(repr(config).encode()).hexdigest()[:16]


def _index_of(interface: str) -> int | None:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return None


def _vantage(facts: Facts | None) -> Vantage | None:
    if facts is None or facts.router.mac is None:
        return None
    router = facts.router.address
    ip: IPv4Address = next(a.ip for a in facts.interface.addresses if router in a.network)
    return Vantage(facts.interface.name, facts.interface.mac, ip, router, facts.router.mac)


class Started(msgspec.Struct, frozen=True, tag="started"):
    pid: int
    changes: Changes


class NotStarted(msgspec.Struct, frozen=True, tag="not-started"):
    problems: tuple[Problem, ...]


Report = Started | NotStarted


def notify_service_manager(state: str) -> None:
    """sd_notify(3): one datagram to the socket in NOTIFY_SOCKET, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


def start(config_path: Path | None, at: Places, tell: Callable[[Report], None]) -> int:
    """Runs the daemon to its end; `tell` hears how the start went. Returns the exit code."""
    lock = Lock(at.lock)
    try:
        config = load_config(config_path)
        if not lock.take():
            pid = running_pid(at.lock)
            raise Problems(Problem("sidegate", f"a daemon is running already (process {pid})", "sidegate status"))
        shown = str(config_path or (DEFAULT_PATH if DEFAULT_PATH.exists() else ""))
        daemon = Daemon(config, shown, at)
        changes = daemon.begin()
    except Problems as error:
        tell(NotStarted(error.problems))
        return int(error.exit_code)
    tell(Started(os.getpid(), changes))
    notify_service_manager("READY=1")
    daemon.run()
    notify_service_manager("STOPPING=1")
    lock.release()
    return 0


def main() -> None:
    """The process that `sidegate up` starts: without the command line's libraries it needs half the memory."""
    parser = argparse.ArgumentParser(prog="sidegate-daemon")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--report-fd", type=int, help="where to tell, in JSON, how the start went")
    options = parser.parse_args()

    def tell(report: Report) -> None:
        if options.report_fd is not None:
            with open(options.report_fd, "wb") as out:
                out.write(msgspec.json.encode(report))
        elif isinstance(report, NotStarted):
            print(Problems(*report.problems), file=sys.stderr)

    sys.exit(start(options.config, places(), tell))


if __name__ == "__main__":
    main()
