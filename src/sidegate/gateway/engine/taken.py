"""Who listens already where devices are to find the proxy (`proxy.lan_port`). Looks, changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from sidegate.gateway.dns.here import Holder, holders
from sidegate.problems import Exit, Problem

Networks = Iterable[IPv4Network | IPv6Network]


def taken(port: int, lan: Networks, proc: Path = Path("/proc")) -> Problem | None:
    """Who would no longer be reached from the LAN, for the port leads to the engine from there; None: nobody."""
    return refusal(port, lan, holders(proc, port))


def refusal(port: int, lan: Networks, found: Iterable[Holder]) -> Problem | None:
    """Who listens at 127.0.0.1 alone, or on another network, is reached as before."""
    networks = tuple(lan)
    listeners = (it for it in found if it.protocol == "tcp" and _is_for_lan(_plain(it.address), networks))
    holder = next(listeners, None)
    if holder is None:
        return None
    what = f"{port}: {holder.who} listens there already, and the LAN would find the proxy in its place"
    return Problem("proxy.lan_port", what, "take a port that nobody uses, such as 1080, or stop it", Exit.FAULT)


def _is_for_lan(address: IPv4Address | IPv6Address, lan: Networks) -> bool:
    is_local6 = isinstance(address, IPv6Address) and address.is_link_local
    return address.is_unspecified or is_local6 or any(address in network for network in lan)


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """IPv4 by a socket of IPv6."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
