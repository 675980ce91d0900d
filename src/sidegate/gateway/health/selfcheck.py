"""What this box can ask itself: would the kernel forward a client's packet, and does our DHCP server take questions?"""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path

from msgspec import Struct

from sidegate.gateway.box import programs
from sidegate.probe.dhcp_message import SERVER_PORT
from sidegate.probe.talk import Vantage

_REFUSALS = {
    "No route to host": "it does not forward what comes in there",
    "Network is unreachable": "it has no route",
    "Invalid cross-device link": "reverse path filtering drops it",
}
"""The kernel's words -> what they mean for a packet that comes in (ip_route_input_slow, net/ipv4/route.c)."""


class Answer(Struct, frozen=True):
    is_good: bool
    why: str


def would_forward(at: Vantage, target: IPv4Address) -> Answer:
    """The kernel's own decision on a packet of a client to that address (RTM_GETROUTE with an input interface).

    Asked for some addresses that a client may have, until it is good for one: another may be this box's own, or the
    network's, and no packet comes from there. Raises Problems.
    """
    clients = [at.router_ip + n for n in (1, 2, 3, -1) if at.router_ip + n != at.ip]
    answers = (_asked(at.interface, client, target) for client in clients)
    first = next(answers)
    return first if first.is_good else next((it for it in answers if it.is_good), first)


def _asked(interface: str, client: IPv4Address, target: IPv4Address) -> Answer:
    asked = ("route", "get", str(target), "from", str(client), "iif", interface)
    status, out, err = programs.attempt("ip", "-json", *asked)
    if status:
        said = err.strip().rpartition("answers: ")[2]
        return Answer(False, f"a client's packet would not be forwarded: {_REFUSALS.get(said, said)}")
    return Answer(True, f"the kernel would forward a client's packet {_way(out)}")


def _way(out: str) -> str:
    try:
        route = json.loads(out)[0]
        return f"to {route.get('gateway') or 'its target'} by {route['dev']}"
    except (ValueError, LookupError, TypeError):
        return "by a way that `ip` does not tell"


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
