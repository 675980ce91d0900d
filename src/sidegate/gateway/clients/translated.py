"""Whose port forwards a filtering bridge breaks, by what the kernel has noted (law 14 of `ruleset.inbound`). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address

from sidegate.gateway.ruleset.nft import Client
from sidegate.packet import Mac

WAN_ADDRESSES_MOST = 2
"""A device that sends with more public ones is a router, as the real one behind a virtual MAC address (RFC 9568)."""


def translated(heard: Sequence[Client], spared: Collection[Mac]) -> dict[Mac, IPv4Address]:
    """Devices that were heard with a public address, each with one of these.

    spared: who is passed over, as the router itself: of a new one the table does not know at once what it is.
    """
    count = Counter(it.mac for it in heard)
    return {it.mac: it.ip for it in heard if it.mac not in spared and count[it.mac] <= WAN_ADDRESSES_MOST}
