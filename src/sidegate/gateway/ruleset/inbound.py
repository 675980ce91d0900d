"""Services of the LAN that the router forwards from the internet, as sets and chains: of them this box sees the answers
alone, and cannot tell them from what a client begins. Pure.

The laws, which go on from those of `nft.py` and `steer.py`

14. A client's packet with a public source address is one that a filtering bridge between it and this box has
   translated back (the answer of such a service). It is remembered (`translated4`) to be told: by way of this box the
   service cannot be reached.
15. What a device sends from ports that its owner has named (`forwarded`) is an answer: neither steered nor tracked,
   whatever is known of the device. Datagrams would else be taken for the beginning of a flow, and reach whoever asked
   from a stranger's address. TCP hardly needs it, since only a SYN is decided.

Sources: `br_netfilter_hooks.c` (PRE_ROUTING of a bridged frame; `nf_nat_core.c` undoes the router's DNAT there).
"""

from __future__ import annotations

from msgspec import Struct

from sidegate.gateway.config.fields import Protocol
from sidegate.gateway.ruleset.nfttext import CLIENT, constant, dynamic

TRANSLATED = "translated4"
TRANSLATED_SIZE = 256


class Forwarded(Struct, frozen=True, order=True):
    """A port of a device that the router forwards to it. mac: lower case."""

    mac: str
    protocol: Protocol
    port: int


def sets(router: str, forwarded: tuple[Forwarded, ...]) -> list[str]:
    """router: see `foreign`; empty: nobody is suspected."""
    found = [dynamic(TRANSLATED, CLIENT, TRANSLATED_SIZE, 3600)] if router else []
    if forwarded:
        elements = [f"{it.mac} . {it.protocol} . {it.port}" for it in sorted(set(forwarded))]
        found.append(constant("forwarded", "ether_addr . inet_proto . inet_service", elements))
    return found


def foreign(router: str, mac: str) -> list[str]:
    """Of what bears an address from outside of the LAN. router: its MAC address, by which answers to masqueraded
    clients come; mac: of this box. Private addresses may be those of networks behind a device of the LAN.
    """
    return [
        f"ether saddr {router} return",
        f"ether daddr != {mac} return",
        "ip saddr @private4 return",
        f"update @{TRANSLATED} {{ {CLIENT} }}",
    ]


def answers(interface: str, forwarded: tuple[Forwarded, ...]) -> list[str]:
    """fib: what leaves by another interface, as into a tunnel, would miss its own NAT if it were not tracked."""
    if not forwarded:
        return []
    named = "ether saddr . meta l4proto . th sport @forwarded"
    return [f'{named} fib daddr oifname "{interface}" notrack return']
