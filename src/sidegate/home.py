"""A home and a router profile, as plain frozen data.

A home is one household's network: the internet as far as it matters, the router, mesh nodes and access points, the
bypass gateway, the clients, how they are linked, and what is expected to work. A router profile says how a family of
routers behaves, each field with its evidence; a field without a value is unknown, and unknown is a value.

This module knows no network: the lab builds a home, the walk explains it, the renderers draw it.
"""

from __future__ import annotations

from collections.abc import Iterator
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
Port = Annotated[int, Meta(ge=1, le=65535, description="a port number from 1 to 65535")]
Rate = Annotated[float, Meta(gt=0, description="a rate in Mbit/s above 0")]
Service = Literal["http", "echo", "dns"]
Nat = Literal["masquerade", "snat", "none"]
Firewall = Literal["nft", "iptables-nft", "iptables-legacy"]
BridgeFilter = Literal["on", "off", "unless-dhcp-points-away"]
GatewayRuns = Literal["nothing", "forwarding", "masquerade", "sidegate"]
Outcome = Literal["direct", "masqueraded", "dead"]
Evidence = Literal["source code", "vendor document", "measured", "report", "guess"]

SERVICE_PORTS: dict[Service, int] = {"http": 80, "echo": 7, "dns": 53}


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
    """blocked: destinations whose packets the ISP drops."""

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
    ports: int = 4
    switch_chip: bool = True
    radios: tuple[NodeName, ...] = ("radio0",)
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
    radio: NodeName | None = None
    rate_mbit: Rate | None = None
    ports: int = 4
    switch_chip: bool = True
    radios: tuple[NodeName, ...] = ("radio0",)
    bridge_filter: bool = False


class Gateway(Struct, frozen=True, forbid_unknown_fields=True):
    """The bypass gateway: one network port beside the router. plugged: false when its cable is pulled out."""

    v4: IPv4Address
    v6: IPv6Address | None = None
    name: NodeName = "gateway"
    at: NodeName = "router"
    by: Medium = "wire"
    radio: NodeName | None = None
    rate_mbit: Rate | None = None
    plugged: bool = True


class Client(Struct, frozen=True, forbid_unknown_fields=True):
    """Any other LAN device. gateway: its IPv4 default gateway; its IPv6 default gateway is always the router."""

    name: NodeName
    v4: IPv4Address
    v6: IPv6Address | None = None
    at: NodeName = "router"
    by: Medium = "wire"
    radio: NodeName | None = None
    rate_mbit: Rate | None = None
    gateway: Literal["gateway", "router", "none"] = "gateway"


Attached = Node | Gateway | Client
Box = Router | Node


