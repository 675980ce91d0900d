"""What a home and a router profile are, field by field."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Annotated, Generic, Literal, TypeVar

from msgspec import Meta, Struct

from sidegate.problems import Problem, Problems

T = TypeVar("T")

Medium = Literal["wire", "wifi"]
NodeName = Annotated[
    str,
    Meta(pattern="^[a-z][a-z0-9-]{0,14}$", description="a short name of a-z, 0-9 and - (at most 15 characters)"),
]
RadioName = Annotated[str, Meta(pattern="^radio[0-9]$", description='a radio, "radio0" to "radio9"')]
Port = Annotated[int, Meta(ge=1, le=65535, description="a port number from 1 to 65535")]
Rate = Annotated[float, Meta(gt=0, le=1_000_000, description="a rate in Mbit/s above 0, at most 1000000")]
PortCount = Annotated[int, Meta(ge=0, le=64, description="a number of ports from 0 to 64")]
Service = Literal[
    "http",
    "echo",
    "stun",
    "dns",
    "dot",
    "tls",
    "quic",
    "socks",
    "http-proxy",
    "shadowsocks",
    "vmess",
    "vless",
    "trojan",
]
DomainName = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9_]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$",
        description="a domain name in small letters, as in www.example.org",
    ),
]
Nat = Literal["masquerade", "snat", "none"]
Firewall = Literal["nft", "iptables-nft", "iptables-legacy"]
BridgeFilter = Literal["on", "off", "unless-dhcp-points-away"]
GatewayRuns = Literal["nothing", "forwarding", "masquerade", "sidegate"]
Outcome = Literal["direct", "masqueraded", "dead"]
Evidence = Literal["source code", "vendor document", "measured", "report", "guess"]

Address = IPv4Address | IPv6Address

SERVICE_PORTS: dict[Service, int] = {
    "http": 80,
    "echo": 7,
    "stun": 3478,
    "dns": 53,
    "dot": 853,
    "tls": 443,
    "quic": 443,
    "socks": 1080,
    "http-proxy": 3128,
    "shadowsocks": 8388,
    "vmess": 8444,
    "vless": 8443,
    "trojan": 8445,
}
UDP_SERVICES: tuple[Service, ...] = ("echo", "stun", "quic")
PROXY_SERVICES: tuple[Service, ...] = ("socks", "http-proxy", "shadowsocks", "vmess", "vless", "trojan")
CERTIFIED_SERVICES: tuple[Service, ...] = ("dot", "tls", "quic", "vless", "trojan")
"""Those that show a certificate for the server's domain."""


class Known(Struct, Generic[T], frozen=True, forbid_unknown_fields=True):
    """A field of a profile: its value, and why we believe it. No value: unknown.

    evidence: the class of the source, strongest first: source code, vendor document, measured, report, guess.
    source: where it can be looked up. note: limits, models, conditions.
    """

    value: T | None = None
    evidence: Evidence | None = None
    source: str = ""
    note: str = ""


class RouterProfile(Struct, frozen=True, forbid_unknown_fields=True):
    """How a family of routers behaves.

    bridge_filter: whether the LAN bridge's frames run through conntrack (`bridge-nf-call-iptables`).
      `unless-dhcp-points-away`: on, unless the router's DHCP hands out another gateway or DNS than the router itself.
    nat: how IPv4 leaves the WAN. drop_invalid: whether forwarded packets of conntrack state INVALID are dropped.
    dns_hijack: whether port 53 through the router is redirected to the router's own resolver.
    dhcp_gateway, dhcp_dns: whether DHCP options 3 and 6 can be set. dhcp_off: whether its DHCP can be turned off.
    static_routes, ssh, ra_off: whether the owner can set routes, log in, and turn router advertisements off.
    """

    title: str
    models: tuple[str, ...] = ()
    bridge_filter: Known[BridgeFilter] = Known()
    nat: Known[Nat] = Known()
    firewall: Known[Firewall] = Known()
    drop_invalid: Known[bool] = Known()
    dns_hijack: Known[bool] = Known()
    dhcp_gateway: Known[bool] = Known()
    dhcp_dns: Known[bool] = Known()
    dhcp_off: Known[bool] = Known()
    static_routes: Known[bool] = Known()
    ssh: Known[bool] = Known()
    ra_off: Known[bool] = Known()
    remedies: tuple[str, ...] = ()


