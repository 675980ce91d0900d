"""Other gateways on the LAN, and what speaks for each. Pure.

| seen | of whom |
|---|---|
| it forwards: what is sent through it comes back by the router (`probe.bridge`) | any gateway, router or access point |
| it asks whether its own address is free, again and again | a Sidegate: `probe.conflict` does so every 10 s |
| a DHCP server hands it out as the gateway | whatever clients are sent to, be it there or not |
| it speaks as our own address (`probe.conflict`) | told as a conflict; here only whether it is a Sidegate |

A device that comes to a network asks for its address too, but three times within some seconds (RFC 5227 section 1.1).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address

from msgspec import Struct

from sidegate.packet import Mac
from sidegate.probe.conflict import ASK_S
from sidegate.probe.dhcp import Offer

Caller = tuple[Mac, IPv4Address]

_LEAST_GAP_S, _FORGET_S = 0.7 * ASK_S, 3.5 * ASK_S
MOST_CALLERS = 64
"""More of them are somebody's joke."""


class Callers:
    """Who asks for which address, and whether steadily. Times: seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._first_s: dict[Caller, float] = {}
        self._last_s: dict[Caller, float] = {}

    def heard(self, caller: Caller, now: float) -> None:
        self._forget(now)
        if caller in self._last_s or len(self._last_s) < MOST_CALLERS:
            self._first_s.setdefault(caller, now)
            self._last_s[caller] = now

    def steady(self, now: float) -> frozenset[Caller]:
        """Those that asked again when a device that has just come would be content."""
        self._forget(now)
        return frozenset(it for it, last_s in self._last_s.items() if last_s - self._first_s[it] >= _LEAST_GAP_S)

    def _forget(self, now: float) -> None:
        for it in [it for it, last_s in self._last_s.items() if now - last_s > _FORGET_S]:
            del self._first_s[it], self._last_s[it]


class Another(Struct, frozen=True):
    """A gateway that is neither this box nor its router. handed_out_by: DHCP servers."""

    name: str
    forwards: bool
    is_sidegate: bool
    handed_out_by: tuple[IPv4Address, ...]

    def hint(self) -> str:
        """What it is, why that is believed, and what follows."""
        evidence = [
            *(["forwards packets itself"] if self.forwards else []),
            *(["asks for its own address steadily, as Sidegate does"] if self.is_sidegate else []),
            *(f"is handed out as the gateway by the DHCP server {server}" for server in self.handed_out_by),
        ]
        return f"{self.name} {' and '.join(evidence)}: {self._kind()}"

    def _kind(self) -> str:
        if self.is_sidegate:
            return "a second Sidegate on this LAN; sidegate down on one of the two, or clients use either"
        if self.handed_out_by:
            return "another gateway on this LAN; who takes an address there does not come through this box"
        return "another gateway on this LAN, or a router; whoever uses it does not come through this box"


def others(
    forwarding: Mapping[Caller, str],
    steady: Collection[Caller],
    offers: Iterable[Offer],
    known: Collection[IPv4Address],
) -> tuple[Another, ...]:
    """forwarding: devices that pass on what is sent through them, and their names. known: this box and its router.

    Who only asks for its own address is no gateway.
    """
    handed = [(ip, offer.server) for offer in offers for ip in offer.gateways if ip not in known]
    names = {ip: str(ip) for ip, _ in handed} | {ip: name for (_, ip), name in forwarding.items()}
    through = {ip for _, ip in forwarding}
    asking = {ip for _, ip in steady}
    return tuple(
        Another(
            names[ip],
            ip in through,
            ip in asking,
            tuple(dict.fromkeys(server for gateway, server in handed if gateway == ip)),
        )
        for ip in sorted(names)
    )
