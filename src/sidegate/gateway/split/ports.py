"""The marks, the routing table and the local ports by which kernel, engine and resolver know each other.

The ports lie below the kernel's range for outgoing connections (net.ipv4.ip_local_port_range, from 32768). Several
generations of the engine may run at a time: a new one takes the new connections while the old ones end their own.
"""

from __future__ import annotations

from msgspec import Struct

MARK_MASK = 0xFF000000
STEERED_MARK = 0x5D000000
"""On a packet for the engine: routed to this box itself."""
ENGINE_MARK = 0x5E000000
"""On the engine's own packets, beside the number of its generation: never steered."""
TABLE = 5093
"""The routing table that delivers steered packets."""
RULE_PRIORITY = 0
"""Of the rule that leads there. A rule that somebody adds without a priority is put just before all but the first one,
which is that of the table `local`; but nothing comes before priority 0: there it is put behind ours (`fib_rules.c`
fib_default_rule_pref, fib_nl_newrule)."""
MOST_UPSTREAMS = 64
GENERATIONS = 3
LAN_BIT = 0x00010000
"""On those of the engine's own packets that go straight for a client of `proxy.lan_port`, too."""
UPSTREAM_BIT = 0x00020000
"""On those that go to an upstream's server, too."""
_FIRST, _GENERATION, _PER_UPSTREAM = 15000, 500, 4
_LAN = _PER_UPSTREAM * MOST_UPSTREAMS
"""Of a generation's ports, the first for `proxy.lan_port`."""
ENGINE_PORTS = (_FIRST, _FIRST + GENERATIONS * _GENERATION - 1)
"""The first and the last of the engine's ports, of all generations."""
RELIEF_PORT = 16500
"""Where a second resolver answers while the one at port 53 is started anew (`dns.seating`)."""


class Ports(Struct, frozen=True):
    """Of one upstream in one generation of the engine.

    decided: TPROXY; all of it goes to this upstream. named: TPROXY; the name that the traffic itself shows decides
    once more, by the policy's rules. socks: SOCKS5 and HTTP, to this upstream. udp: whether UDP goes this way at all:
    what could not go on would be lost without a word, and browsers wait for QUIC's answer.
    """

    decided: int
    named: int
    socks: int
    udp: bool = True


def ports(generation: int, upstream: int) -> Ports:
    """generation: below GENERATIONS. upstream: its index, below MOST_UPSTREAMS."""
    first = _FIRST + _GENERATION * generation + _PER_UPSTREAM * upstream
    return Ports(first, first + 1, first + 2)


def engine_mark(generation: int) -> int:
    """What this generation's own packets and sockets bear; of its connections with clients too (inet_csk_accept)."""
    return ENGINE_MARK | generation


def upstream_mark(generation: int) -> int:
    """What this generation's own packets and sockets bear that go to an upstream's server."""
    return engine_mark(generation) | UPSTREAM_BIT


def lan_mark(generation: int) -> int:
    """What this generation's own packets bear that go straight for a client of `proxy.lan_port`."""
    return engine_mark(generation) | LAN_BIT


def lan_port(generation: int, upstream: int | None) -> int:
    """Where it takes what comes by `proxy.lan_port` while this upstream is chosen; None: while none works."""
    return _FIRST + _GENERATION * generation + _LAN + (MOST_UPSTREAMS if upstream is None else upstream)


def dns_port(generation: int) -> int:
    """Where the engine answers DNS for proxied names, on 127.0.0.1, over UDP and TCP."""
    return _FIRST + _GENERATION * generation + _GENERATION - 1
