"""The box and its LAN as they are now. Looks, changes nothing; parsing is apart from looking.

Through `ip -json` and `nft -j`: a netlink library would cost the daemon more than half of its 40 MB.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, collapse_addresses
from pathlib import Path
from typing import Any

from msgspec import Struct

from sidegate.gateway.aside import stepaside
from sidegate.gateway.box import journal as journals
from sidegate.gateway.box import programs
from sidegate.gateway.box.firewalls import ForeignDrop, drops
from sidegate.gateway.box.journal import STATE_DIR
from sidegate.gateway.config import Config
from sidegate.gateway.desired import TABLE
from sidegate.packet import BROADCAST, ETH_ARP, NO_MAC, Arp, build, frame_of, parse
from sidegate.probe.talk import Vantage
from sidegate.problems import Exit, Problem, Problems

ARP_WAITS_S = (0.1, 0.2, 0.4, 0.8)
"""How long each ARP request waits for its answer: 1.5 s in all."""

_SYSCTLS = ("all/send_redirects", "{0}/send_redirects", "all/rp_filter", "{0}/rp_filter", "{0}/forwarding")
_SETTINGS6 = Path("/proc/sys/net/ipv6/conf")
_SYSCTLS6 = ("all/forwarding", "{0}/forwarding", "{0}/force_forwarding", "{0}/accept_ra", "lo/disable_ipv6")
_OF_BRIDGES = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
_END = "\n}\n"
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}  # include/uapi/linux/capability.h


class Interface(Struct, frozen=True):
    """The LAN interface. mac: lower case. mtu: bytes. borrowed: its addresses that end, as a lease does."""

    name: str
    mac: str
    addresses: tuple[IPv4Interface, ...]
    mtu: int
    borrowed: tuple[IPv4Address, ...] = ()


class Router(Struct, frozen=True):
    """mac: from its ARP reply, lower case."""

    address: IPv4Address
    mac: str | None


class Neighbour(Struct, frozen=True):
    """One line of the kernel's neighbour table. mac: None while unresolved. state: as `ip neigh` says it."""

    ip: IPv4Address
    mac: str | None
    state: str


class Facts(Struct, frozen=True):
    """lan: on-link networks of the interface; lan6: those of IPv6 that are not link-local.

    forward_drops, input_drops: chains on these hooks, of IPv4 and IPv6. sysctls: path below /proc/sys, separated by
    `/` -> value. table: our table as `nft -t list table` prints it, None if it is not there. boot_id: of the running
    kernel.
    """

    interface: Interface
    router: Router
    lan: tuple[IPv4Network, ...]
    neighbours: tuple[Neighbour, ...]
    sysctls: dict[str, str]
    forward_drops: tuple[ForeignDrop, ...]
    table: str | None
    boot_id: str
    lan6: tuple[IPv6Network, ...] = ()
    input_drops: tuple[ForeignDrop, ...] = ()


class Link(Struct, frozen=True):
    """An interface of `ip -json -details address`. kind: `ether` for what ARP works on.

    has_carrier: LOWER_UP; the operational state, NO-CARRIER, follows up to 1 s later (`link_watch.c`). lan6: networks
    of its IPv6 addresses but the link-local ones. is_bridge: of the kernel's own kind; is_filtering: which hands its
    frames to netfilter by a switch of its own, whatever the one for all bridges says.
    """

    interface: Interface
    kind: str
    is_up: bool
    has_carrier: bool
    lan6: tuple[IPv6Network, ...] = ()
    is_bridge: bool = False
    is_filtering: bool = False


class Route(Struct, frozen=True):
    """A route of `ip -json route`: `to` None is the default route; `via` None is on-link."""

    to: IPv4Network | None
    via: IPv4Address | None
    interface: str
    metric: int


