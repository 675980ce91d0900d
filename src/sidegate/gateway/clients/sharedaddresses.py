"""Which addresses two devices use at once: answers reach one of them only, now this one and now that. Pure.

| seen of one address | taken for |
|---|---|
| one MAC address, and from some moment on another one | one device with a new random MAC address, or a new holder |
| each of two MAC addresses after the other | two devices |

A device is known to be at work by what it sends to the internet through this box; what is sent within the LAN, or goes
through the proxy, is not counted. One that sends by two bonded ports, each with a MAC address of its own (balance-alb,
bond_do_alb_xmit in drivers/net/bonding/bond_alb.c), cannot be told from two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address

from msgspec import Struct

from sidegate.gateway.ruleset.nft import Client

IDLE_S = 60.0
"""Whoever sends nothing for so long begins anew."""
MOST_TOLD, MOST_NAMED = 5, 4
"""Addresses at a time, and devices of each: MAC addresses may be made up."""


class Span(Struct):
    """From when to when a device was seen at work, without a long pause. Seconds of a monotonic clock."""

    first_s: float
    last_s: float


class SharedAddresses:
    """tell: an event. named: a device, by its MAC address, as a person calls it; empty for one without a name."""

    def __init__(self, tell: Callable[[str], None], named: Callable[[str], str]) -> None:
        self._tell, self._named = tell, named
        self._spans: dict[Client, Span] = {}
        self._shared: dict[IPv4Address, tuple[str, ...]] = {}

    def look(self, active: Iterable[Client], now: float) -> None:
        """active: those that have sent something since the last look."""
        self._spans = {client: span for client, span in self._spans.items() if now - span.last_s < IDLE_S}
        for client in active:
            self._spans.setdefault(client, Span(now, now)).last_s = now
        before, self._shared = self._shared, shared(self._spans)
        for ip in sorted(self._shared.keys() - before.keys())[:MOST_TOLD]:
            self._tell(self._told(ip))

    def hints(self) -> tuple[str, ...]:
        told = tuple(self._told(ip) for ip in sorted(self._shared)[:MOST_TOLD])
        left = len(self._shared) - MOST_TOLD
        return (*told, f"{left} more addresses are used by several devices at once") if left > 0 else told

    def _told(self, ip: IPv4Address) -> str:
        macs = self._shared[ip]
        names = [f"{mac} ({name})" if (name := self._named(mac)) else mac for mac in macs[:MOST_NAMED]]
        return (
            f"{ip} is used by {len(macs)} devices at once, {' and '.join(names)}: answers reach one of them only; give"
            " each an address of its own, and keep one that is set by hand out of what DHCP hands out (two bonded ports"
            " of one device look like this, and are fine)"
        )


def shared(spans: Mapping[Client, Span]) -> dict[IPv4Address, tuple[str, ...]]:
    """The MAC addresses of each address that several devices use by turns, sorted."""
    found: dict[IPv4Address, set[str]] = {}
    latest: dict[IPv4Address, tuple[Client, Span]] = {}
    for client, span in sorted(spans.items(), key=lambda it: (it[1].first_s, it[0])):
        known = latest.get(client.ip)
        if known is not None and known[1].last_s > span.first_s and span.last_s > known[1].first_s:
            found.setdefault(client.ip, set()).update((client.mac, known[0].mac))
        if known is None or span.last_s > known[1].last_s:
            latest[client.ip] = client, span
    return {ip: tuple(sorted(macs)) for ip, macs in found.items()}
