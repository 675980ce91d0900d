"""A home and a router profile, as plain frozen data.

A home is one household's network: the internet as far as it matters, the router, mesh nodes and access points, the
bypass gateway, the clients, how they are linked, and what is expected to work. A router profile says how a family of
routers behaves, each field with its evidence; a field without a value is unknown, and unknown is a value.

This module knows no network: the lab builds a home, the walk explains it, the renderers draw it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import resources
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from sidegate.problems import Problem, Problems
from sidegate.reading import read

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
Service = Literal["http", "echo", "dns"]
Nat = Literal["masquerade", "snat", "none"]
Firewall = Literal["nft", "iptables-nft", "iptables-legacy"]
BridgeFilter = Literal["on", "off", "unless-dhcp-points-away"]
GatewayRuns = Literal["nothing", "forwarding", "masquerade", "sidegate"]
Outcome = Literal["direct", "masqueraded", "dead"]
Evidence = Literal["source code", "vendor document", "measured", "report", "guess"]

Address = IPv4Address | IPv6Address

SERVICE_PORTS: dict[Service, int] = {"http": 80, "echo": 7, "dns": 53}

_DECIMAL = re.compile("[0-9]{1,5}")


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

    ports: extra TCP ports with HTTP besides port 80 when it serves `http`.
    """

    name: NodeName
    v4: IPv4Address
    v6: IPv6Address | None = None
    domain: str = ""
    serves: tuple[Service, ...] = ("http", "echo")
    ports: tuple[Port, ...] = ()


class Internet(Struct, frozen=True, forbid_unknown_fields=True):
    """blocked: destinations whose packets the ISP drops; a blocked server is up, but the home cannot reach it."""

    server: tuple[Server, ...]
    blocked: tuple[IPv4Address | IPv6Address, ...] = ()


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


def shipped_homes() -> tuple[str, ...]:
    """Names of the homes that come with Sidegate."""
    return _shipped("homes")


def shipped_routers() -> tuple[str, ...]:
    """Names of the router profiles that come with Sidegate."""
    return _shipped("routers")


def _shipped(folder: str) -> tuple[str, ...]:
    files = resources.files("sidegate").joinpath(folder).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_home(name_or_path: str) -> Home:
    """A shipped home by name, or any home file by path. Raises Problems."""
    text, source = _find("homes", name_or_path, "home", shipped_homes())
    home = read(text, Home, source, check_home)
    return msgspec.structs.replace(home, name=home.name or Path(name_or_path).stem)


def load_router(name_or_path: str) -> RouterProfile:
    """A shipped router profile by name, or any profile file by path. Raises Problems."""
    text, source = _find("routers", name_or_path, "router profile", shipped_routers())
    return read(text, RouterProfile, source, check_router)


def _find(folder: str, name: str, what: str, known: tuple[str, ...]) -> tuple[str, str]:
    if name in known:
        return resources.files("sidegate").joinpath(folder, f"{name}.toml").read_text("utf-8"), f"{name}.toml"
    path = Path(name)
    try:
        if path.suffix != ".toml" and not path.exists():
            remedy = f"shipped: {', '.join(known)}; or the path of a .toml file"
            raise Problems(Problem(name, f"no such {what}", remedy))
        return path.read_text("utf-8"), str(path)
    except UnicodeDecodeError:
        raise Problems(Problem(name, "not UTF-8 text")) from None
    except OSError as error:
        raise Problems(Problem(name, f"cannot be read: {error.strerror}")) from None


def check_router(profile: RouterProfile) -> list[Problem]:
    """A value needs its evidence and its source."""
    problems = []
    for field in msgspec.structs.fields(profile):
        known = getattr(profile, field.name)
        if isinstance(known, Known) and known.value is not None and not (known.evidence and known.source):
            problems.append(Problem(field.name, "a value without evidence and source", "add both, or drop the value"))
    return problems


def check_home(home: Home) -> list[Problem]:
    """What must hold between the fields of a home; paths relative to the file."""
    return [problem for check in _CHECKS for problem in check(home)]


def _hosts(home: Home) -> Iterator[tuple[str, str]]:
    """What has addresses, each with the path of its name in the file."""
    yield "router.name", home.router.name
    if home.gateway:
        yield "gateway.name", home.gateway.name
    for i, server in enumerate(home.internet.server):
        yield f"internet.server[{i}].name", server.name
    for i, client in enumerate(home.client):
        yield f"client[{i}].name", client.name


def _attached(home: Home) -> Iterator[tuple[str, Attached]]:
    for i, node in enumerate(home.node):
        yield f"node[{i}]", node
    if home.gateway:
        yield "gateway", home.gateway
    for i, client in enumerate(home.client):
        yield f"client[{i}]", client