def observe(config: Config, state_dir: Path = STATE_DIR) -> Facts:
    """The facts, or Problems naming all that is wrong. state_dir: where the journal is. Takes 1.5 s if no router."""
    problems = [*_privileges(), *programs.missing("ip", "nft")]
    if programs.find("ip") is None:
        raise Problems(*problems)
    links, routes = _links(), _routes()
    link, router = _place(config, links, routes, problems)
    mac = _router_mac(link, router, state_dir, problems) if link and router and not problems else None
    lacks_means = any(p.exit_code == Exit.MISSING for p in problems)
    table = None if lacks_means else _own_table(state_dir, problems)
    if problems or link is None or router is None:
        raise Problems(*problems)
    rulesets = programs.run("nft", "--json", "--terse", "list", "ruleset")
    return Facts(
        interface=link.interface,
        router=Router(router, mac),
        lan=_lan(link, routes),
        neighbours=neighbours(link.interface.name),
        sysctls=_sysctls(link, twins(link, links)),
        forward_drops=drops(rulesets, "forward"),
        input_drops=drops(rulesets, "input"),
        table=table,
        boot_id=journals.boot_id(),
        lan6=link.lan6,
    )


def vantage_of(facts: Facts | None) -> Vantage | None:
    """From where the router and clients are asked; None without a router that answers."""
    if facts is None or facts.router.mac is None:
        return None
    router = facts.router.address
    ip = next(a.ip for a in facts.interface.addresses if router in a.network)
    return Vantage(facts.interface.name, facts.interface.mac, ip, router, facts.router.mac)


def neighbours(interface: str) -> tuple[Neighbour, ...]:
    """The kernel's IPv4 neighbour table for this interface. Raises Problems."""
    return parse_neighbours(programs.run("ip", "-json", "-4", "neighbour", "show", "dev", interface))


def list_table() -> str | None:
    """Our table without the elements of its sets, None if it is not there. Raises Problems.

    From the whole ruleset: asked for one table, nft 1.0.6 reads all elements first, of which there may be many.
    """
    listing = programs.run("nft", "--terse", "list", "ruleset")
    _, found, rest = f"\n{listing}".partition(f"\ntable inet {TABLE} {{")
    return f"{found[1:]}{rest[: rest.index(_END) + len(_END)]}" if found else None


def _privileges() -> list[Problem]:
    status = Path("/proc/self/status").read_text()
    lacking = missing_capabilities(status)
    if not lacking:
        return []
    return [Problem("privileges", f"{' and '.join(lacking)} missing", "run it as root, with sudo", Exit.MISSING)]


def missing_capabilities(status: str) -> list[str]:
    """Of the capabilities we need, those that are not effective. status: text of /proc/self/status."""
    line = next((x for x in status.splitlines() if x.startswith("CapEff:")), "CapEff: 0")
    effective = int(line.split()[1], 16)
    return [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]


def _links() -> list[Link]:
    return parse_links(programs.run("ip", "-json", "-details", "address", "show"))


def _routes() -> list[Route]:
    return parse_routes(programs.run("ip", "-json", "-4", "route", "show"))


def _objects(text: str) -> list[dict[str, Any]]:
    """The objects of a JSON list; `ip` prints nothing at all, or an empty object, where it has nothing to say."""
    try:
        data = json.loads(text or "[]")
    except ValueError as error:
        raise Problems(Problem("ip -json", f"prints no JSON: {error}", "a newer iproute2 is needed")) from None
    return [x for x in data if isinstance(x, dict) and x] if isinstance(data, list) else []


def parse_links(text: str) -> list[Link]:
    """Interfaces in what `ip -json -details address` printed; what is no interface is left out."""
    return [_link(x) for x in _objects(text) if "ifname" in x]


def _link(data: dict[str, Any]) -> Link:
    flags = data.get("flags", [])
    found = [x for x in data.get("addr_info", []) if x.get("family") == "inet"]
    addresses = tuple(IPv4Interface(f"{x['local']}/{x['prefixlen']}") for x in found)
    borrowed = tuple(IPv4Address(x["local"]) for x in found if x.get("dynamic"))
    mac = data.get("address", "").lower()
    interface = Interface(data["ifname"], mac, addresses, data.get("mtu", 1500), borrowed)
    networks6 = [
        IPv6Interface(f"{x['local']}/{x['prefixlen']}").network
        for x in data.get("addr_info", [])
        if x.get("family") == "inet6" and x.get("scope") == "global"
    ]
    lan6 = tuple(collapse_addresses(networks6))
    kind = data.get("linkinfo", {})
    is_bridge, own = kind.get("info_kind") == "bridge", kind.get("info_data", {})
    return Link(
        interface,
        data.get("link_type", ""),
        "UP" in flags,
        "LOWER_UP" in flags,
        lan6,
        is_bridge,
        is_bridge and any(own.get(f"nf_call_{family}tables") for family in ("ip", "ip6")),
    )


