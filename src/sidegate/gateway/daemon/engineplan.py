"""What a plan means for the engine on this box. Pure, but for whom this box itself asks for names."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from sidegate.gateway.box.facts import Facts
from sidegate.gateway.daemon.splitplan import Plan
from sidegate.gateway.dns import here, terms
from sidegate.gateway.engine.lanport import LanPort
from sidegate.gateway.engine.supervision import Wanted
from sidegate.gateway.engine.trial import question
from sidegate.gateway.engine.upstream import Upstream
from sidegate.gateway.engine.xray import Engine, asks_names, has_ipv6
from sidegate.gateway.split import rules


def wanted(plan: Plan, facts: Facts) -> Wanted:
    """The engine that does as the plan says."""
    config, proxy = plan.config, plan.config.proxy
    engine = Engine(
        policy=plan.policy,
        upstreams=plan.upstreams.found,
        proxied_dns=config.dns.proxied,
        direct_dns=terms.direct_servers(config, facts, here.own_servers()),
        has_ipv6=has_ipv6(config.ipv6.mode),
        lan=_lan_port(plan, facts) if proxy.lan_port is not None else None,
    )
    return Wanted(engine, proxy.choose, plan.check or question(proxy.check))


def _lan_port(plan: Plan, facts: Facts) -> LanPort:
    """Our resolver knows which names are proxied, unless nothing is but by this very port. An engine that looks names
    up by itself is asked for them by that resolver, and could not ask it in turn.
    """
    config = plan.config
    knows = config.resolves and rules.proxies(config) and not asks_names(plan.upstreams.found, config.dns.proxied)
    names_at = facts.interface.addresses[0].ip if knows else None
    return LanPort(config.proxy.on_failure, rules.lan_default(config), names_at)


def upstreams_on_lan(plan: Plan, facts: Facts) -> tuple[IPv4Address | IPv6Address, ...]:
    """Upstreams' servers there: their own traffic, steered, would come back to them."""
    found = {it for upstream in plan.upstreams.found if (it := _address(upstream)) and _is_on_lan(it, facts)}
    return tuple(sorted(found, key=str))


def may_be_on_lan(plan: Plan, facts: Facts) -> bool:
    """Whether an upstream's server may be: it is, or nobody can tell in advance where its name leads.

    Link-local addresses never lead beyond the LAN (RFC 4291 section 2.5.6); nothing is steered that comes from one.
    """
    addresses = [_address(upstream) for upstream in plan.upstreams.found]
    return any(it is None or it.is_link_local or _is_on_lan(it, facts) for it in addresses)


def _address(upstream: Upstream) -> IPv4Address | IPv6Address | None:
    """None: it is known by a name, or by a file of the user's alone."""
    try:
        return ip_address(upstream.host)
    except ValueError:
        return None


def _is_on_lan(address: IPv4Address | IPv6Address, facts: Facts) -> bool:
    networks: list[IPv4Network | IPv6Network] = [*facts.lan, *facts.lan6]
    return any(address in network for network in networks)
