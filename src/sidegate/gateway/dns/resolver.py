"""What our resolver should be: pure data."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from msgspec import Struct

from sidegate.gateway.config.fields import Ipv6Mode

Answer = Literal["direct", "proxied", "blocked"]
"""Who is asked for a name: the servers for direct names, the engine, or nobody, for there is no such name."""
Proxied = Literal["asked", "direct", "refused"]
"""What becomes of names that are proxied: the engine is asked; fallen back, the servers for direct names; nobody."""


class Asked(Struct, frozen=True):
    """Names with all below them, but for what is said of a name further down. `*.x`: what is below x, without x."""

    answer: Answer
    names: tuple[str, ...]


class Learned(Struct, frozen=True):
    """Names whose addresses go into the learned sets of these keys (`Destination.names_key`), in order."""

    keys: tuple[str, ...]
    names: tuple[str, ...]


class NameTable(Struct, frozen=True):
    """default: for names that are not listed."""

    default: Answer = "direct"
    asked: tuple[Asked, ...] = ()
    learned: tuple[Learned, ...] = ()

    @property
    def proxies(self) -> bool:
        """Whether any name is to be asked through the engine."""
        return "proxied" in (self.default, *(it.answer for it in self.asked))


class Resolver(Struct, frozen=True):
    """direct: servers for direct names, one at least, never this box itself.

    engine_port: where the engine answers names, on 127.0.0.1 and, for engine_servers servers behind it, the addresses
    that follow; which of them works is found out by asking.
    domain: with which the LAN's own names may be asked too; may be empty. rebinding: names that may have private
    addresses.
    """

    interface: str
    lan: tuple[IPv4Network, ...]
    router: IPv4Address
    direct: tuple[IPv4Address, ...]
    engine_port: int
    names: NameTable
    proxied: Proxied = "asked"
    ipv6: Ipv6Mode = "off"
    engine_servers: int = 1
    domain: str = ""
    rebinding: tuple[str, ...] = ()
