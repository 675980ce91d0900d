"""Which routers advertise themselves here by IPv6, with which preference, prefixes and DNS servers?

A router solicitation, and every advertisement within a while (RFC 4861 section 6.3.7). Routers answer within 0.5 s (its
section 6.2.6), a server's DNS within a second. A router on this very box is not heard: what it sends goes out only.

The case behind it: a router announces a DNS server of its own by IPv6 (RDNSS), and Windows asks that one first,
whatever DHCP said; names are then resolved past the box that is to resolve them, or by nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv6Address
from pathlib import Path

from msgspec import Struct

from sidegate.packet import Mac
from sidegate.probe.dns_servers import which_answer
from sidegate.probe.ra_message import ALL_ROUTERS_MAC, Advert, advert_in, solicitation
from sidegate.probe.talk import Clock, Heard, ListenRa, Observation, Talk, Wait, send
from sidegate.probe.wire import Wire, ip_of, mac_of, run

MOST_ROUTERS = 16
"""More of them are one that lies about its address."""
_UNUSABLE = 0x08 | 0x40
"""IFA_F_DADFAILED and IFA_F_TENTATIVE (include/uapi/linux/if_addr.h)."""


class Plan(Struct, frozen=True):
    """asks_at_s: seconds after the beginning when the question is sent. until_s: how long is listened in all."""

    asks_at_s: tuple[float, ...] = (0.0, 0.8)
    until_s: float = 1.6


class RaResult(Struct, frozen=True):
    """adverts: the last one of each router, first heard first. waited_s: how long they were waited for."""

    adverts: tuple[Advert, ...]
    waited_s: float
    evidence: tuple[Observation, ...]

    @property
    def dns(self) -> tuple[IPv6Address, ...]:
        """Every DNS server that is told, once."""
        return tuple(dict.fromkeys(d for a in self.adverts for d in a.dns))


_GO_ROUND = (
    "devices that heed no preference, or have a route of their own, go round this box by IPv6, to what is proxied too; "
    'if there are such, turn its advertisements off there, or set ipv6.mode = "router", with which proxied names have '
    "no IPv6 address"
)
"""Names keep their IPv6 addresses all the same: beside another router is how this box is meant to stand, all systems
that people use heed the preference (RFC 4191), and to filter would take IPv6 from them for the sake of the others."""


class Opinion(Struct, frozen=True):
    """What is to be thought of what routers say.

    ours: this box's IPv6 addresses. resolves: clients are to ask this box for names. is_gateway: it is to be their IPv6
    gateway. silent: DNS servers that were asked and did not answer.
    """

    ours: tuple[IPv6Address, ...] = ()
    resolves: bool = False
    is_gateway: bool = False
    silent: tuple[IPv6Address, ...] = ()


def solicit(mac: Mac, ip: IPv6Address | None, plan: Plan = Plan()) -> Talk[RaResult]:  # noqa: B008
    """Asks and collects. mac, ip: our Ethernet and link-local address; None: we have none."""
    began_s: float = yield Clock()
    yield ListenRa()
    adverts: dict[tuple[IPv6Address, Mac], Advert] = {}
    evidence: list[Observation] = []
    for asks_s, until_s in zip(plan.asks_at_s, (*plan.asks_at_s[1:], plan.until_s), strict=True):
        sent_s = yield from send(solicitation(mac, ip))
        evidence.append(Observation(sent_s - began_s, "sent", ALL_ROUTERS_MAC, "solicit", "which routers are here?"))
        heard: Heard | None = yield Wait(began_s + max(until_s, asks_s))
        while heard is not None:
            advert = advert_in(heard.frame)
            if advert is not None and advert.mac != mac:
                _keep(advert, heard.at_s - began_s, adverts, evidence)
            heard = yield Wait(began_s + max(until_s, asks_s))
    ended_s: float = yield Clock()
    return RaResult(tuple(adverts.values()), round(ended_s - began_s, 3), tuple(evidence))


def _keep(
    advert: Advert, at_s: float, adverts: dict[tuple[IPv6Address, Mac], Advert], evidence: list[Observation]
) -> None:
    """One of each router; what is said again is no new evidence."""
    key = (advert.router, advert.mac)
    if adverts.get(key) == advert or (key not in adverts and len(adverts) >= MOST_ROUTERS):
        return
    if key not in adverts:
        said = f"{advert.router}: {advert.terms()}"
        evidence.append(Observation(at_s, "received", advert.mac, "advert", said))
    adverts[key] = advert


def opinions(adverts: Iterable[Advert], opinion: Opinion) -> tuple[str, ...]:
    """What a person should know about these routers, as sentences without a full stop."""
    found = []
    for advert in adverts:
        who = f"the router {advert.router} ({advert.mac})"
        for server in advert.dns:
            if server in opinion.silent:
                found.append(
                    f"{who} tells clients by IPv6 the DNS server {server}, which does not answer: "
                    "Windows asks it before any other; turn it off there (RDNSS, or IPv6 DNS)"
                )
            elif opinion.resolves and server not in opinion.ours:
                found.append(
                    f"{who} tells clients by IPv6 the DNS server {server}, not this box: names that are asked there "
                    "are not split; turn it off there (RDNSS, or IPv6 DNS), or name this box"
                )
        if opinion.is_gateway and advert.lifetime_s and advert.preference == "high":
            found.append(f"{who} advertises itself with high preference as this box does: clients choose by chance")
        elif opinion.is_gateway and opinion.resolves and advert.lifetime_s:
            found.append(f"{who} advertises itself too: {_GO_ROUND}")
    return tuple(found)


def ask(interface: str, plan: Plan = Plan()) -> RaResult:  # noqa: B008
    """Looks for routers from this box. Blocks plan.until_s. Raises Problems."""
    mac, local = mac_of(interface), link_local(interface)
    with Wire[RaResult](interface, ip_of(interface)) as wire:
        return run(wire, solicit(mac, local, plan))[0]


def silent_among(interface: str, servers: Collection[IPv6Address]) -> tuple[IPv6Address, ...]:
    """Those DNS servers that do not answer this box within 1.5 s. Blocks so long."""
    answering = which_answer(interface, servers)
    return tuple(s for s in servers if s not in answering)


def link_local(interface: str, table: str | None = None) -> IPv6Address | None:
    """Our link-local address there, once it may be used; None without one. table: the text of /proc/net/if_inet6."""
    return next((a for a in addresses6(interface, table) if a.is_link_local), None)


def addresses6(interface: str, table: str | None = None) -> tuple[IPv6Address, ...]:
    """This box's IPv6 addresses there, without those that are being checked for duplicates (net/ipv6/addrconf.c)."""
    if table is None:
        path = Path("/proc/net/if_inet6")
        table = path.read_text("ascii") if path.exists() else ""
    fields = (line.split() for line in table.splitlines())
    return tuple(
        IPv6Address(int(f[0], 16))
        for f in fields
        if len(f) == 6 and f[5] == interface and not int(f[4], 16) & _UNUSABLE
    )


def summary(result: RaResult, told: Iterable[str]) -> list[str]:
    """The answer as sentences. told: see `opinions`."""
    if not result.adverts:
        return [f"No router advertised itself by IPv6 within {result.waited_s:.1f} s."]
    count = len(result.adverts)
    head = "One router advertises itself." if count == 1 else f"{count} routers advertise themselves."
    return [head, *(f"{a.router} ({a.mac}): {a.terms()}." for a in result.adverts), *(f"{t}." for t in told)]
