"""The clients of this LAN, for the daemon's loop: met, probed, and their proofs kept in the kernel.

What a client's return path is, `returnpath.py` decides; here it is asked, and done.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address

import msgspec

from sidegate.gateway import view
from sidegate.gateway.box import programs
from sidegate.gateway.box.events import Met
from sidegate.gateway.box.facts import Facts, list_table, vantage_of
from sidegate.gateway.clients.crowds import Crowds
from sidegate.gateway.clients.heldback import HeldBack
from sidegate.gateway.clients.returnpath import Command, Prove, ReturnPaths, Standing, Withdraw
from sidegate.gateway.clients.sharedaddresses import SharedAddresses
from sidegate.gateway.clients.translated import translated
from sidegate.gateway.config import Config
from sidegate.gateway.daemon.eventlog import EventLog
from sidegate.gateway.health.table import State
from sidegate.gateway.ruleset.inbound import TRANSLATED
from sidegate.gateway.ruleset.nft import Client, Element, prove, withdraw
from sidegate.packet import Mac
from sidegate.probe.bridge import BridgeResult
from sidegate.probe.prober import Prober
from sidegate.probe.talk import Vantage
from sidegate.problems import Problems
from sidegate.reading import encode_address

POLL_S = 5.0
"""Between looks at whose proof the kernel withdrew."""
COUNT_S = 10.0
"""Between looks at who sent something: the dearest look, 250 elements and more. Newcomers announce themselves."""
COUNT_SHARE = 10
"""So many times as long as a look takes, the next one is away: one at 16,384 made-up clients takes 1.4 s."""


class Clientele:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    look_again: called when the kernel or the wire refused something: the box is not as it was thought to be.
    """

    def __init__(self, config: Config, log: EventLog, look_again: Callable[[], None]) -> None:
        self._config, self._log, self._look_again = config, log, look_again
        self._facts: Facts | None = None
        self._paths = ReturnPaths()
        self._counted: dict[Client, int] = {}
        self._translated: list[Client] = []
        self._held_back, self._crowds = HeldBack(log.tell, self.named_by), Crowds(log.tell, self.named_by)
        self._shared = SharedAddresses(log.tell, lambda mac: self._config.name_of(mac))
        self._probes: dict[int, Client] = {}
        self._gateways: set[Client] = set()
        self._router: State = "unknown"
        self._prober: Prober | None = None
        self._poll_at_s = self._count_at_s = 0.0
        self._poll = select.epoll()

    def __iter__(self) -> Iterator[Standing]:
        return iter(self._paths)

    def fileno(self) -> int:
        return self._poll.fileno()

    def next_deadline(self) -> float:
        others = [self._paths.next_lapse_s()]
        if self._prober is not None:
            others += [self._paths.next_due_s(), self._prober.next_deadline()]
        return min([self._poll_at_s, *(t for t in others if t is not None)])

    def turn(self, now: float) -> None:
        if now >= self._poll_at_s:
            self._look(now)
        for client in self._paths.lapse(now):
            self._log.tell(f"{self.named(client)}: its proof lapsed, masqueraded again")
        self._probe(now)

    def close(self) -> None:
        self._close_prober()
        self._poll.close()

    def named(self, client: Client) -> str:
        """A client as a person knows it."""
        name = self._config.name_of(client.mac)
        return f"{client.ip} ({client.mac}{', ' + name if name else ''})"

    def hints(self) -> tuple[str, ...]:
        """Who is held back, who shares an address, and whose port forwards cannot work by way of this box."""
        spared = {c.mac for c in self._config.client if c.gateway == "router"}
        spared |= {self._facts.router.mac or ""} if self._facts else set()
        broken = (
            f"{self.named_by(mac)} answers with the public address {ip}: a bridge on its way here translates it, so"
            " that port forwards to this device do not work by way of this box; let it keep the router as its gateway"
            ' (by hand, or with gateway = "router" in its [[client]] section where this box hands out addresses)'
            for mac, ip in translated(self._translated, spared).items()
        )
        return (*self._held_back.hints(), *self._crowds.hints(), *self._shared.hints(), *broken)

    # What the loop says

    def adopt(self, proofs: Iterable[Element], now: float) -> None:
        """The kernel knows them from an earlier run."""
        for element in proofs:
            self._paths.adopted(view.client_of(element), float(element.expires_s or 0), now)

    def stand_at(self, facts: Facts) -> None:
        """Our place in the LAN; where it or the router changed, every proof is void."""
        now = time.monotonic()
        old, new = vantage_of(self._facts), vantage_of(facts)
        self._facts = facts
        if old != new or self._prober is None:
            self._open_prober(new)
        if old is not None and old != new:
            self._log.tell(f"the router or our place changed: {_place(old)} -> {_place(new)}; all proofs are void")
            self._perform(self._paths.doubt_all("the router or our place changed", now))
        for neighbour in facts.neighbours:
            if neighbour.mac is not None and neighbour.state != "FAILED":
                self._meet(Client(neighbour.mac, neighbour.ip), now, active=False)

    def mind_router(self, state: State, now: float) -> None:
        """What our health says of the router. One that was away may have been restarted, and may filter otherwise."""
        before, self._router = self._router, state
        if state == "down" and before != "down":
            self._perform(self._paths.doubt_all("the router does not answer", now))
        if state == "up" and before == "down":
            self._log.tell("the router is back: every client is probed again")
            self.probe_again()

    def take(self, config: Config, facts: Facts) -> None:
        """Another configuration; those about whom it says something else are met again."""
        before, self._config = self._config, config
        if before.probe != config.probe:
            self._open_prober(vantage_of(facts))
        clients = [s.client for s in self._paths]
        changed = [c for c in clients if before.masquerade_of(c.mac) != config.masquerade_of(c.mac)]
        self._paths.drop(changed)
        for client in changed:
            self._meet(client, time.monotonic(), active=False)

    def meet(self, client: Client, now: float) -> None:
        """Somebody who has shown itself on the LAN."""
        self._meet(client, now, active=False)

    def meet_neighbour(self, met: Met, now: float) -> None:
        """The kernel announces it."""
        if self._facts is None or met.index != _index_of(self._facts.interface.name):
            return
        router = self._facts.router
        if met.client.ip == router.address and met.client.mac != router.mac:
            self._look_again()
        self._meet(met.client, now, active=False)

    def prove_again(self) -> None:
        """The kernel's sets are empty now."""
        self._perform(self._paths.proofs(time.monotonic()))

    def probe_again(self) -> int:
        """Somebody asks; how many are probed. What was begun before was sent before whatever the person has done."""
        self._probes.clear()
        self._poll_at_s = self._count_at_s = 0.0
        return self._paths.probe_all(time.monotonic())

    def named_by(self, mac: str) -> str:
        """A device as a person knows it, by its MAC address."""
        known = next((s.client for s in self._paths if s.client.mac == mac), None)
        return self.named(known) if known else self._config.name_of(mac) or mac

    # The probes

    def _open_prober(self, vantage: Vantage | None) -> None:
        self._close_prober()
        if vantage is None:
            return
        try:
            self._prober = Prober(vantage, self._config.probe.targets)
        except Problems as error:
            # The interface went since it was looked at.
            self._log.note_faults(error.problems)
            self._look_again()
            return
        self._poll.register(self._prober, select.EPOLLIN)

    def _close_prober(self) -> None:
        if self._prober is not None:
            self._poll.unregister(self._prober)
            self._prober.close()
            self._prober = None
        self._probes.clear()
        self._paths.probes_lost(time.monotonic())

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
            self._look_again()
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
            self._log.tell(f"{self.named(client)}: {after.path} ({result.confidence}): {result.reason}")
        self._note_gateway(client, is_one=result.is_gateway)
        return commands

    def _note_gateway(self, client: Client, *, is_one: bool) -> None:
        if is_one and client not in self._gateways:
            self._log.tell(f"{self.named(client)} forwards packets itself: another gateway, or a router")
        (self._gateways.add if is_one else self._gateways.discard)(client)

    def gateways(self) -> dict[tuple[Mac, IPv4Address], str]:
        """Clients that pass on what is sent through them, by the latest probe of each, and their names."""
        self._gateways = {client for client in self._gateways if self._paths.get(client) is not None}
        return {(client.mac, client.ip): self.named(client) for client in self._gateways}

    def _perform(self, commands: Iterable[Command]) -> None:
        text = transaction(commands)
        if text:
            try:
                programs.run("nft", "--file", "-", text=text)
            except Problems as error:
                # Without its element a client is masqueraded: the safe side. Looked after at once.
                self._note_refused(error)
                self._look_again()

    def _note_refused(self, error: Problems) -> None:
        """Where our whole table is gone, as after `nft flush ruleset`, the loop puts it back, and says so."""
        try:
            is_lost = list_table() is None
        except Problems as another:
            error, is_lost = another, False
        if not is_lost:
            self._log.note_faults(error.problems)

    # Who is there

    def _meet(self, client: Client, now: float, *, active: bool) -> None:
        if not self._is_client(client):
            return
        setting = self._config.masquerade_of(client.mac)
        if setting == "auto":
            is_new = self._paths.seen(client, now, active=active)
        else:
            is_new = self._paths.fixed(client, "direct" if setting == "never" else "masqueraded", now, active=active)
        if is_new:
            self._log.tell(f"met {self.named(client)}")

    def _is_client(self, client: Client) -> bool:
        """A LAN device that is neither the router nor ourselves."""
        facts = self._facts
        if facts is None or client.mac == facts.interface.mac or client.ip == facts.router.address:
            return False
        own = (a.ip for a in facts.interface.addresses)
        return client.ip not in own and any(client.ip in network for network in facts.lan)

    def _look(self, now: float) -> None:
        """Whose proof the kernel has withdrawn since the last look and, less often, who sent something."""
        self._poll_at_s = now + POLL_S
        try:
            stale = [view.client_of(e) for e in view.elements("stale4")]
            if now >= self._count_at_s:
                self._count(now)
        except Problems as error:
            self._note_refused(error)
            return
        for client in self._paths.went_stale(stale, now):
            self._log.tell(f"{self.named(client)}: connections stayed unanswered, masqueraded again")
        self._perform(self._paths.forget(now))

    def _count(self, now: float) -> None:
        """Who sent something since the last time. Raises Problems."""
        self._count_at_s = now + COUNT_S
        self._translated = sorted({view.client_of(e) for e in view.elements(TRANSLATED)})
        counted = {view.client_of(e): e.packets or 0 for e in view.elements("clients4")}
        active = {client for client, packets in counted.items() if packets != self._counted.get(client)}
        for client in counted:
            self._meet(client, now, active=client in active)
        self._counted = counted
        self._shared.look(filter(self._is_client, active), now)
        took_s = time.monotonic() - now
        self._count_at_s = now + max(COUNT_S, COUNT_SHARE * took_s)
        self._held_back.look(now)
        if self._facts is not None:
            self._crowds.look(self._facts.interface.name)


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


def _place(at: Vantage | None) -> str:
    if at is None:
        return "no router that answers"
    return f"{at.ip} ({at.mac}) on {at.interface}, router {at.router_ip} ({at.router_mac})"
