"""What is told of the machines of upstreams' servers on the LAN, whose own traffic goes straight (`sparing`). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sidegate.gateway.ruleset.nft import Client

MOST_TOLD, MOST_NAMED = 5, 8
"""Machines, and addresses of each: who makes up MAC addresses may have many."""


def spared(macs: Iterable[str], clients: Iterable[Client], named: Callable[[str], str]) -> tuple[str, ...]:
    """macs: of those machines. clients: who is known. named: a device, by its MAC address, as a person knows it."""
    known = sorted(set(clients))
    told = [_told(named(mac), [str(c.ip) for c in known if c.mac == mac]) for mac in sorted(macs)]
    left = len(told) - MOST_TOLD
    return (*told[:MOST_TOLD], f"{left} more devices answer for upstreams") if left > 0 else tuple(told)


def _told(name: str, addresses: list[str]) -> str:
    said = f"{name} answers for an upstream: all that it sends goes straight, or it would come back to it"
    if len(addresses) < 2:
        return said
    listed = ", ".join(addresses[:MOST_NAMED]) + (", …" if len(addresses) > MOST_NAMED else "")
    return f"{said}; its MAC address sends from {listed}: another device behind the same repeater goes straight with it"
