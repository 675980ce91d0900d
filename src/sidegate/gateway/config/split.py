"""What goes through the proxy: the sections [proxy], [[upstream]], [[rule]], [lists], [dns] and [ipv6]."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Literal, TypeVar
from urllib.parse import urlsplit

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
    mac_of,
)
from sidegate.gateway.split.names import ascii_name, is_plain_name
from sidegate.gateway.split.ports import ENGINE_PORTS, RELIEF_PORT
from sidegate.gateway.split.times import span_of
from sidegate.problems import Problem

T = TypeVar("T")

PROXY = "proxy"
TARGETS = (PROXY, "direct", "block")
"""Where a rule may send traffic, besides the name of an upstream. `proxy`: the upstream that is chosen."""
MOST_DNS_SERVERS = 8
_SSH_PORT, _DNS_PORT = 22, 53
_CONDITIONS = ("domain", "cidr", "list", "country", "port", "protocol", "client", "time")
_GIVE_UPSTREAM = "set proxy.upstream or proxy.subscription, or add an [[upstream]] section"
_GIVE_LIST = (
    "a list is a file: its path begins with /; domains and networks themselves go into a [[rule]], as domain or cidr"
)
GIVE_COUNTRY = (
    "set lists.country_db to a country database in MMDB format, such as DB-IP's IP to Country Lite or MaxMind's "
    "GeoLite2-Country, or lists.country_files to a file of the country's networks"
)
_NETWORK = re.compile(r"[0-9.]+(/[0-9]+)?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(/[0-9]+)?")
_COUNTRY = re.compile("[A-Za-z]{2}")


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


def client_of(word: str) -> str | IPv4Network | IPv6Network:
    """What a rule's `client` says: a MAC address (`mac_of`), a network, or, as it is, a name. Raises ValueError."""
    mac = mac_of(word)
    if mac is not None:
        return mac
    if not _NETWORK.fullmatch(word):
        return word
    return IPv6Network(word) if ":" in word else IPv4Network(word)


def port_range(value: int | str) -> tuple[int, int]:
    """Both ends inside. Raises ValueError, with the reason."""
    first, _, last = str(value).partition("-")
    low, high = int(first), int(last or first)
    if not 1 <= low <= 65535 or not 1 <= high <= 65535:
        raise ValueError("ports are 1 to 65535")
    if low > high:
        raise ValueError("the lower port comes first")
    return low, high


def check_split(
    proxy: Proxy,
    upstreams: Sequence[UpstreamConfig],
    rules: Sequence[RuleConfig],
    lists: Lists,
    clients: Collection[str],
) -> list[Problem]:
    """What is wrong between the settings; paths relative to the file. clients: the names of the devices."""
    has_upstream = bool(proxy.links or proxy.subscriptions or upstreams or proxy.engine == "tproxy")
    problems = [p for i, it in enumerate(upstreams) for p in _check_upstream(f"upstream[{i}]", it)]
    problems += _repeated_names(upstreams)
    problems += [] if has_upstream else _check_lonely(proxy)
    problems += _check_subscriptions(proxy)
    problems += [*_check_lan_port(proxy.lan_port), *_check_lists(lists)]
    problems += _check_paths("proxy.list", proxy.list, _GIVE_LIST)
    problems += _check_countries("proxy.country", proxy.country, lists)
    for i, rule in enumerate(rules):
        problems += _check_rule(f"rule[{i}]", rule, clients)
        problems += _check_countries(f"rule[{i}].country", rule.country, lists)
        if rule.send == PROXY and not has_upstream:
            problems.append(Problem(f"rule[{i}].send", '"proxy", and there is no upstream', _GIVE_UPSTREAM))
    return problems


def _check_lan_port(port: int | None) -> list[Problem]:
    """What the LAN sends to this port of the box is led to the engine, whoever listens there."""
    if port == _SSH_PORT:
        what = "the LAN could not log in to this box any more, for SSH is there"
    elif port in (_DNS_PORT, RELIEF_PORT, *range(ENGINE_PORTS[0], ENGINE_PORTS[1] + 1)):
        what = "it has another use on this box"
    else:
        return []
    return [Problem("proxy.lan_port", f"{port}: {what}", "take one that nobody uses, such as 1080")]


def check_dns(dns: Dns) -> list[Problem]:
    """What is wrong with the servers for names that are proxied."""
    if not 1 <= len(dns.proxied) <= MOST_DNS_SERVERS:
        what = f"{len(dns.proxied)} servers"
        return [Problem("dns.proxied", what, f"name 1 to {MOST_DNS_SERVERS}, or drop the key")]
    return _check_each("dns.proxied", dns.proxied, _check_dns_server)


def _check_dns_server(text: str) -> None:
    """Raises ValueError."""
    kind, is_url, _ = text.partition("://")
    if not is_url:
        ip_address("" if "%" in text else text)
        return
    url = urlsplit(text)
    if kind not in ("tls", "https") or url.username is not None or url.query or url.fragment:
        raise ValueError('expected an address, "tls://…" or "https://…"')
    if kind == "tls" and url.path not in ("", "/"):
        raise ValueError("DNS over TLS has no path")
    if url.port == 0 or not _is_host(url.hostname or ""):
        raise ValueError("no server that could be asked")