class Expectation(Struct, frozen=True, forbid_unknown_fields=True):
    """Who reaches what, over which family, by which return path.

    gateway: what runs on the gateway meanwhile. `nothing`: it does not forward; `forwarding`: IP forwarding and no
    more; `masquerade`: forwarding plus the article's line; `sidegate`: `sidegate up`.
    to: a server, a client, the gateway or the router, `:port` appended where it is not 80.
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
    if path.suffix != ".toml" and not path.exists():
        raise Problems(Problem(name, f"no such {what}", f"shipped: {', '.join(known)}; or the path of a .toml file"))
    try:
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
    return [*_check_names(home), *_check_places(home), *_check_addresses(home), *_check_references(home)]


def _named(home: Home) -> Iterator[tuple[str, str]]:
    yield "router.name", home.router.name
    if home.gateway:
        yield "gateway.name", home.gateway.name
    for i, server in enumerate(home.internet.server):
        yield f"internet.server[{i}].name", server.name
    for i, node in enumerate(home.node):
        yield f"node[{i}].name", node.name
    for i, client in enumerate(home.client):
        yield f"client[{i}].name", client.name


def _check_names(home: Home) -> Iterator[Problem]:
    seen: dict[str, str] = {"internet": "a reserved name", "modem": "a reserved name"}
    for path, name in _named(home):
        if name in seen:
            yield Problem(path, f'the name "{name}" is taken ({seen[name]})', "give each node a name of its own")
        seen.setdefault(name, path)


def _paths(home: Home) -> Iterator[tuple[str, Attached]]:
    for i, node in enumerate(home.node):
        yield f"node[{i}]", node
    if home.gateway:
        yield "gateway", home.gateway
    for i, client in enumerate(home.client):
        yield f"client[{i}]", client


def _check_places(home: Home) -> Iterator[Problem]:
    boxes = {box.name: box for box in home.boxes}
    wires = dict.fromkeys(boxes, 0)
    for path, it in _paths(home):
        box = boxes.get(it.at)
        if box is None:
            yield Problem(f"{path}.at", f'no box "{it.at}"', f"boxes here: {', '.join(boxes)}")
        elif it.by == "wire":
            wires[it.at] += 1
            if it.radio is not None:
                yield Problem(f"{path}.radio", "a wired device has no radio", 'remove it, or set by = "wifi"')
        elif it.radio is not None and it.radio not in box.radios:
            yield Problem(f"{path}.radio", f'"{it.at}" has no radio "{it.radio}"', f"radios: {', '.join(box.radios)}")
        elif not box.radios:
            yield Problem(f"{path}.by", f'"{it.at}" has no radio')
    for i, node in enumerate(home.node):
        wires[node.name] += node.by == "wire"
        if _reaches_itself(node, home):
            yield Problem(f"node[{i}].at", "a ring of nodes: it never comes to the router", 'set at = "router"')
    for box in home.boxes:
        if wires[box.name] > box.ports:
            what = f"{wires[box.name]} cables in {box.ports} ports of {box.name}"
            yield Problem("router.ports" if box is home.router else f"{box.name}.ports", what, "raise ports")


def _reaches_itself(node: Node, home: Home) -> bool:
    up = {n.name: n.at for n in home.node}
    seen, at = {node.name}, node.at
    while at in up:
        if at in seen:
            return True
        seen.add(at)
        at = up[at]
    return False


def _check_addresses(home: Home) -> Iterator[Problem]:
    lan, lan6 = home.router.lan.network, home.router.lan6.network if home.router.lan6 else None
    seen: dict[object, str] = {home.router.lan.ip: "router.lan", home.router.wan.ip: "router.wan"}
    for path, host in _paths(home):
        if isinstance(host, Node):
            continue
        if host.v4 not in lan:
            yield Problem(f"{path}.v4", f"{host.v4} is outside the LAN {lan}")
        if host.v6 is not None and lan6 is None:
            yield Problem(f"{path}.v6", "the router has no router.lan6", "give the router lan6, or remove v6")
        elif host.v6 is not None and lan6 is not None and host.v6 not in lan6:
            yield Problem(f"{path}.v6", f"{host.v6} is outside the LAN {lan6}")
        for key, address in (("v4", host.v4), ("v6", host.v6)):
            if address is not None and address in seen:
                yield Problem(f"{path}.{key}", f"{address} is taken ({seen[address]})")
            seen.setdefault(address, f"{path}.{key}")
    for i, server in enumerate(home.internet.server):
        if server.v4 in lan:
            yield Problem(f"internet.server[{i}].v4", f"{server.v4} is inside the LAN {lan}")
        if server.v4 in seen:
            yield Problem(f"internet.server[{i}].v4", f"{server.v4} is taken ({seen[server.v4]})")
        seen.setdefault(server.v4, f"internet.server[{i}].v4")
    if (home.router.lan6 is None) != (home.router.wan6 is None):
        yield Problem("router", "lan6 and wan6 go together: give both or none")
    if home.modem and home.router.wan.network != home.modem.lan.network:
        yield Problem("router.wan", f"{home.router.wan} is not on the modem's LAN {home.modem.lan.network}")
    if home.modem and home.router.wan6:
        yield Problem("router.wan6", "IPv6 behind a modem with router function is not modelled", "remove wan6, lan6")


def _check_references(home: Home) -> Iterator[Problem]:
    clients = {c.name for c in home.client}
    names = {name for _, name in _named(home)}
    for i, forward in enumerate(home.router.port_forward):
        if forward.to not in clients:
            yield Problem(f"router.port_forward[{i}].to", f'no client "{forward.to}"')
    for i, client in enumerate(home.client):
        if client.gateway == "gateway" and home.gateway is None:
            yield Problem(f"client[{i}].gateway", "this home has no gateway", 'set gateway = "router"')
    for i, expectation in enumerate(home.expect):
        target, _, port = expectation.to.partition(":")
        if target not in names or (port and not port.isdigit()):
            yield Problem(f"expect[{i}].to", f'no node "{expectation.to}"', "a node's name, or name:port")
        if expectation.gateway != "nothing" and home.gateway is None:
            yield Problem(f"expect[{i}].gateway", "this home has no gateway", 'set gateway = "nothing"')
        for family in ("v4", "v6"):
            for name in getattr(expectation, family):
                if name not in names:
                    yield Problem(f"expect[{i}].{family}.{name}", f'no node "{name}"')
