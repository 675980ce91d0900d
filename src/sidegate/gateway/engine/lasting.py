"""How many connections of clients a generation of the engine still carries."""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address

from sidegate.gateway.box import programs
from sidegate.gateway.desired import TABLE
from sidegate.gateway.split.ports import Ports, engine_mark

_OPEN = ("established", "syn-recv", "fin-wait-1", "fin-wait-2")
"""States in which a client may still send (ss(8)). One that has closed its side waits for nothing, as a rule, and where
the server says nothing more Xray would hold the rest of such a connection for hours."""

Networks = Iterable[IPv4Network | IPv6Network]


def lasting(generation: int, places: Iterable[Ports], lan: Networks) -> int:
    """places: where it takes traffic in. Raises Problems.

    TCP by its sockets, which bear its mark, with clients at their other end; UDP by what the kernel steered there not
    long ago (`steer`): a socket for UDP does not tell whether anybody still uses it.
    """
    states = [word for state in _OPEN for word in ("state", state)]
    sockets = programs.run("ss", "-Htn", *states, f"fwmark = {engine_mark(generation):#x}")
    return with_clients(sockets, lan) + sum(_datagram_flows(port) for it in places for port in (it.decided, it.named))


def with_clients(sockets: str, lan: Networks) -> int:
    """How many of the sockets that `ss -Htn` lists have their other end on the LAN."""
    peers = (line.split()[-1].rpartition(":")[0] for line in sockets.splitlines() if line.strip())
    addresses = (ip_address(peer.strip("[]").partition("%")[0].removeprefix("::ffff:")) for peer in peers)
    networks = tuple(lan)
    return sum(any(it in network for network in networks) for it in addresses)


def _datagram_flows(port: int) -> int:
    return sum(_count(f"steered{port}_{version}") for version in (4, 6))


def _count(name: str) -> int:
    """The elements of one of our sets; none if it is not there."""
    status, out, _ = programs.attempt("nft", "--json", "list", "set", "inet", TABLE, name)
    objects = json.loads(out)["nftables"] if status == 0 else []
    return sum(len(it["set"].get("elem", ())) for it in objects if "set" in it)
