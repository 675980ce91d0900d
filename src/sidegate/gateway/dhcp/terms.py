"""Pure: what our DHCP server shall hand out, and what to think of what others hand out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network

from msgspec import Struct

from sidegate.gateway.box.facts import Facts
from sidegate.gateway.config import ClientConfig, Config, DhcpMode
from sidegate.gateway.desired import Advertiser, DhcpHost, DhcpServer
from sidegate.probe.dhcp import Offer
from sidegate.problems import Exit, Problem, Problems

LEASE_S = {"server": 12 * 3600, "coexist": 300}
"""Short beside a router: when this box is gone, clients are the router's again after one lease at the latest, and the
seconds of one exchange where the router is silent until then (`bench/pulled.py`)."""
_PARTS = {"server": (100, 200), "coexist": (201, 251)}
"""The default range, in 256ths of the LAN. Routers hand out the hundreds by default, as most of them count."""
_SMALLEST_LAN = 16
_MOST_ADDRESSES = 4096
_NAMES_SHOWN = 5
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
TURN_OFF = 'turn its DHCP off, or, where that cannot be done, set dhcp.mode = "coexist"'


def dhcp_server(config: Config, facts: Facts) -> DhcpServer | None:
    """The server that the configuration asks for on this LAN, None for mode `off`. Raises Problems."""
    dhcp, router = config.dhcp, facts.router.address
    if dhcp.mode == "off":
        return None
    own = next(a for a in facts.interface.addresses if router in a.network)
    taken = {own.ip, router, *dhcp.dns}
    ends = dhcp.ends or default_range(own.network, taken, dhcp.mode)
    problems = [*_range_problems(ends, own.network, taken), *_client_problems(config.client, own.network, taken)]
    if dhcp.mode == "server" and own.ip in facts.interface.borrowed:
        what = f"this box's own address {own.ip} is lent by a DHCP server and would end with that one's lease"
        problems.append(Problem("dhcp.mode", what, f"give {facts.interface.name} a fixed address first"))
    if problems or ends is None:
        raise Problems(*problems)
    return DhcpServer(
        interface=facts.interface.name,
        lan=own.network,
        first=ends[0],
        last=ends[1],
        lease_s=dhcp.lease_s or LEASE_S[dhcp.mode],
        gateway=own.ip,
        router=router,
        dns=dhcp.dns or (own.ip if config.resolves else router,),
        domain=dhcp.domain,
        coexists=dhcp.mode == "coexist",
        hosts=tuple(_host(c) for c in config.client if c.ip or c.gateway == "router"),
    )


def advertiser(config: Config, facts: Facts) -> Advertiser | None:
    """What the configuration asks to advertise by IPv6 on this LAN, None for nothing."""
    if config.ipv6.mode != "gateway":
        return None
    return Advertiser(facts.interface.name, config.resolves)


def default_range(
    lan: IPv4Network, taken: Collection[IPv4Address], mode: DhcpMode
) -> tuple[IPv4Address, IPv4Address] | None:
    """The longest stretch without a taken address in the middle of the LAN, 4096 at the most; None in a tiny LAN."""
    if lan.num_addresses < _SMALLEST_LAN:
        return None
    low, high = (lan.num_addresses * part // 256 for part in _PARTS[mode])
    high = min(high, low + _MOST_ADDRESSES, lan.num_addresses - 1)
    base = int(lan.network_address)
    inner = sorted(int(t) - base for t in taken if low <= int(t) - base < high)
    edges = [low - 1, *inner, high]
    stretches = [(b - a, a + 1, b - 1) for a, b in itertools.pairwise(edges) if b - a > 1]
    if not stretches:
        return None
    _, first, last = max(stretches, key=lambda s: s[0])
    return IPv4Address(base + first), IPv4Address(base + last)


def _range_problems(
    ends: tuple[IPv4Address, IPv4Address] | None, lan: IPv4Network, taken: Iterable[IPv4Address]
) -> list[Problem]:
    where = "dhcp.range"
    if ends is None:
        return [Problem(where, f"no default for a LAN as small as {lan}", 'name one, as "192.168.1.4-192.168.1.6"')]
    bad = [e for e in ends if e not in lan or e in (lan.network_address, lan.broadcast_address)]
    problems = [Problem(where, f"{e} is no address for a client in {lan}") for e in bad]
    inside = sorted(t for t in taken if ends[0] <= t <= ends[1])
    return problems + [
        Problem(where, f"{t} is in it and belongs to somebody", "begin or end elsewhere") for t in inside
    ]


def _client_problems(
    clients: Sequence[ClientConfig], lan: IPv4Network, taken: Collection[IPv4Address]
) -> list[Problem]:
    problems = []
    for i, client in enumerate(clients):
        ip, where = client.ip, f"client[{i}].ip"
        if ip is not None and (ip not in lan or ip in (lan.network_address, lan.broadcast_address)):
            problems.append(Problem(where, f"{ip} is no address for a client in {lan}"))
        elif ip in taken:
            problems.append(Problem(where, f"{ip} belongs to this box, the router or a DNS server", "choose another"))
    return problems


def _host(client: ClientConfig) -> DhcpHost:
    name = client.name if _HOST_NAME.fullmatch(client.name) else ""
    return DhcpHost(client.mac, client.ip, name, client.gateway == "router")


def refusal(server: DhcpServer, offers: Iterable[Offer]) -> tuple[Problem, ...]:
    """Why our server must not start beside these; empty where it may. The same are faults once it runs."""
    if server.coexists:
        return tuple(_overlap(server, o) for o in offers if server.may_give(o.address))
    return tuple(
        Problem(
            "dhcp",
            f"another DHCP server, {o.server} ({o.server_mac}), hands out {o.terms((server.gateway,))}",
            TURN_OFF,
            Exit.FAULT,
        )
        for o in offers
    )


def _overlap(server: DhcpServer, offer: Offer) -> Problem:
    what = f"{offer.server} ({offer.server_mac}) offers {offer.address}, which our range holds too"
    remedy = f"choose a dhcp.range apart from the other server's (now {server.first}-{server.last})"
    return Problem("dhcp", what, remedy, Exit.FAULT)


def used_up(server: DhcpServer, lent: Iterable[IPv4Address]) -> tuple[Problem, ...]:
    """That nothing is left for a new device; empty where something is. An address kept for one device is nobody else's
    (dnsmasq's src/dhcp.c, address_allocate).
    """
    size = int(server.last) - int(server.first) + 1
    kept = (host.ip for host in server.hosts if host.ip is not None)
    if len({ip for ip in (*lent, *kept) if server.first <= ip <= server.last}) < size:
        return ()
    what = f"every address of {server.first}-{server.last} is given: a new device gets none"
    remedy = "make dhcp.range larger, or dhcp.lease_s shorter: devices that make up MAC addresses take one for each"
    return (Problem("dhcp.range", what, remedy, Exit.FAULT),)


class Surroundings(Struct, frozen=True):
    """What is known about DHCP on the LAN. offers: of other servers. ours: this box's addresses.

    silent: clients that have sent nothing through this box. unleased: clients with an address of our range that hold
    no lease of ours.
    """

    offers: tuple[Offer, ...]
    ours: tuple[IPv4Address, ...]
    silent: tuple[str, ...] = ()
    unleased: tuple[str, ...] = ()


def hints(mode: DhcpMode, around: Surroundings) -> tuple[str, ...]:
    """What a person should know although nothing is wrong with the gateway itself."""
    found = []
    if mode == "off":
        found += _off_hints(around)
    if mode == "coexist" and not around.offers:
        found.append('no other DHCP server answers now: dhcp.mode = "server" would do')
    if mode != "off" and around.unleased:
        found.append(f"in our DHCP range without a lease of ours: {_some(around.unleased)}")
    if around.silent:
        found.append(f"nothing came through this box yet from {_some(around.silent)}: they may use the router")
    return tuple(found)


def _off_hints(around: Surroundings) -> list[str]:
    if not around.offers:
        return ["no DHCP server answers: clients need an address and this box as their gateway set by hand"]
    elsewhere = [o for o in around.offers if not set(o.gateways) & set(around.ours)]
    return [
        f"the DHCP server {o.server} hands out {o.terms(around.ours)}, not this box as the gateway: set its gateway "
        f"option to {', '.join(map(str, around.ours))}, set clients by hand, or let this box hand out (dhcp.mode)"
        for o in elsewhere
    ]


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
