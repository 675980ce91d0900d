"""What goes through the proxy: the sections [proxy], [[upstream]], [[rule]], [lists], [dns] and [ipv6]."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Literal

from msgspec import Struct

from sidegate.gateway.config.fields import (
    Country,
    Domain,
    Ipv6Mode,
    OnFailure,
    Port,
    PortRange,
    Protocol,
    Quic,
    TimeSpan,
    UpstreamName,
)
from sidegate.problems import Problem

TARGETS = ("proxy", "direct", "block")
"""Where a rule may send traffic, besides the name of an upstream. `proxy`: the upstream that is chosen."""
_CONDITIONS = ("domain", "cidr", "list", "country", "port", "protocol", "client", "time")


class Proxy(Struct, frozen=True, forbid_unknown_fields=True):
    """The engine, its upstreams, and what is sent there.

    engine: `xray`: our own child; `tproxy`: another program that listens at tproxy_port, to which we only steer.
    upstream: share links, in the order of preference; a `#name` at the end of one names it.
    subscription: URLs or files that list more of them.
    choose: `first`: the first that works; `fastest`: by measurement. check: what is asked through each to see it work.
    mode: `listed`: only what list, country or a rule names; `all-but`: all but list and country; `all`.
    list, country: what the mode speaks of; files of domains and networks, and countries.
    on_failure: what becomes of proxied traffic while no upstream works.
    quic: what becomes of UDP port 443 that would be proxied.
    lan_port: a SOCKS5 and HTTP proxy for devices that want one, on the LAN only; None: none.
    """

    engine: Literal["xray", "tproxy"] = "xray"
    tproxy_port: Port = 7893
    upstream: str | tuple[str, ...] = ()
    subscription: str | tuple[str, ...] = ()
    choose: Literal["first", "fastest"] = "first"
    check: str = "http://www.gstatic.com/generate_204"
    mode: Literal["listed", "all-but", "all"] = "listed"
    list: tuple[str, ...] = ()
    country: tuple[Country, ...] = ()
    on_failure: OnFailure = "direct"
    quic: Quic = "proxy"
    lan_port: Port | None = None

    @property
    def links(self) -> tuple[str, ...]:
        return (self.upstream,) if isinstance(self.upstream, str) else self.upstream

    @property
    def subscriptions(self) -> tuple[str, ...]:
        return (self.subscription,) if isinstance(self.subscription, str) else self.subscription


class UpstreamConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream with a name of its own. Exactly one of link, link_file and outbound_file.

    link_file: a file that holds the share link, for whoever keeps secrets apart. outbound_file: an outbound in Xray's
    own JSON, taken as it is.
    """

    name: UpstreamName
    link: str | None = None
    link_file: str | None = None
    outbound_file: str | None = None


class RuleConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The first rule that matches decides. A rule matches if each of its conditions does; of a condition's values, one.

    domain, list, cidr and country together are one condition: what the destination is.
    list: files of domains and networks. client: MAC addresses, names of [[client]] sections, addresses or networks.
    time: local time of day. send: proxy, direct, block or the name of an upstream. quic: default: as proxy.quic.
    """

    send: str
    domain: tuple[Domain, ...] = ()
    cidr: tuple[IPv4Network | IPv6Network, ...] = ()
    list: tuple[str, ...] = ()
    country: tuple[Country, ...] = ()
    port: tuple[Port | PortRange, ...] = ()
    protocol: Protocol | None = None
    client: tuple[str, ...] = ()
    time: tuple[TimeSpan, ...] = ()
    quic: Quic | None = None


class Lists(Struct, frozen=True, forbid_unknown_fields=True):
    """bad_lines: `skip`: the rest of a list file is used, and the lines are named; `refuse`: the file is not taken.

    country_db: a country database (MMDB). country_files: a file of networks for a country, instead of it.
    """

    bad_lines: Literal["skip", "refuse"] = "skip"
    country_db: str | None = None
    country_files: dict[str, str] = {}


class Dns(Struct, frozen=True, forbid_unknown_fields=True):
    """mode: `auto`: this box resolves names where traffic is split; `on`, `off`.

    servers: for names that go straight; default: those of this box, or the main router.
    proxied: for names that are proxied, asked through the upstream: addresses, `tls://` or `https://`.
    redirect: whether plain DNS of clients to other servers is answered by this box.
    """

    mode: Literal["auto", "on", "off"] = "auto"
    servers: tuple[IPv4Address, ...] = ()
    proxied: tuple[str, ...] = ("1.1.1.1", "8.8.8.8")
    redirect: bool = True


class Ipv6(Struct, frozen=True, forbid_unknown_fields=True):
    """mode: `off`: no IPv6 address is told to clients; `router`: IPv6 stays the main router's, proxied names have none;

    `gateway`: this box is the LAN's IPv6 gateway too.
    """

    mode: Ipv6Mode = "off"


def check_split(upstreams: Sequence[UpstreamConfig], rules: Sequence[RuleConfig]) -> list[Problem]:
    """What is wrong between the settings; paths relative to the file."""
    problems = [p for i, it in enumerate(upstreams) for p in _check_upstream(f"upstream[{i}]", it)]
    problems += _repeated_names(upstreams)
    for i, rule in enumerate(rules):
        problems += _check_rule(f"rule[{i}]", rule)
    return problems


def _check_upstream(where: str, it: UpstreamConfig) -> list[Problem]:
    given = [key for key in ("link", "link_file", "outbound_file") if getattr(it, key) is not None]
    problems = []
    if it.name in TARGETS:
        problems.append(Problem(f"{where}.name", f'"{it.name}" means something else in rules', "take another name"))
    if len(given) != 1:
        found = f"has {' and '.join(given)}" if given else "does not say where it is"
        problems.append(Problem(where, found, "exactly one of link, link_file and outbound_file"))
    return problems


def _repeated_names(upstreams: Sequence[UpstreamConfig]) -> list[Problem]:
    names = [it.name for it in upstreams]
    return [
        Problem(f"upstream[{i}].name", f'"{name}" is already upstream[{names.index(name)}]', "take another name")
        for i, name in enumerate(names)
        if names.index(name) < i
    ]


def _check_rule(where: str, rule: RuleConfig) -> list[Problem]:
    problems = []
    if not any(getattr(rule, key) for key in _CONDITIONS):
        remedy = f"give it one of {', '.join(_CONDITIONS)}, or set proxy.mode"
        problems.append(Problem(where, "matches everything", remedy))
    return problems
