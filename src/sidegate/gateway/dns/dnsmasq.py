"""Pure: Resolver -> dnsmasq's configuration.

All of it is read once, at the start, and whoever else is asked for a name means a start: `seating` is how nobody
notices. The other way, `servers-file` and SIGHUP, compares each name in it with all others, at the start
too (add_update_server in src/domain-match.c, called by read_servers_file with marks set): with 100,000 names that is
2 minutes in which nobody answers. SIGHUP only empties the cache and reads the LAN's own names again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sidegate.gateway.desired import TABLE
from sidegate.gateway.dns.learned import names_set
from sidegate.gateway.dns.places import NAME, ResolverPlaces
from sidegate.gateway.dns.resolver import Answer, Resolver

CACHE_SIZE = 10_000
CLIENT_TTL_S = 60
"""The longest that a client may keep an answer: so long what was learned in a fallback, or before a change, lives on.

Asking again costs little: dnsmasq has it in its cache.
"""
CACHE_TTL_S = 3600
"""The longest that dnsmasq keeps an answer; `learned` relies on it."""
NEGATIVE_TTL_S = 60
"""For a denial that does not say how long it holds."""
CONCURRENT = 1000
CONNECTIONS = 100
"""By TCP, of all clients together; dnsmasq gives each a process (tcp_request, for 150 s at the most). Of one device the
kernel lets fewer through: see `services`."""
NOBODY = "127.0.0.1#0"
"""A server that dnsmasq cannot send to (EINVAL, udp_sendmsg in net/ipv4/udp.c): it answers REFUSED at once."""
LOCAL_SUFFIXES = ("home.arpa", "internal", "lan", "local", "localdomain", "fritz.box")
"""Names that only a LAN knows, by RFC 8375 and 6762, ICANN's decision of 2024, and what routers call themselves."""
NO_SUCH_NAMES = ("invalid", "onion", "use-application-dns.net")
"""Nobody has these (RFC 6761, RFC 7686); the last one tells Firefox not to ask elsewhere."""
REBINDING = ("plex.direct",)
"""Public names that are meant to have private addresses."""
_LONGEST_LINE = 1000
"""dnsmasq reads a line into 1025 bytes (read_file in src/option.c, MAXDNAME)."""


def dnsmasq_conf(it: Resolver, at: ResolverPlaces, user: str) -> str:
    """The configuration file; nothing else is read but the LAN's own names. user: whom it becomes."""
    return place(it, at, user) + answers(it)


def place(it: Resolver, at: ResolverPlaces, user: str) -> str:
    """The part that says where it answers, and as whom.

    The relief is bound to what is there as it starts: whoever holds its port keeps it from starting (`make_sock` in
    src/network.c), and it does not last.
    """
    is_home = at.name == NAME
    lines = [
        "# Written by Sidegate whenever it starts this program; see [dns] in its configuration.",
        f"port={at.port}",
        f"interface={it.interface}",
        "except-interface=lo",
        "bind-dynamic" if is_home else "bind-interfaces",
        f"user={user}",
        *(["group="] if user == "root" else []),
        "log-facility=-",
        f"pid-file={at.pid}",
        f"hostsdir={at.hosts}",
    ]
    return "\n".join(lines) + "\n"


def answers(it: Resolver) -> str:
    """The part that says what it answers.

    Records that hold addresses besides A and AAAA (RFC 9460), and the key that hides a name from the engine, are left
    out; ANY is answered with little, for who forges its source (RFC 8482).

    Of several servers all are asked at once. By itself dnsmasq stays with the one that answered first, for 20 s or 50
    names (FORWARD_TIME, FORWARD_TEST in src/config.h), and asks the others only for a client that repeats its question
    letter by letter (forward_query in src/forward.c); many resolvers repeat it from another port.
    """
    lines = [
        "no-resolv",
        "no-poll",
        "all-servers",
        "no-hosts",
        "no-ident",
        f"cache-size={CACHE_SIZE}",
        f"max-ttl={CLIENT_TTL_S}",
        f"max-cache-ttl={CACHE_TTL_S}",
        f"neg-ttl={NEGATIVE_TTL_S}",
        f"dns-forward-max={CONCURRENT}",
        f"max-tcp-connections={CONNECTIONS}",
        "dns-loop-detect",
        "bogus-priv",
        "filter-rr=ANY,HTTPS,SVCB",
        *(["filter-AAAA"] if has_no_ipv6(it) else []),
        "stop-dns-rebind",
        "rebind-localhost-ok",
        *_lines("rebind-domain-ok=/", _may_be_private(it), ""),
        *_whom_to_ask(it),
        *_learned(it),
    ]
    return "\n".join(lines) + "\n"


def _may_be_private(it: Resolver) -> Iterable[str]:
    own = [it.domain] if it.domain else []
    return dict.fromkeys((*LOCAL_SUFFIXES, *REBINDING, *own, *it.rebinding))


def has_no_ipv6(it: Resolver) -> bool:
    """Where the router has IPv6, proxied names get none from the engine; fallen back it is not asked."""
    return it.ipv6 == "off" or (it.ipv6 == "router" and it.proxied == "direct")


def _whom_to_ask(it: Resolver) -> Iterator[str]:
    """Names that no rule names and that only a LAN knows are the router's business."""
    told: dict[str, tuple[str, ...]] = dict.fromkeys(LOCAL_SUFFIXES, (str(it.router),))
    for group in it.names.asked:
        told |= dict.fromkeys(group.names, _servers(it, group.answer))
    told |= dict.fromkeys(NO_SUCH_NAMES, ("",))
    yield from _default(it)
    yield f"server=//{it.router}"
    yield from (f"rev-server={network},{it.router}" for network in it.lan)
    for servers, names in _grouped(told):
        for server in servers:
            yield from _lines("server=/", names, server)


def _default(it: Resolver) -> list[str]:
    return ["server=/#/"] if it.names.default == "blocked" else [f"server={s}" for s in _servers(it, it.names.default)]


def _servers(it: Resolver, answer: Answer) -> tuple[str, ...]:
    if answer == "blocked":
        return ("",)
    if answer == "direct" or it.proxied == "direct":
        return tuple(map(str, it.direct))
    if it.proxied == "refused":
        return (NOBODY,)
    return tuple(f"127.0.0.{1 + k}#{it.engine_port}" for k in range(it.engine_servers))


def _grouped(told: Mapping[str, tuple[str, ...]]) -> Iterable[tuple[tuple[str, ...], list[str]]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, servers in told.items():
        groups.setdefault(servers, []).append(name)
    return groups.items()


def _learned(it: Resolver) -> Iterator[str]:
    """Into the sets that there are: those for IPv6 only where this box routes it."""
    versions = (4, 6) if it.ipv6 == "gateway" else (4,)
    for group in it.names.learned:
        sets = ",".join(f"{v}#inet#{TABLE}#{names_set(key, v)}" for key in group.keys for v in versions)
        yield from _lines("nftset=/", group.names, sets)


def _lines(start: str, names: Iterable[str], end: str) -> Iterator[str]:
    """As few lines as may be."""
    held: list[str] = []
    room = _LONGEST_LINE - len(start) - len(end)
    for name in names:
        if held and sum(map(len, held)) + len(held) + len(name) + 1 > room:
            yield f"{start}{'/'.join(held)}/{end}"
            held = []
        held.append(name)
    if held:
        yield f"{start}{'/'.join(held)}/{end}"
