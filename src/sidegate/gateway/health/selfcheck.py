"""What this box can ask itself: would the kernel forward a client's packet, would what is steered reach this box, and
does our DHCP server take questions?
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

from msgspec import Struct

from sidegate.gateway.box import policyroutes, programs
from sidegate.gateway.box.policyroutes import Rival
from sidegate.gateway.desired import PolicyRoute
from sidegate.probe.dhcp_message import SERVER_PORT
from sidegate.probe.talk import Vantage

_Address = IPv4Address | IPv6Address
_REFUSALS = {
    "No route to host": "it does not forward what comes in there",
    "Network is unreachable": "it has no route",
    "Invalid cross-device link": "reverse path filtering drops it",
}
"""The kernel's words -> what they mean for a packet that comes in (ip_route_input_slow, net/ipv4/route.c)."""


_SOMEWHERE6 = IPv6Address("2000::1")
"""A destination of the internet; nothing is sent there."""
_SETTINGS = Path("/proc/sys/net/ipv4/conf")


class Answer(Struct, frozen=True):
    """by: the interface by which a client's packet would leave; empty: not asked, or not told."""

    is_good: bool
    why: str
    by: str = ""


def would_forward(at: Vantage, target: IPv4Address) -> Answer:
    """The kernel's own decision on a packet of a client to that address (RTM_GETROUTE with an input interface).

    Asked for some addresses that a client may have, until it is good for one: another may be this box's own, or the
    network's, and no packet comes from there. Raises Problems.
    """
    answers = (_asked(at.interface, client, target) for client in _clients(at))
    first = next(answers)
    return first if first.is_good else next((it for it in answers if it.is_good), first)


def _asked(interface: str, client: IPv4Address, target: IPv4Address) -> Answer:
    asked = ("route", "get", str(target), "from", str(client), "iif", interface)
    status, out, err = programs.attempt("ip", "-json", *asked)
    if status:
        said = err.strip().rpartition("answers: ")[2]
        return Answer(False, f"a client's packet would not be forwarded: {_REFUSALS.get(said, said)}")
    way, by = _way(out)
    return Answer(True, f"the kernel would forward a client's packet {way}", by)


def _clients(at: Vantage) -> list[IPv4Address]:
    return [at.router_ip + n for n in (1, 2, 3, -1) if at.router_ip + n != at.ip]


def sends_redirects(interface: str, settings: Path = _SETTINGS) -> bool:
    """Whether the kernel may send ICMP redirects there. Such a setting it announces to nobody (`devinet.c`
    devinet_conf_proc). False for an interface that is gone.
    """
    try:
        return any((settings / it / "send_redirects").read_text().strip() != "0" for it in ("all", interface))
    except OSError:
        return False


def would_reach_us(
    at: Vantage, routes: Iterable[PolicyRoute], lan6: Sequence[IPv6Network], target: IPv4Address
) -> Answer:
    """The kernel's own decision on a client's packet that bears the mark: is it for this box, whatever its destination?

    Asked of each rule too that comes before ours, by the very addresses that it is about. Raises Problems.
    """
    for route in routes:
        clients: Sequence[_Address] = [*_clients(at)[:1]] if route.family == 4 else [it[-2] for it in lan6[:1]]
        if clients and (why := _strays(at, route, clients[0], target if route.family == 4 else _SOMEWHERE6)):
            return Answer(False, f"what is steered does not reach the engine: {why}")
    return Answer(True, "the kernel would bring what is steered to the engine")


def _strays(at: Vantage, route: PolicyRoute, client: _Address, target: _Address) -> str:
    """Why a packet with the mark would not come to this box; empty if it would."""
    rivals = policyroutes.rivals(route)
    if rivals is None:
        return f"our rule is gone ({route.place})"
    for rival in rivals:
        if not _is_ours(at, route, *_about(rival, at, client, target)):
            what = f"somebody else's IPv{route.family} rule at priority {route.rank} comes before ours: {rival.text}"
            return f"{what}; delete it, and add it with a priority from 1 on"
    return "" if _is_ours(at, route, client, target) else f"routing table {route.table} has another route"


def _about(rival: Rival, at: Vantage, client: _Address, target: _Address) -> tuple[_Address, _Address]:
    """From whom and where to, so that the rule is about it. Nothing comes in from this box's own address."""
    source, destination = rival.source, rival.destination
    if source is not None and client not in source:
        client = next((it for it in (source[-1], source[0]) if it != at.ip), client)
    return client, target if destination is None or target in destination else destination[0]


def _is_ours(at: Vantage, route: PolicyRoute, client: _Address, target: _Address) -> bool:
    where = ("from", str(client), "iif", at.interface, "mark", f"{route.mark:#x}")
    status, out, _ = programs.attempt("ip", "-json", f"-{route.family}", "route", "get", str(target), *where)
    found = json.loads(out or "[]") if status == 0 else []
    return any(it.get("type") == "local" for it in found)


def _way(out: str) -> tuple[str, str]:
    """In words, and the interface."""
    try:
        route = json.loads(out)[0]
        return f"to {route.get('gateway') or 'its target'} by {route['dev']}", str(route["dev"])
    except (ValueError, LookupError, TypeError):
        return "by a way that `ip` does not tell", ""


def takes_questions(table: str | None = None) -> Answer:
    """Whether somebody reads what comes in at the DHCP servers' port. table: the text of /proc/net/udp.

    A server that hangs leaves its questions in the socket's queue (`rx_queue`, proc_pid_net(5)). It cannot be asked
    from here: what this box sends to itself does not come in by the LAN.
    """
    text = Path("/proc/net/udp").read_text("ascii") if table is None else table
    queues = [_queue(line.split()) for line in text.splitlines()[1:]]
    waiting = [q for q in queues if q is not None]
    if not waiting:
        return Answer(False, "our DHCP server does not run, or does not listen")
    if max(waiting):
        return Answer(False, f"our DHCP server leaves questions unread ({max(waiting)} bytes)")
    return Answer(True, "our DHCP server takes what it is asked")


def _queue(words: list[str]) -> int | None:
    """Bytes that wait at a socket of that port; None for another socket."""
    if len(words) < 5 or int(words[1].rpartition(":")[2], 16) != SERVER_PORT:
        return None
    return int(words[4].rpartition(":")[2], 16)