class Assumed(Struct, frozen=True, forbid_unknown_fields=True):
    """What a home assumes of its router where the profile does not know, or to try a variant."""

    bridge_filter: BridgeFilter | None = None
    nat: Nat | None = None
    firewall: Firewall | None = None
    drop_invalid: bool | None = None
    dns_hijack: bool | None = None


class Behaviour(Struct, frozen=True):
    """What a router does in this home: every question answered, for the lab and the walk.

    bridge_filter: whether frames crossing its LAN bridge run conntrack here.
    """

    bridge_filter: bool
    nat: Nat
    firewall: Firewall
    drop_invalid: bool
    dns_hijack: bool


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """A server on the internet. It knows no route to private addresses.

    domain: its name in the DNS. ports: extra TCP ports with HTTP besides port 80 when it serves `http`.
    serves: `echo` and `stun` over UDP; `tls` is HTTPS, `quic` HTTP/3, `dot` DNS over TLS; where `dns` is served too,
      `tls` answers DNS over HTTPS; the proxies (`socks`, `http-proxy`,
      `shadowsocks`, `vmess`, `vless`, `trojan`) ask from the server's own addresses and reach what the ISP blocks.
      What shows a certificate needs a domain.
    """

    name: NodeName
    v4: IPv4Address
    v6: IPv6Address | None = None
    domain: DomainName | None = None
    serves: tuple[Service, ...] = ("http", "echo")
    ports: tuple[Port, ...] = ()


class Lie(Struct, frozen=True, forbid_unknown_fields=True):
    """A false answer: the addresses that a name, and every name below it, has for whoever is lied to.

    v6: None: whoever asks for an IPv6 address is told that there is no such name.
    """

    domain: DomainName
    v4: IPv4Address
    v6: IPv6Address | None = None


class Isp(Struct, frozen=True, forbid_unknown_fields=True):
    """The home's internet provider. resolver: its DNS server, which the router asks.

    lie: what it lies about. forges: plain DNS from the home to any other server is answered by the resolver too, in
      that server's name, over UDP and TCP.
    """

    resolver: IPv4Address
    lie: tuple[Lie, ...] = ()
    forges: bool = False


class Internet(Struct, frozen=True, forbid_unknown_fields=True):
    """blocked: destinations whose packets from the home the ISP drops; a blocked server is up, and others reach it.

    isp: None: the provider has no DNS server of its own, and nobody lies.
    """

    server: tuple[Server, ...]
    blocked: tuple[IPv4Address | IPv6Address, ...] = ()
    isp: Isp | None = None


class Modem(Struct, frozen=True, forbid_unknown_fields=True):
    """A modem with router function in front of the router (double NAT). wan: its public address."""

    wan: IPv4Interface
    lan: IPv4Interface


class Dhcp(Struct, frozen=True, forbid_unknown_fields=True):
    """What the router's DHCP hands out; empty fields mean the router itself. off: the router's DHCP is turned off."""

    gateway: IPv4Address | None = None
    dns: IPv4Address | None = None
    off: bool = False


class PortForward(Struct, frozen=True, forbid_unknown_fields=True):
    """A port of the router's WAN address handed to a LAN client."""

    port: Port
    to: NodeName
    to_port: Port = 80
    protocol: Literal["tcp", "udp"] = "tcp"


class Router(Struct, frozen=True, forbid_unknown_fields=True):
    """The main router; it owns the public address and does NAT.

    lan6: its address in the prefix that the ISP routes here. ports: LAN ports of the switch chip. switch_chip: false
    for a router whose LAN ports are ports of its kernel bridge. wan_rate_mbit: the access line's rate.
    """

    wan: IPv4Interface
    lan: IPv4Interface
    name: NodeName = "router"
    profile: str = "generic"
    assume: Assumed = Assumed()
    wan6: IPv6Interface | None = None
    lan6: IPv6Interface | None = None
    ports: PortCount = 4
    switch_chip: bool = True
    radios: tuple[RadioName, ...] = ("radio0",)
    wan_rate_mbit: Rate | None = None
    dhcp: Dhcp = Dhcp()
    port_forward: tuple[PortForward, ...] = ()


class Node(Struct, frozen=True, forbid_unknown_fields=True):
    """A mesh node (`by = "wifi"`: its backhaul) or a wired access point (`by = "wire"`), in bridge mode.

    bridge_filter: whether its own kernel bridge runs conntrack on frames.
    """

    name: NodeName
    by: Medium
    at: NodeName = "router"
    radio: RadioName | None = None
    rate_mbit: Rate | None = None
    ports: PortCount = 4
    switch_chip: bool = True
    radios: tuple[RadioName, ...] = ("radio0",)
    bridge_filter: bool = False