def _is_host(text: str) -> bool:
    try:
        return bool(ip_address(text)) and "%" not in text
    except ValueError:
        return bool(text) and text == text.lower() and is_plain_name(text) is not None


def _check_lonely(proxy: Proxy) -> list[Problem]:
    """Without an upstream nothing may be proxied."""
    if proxy.mode != "listed":
        return [Problem("proxy.mode", f'"{proxy.mode}", and there is no upstream', _GIVE_UPSTREAM)]
    keys = [key for key in ("list", "country") if getattr(proxy, key)]
    return [Problem(f"proxy.{key}", "is to be proxied, and there is no upstream", _GIVE_UPSTREAM) for key in keys]


def _check_lists(lists: Lists) -> list[Problem]:
    problems = _check_paths("lists.country_db", [lists.country_db] if lists.country_db is not None else [])
    for country, path in lists.country_files.items():
        where = f"lists.country_files.{country}"
        problems += _check_paths(where, [path])
        if not _COUNTRY.fullmatch(country):
            problems.append(Problem(where, "no country", "a country's two letters such as CN (ISO 3166-1)"))
    return problems


def _check_paths(where: str, paths: Sequence[str], remedy: str = "begin it with /") -> list[Problem]:
    """A daemon has no directory of its own that a person would think of."""
    bad = [path for path in paths if not path.startswith("/") or "\0" in path]
    return [Problem(where, f"{json.dumps(path)} is no absolute path", remedy) for path in bad]


def _check_countries(where: str, countries: Sequence[str], lists: Lists) -> list[Problem]:
    known = {country.upper() for country in lists.country_files}
    lacking = [country for country in countries if country.upper() not in known]
    if lists.country_db is not None or not lacking:
        return []
    return [Problem(where, f"nothing says which networks {', '.join(lacking)} has", GIVE_COUNTRY)]


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


def _check_rule(where: str, rule: RuleConfig, clients: Collection[str]) -> list[Problem]:
    problems = []
    if not any(getattr(rule, key) for key in _CONDITIONS):
        remedy = f"give it one of {', '.join(_CONDITIONS)}, or set proxy.mode"
        problems.append(Problem(where, "matches everything", remedy))
    problems += _check_each(f"{where}.port", rule.port, port_range)
    problems += _check_each(f"{where}.time", rule.time, span_of)
    problems += _check_each(f"{where}.domain", rule.domain, lambda name: ascii_name(name.removeprefix("full:")))
    problems += _check_each(f"{where}.cidr", [str(network) for network in rule.cidr], _check_zone)
    problems += _check_each(f"{where}.client", rule.client, lambda word: _check_client(word, clients))
    return problems + _check_paths(f"{where}.list", rule.list, _GIVE_LIST)


def _check_each(where: str, values: Sequence[T], check: Callable[[T], object]) -> list[Problem]:
    """check: raises ValueError with what is wrong."""
    problems = []
    for i, value in enumerate(values):
        try:
            check(value)
        except ValueError as error:
            problems.append(Problem(f"{where}[{i}]", f"{json.dumps(value)}: {error}"))
    return problems


def _check_zone(network: str) -> None:
    """A zone may be any text at all. Raises ValueError."""
    if "%" in network:
        raise ValueError("a network has no zone")


def _check_client(word: str, clients: Collection[str]) -> None:
    """Raises ValueError."""
    if word.lower() in {name.lower() for name in clients if name}:
        return
    is_almost_mac = ":" in word and "::" not in word and "/" not in word and word.count(":") < 7
    if (mac_of(word) is None and is_almost_mac) or client_of(word) == word != mac_of(word):
        raise ValueError("neither the name of a [[client]] section nor a MAC address, an address or a network")


def _check_subscription(source: str) -> None:
    """Raises ValueError."""
    scheme, is_address, _ = source.partition("://")
    if not is_address:
        if not source.startswith("/") or "\0" in source:
            raise ValueError("neither http:// nor https:// nor a file by its absolute path, which begins with /")
    elif scheme.lower() not in ("http", "https"):
        raise ValueError("only http:// and https:// can be fetched; a share link belongs in proxy.upstream")
    elif not _has_server(source):
        raise ValueError("no server that could be asked")


def _has_server(url: str) -> bool:
    """What is wrong with it is not told: it would be told with a part of it."""
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _check_subscriptions(proxy: Proxy) -> list[Problem]:
    """Their addresses hold secrets: nothing of them is told."""
    problems = []
    for i, source in enumerate(proxy.subscriptions):
        try:
            _check_subscription(source)
        except ValueError as error:
            where = "proxy.subscription" if isinstance(proxy.subscription, str) else f"proxy.subscription[{i}]"
            problems.append(Problem(where, str(error), 'such as "https://example.org/…" or "/etc/sidegate/links.txt"'))
    return problems