def parse_routes(text: str) -> list[Route]:
    """Unicast routes in what `ip -json route` printed, the preferred one first; what is no such route is left out."""
    routes = [_route(x) for x in _objects(text) if x.get("type", "unicast") == "unicast"]
    return sorted((r for r in routes if r is not None), key=lambda r: r.metric)


def _route(data: dict[str, Any]) -> Route | None:
    try:
        to = None if data["dst"] == "default" else IPv4Network(data["dst"])
        via = IPv4Address(data["gateway"]) if "gateway" in data else None
        return Route(to, via, data["dev"], int(data.get("metric", 0)))
    except (KeyError, ValueError, TypeError):
        return None


def parse_neighbours(text: str) -> tuple[Neighbour, ...]:
    """Neighbours in what `ip -json -4 neighbour` printed; lines without a usable address are left out."""
    return tuple(n for n in map(_neighbour, _objects(text)) if n is not None)


def _neighbour(data: dict[str, Any]) -> Neighbour | None:
    try:
        ip = IPv4Address(data["dst"])
    except (KeyError, ValueError):
        return None
    mac, states = data.get("lladdr"), data.get("state")
    state = str(states[0]) if isinstance(states, list) and states else "NONE"
    return Neighbour(ip, mac.lower() if isinstance(mac, str) else None, state)


def _place(
    config: Config, links: list[Link], routes: list[Route], problems: list[Problem]
) -> tuple[Link | None, IPv4Address | None]:
    """The interface and the router, configured or found; None after adding to `problems`."""
    wanted, router = config.network.interface, config.network.router
    defaults = [r for r in routes if r.to is None and r.via is not None and wanted in (None, r.interface)]
    name = wanted or _interface_of(router, links) or (defaults[0].interface if defaults else None)
    router = router or next((r.via for r in defaults if r.interface == name), None)
    link = _usable(name, links, problems) if name else None
    if name is None or (link and router is None):
        problems.append(_no_route(wanted, router))
    if link and router:
        problems.extend(_misplaced(router, link))
    return link, router


def _interface_of(router: IPv4Address | None, links: list[Link]) -> str | None:
    if router is None:
        return None
    return next((x.interface.name for x in links for a in x.interface.addresses if router in a.network), None)


def _no_route(interface: str | None, router: IPv4Address | None) -> Problem:
    if router is not None:
        what = f"no default route, and no interface has an address beside the router {router}"
        return Problem("network.router", what, "check network.router, or set network.interface")
    what = f"no default route by {interface}" if interface else "no default route"
    return Problem("network", what, "set network.router to the main router's address, or mend the route")


def _usable(name: str, links: list[Link], problems: list[Problem]) -> Link | None:
    link = next((x for x in links if x.interface.name == name), None)
    if link is None:
        known = ", ".join(dict.fromkeys(x.interface.name for x in links if x.interface.name != "lo"))
        problems.append(Problem(name, "no such interface", f"interfaces here: {known}"))
        return None
    faults = []
    if link.kind != "ether":
        faults.append(Problem(name, f"not an Ethernet interface ({link.kind})", "set network.interface"))
    if not link.is_up:
        faults.append(Problem(name, "the interface is down", f"ip link set {name} up"))
    elif not link.has_carrier:
        faults.append(Problem(name, "the interface has no carrier", "plug the cable in, or look at the other end"))
    if not link.interface.addresses:
        faults.append(Problem(name, "the interface has no IPv4 address", "give it one, by DHCP or by hand"))
    if link.is_filtering:
        remedy = f"ip link set {name} type bridge nf_call_iptables 0 nf_call_ip6tables 0"
        faults.append(Problem(name, "this bridge hands its frames to netfilter, which keeps them from TPROXY", remedy))
    problems.extend(faults)
    return None if faults else link


def _misplaced(router: IPv4Address, link: Link) -> list[Problem]:
    name, addresses = link.interface.name, link.interface.addresses
    if router in (a.ip for a in addresses):
        return [Problem("network.router", f"{router} is this box itself", "name the main router's address")]
    if not any(router in a.network for a in addresses):
        shown = ", ".join(map(str, addresses))
        what = f"{router} is outside the networks of {name} ({shown})"
        return [Problem("network.router", what, "check network.router, network.interface and the box's address")]
    return []


