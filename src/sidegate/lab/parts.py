"""What a lab is made of, as pure data: machines, bridges, wires, and what every kind of machine has in common."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

from msgspec import Struct

from sidegate.home import Service

INTERNET, MODEM = "internet", "modem"
LAN_PORT = "eth0"
"""The network interface of the gateway and of every client, whatever its medium."""


class End(Struct, frozen=True):
    """One end of a wire. bridge: the bridge of that machine it becomes a port of.

    index: the interface's index, another one for every end of the lab. Were both ends of a veth pair alike, the kernel
    would not see a stacked device in it and tell its carrier up to a second late (net/core/link_watch.c,
    linkwatch_urgent_event); a bridge port drops frames until then.
    """

    machine: str
    interface: str
    mac: str
    index: int
    bridge: str | None = None


class Wire(Struct, frozen=True):
    """A link between two machines; the rate holds each way. cut: the far end is left down (a pulled cable)."""

    near: End
    far: End
    rate_mbit: float | None = None
    cut: bool = False


class Bridge(Struct, frozen=True):
    name: str
    mac: str


class Rules(Struct, frozen=True):
    """A ruleset: the program that loads it, and its text."""

    program: tuple[str, ...]
    text: str


class Proxy(Struct, frozen=True):
    """One proxy service of one server: it listens at, and asks from, the server's own addresses.

    name: unique within a home, as in "proxy-vless". domain: empty where it has none. v6: likewise.
    """

    service: Service
    name: str
    domain: str
    v4: str
    v6: str
    port: int


class Machine(Struct, frozen=True):
    """One network namespace.

    settings: sysctls (path below /proc/sys, value), written before any interface exists.
    addresses: `ip -batch` lines once the interfaces are there. daemons: programs that return when they are ready.
    listens: what answers here, as (service, address, port). resolver: its DNS server.
    certificates: domains that servers here must prove to be, each with their addresses. proxies: proxy servers here.
    """

    name: str
    settings: tuple[tuple[str, str], ...]
    bridges: tuple[Bridge, ...] = ()
    addresses: tuple[str, ...] = ()
    rules: tuple[Rules, ...] = ()
    daemons: tuple[tuple[str, ...], ...] = ()
    listens: tuple[tuple[str, str, int], ...] = ()
    resolver: str | None = None
    certificates: tuple[tuple[str, tuple[str, ...]], ...] = ()
    proxies: tuple[Proxy, ...] = ()


class Blueprint(Struct, frozen=True):
    machines: tuple[Machine, ...]
    wires: tuple[Wire, ...]

    def wire_of(self, machine: str) -> Wire:
        """The wire that a gateway's or client's port hangs on."""
        return next(w for w in self.wires if w.near.machine == machine and w.near.interface == LAN_PORT)


def settings(bridge_filter: bool, forwards: bool) -> tuple[tuple[str, str], ...]:
    flag, forward = str(int(bridge_filter)), str(int(forwards))
    v4 = {"forwarding": forward, "rp_filter": "0", "accept_redirects": "1", "send_redirects": "1", "arp_ignore": "0"}
    v6 = {"forwarding": forward, "accept_ra": "0", "accept_dad": "0", "dad_transmits": "0", "disable_ipv6": "0"}
    return (
        ("net/ipv4/ip_forward", forward),
        *((f"net/ipv4/conf/{scope}/{key}", value) for scope in ("all", "default") for key, value in v4.items()),
        *((f"net/ipv6/conf/{scope}/{key}", value) for scope in ("all", "default") for key, value in v6.items()),
        ("net/ipv4/ping_group_range", "0 0"),
        *((f"net/bridge/bridge-nf-call-{family}", flag) for family in ("iptables", "ip6tables", "arptables")),
    )


def other_end(mine: IPv4Interface | IPv6Interface) -> str:
    """The ISP's address on the WAN: the first of the network that is not the router's."""
    first = mine.network.network_address + 1
    return str(first if first != mine.ip else first + 1)


def dnsmasq(name: str, *options: str) -> tuple[str, ...]:
    """A dnsmasq that reads nothing of this machine and goes to the background when it answers."""
    common = ("--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--bind-interfaces", "--user=root", "--group=")
    return ("dnsmasq", *common, f"--pid-file=/run/dnsmasq-{name}.pid", "--cache-size=1000", *options)