def _boxes(home: Home) -> Iterator[tuple[str, Box]]:
    yield "router", home.router
    for i, node in enumerate(home.node):
        yield f"node[{i}]", node


def _check_names(home: Home) -> Iterator[Problem]:
    seen: dict[str, str] = {"internet": "a reserved name", "modem": "a reserved name"}
    for path, name in (*_hosts(home), *((f"node[{i}].name", node.name) for i, node in enumerate(home.node))):
        if name in seen:
            yield Problem(path, f'the name "{name}" is taken ({seen[name]})', "give each node a name of its own")
        seen.setdefault(name, path)


def _check_radios(home: Home) -> Iterator[Problem]:
    for path, box in _boxes(home):
        for i, radio in enumerate(box.radios):
            if radio in box.radios[:i]:
                yield Problem(f"{path}.radios[{i}]", f'"{radio}" is there twice', "give each radio a name of its own")


def _check_places(home: Home) -> Iterator[Problem]:
    boxes = {box.name: box for box in home.boxes}
    for path, it in _attached(home):
        box = boxes.get(it.at)
        if box is None:
            yield Problem(f"{path}.at", f'no box "{it.at}"', f"boxes here: {', '.join(boxes)}")
        elif it.by == "wire" and it.radio is not None:
            yield Problem(f"{path}.radio", "a wired device has no radio", 'remove it, or set by = "wifi"')
        elif it.by == "wifi" and not box.radios:
            yield Problem(f"{path}.by", f'"{it.at}" has no radio', 'set by = "wire", or give the box a radio')
        elif it.radio is not None and it.radio not in box.radios:
            yield Problem(f"{path}.radio", f'"{it.at}" has no radio "{it.radio}"', f"radios: {', '.join(box.radios)}")


def _check_rings(home: Home) -> Iterator[Problem]:
    up = {node.name: node.at for node in home.node}
    for i, node in enumerate(home.node):
        seen, at = {node.name}, node.at
        while at in up and at not in seen:
            seen.add(at)
            at = up[at]
        if at in up:
            yield Problem(f"node[{i}].at", "a ring of nodes: it never comes to the router", 'set at = "router"')


def _check_cables(home: Home) -> Iterator[Problem]:
    cables = Counter(it.at for it in home.attached if it.by == "wire")
    cables.update(node.name for node in home.node if node.by == "wire")
    for path, box in _boxes(home):
        count = cables[box.name]
        if count > box.ports:
            yield Problem(f"{path}.ports", f'{count} cables in {box.ports} ports of "{box.name}"', "raise ports")


def _addresses(home: Home) -> Iterator[tuple[str, Address]]:
    """Every address with its path in the file; the router's first, so that it is never the one to be blamed."""
    router, modem = home.router, home.modem
    own = {"lan": router.lan, "wan": router.wan, "lan6": router.lan6, "wan6": router.wan6}
    yield from ((f"router.{key}", interface.ip) for key, interface in own.items() if interface is not None)
    if modem:
        yield from (("modem.lan", modem.lan.ip), ("modem.wan", modem.wan.ip))
    yield from _host_addresses(home)
    for i, server in enumerate(home.internet.server):
        yield from _both(f"internet.server[{i}]", server)


def _host_addresses(home: Home) -> Iterator[tuple[str, Address]]:
    for path, it in _attached(home):
        if not isinstance(it, Node):
            yield from _both(path, it)


def _both(path: str, host: Server | Gateway | Client) -> Iterator[tuple[str, Address]]:
    yield f"{path}.v4", host.v4
    if host.v6 is not None:
        yield f"{path}.v6", host.v6


def _check_addresses(home: Home) -> Iterator[Problem]:
    seen: dict[Address, str] = {}
    for path, address in _addresses(home):
        if address in seen:
            yield Problem(path, f"{address} is taken ({seen[address]})", "give each node an address of its own")
        seen.setdefault(address, path)


def _check_lan_addresses(home: Home) -> Iterator[Problem]:
    for path, address in _host_addresses(home):
        lan = home.router.lan if address.version == 4 else home.router.lan6
        if lan is None:
            yield Problem(path, "the router has no router.lan6", "give the router lan6, or remove v6")
        elif address not in lan.network:
            yield Problem(path, f"{address} is outside the LAN {lan.network}")
        elif address in (lan.network.network_address, lan.network.broadcast_address):
            yield Problem(path, f"{address} is the LAN's own or its broadcast address", "take another one")


def _check_servers(home: Home) -> Iterator[Problem]:
    lans = [lan.network for lan in (home.router.lan, home.router.lan6) if lan is not None]
    for i, server in enumerate(home.internet.server):
        for path, address in _both(f"internet.server[{i}]", server):
            yield from (Problem(path, f"{address} is inside the LAN {lan}") for lan in lans if address in lan)


