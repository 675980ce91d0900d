"""Pure: Config x Facts x Policy -> what our resolver should be."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from sidegate.gateway.box.facts import Facts
from sidegate.gateway.config import Config
from sidegate.gateway.dns.names import is_name, name_table
from sidegate.gateway.dns.resolver import Proxied, Resolver
from sidegate.gateway.split.policy import DIRECT, Policy
from sidegate.gateway.split.ports import dns_port


def resolver(
    config: Config,
    facts: Facts,
    policy: Policy,
    own_servers: Iterable[IPv4Address] = (),
    proxied: Proxied = "asked",
    generation: int = 0,
) -> Resolver | None:
    """None where this box answers no DNS. Raises Problems for a name of the policy that is none.

    own_servers: those that this box itself uses (`here.own_servers`). generation: of the engine. Where no name is
    proxied, an engine that cannot be asked changes nothing.
    """
    if not config.resolves:
        return None
    names = name_table(policy)
    return Resolver(
        interface=facts.interface.name,
        lan=facts.lan,
        router=facts.router.address,
        direct=direct_servers(config, facts, own_servers),
        engine_port=dns_port(generation),
        names=names,
        proxied=_proxied(config, proxied) if names.proxies else "asked",
        ipv6=config.ipv6.mode,
        engine_servers=max(1, len(config.dns.proxied)),
        domain=config.dhcp.domain.rstrip(".").lower(),
        rebinding=_rebinding(config),
    )


def _proxied(config: Config, proxied: Proxied) -> Proxied:
    """Another program as the engine answers no DNS."""
    return proxied if config.proxy.engine == "xray" or proxied == "refused" else "direct"


def direct_servers(config: Config, facts: Facts, own_servers: Iterable[IPv4Address]) -> tuple[IPv4Address, ...]:
    """Those of the configuration, of this box, or the router: the first that has any besides this box itself."""
    ours = {a.ip for a in facts.interface.addresses}
    for servers in (config.dns.servers, tuple(own_servers)):
        others = tuple(dict.fromkeys(s for s in servers if s not in ours and _is_server(s)))
        if others:
            return others
    return (facts.router.address,)


def _is_server(address: IPv4Address) -> bool:
    return not (address.is_unspecified or address.is_multicast)


def _rebinding(config: Config) -> tuple[str, ...]:
    """What a rule of the configuration itself sends direct is known to its owner, and may be a machine at home."""
    names = (name for rule in config.rule if rule.send == DIRECT for name in rule.domain)
    return tuple(sorted({it for name in names if is_name(it := name.removeprefix("full:").lower())}))
