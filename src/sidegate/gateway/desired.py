"""What the box should look like: pure data, each item with its reason."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from msgspec import Struct

TABLE = "sidegate"
"""Our only table, of family inet."""
COMMENT = "sidegate"
"""The comment of every rule of ours in a table of somebody else's: by it the rule is found again."""

Backend = Literal["nft", "iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"]
Hook = Literal["forward", "input"]


class Sysctl(Struct, frozen=True):
    """path: below /proc/sys, separated by `/`, so that an interface such as eth0.10 works.

    flips: settings that the kernel overwrites whenever this one is written, and that are to stay as they are.
    """

    path: str
    value: str
    reason: str
    flips: tuple[str, ...] = ()


class Accept(Struct, frozen=True):
    """A rule at the top of a foreign chain, by its hook.

    forward: what goes in and out by this interface may pass. input: what came in by it and we marked for this box.
    """

    backend: Backend
    family: str
    table: str
    chain: str
    interface: str
    reason: str
    hook: Hook = "forward"

    @property
    def place(self) -> str:
        """The chain, as a person writes it."""
        return f"{self.backend} {self.family} {self.table} {self.chain}"


class PolicyRoute(Struct, frozen=True):
    """A rule by mark and the table that it leads to, whose only route delivers to this box itself.

    priority: of the rule; None: the table's number, as in journals that do not speak of it.
    """

    family: Literal[4, 6]
    mark: int
    mask: int
    table: int
    reason: str
    priority: int | None = None

    @property
    def rank(self) -> int:
        """The rule's priority."""
        return self.table if self.priority is None else self.priority

    @property
    def place(self) -> str:
        """The rule, as `ip rule` writes it."""
        return f"ipv{self.family} rule {self.rank}: fwmark {self.mark:#x}/{self.mask:#x} lookup {self.table}"


class DhcpHost(Struct, frozen=True):
    """A client that the configuration names. name: one it may go by in DHCP, or empty."""

    mac: str
    ip: IPv4Address | None = None
    name: str = ""
    keeps_router: bool = False


class DhcpServer(Struct, frozen=True):
    """What our DHCP server hands out. gateway: this box, for all but the hosts that keep the router.

    coexists: another server is on the LAN and stays.
    """

    interface: str
    lan: IPv4Network
    first: IPv4Address
    last: IPv4Address
    lease_s: int
    gateway: IPv4Address
    router: IPv4Address
    dns: tuple[IPv4Address, ...]
    domain: str = ""
    coexists: bool = False
    hosts: tuple[DhcpHost, ...] = ()

    def may_give(self, address: IPv4Address) -> bool:
        """Whether the address is one of those that we hand out."""
        return self.first <= address <= self.last or any(h.ip == address for h in self.hosts)


class Advertiser(Struct, frozen=True):
    """That this box is an IPv6 router of the LAN. tells_dns: and its DNS server."""

    interface: str
    tells_dns: bool


class Desired(Struct, frozen=True):
    """sysctls and accepts in the order in which they are applied; `forwarding` is the very last.

    ruleset: the transaction that replaces our table. ruleset_reason: what it does, in words.
    dhcp, advertiser: what runs beside the daemon, None for none.
    """

    sysctls: tuple[Sysctl, ...]
    accepts: tuple[Accept, ...]
    ruleset: str
    ruleset_reason: str
    dhcp: DhcpServer | None = None
    routes: tuple[PolicyRoute, ...] = ()
    advertiser: Advertiser | None = None
