"""The user's file: TOML -> Config, or every error at once. An empty or a missing file is a complete configuration."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from msgspec import Struct, structs

from sidegate.gateway.config.fields import (
    AddressRange,
    DhcpMode,
    DomainName,
    ForwardedPort,
    InterfaceName,
    LeaseTime,
    Mac,
    Masquerade,
    Port,
    Protocol,
    mac_of,
)
from sidegate.gateway.config.split import Dns, Ipv6, Lists, Proxy, RuleConfig, UpstreamConfig, check_dns, check_split
from sidegate.problems import Problem, Problems, unreadable
from sidegate.reading import read

__all__ = [
    "DEFAULT_PATH",
    "ClientConfig",
    "Config",
    "Dhcp",
    "DhcpMode",
    "Dns",
    "Ipv6",
    "Lists",
    "Mac",
    "Masquerade",
    "Nat",
    "Network",
    "Probe",
    "Proxy",
    "RuleConfig",
    "UpstreamConfig",
    "config_text",
    "digest",
    "load_config",
    "parse_config",
]

DEFAULT_PATH = Path("/etc/sidegate/sidegate.toml")


class Network(Struct, frozen=True, forbid_unknown_fields=True):
    """interface: default: where the default route points. router: default: the current default gateway."""

    interface: InterfaceName | None = None
    router: IPv4Address | None = None


class Nat(Struct, frozen=True, forbid_unknown_fields=True):
    """masquerade: `auto`: each client until its direct return path is proved; `always`, `never`: without asking."""

    masquerade: Masquerade = "auto"


class Probe(Struct, frozen=True, forbid_unknown_fields=True):
    """targets: public addresses that answer ICMP echo and DNS; asked in this order."""

    targets: tuple[IPv4Address, ...] = (
        IPv4Address("1.1.1.1"),
        IPv4Address("8.8.8.8"),
        IPv4Address("223.5.5.5"),
        IPv4Address("9.9.9.9"),
    )


class Dhcp(Struct, frozen=True, forbid_unknown_fields=True):
    """Who hands out addresses, and this box as the gateway.

    mode: `off`: the router, or nobody; `server`: this box alone; `coexist`: this box beside a router whose DHCP cannot
      be turned off.
    range: default: a part of the LAN (see `gateway.dhcp.default_range`). lease_s: default: 12 hours, 5 minutes in
      `coexist`. dns: default: this box where it resolves, else the main router. domain: default: none.
    """

    mode: DhcpMode = "off"
    range: AddressRange | None = None
    lease_s: LeaseTime | None = None
    dns: tuple[IPv4Address, ...] = ()
    domain: DomainName = ""

    @property
    def ends(self) -> tuple[IPv4Address, IPv4Address] | None:
        """The first and the last address of `range`; None without one. Raises ValueError for what is no address."""
        if self.range is None:
            return None
        first, _, last = self.range.partition("-")
        return IPv4Address(first.strip()), IPv4Address(last.strip())


class ClientConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One device. mac: as `mac_of` writes it once loaded. masquerade: default: as `nat.masquerade` says.

    ip: the address it always gets from our DHCP. gateway: which one our DHCP tells it. forwarded: ports of this device
    that the main router forwards to it from the internet; a number alone means TCP and UDP.
    """

    mac: Mac
    name: str = ""
    masquerade: Masquerade | None = None
    ip: IPv4Address | None = None
    gateway: Literal["sidegate", "router"] = "sidegate"
    forwarded: tuple[Port | ForwardedPort, ...] = ()

    @property
    def forwarded_ports(self) -> tuple[tuple[Protocol, int], ...]:
        return tuple(port for it in self.forwarded for port in _forwarded(it))