def _check_uplink(home: Home) -> Iterator[Problem]:
    router, modem = home.router, home.modem
    if router.wan.network.overlaps(router.lan.network):
        yield Problem("router.wan", f"{router.wan.network} overlaps the LAN {router.lan.network}", "change one of them")
    if (router.lan6 is None) != (router.wan6 is None):
        yield Problem("router", "lan6 and wan6 go together: give both or none")
    if modem and router.wan.network != modem.lan.network:
        yield Problem("router.wan", f"{router.wan} is not on the modem's LAN {modem.lan.network}")
    if modem and router.wan6:
        yield Problem("router.wan6", "IPv6 behind a modem with router function is not modelled", "remove wan6, lan6")


def _check_dhcp(home: Home) -> Iterator[Problem]:
    dhcp, lan = home.router.dhcp, home.router.lan.network
    if dhcp.off and (dhcp.gateway or dhcp.dns):
        yield Problem("router.dhcp", "DHCP that is off hands nothing out", "remove off, or remove gateway and dns")
    if dhcp.gateway is not None and dhcp.gateway not in lan:
        yield Problem("router.dhcp.gateway", f"{dhcp.gateway} is outside the LAN {lan}")


def _check_port_forwards(home: Home) -> Iterator[Problem]:
    clients = ", ".join(client.name for client in home.client)
    seen: dict[tuple[str, int], str] = {}
    for i, forward in enumerate(home.router.port_forward):
        path, key = f"router.port_forward[{i}]", (forward.protocol, forward.port)
        if forward.to not in {client.name for client in home.client}:
            yield Problem(f"{path}.to", f'no client "{forward.to}"', f"clients here: {clients}")
        if key in seen:
            yield Problem(f"{path}.port", f"{forward.protocol} port {forward.port} is taken ({seen[key]})")
        seen.setdefault(key, path)


def _check_gateways(home: Home) -> Iterator[Problem]:
    for i, client in enumerate(home.client):
        if client.gateway == "gateway" and home.gateway is None:
            yield Problem(f"client[{i}].gateway", "this home has no gateway", 'set gateway = "router"')


def _check_expectations(home: Home) -> Iterator[Problem]:
    for i, expectation in enumerate(home.expect):
        yield from _check_target(home, f"expect[{i}]", expectation)
        yield from _check_runs(home, f"expect[{i}]", expectation)
        for family in ("v4", "v6"):
            yield from _check_askers(home, f"expect[{i}].{family}", expectation, family)


def _check_target(home: Home, path: str, expectation: Expectation) -> Iterator[Problem]:
    target, colon, port = expectation.to.partition(":")
    if target not in {name for _, name in _hosts(home)}:
        yield Problem(f"{path}.to", f'no host "{target}"', "a server, a client, the gateway or the router")
    if colon and not (_DECIMAL.fullmatch(port) and 1 <= int(port) <= 65535):
        yield Problem(f"{path}.to", f'no port "{port}"', "write name:port with a port from 1 to 65535")


def _check_runs(home: Home, path: str, expectation: Expectation) -> Iterator[Problem]:
    if expectation.gateway != "nothing" and not (home.gateway and home.gateway.plugged):
        what = "the gateway is not plugged in" if home.gateway else "this home has no gateway"
        yield Problem(f"{path}.gateway", what, 'set gateway = "nothing"')


def _check_askers(home: Home, path: str, expectation: Expectation, family: str) -> Iterator[Problem]:
    known = {name for _, name in _hosts(home)}
    v4_only = {host.name for host in (*home.lan_hosts, *home.internet.server) if host.v6 is None}
    outcomes: dict[str, Outcome] = getattr(expectation, family)
    for name, outcome in outcomes.items():
        if name not in known:
            yield Problem(f"{path}.{name}", f'no host "{name}"', "a server, a client, the gateway or the router")
        if name == expectation.to.partition(":")[0]:
            yield Problem(f"{path}.{name}", f'"{name}" would ask itself')
        if family == "v6" and name in v4_only and outcome != "dead":
            yield Problem(f"{path}.{name}", f'"{name}" has no v6 address', "give it one, or remove the expectation")
        if expectation.gateway == "nothing" and outcome == "masqueraded":
            yield Problem(f"{path}.{name}", "a gateway that runs nothing masquerades nobody")


_CHECKS: tuple[Callable[[Home], Iterator[Problem]], ...] = (
    _check_names,
    _check_radios,
    _check_places,
    _check_rings,
    _check_cables,
    _check_addresses,
    _check_lan_addresses,
    _check_servers,
    _check_uplink,
    _check_dhcp,
    _check_port_forwards,
    _check_gateways,
    _check_expectations,
)
