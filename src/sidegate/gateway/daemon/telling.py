"""What the daemon tells of itself and its clients: what its parts know, put together."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from sidegate.gateway import view
from sidegate.gateway.aside.watch import StandingAside
from sidegate.gateway.box.facts import Facts
from sidegate.gateway.change import pending
from sidegate.gateway.change.history import Chosen
from sidegate.gateway.clients.clientele import Clientele
from sidegate.gateway.clients.proxies import spared
from sidegate.gateway.clients.returnpath import Standing
from sidegate.gateway.config import Config, digest
from sidegate.gateway.daemon.eventlog import EventLog
from sidegate.gateway.daemon.splitter import Splitter
from sidegate.gateway.dhcp.advertising import Advertising
from sidegate.gateway.dhcp.handout import NOT_OURS, Handout
from sidegate.gateway.dns.unasked import unasked
from sidegate.gateway.health.checkup import Checkup
from sidegate.gateway.health.formeraddress import FormerAddress
from sidegate.gateway.health.othergateways import Caller, others
from sidegate.gateway.ruleset.sparing import PROXIES
from sidegate.gateway.view import ClientsView, ClientView, ConfirmView, StatusView
from sidegate.probe.bridge import BridgeResult
from sidegate.problems import Problem, Problems
from sidegate.reading import decode_address

EARLY_S = 60.0
"""After the start: clients that have sent nothing through this box may just have had nothing to send."""


class Parts(msgspec.Struct, frozen=True):
    """The daemon's parts, as it stands now. faults: those that no part knows. callers: `OwnAddress.callers`."""

    chosen: Chosen
    facts: Facts | None
    clientele: Clientele
    checkup: Checkup
    handout: Handout
    advertising: Advertising
    aside: StandingAside
    splitter: Splitter
    log: EventLog
    former_address: FormerAddress
    faults: tuple[Problem, ...]
    callers: frozenset[Caller]

    @property
    def config(self) -> Config:
        return self.chosen.config


def status(of: Parts, state: Path, up_s: float) -> StatusView:
    """state: where the journal is. up_s: for how long the daemon runs."""
    facts, standings = of.facts, list(of.clientele)
    return StatusView(
        up=True,
        daemon=True,
        pid=os.getpid(),
        since_s=round(up_s, 1),
        interface=facts.interface.name if facts else "",
        address=", ".join(str(a) for a in facts.interface.addresses) if facts else "",
        router=str(facts.router.address) if facts else "",
        masquerade=of.config.nat.masquerade,
        config=of.chosen.source,
        config_digest=digest(of.config),
        clients=len(standings),
        direct=sum(s.path == "direct" for s in standings),
        undecided=sum(not s.decided for s in standings),
        confirm=_confirm(state),
        health=of.checkup.views(time.monotonic()),
        dhcp=of.handout.view(),
        ipv6=of.advertising.view(),
        split=of.splitter.view(time.monotonic()),
        aside_left_s=of.aside.left_s(),
        aside_why=of.aside.cause,
        faults=tuple(f"{p.where}: {p.what}" for p in _faults(of)),
        hints=_hints(of, up_s),
        events=of.log.events,
    )


def _confirm(state: Path) -> ConfirmView | None:
    try:
        return pending.view(state)
    except Problems as error:
        return ConfirmView(told=str(error))


def _faults(of: Parts) -> tuple[Problem, ...]:
    parts = (of.checkup, of.handout, of.advertising, of.splitter, of.former_address)
    return (*of.chosen.faults, *of.faults, *of.log.faults, *(fault for part in parts for fault in part.faults()))


def _hints(of: Parts, up_s: float) -> tuple[str, ...]:
    if of.facts is None:
        return ()
    keep = {c.mac for c in of.config.client if c.gateway == "router"}
    silent = [of.clientele.named(s.client) for s in of.clientele if s.active_s is None and s.client.mac not in keep]
    ours = [a.ip for a in of.facts.interface.addresses]
    told = of.handout.hints(ours, () if up_s < EARLY_S else silent, [s.client for s in of.clientele])
    known = (*ours, of.facts.router.address)
    gateways = others(of.clientele.gateways(), of.callers, of.handout.view().others or (), known)
    parts = (of.checkup, of.clientele, of.advertising, of.splitter)
    return (
        *told,
        *(it.hint() for it in gateways),
        *_unasked(of, keep),
        *_spared(of),
        *(hint for part in parts for hint in part.hints()),
    )


def _unasked(of: Parts, keep: Collection[str]) -> tuple[str, ...]:
    """Raises Problems."""
    askers = of.splitter.askers(time.monotonic())
    if askers is None or of.facts is None:
        return ()
    active = [s.client for s in of.clientele if s.active_s is not None and s.client.mac not in keep]
    named = [(client, of.clientele.named(client)) for client in active]
    return unasked(named, askers, of.facts.interface.addresses[0].ip)


def _spared(of: Parts) -> tuple[str, ...]:
    """Raises Problems."""
    if not of.splitter.spares:
        return ()
    macs = {element.key[0] for element in view.elements(PROXIES)}
    return spared(macs, (s.client for s in of.clientele), of.clientele.named_by)


def clients(of: Parts, ip: str | None, *, with_evidence: bool) -> ClientsView:
    """ip: only the client with this address; None: all. Raises Problems."""
    counted = {(c.mac, c.ip): c for c in view.clients_in_kernel(of.config)}
    standings = [s for s in of.clientele if ip in (None, str(s.client.ip))]
    views = [_view(of.config, s, counted.get((s.client.mac, s.client.ip)), with_evidence) for s in standings]
    return ClientsView(tuple(sorted(_with_leases(views, of.handout), key=lambda v: v.ip)), daemon=True)


def _with_leases(views: Iterable[ClientView], handout: Handout) -> Iterable[ClientView]:
    leases = handout.leases()
    if leases is None:
        return views
    return [msgspec.structs.replace(v, lease=leases.get((v.mac, v.ip), NOT_OURS)) for v in views]


def _view(config: Config, standing: Standing, counted: ClientView | None, with_evidence: bool) -> ClientView:
    client, now = standing.client, time.monotonic()
    name = config.name_of(client.mac)
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