def _forwarded(value: int | str) -> tuple[tuple[Protocol, int], ...]:
    if isinstance(value, int):
        return (("tcp", value), ("udp", value))
    protocol, _, port = value.partition("/")
    return (("tcp" if protocol == "tcp" else "udp", int(port)),)


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    network: Network = Network()
    nat: Nat = Nat()
    probe: Probe = Probe()
    dhcp: Dhcp = Dhcp()
    proxy: Proxy = Proxy()
    upstream: tuple[UpstreamConfig, ...] = ()
    rule: tuple[RuleConfig, ...] = ()
    lists: Lists = Lists()
    dns: Dns = Dns()
    ipv6: Ipv6 = Ipv6()
    client: tuple[ClientConfig, ...] = ()

    @property
    def is_split(self) -> bool:
        """Whether traffic is told apart at all."""
        has_upstream = self.proxy.links or self.proxy.subscriptions or self.upstream or self.proxy.engine == "tproxy"
        return bool(has_upstream or self.rule)

    @property
    def resolves(self) -> bool:
        """Whether clients are to ask this box for names."""
        return self.dns.mode == "on" or (self.dns.mode == "auto" and self.is_split)

    def masquerade_of(self, mac: str) -> Masquerade:
        """What holds for the client with this MAC address (lower case)."""
        own = next((c.masquerade for c in self.client if c.mac == mac), None)
        return own or self.nat.masquerade

    def name_of(self, mac: str) -> str:
        """The name given to the client with this MAC address (lower case); empty without one."""
        return next((c.name for c in self.client if c.mac == mac), "")


def load_config(path: Path | None = None) -> Config:
    """The configuration in this file. None: the default file, if there is one.

    A path that is given must exist. Raises Problems with every error of the file.
    """
    text, source = config_text(path)
    return parse_config(text, source)


def config_text(path: Path | None = None) -> tuple[str, str]:
    """What is in this file, and its name for messages. None: the default file; empty, without a name, if it lacks.

    Raises Problems.
    """
    if path is None and not DEFAULT_PATH.exists():
        return "", ""
    return _text(path or DEFAULT_PATH), str(path or DEFAULT_PATH)


def digest(config: Config) -> str:
    """Tells two configurations apart."""
    return hashlib.sha256(repr(config).encode()).hexdigest()[:16]


def parse_config(text: str, source: str) -> Config:
    """The configuration in a TOML text. source: the file's name for messages. Raises Problems with every error."""
    config = read(text, Config, source, _check)
    clients = tuple(structs.replace(c, mac=mac_of(c.mac) or c.mac) for c in config.client)
    return structs.replace(config, client=clients)


def _text(path: Path) -> str:
    try:
        # Editors of Windows begin a file with a mark of its encoding.
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise Problems(Problem(str(path), "not UTF-8 text")) from None
    except OSError as error:
        raise Problems(unreadable(path, error, "name a TOML file, or none: every setting has a default")) from None


def _check(config: Config) -> list[Problem]:
    problems = _check_range(config.dhcp)
    if not config.probe.targets:
        problems.append(Problem("probe.targets", "empty: nothing to probe with", "name one address, or drop the key"))
    names = [c.name for c in config.client]
    problems += check_split(config.proxy, config.upstream, config.rule, config.lists, names)
    problems += check_dns(config.dns)
    problems += [
        Problem(f"client[{i}].forwarded", f"{port} is no port", "ports are 1 to 65535")
        for i, client in enumerate(config.client)
        for _, port in client.forwarded_ports
        if not 1 <= port <= 65535
    ]
    problems += _repeated("mac", [c.mac for c in config.client])
    return problems + _repeated("ip", [str(c.ip) if c.ip else None for c in config.client])


def _repeated(key: str, values: list[str | None]) -> list[Problem]:
    """A Problem for each client that has what an earlier one has."""
    first: dict[str, int] = {}
    known = ((i, value) for i, value in enumerate(values) if value is not None)
    found = ((i, value, first.setdefault(mac_of(value) or value, i)) for i, value in known)
    return [
        Problem(f"client[{i}].{key}", f"{value} is already client[{seen}]", "keep one of them")
        for i, value, seen in found
        if seen != i
    ]


def _check_range(dhcp: Dhcp) -> list[Problem]:
    try:
        ends = dhcp.ends
    except ValueError as error:
        return [Problem("dhcp.range", f"{error}", "two IPv4 addresses such as 192.168.1.100-192.168.1.199")]
    if ends is not None and ends[0] > ends[1]:
        return [Problem("dhcp.range", f"{ends[0]} comes after {ends[1]}", "the lower address comes first")]
    return []
