"""Upstreams' servers that stand on the LAN: what such a machine sends goes straight, or it would come back to it. Pure.

The law, which goes on from those of `nft.py`, `steer.py`, `inbound.py` and `restraint.py`

20. Who answers a socket of the engine's that goes to an upstream, from an address of the LAN, is a proxy's machine
   (`proxies`), whatever its link calls it. What it begins goes straight from then on, from whatever address, before any
   rule is asked; what it began before stays where it is (law 10). So a loop ends with its first turn, for each turn is
   a flow of its own, and the proxy has answered the engine before it begins that: the connection by which it is asked
   or, where it is asked by datagrams alone, the daemon's latest question. What the configuration gives as an address of
   the LAN is spared before anything is answered.

By its MAC address, which is a device here (`restraint`). So whoever is behind a repeater that hides MAC addresses goes
straight with a proxy that is behind it: only addresses would tell them apart, of which the proxy may have any, and a
loop takes the proxy from everybody. `status` tells of them. Straight, and not refused, with `on_failure = "block"` too:
a proxy that gets nowhere is none. Who takes the proxy's address (ARP) has its own traffic go straight and no more, as
it would by taking the router as its gateway. The main router is never one, for others' packets come by it, of proxies
beyond the LAN too.

An answer is what conntrack takes for one. A datagram that nobody asked for is none, though it reaches the engine's
socket: those of UDP are open to everybody, and broadcasts are many in a home. Who forges an answer (both addresses and
ports, and of TCP the window) may have any device's traffic go straight, or fill the set; by ARP it could take
everybody's. Where the owner's own rules leave this box's traffic untracked, nobody is met.

Sources: `nft_socket.c` nft_socket_eval (the mark of the packet's own socket, which early demux has found in most cases,
`ip_input.c` ip_rcv_finish_core); a socket that was accepted bears the mark of its listener (inet_csk_accept): not this.
An error of ICMP is of the state `related`, and its socket that of the packet inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from sidegate.gateway.ruleset.nfttext import TO_UPSTREAM, block, dynamic
from sidegate.gateway.ruleset.restraint import DEVICE

PROXIES = "proxies"
_ANSWER = "ct state established ct direction reply"
"""First, for what is steered to the engine is not tracked, and asked no more."""
_SIZE = 256
_KNOWN_S = 3600
"""Each upstream is asked something every minute (`engine.choice`), and whatever its server answers renews this."""

KNOWN = dynamic(PROXIES, DEVICE, _SIZE, _KNOWN_S)
"""The set."""


def straight(family: int) -> str:
    """The rule that comes before all those of the policy."""
    return f"{DEVICE} @{PROXIES} goto to_straight{family}"


def chains(
    interface: str, lan4: str, router: str, *, ipv6: bool, servers: Sequence[IPv4Address | IPv6Address]
) -> list[str]:
    """ipv6: whether the set lan6 is there; without it servers are known by the addresses that the configuration gives.

    Where the router is not known nobody is met, for it might be the router.
    """
    if not router:
        return []
    own6 = ", ".join(str(it) for it in servers if it.version == 6)
    others = ["ip6 saddr @lan6 goto met"] if ipv6 else [f"ip6 saddr {{ {own6} }} goto met"] if own6 else []
    meets = [
        "type filter hook input priority raw; policy accept;",
        f'iifname != "{interface}" return',
        f"ip saddr {lan4} goto met",
        *others,
        "ip6 saddr fe80::/10 goto met",
    ]
    met = [f"{_ANSWER} {TO_UPSTREAM} {DEVICE} != {router} update @{PROXIES} {{ {DEVICE} }}"]
    return [block("chain", "met", met), block("chain", "meets", meets)]
