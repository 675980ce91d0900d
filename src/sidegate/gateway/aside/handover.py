"""Clients from this box to the router, in this order: DHCP and router advertisements first, then ARP.

DHCP goes on under our dnsmasq, which names the router as the gateway from now on: whoever renews its lease is the
router's for good. Where our resolver runs it goes on too: clients were told to ask it, and the router hands on what is
for our address. Both end when the stand-in ends. That this box is an IPv6 router is taken back at once.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from msgspec import Struct, structs

from sidegate.gateway.aside import stepaside
from sidegate.gateway.aside.stepaside import Manner
from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.facts import Facts, observe, vantage_of
from sidegate.gateway.box.journal import ChildStep
from sidegate.gateway.box.places import Places
from sidegate.gateway.change import history
from sidegate.gateway.config import Config
from sidegate.gateway.desired import DhcpServer
from sidegate.gateway.dhcp import dnsmasq
from sidegate.gateway.dhcp.advert import end_advertiser
from sidegate.gateway.dhcp.handout import Handout
from sidegate.gateway.dhcp.terms import dhcp_server
from sidegate.gateway.dns.places import NAME as RESOLVER
from sidegate.gateway.dns.standby import resolve_past_engine
from sidegate.gateway.ruleset.nft import Client
from sidegate.gateway.split import rules
from sidegate.gateway.view import client_of, elements
from sidegate.probe.talk import Vantage
from sidegate.problems import Problem, Problems

KEPT = (dnsmasq.NAME, RESOLVER)
"""Children that go on while the router stands in."""


class Plan(Struct, frozen=True):
    """All that could be looked up before anything is changed. dns: whom our resolver asks for all names meanwhile.

    unblocks: what is proxied, and would have been refused rather than go straight, goes straight from then on.
    """

    vantage: Vantage
    clients: tuple[Client, ...]
    dhcp: DhcpServer | None
    dns: IPv4Address
    kept: tuple[ChildStep, ...]
    lasts_s: float
    unblocks: bool = False

    @property
    def manner(self) -> Manner:
        """Where nobody else hands out addresses, the stand-in does not end because nobody asks for a while."""
        serves_alone = self.dhcp is not None and not self.dhcp.coexists
        return Manner(self.lasts_s, kept=self.kept, is_steady=serves_alone)


def make_plan(lasts_s: float, at: Places, *, always: bool) -> Plan | None:
    """How to hand over; None where nobody uses this box, unless always.

    Raises Problems, above all where the router is silent.
    """
    config = history.in_force(at.state)
    journal = journals.load(at.state)
    used = [client_of(e) for e in elements("clients4")]
    if journal is None or not (always or used or config.dhcp.mode != "off"):
        return None
    facts = observe(config, at.state)
    vantage = vantage_of(facts)
    if vantage is None:
        raise Problems(Problem("stepping aside", "the router does not answer ARP", "sidegate down --now"))
    kept = tuple(c for c in journal.children if c.name in KEPT)
    dns = (*config.dns.servers, vantage.router_ip)[0]
    told = clients(facts, used)
    return Plan(vantage, told, pointed_to_router(config, facts), dns, kept, lasts_s, rules.fails_closed(config))


def clients(facts: Facts, used: list[Client]) -> tuple[Client, ...]:
    """Whom to tell at once: who has sent something through this box, and whoever it knows in the LAN."""
    near = [Client(n.mac, n.ip) for n in facts.neighbours if n.mac and n.ip != facts.router.address]
    return (*used, *near)


def pointed_to_router(config: Config, facts: Facts) -> DhcpServer | None:
    """What our DHCP server hands out while the router stands in. Raises Problems."""
    server = dhcp_server(config, facts)
    if server is None:
        return None
    dns = tuple(server.router if it == server.gateway else it for it in server.dns)
    return structs.replace(server, gateway=server.router, dns=dns)


def hand_over(plan: Plan, at: Places, tell: Callable[[str], None]) -> tuple[Problem, ...]:
    """When no daemon runs. Returns when every known client has been told, with what else could not be done.

    Raises Problems where clients could not be told. Those that a broken server keeps from a new lease are told by ARP
    all the more.
    """
    trouble: list[Problem] = []
    for step in (
        lambda: _hand_out(plan.dhcp, at, tell),
        lambda: end_advertiser(at.state),
        lambda: resolve_past_engine(at, plan.dns),
    ):
        try:
            step()
        except Problems as error:
            trouble.extend(error.problems)
    stepaside.begin(plan.vantage, plan.clients, plan.manner, at)
    return tuple(trouble)


def _hand_out(server: DhcpServer | None, at: Places, tell: Callable[[str], None]) -> None:
    if server is None:
        return
    handout = Handout(at, tell)
    try:
        handout.want(server)
        handout.settle()
    finally:
        handout.close()