class Gateway(Struct, frozen=True, forbid_unknown_fields=True):
    """The bypass gateway: one network port beside the router. plugged: false when its cable is pulled out."""

    v4: IPv4Address
    v6: IPv6Address | None = None
    name: NodeName = "gateway"
    at: NodeName = "router"
    by: Medium = "wire"
    radio: RadioName | None = None
    rate_mbit: Rate | None = None
    plugged: bool = True


class Client(Struct, frozen=True, forbid_unknown_fields=True):
    """Any other LAN device. gateway: its IPv4 default gateway; its IPv6 default gateway is always the router."""

    name: NodeName
    v4: IPv4Address
    v6: IPv6Address | None = None
    at: NodeName = "router"
    by: Medium = "wire"
    radio: RadioName | None = None
    rate_mbit: Rate | None = None
    gateway: Literal["gateway", "router", "none"] = "gateway"


Attached = Node | Gateway | Client
Box = Router | Node


class Expectation(Struct, frozen=True, forbid_unknown_fields=True):
    """Who reaches what, over which family, by which return path.

    gateway: what runs on the gateway meanwhile. `nothing`: it does not forward; `forwarding`: IP forwarding and no
    more; `masquerade`: forwarding plus the article's line; `sidegate`: `sidegate up`.
    to: a server, a client, the gateway or the router, `:port` appended where it is not 80. A server asks the router at
      its WAN address, as for a port forward; everyone else asks it at its LAN address.
    v4, v6: for each node that asks, the outcome: `direct` (answered, the reply did not cross the gateway),
    `masqueraded` (answered, the reply crossed the gateway), `dead` (no answer).
    """

    to: str
    gateway: GatewayRuns = "forwarding"
    v4: dict[str, Outcome] = {}
    v6: dict[str, Outcome] = {}
    why: str = ""


class Home(Struct, frozen=True, forbid_unknown_fields=True):
    """One household's network."""

    title: str
    internet: Internet
    router: Router
    story: str = ""
    modem: Modem | None = None
    node: tuple[Node, ...] = ()
    gateway: Gateway | None = None
    client: tuple[Client, ...] = ()
    expect: tuple[Expectation, ...] = ()
    name: str = ""

    @property
    def boxes(self) -> tuple[Box, ...]:
        """What bridges frames: the router first, then nodes and access points."""
        return (self.router, *self.node)

    @property
    def attached(self) -> tuple[Attached, ...]:
        """Everything that hangs on a box, in the order of the file: nodes, the gateway, clients."""
        return (*self.node, *((self.gateway,) if self.gateway else ()), *self.client)

    @property
    def lan_hosts(self) -> tuple[Gateway | Client, ...]:
        """The gateway and the clients."""
        return (*((self.gateway,) if self.gateway else ()), *self.client)

    def client_named(self, name: str) -> Client:
        """Raises Problems for a name that is no client."""
        for client in self.client:
            if client.name == name:
                return client
        known = ", ".join(c.name for c in self.client)
        raise Problems(Problem(self.name or self.title, f'no client "{name}"', f"clients here: {known}"))


def behaviour(home: Home, profile: RouterProfile) -> Behaviour:
    """What the router does in this home: the home's assumption, else the profile, else the plainest behaviour.

    The plainest behaviour is that of a stock Linux router without bridge filtering. `unless-dhcp-points-away` is
    decided by what the home's router hands out (Redmi AX5, `/etc/init.d/qca-nss-ecm`).
    """
    assume, router = home.router.assume, home.router
    bridge = assume.bridge_filter or profile.bridge_filter.value or "off"
    points_away = not router.dhcp.off and any(
        a is not None and a != router.lan.ip for a in (router.dhcp.gateway, router.dhcp.dns)
    )

    def flag(assumed: bool | None, known: Known[bool]) -> bool:
        return bool(known.value) if assumed is None else assumed

    return Behaviour(
        bridge_filter=bridge == "on" or (bridge == "unless-dhcp-points-away" and not points_away),
        nat=assume.nat or profile.nat.value or "masquerade",
        firewall=assume.firewall or profile.firewall.value or "nft",
        drop_invalid=flag(assume.drop_invalid, profile.drop_invalid),
        dns_hijack=flag(assume.dns_hijack, profile.dns_hijack),
    )
