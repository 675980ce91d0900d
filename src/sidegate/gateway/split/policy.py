"""Which traffic goes where: pure data, the same for the kernel, the engine, the resolver and `explain`.

Rules are in order, and the first that matches decides. What a rule asks of the client and of the time is decided by the
kernel alone; rules whose time is not now are not in a policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network

from msgspec import Struct

from sidegate.gateway.config.fields import Protocol, Quic

PROXY, DIRECT, BLOCK = "proxy", "direct", "block"


class Destination(Struct, frozen=True):
    """A condition: one of these. Names lower case, in ASCII (RFC 5890), without a dot at either end; sorted.

    names: that name alone. suffixes: that name and all below it. Networks: sorted, none inside another.
    """

    names: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    networks4: tuple[IPv4Network, ...] = ()
    networks6: tuple[IPv6Network, ...] = ()

    @property
    def has_names(self) -> bool:
        return bool(self.names or self.suffixes)

    @property
    def names_key(self) -> str:
        """The same for the same names, whatever rule they are of: by it what they taught is found again."""
        return _names_key(self.names, self.suffixes)


@lru_cache(maxsize=64)
def _names_key(names: Iterable[str], suffixes: Iterable[str]) -> str:
    """Kept: lists are long, and asked for with every look at the box."""
    return hashlib.sha256("\n".join((*names, "below", *suffixes)).encode()).hexdigest()[:10]


class Source(Struct, frozen=True):
    """A condition: a LAN device that is one of these. macs: lower case."""

    macs: tuple[str, ...] = ()
    networks4: tuple[IPv4Network, ...] = ()
    networks6: tuple[IPv6Network, ...] = ()


class Rule(Struct, frozen=True):
    """Every condition that is not None must hold.

    origin: where a person finds it, as `rule[2]` or `proxy.list`. send: PROXY, DIRECT, BLOCK or an upstream's name.
    ports: ranges, both ends inside. quic: what becomes of UDP port 443 that would be proxied.
    """

    origin: str
    send: str
    destination: Destination | None = None
    source: Source | None = None
    ports: tuple[tuple[int, int], ...] | None = None
    protocol: Protocol | None = None
    quic: Quic = "proxy"


class Policy(Struct, frozen=True):
    """default: where goes what no rule matches: PROXY or DIRECT. quic: for the default."""

    rules: tuple[Rule, ...] = ()
    default: str = DIRECT
    quic: Quic = "proxy"


def barred_macs(policy: Policy) -> tuple[str, ...]:
    """Whom `proxy.lan_port` is shut to: the engine knows no MAC addresses, and a rule for them could be got round."""
    return tuple(sorted({mac for rule in policy.rules if rule.source for mac in rule.source.macs}))