def _router_mac(link: Link, router: IPv4Address, state_dir: Path, problems: list[Problem]) -> str | None:
    source = next(a.ip for a in link.interface.addresses if router in a.network)
    if stepaside.load(state_dir) is not None:
        # Nobody learns from a sender of 0.0.0.0 (RFC 5227 section 2.1.1): clients stay with the router meanwhile.
        source = IPv4Address(0)
    mac = ask_arp(link.interface, source, router)
    if mac is None:
        what = f"the router {router} does not answer ARP on {link.interface.name}"
        problems.append(Problem("network.router", what, "check the address, the cable, and that the router is on"))
    return mac


def ask_arp(interface: Interface, source: IPv4Address, target: IPv4Address) -> str | None:
    """The MAC address that answers for target, lower case; None after 1.5 s without answer. Raises Problems.

    Asks itself (RFC 826) where the kernel would not: a STALE neighbour may have been gone for hours.
    """
    request = Arp(reply=False, sender_mac=interface.mac, sender_ip=source, target_mac=NO_MAC, target_ip=target)
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ARP)) as wire:
            wire.bind((interface.name, ETH_ARP))
            for wait_s in ARP_WAITS_S:
                wire.send(build(frame_of(BROADCAST, interface.mac, request)))
                answer = _await_arp(wire, target, time.monotonic() + wait_s)
                if answer is not None:
                    return answer
    except OSError as error:
        raise Problems(Problem(interface.name, f"ARP cannot be asked there: {error.strerror}")) from None
    return None


def _await_arp(wire: socket.socket, target: IPv4Address, deadline_s: float) -> str | None:
    while (left_s := deadline_s - time.monotonic()) > 0:
        wire.settimeout(left_s)
        try:
            heard = parse(wire.recv(128)).body
        except TimeoutError:
            return None
        if isinstance(heard, Arp) and heard.reply and heard.sender_ip == target:
            return heard.sender_mac
    return None


def _own_table(state_dir: Path, problems: list[Problem]) -> str | None:
    try:
        journal, table = journals.load(state_dir), list_table()
    except Problems as found:
        problems.extend(found.problems)
        return None
    if table is not None and (journal is None or journal.table is None):
        what = "a table of our name is there that no journal of ours knows"
        remedy = f"if nobody needs it: nft delete table inet {TABLE}"
        problems.append(Problem(f"nft table inet {TABLE}", what, remedy))
    return table


def _lan(link: Link, routes: Iterable[Route]) -> tuple[IPv4Network, ...]:
    """Networks of the addresses and on-link routes; an on-link default route makes no LAN of the internet."""
    name = link.interface.name
    routed = [r.to for r in routes if r.interface == name and r.via is None and r.to is not None]
    return tuple(collapse_addresses([a.network for a in link.interface.addresses] + routed))


def twins(link: Link, links: Iterable[Link]) -> list[str]:
    """Other interfaces of this box with an address in the same LAN, as Wi-Fi beside the cable."""
    networks, others = [a.network for a in link.interface.addresses], [x.interface for x in links if x.kind == "ether"]
    found = (x.name for x in others if any(a.ip in network for a in x.addresses for network in networks))
    return sorted({*found} - {link.interface.name})


def _sysctls(link: Link, beside: Iterable[str]) -> dict[str, str]:
    """Those of IPv6 where the kernel has them; every interface's forwarding where it has one switch for all of them.

    Those of bridges where this is one, and br_netfilter is there. Those of its twins beside it.
    """
    interface = link.interface.name
    paths = [f"net/ipv4/conf/{p.format(interface)}" for p in _SYSCTLS]
    paths6 = [f"net/ipv6/conf/{p.format(interface)}" for p in _SYSCTLS6]
    if not Path("/proc/sys/net/ipv6/conf/all/force_forwarding").exists():
        paths6 += sorted(f"net/ipv6/conf/{p.parent.name}/forwarding" for p in _SETTINGS6.glob("*/forwarding"))
    of_twins = (f"net/ipv4/conf/{name}/arp_ignore" for name in beside)
    optional = (*paths6, *(_OF_BRIDGES if link.is_bridge else ()), *of_twins)
    found = [*paths, *(p for p in dict.fromkeys(optional) if Path("/proc/sys", p).exists())]
    return {p: Path("/proc/sys", p).read_text().strip() for p in found}
