"""Pure: who sends packets by way of this box and asks it for no name, so that rules by name do nothing for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address

from sidegate.gateway.ruleset.nft import Client

_MOST_NAMED = 5


def unasked(active: Iterable[tuple[Client, str]], askers: Collection[Client], address: IPv4Address) -> tuple[str, ...]:
    """A hint, or none. active: who sent something of late, with what a person calls it. address: of our resolver."""
    found = [name for client, name in sorted(active) if client not in askers]
    if not found:
        return ()
    listed = ", ".join(found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    who = f"{listed}{more} {'send' if len(found) > 1 else 'sends'} packets through this box"
    return (
        f"{who} and asked nobody here for a name: rules with names do nothing for what is asked elsewhere; tell "
        f"devices {address} as their DNS server, in the router's DHCP, by hand, or with dhcp.mode, and turn off "
        "DNS of their own (private or secure DNS)",
    )
