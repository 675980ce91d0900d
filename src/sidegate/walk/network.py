"""A home -> nodes and ports that the engine walks on, from the same blueprint that the lab builds.

State that a conversation leaves behind (connections, sockets, learned redirects) sits in the nodes; `Network.forget`
clears it.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

from sidegate.home import UDP_SERVICES, Behaviour, Home, RouterProfile, behaviour
from sidegate.lab.blueprint import INTERNET, LAN_PORT, MODEM, Blueprint, End, Machine, blueprint
from sidegate.walk.conntrack import Conntrack, Forward, Nat, Rules
from sidegate.walk.setting import Setting
from sidegate.walk.table import Table

Network_ = IPv4Network | IPv6Network
Route = tuple[str, str]
"""(interface, next hop)"""


class Port:
    """An interface with a wire. bridge: the bridge it is a port of. peer: the other end; None for a pulled cable."""

    __slots__ = ("bridge", "mac", "name", "node", "peer")

    def __init__(self, node: Node, name: str, mac: str) -> None:
        self.node, self.name, self.mac = node, name, mac
        self.bridge: Bridge | None = None
        self.peer: Port | None = None


class Bridge:
    """known: the forwarding database, MAC address -> port."""

    __slots__ = ("known", "mac", "name", "ports")

    def __init__(self, name: str, mac: str) -> None:
        self.name, self.mac = name, mac
        self.ports: list[Port] = []
        self.known: dict[str, Port] = {}


class Node:
    """A machine of the blueprint.

    filters: its bridges hand frames to netfilter, and something is registered there. nat: None where nothing is.
    table: where Sidegate runs.
    """

    def __init__(self, machine: Machine) -> None:
        settings = dict(machine.settings)
        self.name = machine.name
        self.ports: dict[str, Port] = {}
        self.bridges: dict[str, Bridge] = {b.name: Bridge(b.name, b.mac) for b in machine.bridges}
        self.forwards = settings.get("net/ipv4/ip_forward") == "1"
        self.bridge_filter = settings.get("net/bridge/bridge-nf-call-iptables") == "1"
        self.send_redirects = self.accept_redirects = True
        self.rp_filter = False
        self.addresses: dict[str, list[str]] = {}
        self.own: set[str] = set()
        self.links: list[tuple[Network_, str]] = []
        self.ways: list[tuple[Network_, str]] = []
        self.routes: dict[str, Route | None] = {}
        self.redirected: dict[str, str] = {}
        self.redirects_sent: set[str] = set()
        self.neighbours: dict[str, str] = {}
        self.listens: set[tuple[str, str, int]] = {_listens(*it) for it in machine.listens}
        self.nat: Nat | None = None
        self.blocked: frozenset[str] = frozenset()
        self.table: Table | None = None
        self.proxied = False
        _read_addresses(self, machine)

    @property
    def filters(self) -> bool:
        return self.bridge_filter and self.nat is not None

    def mac_of(self, interface: str) -> str:
        """Of a port or a bridge."""
        return self.ports[interface].mac if interface in self.ports else self.bridges[interface].mac

    def load(self, rules: Rules, lan: frozenset[str]) -> None:
        """A ruleset: from now on conntrack sees every packet here."""
        first = {interface: v4 for interface, all_ in self.addresses.items() if (v4 := _first_v4(all_))}
        self.nat = Nat(Conntrack(), rules, first, lan)

    def route(self, to: str) -> Route | None:
        """Where a packet goes; None: no route. Not for its own addresses."""
        if to not in self.routes:
            self.routes[to] = self._look_up(to)
        return self.routes[to]

    def _look_up(self, to: str) -> Route | None:
        address = ip_address(to)
        for network, interface in self.links:
            if address in network:
                return interface, to
        for network, via in self.ways:
            if address in network:
                way = self._look_up(via)
                return (way[0], via) if way else None
        return None


def _listens(service: str, address: str, port: int) -> tuple[str, str, int]:
    return "udp" if service in UDP_SERVICES else "tcp", address, port


def _first_v4(addresses: list[str]) -> str | None:
    return next((a for a in addresses if ":" not in a), None)


def _read_addresses(node: Node, machine: Machine) -> None:
    """The blueprint's `ip -batch` lines: what the lab configures is what the walk believes."""
    for line in machine.addresses:
        words = line.split()
        if words[:2] == ["addr", "add"]:
            interface = words[words.index("dev") + 1]
            address = ip_interface(words[2])
            node.addresses.setdefault(interface, []).append(str(address.ip))
            node.own.add(str(address.ip))
            if address.network.num_addresses > 1:
                node.links.append((address.network, interface))
        elif words[:2] == ["route", "add"]:
            via = words[words.index("via") + 1]
            everything = "::/0" if ":" in via else "0.0.0.0/0"
            node.ways.append((ip_network(everything if words[2] == "default" else words[2]), via))


class Network:
    """All nodes of a home."""

    def __init__(self, home: Home, profile: RouterProfile, setting: Setting) -> None:
        self.home, self.does, self.setting = home, behaviour(home, profile), setting
        self.plan: Blueprint = blueprint(home, profile)
        self.nodes = {machine.name: Node(machine) for machine in self.plan.machines}
        self.lan = frozenset(str(h.v4) for h in home.lan_hosts) | {str(home.router.lan.ip)}
        self.hosts = {h.name: self.nodes[h.name] for h in home.lan_hosts}
        self._wire()
        self._load_rules(self.does)
        self._set(setting)
        for node in self.nodes.values():
            self._meet_neighbours(node)

    @property
    def engine_runs(self) -> bool:
        """Whether a proxy engine listens on the gateway."""
        return self.home.gateway is not None and self.nodes[self.home.gateway.name].proxied

    def forget(self) -> None:
        """Back to the beginning: no connections, no redirects learned, everybody's address known everywhere."""
        for node in self.nodes.values():
            if node.nat:
                node.nat.conntrack.forget()
            if node.table:
                node.table.renew()
            node.redirected.clear()
            node.redirects_sent.clear()

        for mac in self._unheard_macs():
            for bridge in self._bridges():
                bridge.known.pop(mac, None)

    def unheard_entries(self) -> dict[str, tuple[str, ...]]:
        """What the bridges must not know, by machine, as `bridge -batch` lines."""
        macs, found = self._unheard_macs(), {}
        for node in self.nodes.values():
            known = [(mac, port) for b in node.bridges.values() for mac, port in b.known.items() if mac in macs]
            found[node.name] = tuple(f"fdb del {mac} dev {port.name} master" for mac, port in known)
        return {name: lines for name, lines in found.items() if lines}

    def _unheard_macs(self) -> list[str]:
        return [self.nodes[name].mac_of(LAN_PORT) for name in self.setting.unheard]

    def _bridges(self) -> Iterator[Bridge]:
        return (bridge for node in self.nodes.values() for bridge in node.bridges.values())

    def node_with(self, address: str) -> Node | None:
        """Whose address this is."""
        return next((node for node in self.nodes.values() if address in node.own), None)

    def _wire(self) -> None:
        for wire in self.plan.wires:
            near, far = self._port(wire.near), self._port(wire.far)
            if not wire.cut:
                near.peer, far.peer = far, near

    def _port(self, end: End) -> Port:
        node = self.nodes[end.machine]
        port = node.ports[end.interface] = Port(node, end.interface, end.mac)
        if end.bridge:
            port.bridge = node.bridges[end.bridge]
            port.bridge.ports.append(port)
        return port

    def _load_rules(self, does: Behaviour) -> None:
        home = self.home
        self.nodes[home.router.name].load(_router_rules(home, does), self.lan)
        if home.modem:
            self.nodes[MODEM].load(Rules(masquerade="wan", stateful=True), frozenset())
        self.nodes[INTERNET].blocked = frozenset(str(a) for a in home.internet.blocked)

    def _set(self, setting: Setting) -> None:
        for name in setting.strict:
            self.nodes[name].rp_filter = True
        for client in self.home.client:
            self.nodes[client.name].accept_redirects = setting.redirects_accepted
        if self.home.gateway:
            self._set_gateway(self.nodes[self.home.gateway.name], setting)

    def _set_gateway(self, gateway: Node, setting: Setting) -> None:
        gateway.forwards = setting.forwards
        gateway.accept_redirects = not setting.forwards
        gateway.send_redirects = setting.redirects_sent
        gateway.proxied = setting.proxied and setting.forwards
        if setting.runs == "masquerade":
            gateway.load(Rules(masquerade="*"), self.lan)
        elif setting.runs == "sidegate":
            gateway.load(Rules(sidegate=LAN_PORT), self.lan)
            gateway.table = self._table(setting)

    def _table(self, setting: Setting) -> Table:
        proved = [c for c in self.home.client if c.name in setting.proved]
        return Table(
            self.home.router.lan.network,
            frozenset((self.nodes[c.name].mac_of(LAN_PORT), str(c.v4)) for c in proved),
            frozenset((self.nodes[it.client].mac_of(LAN_PORT), it.protocol, it.port) for it in setting.forwarded),
        )

    def _meet_neighbours(self, node: Node) -> None:
        """Whom a node reaches without a router, and the way to its MAC address in every bridge between."""
        for port in node.ports.values():
            if port.bridge is None:
                for mac, addresses in _reached(port):
                    node.neighbours.update((a, mac) for a in addresses)
                _teach(port, port.mac)
        for bridge in node.bridges.values():
            for port in bridge.ports:
                for mac, addresses in _reached(port):
                    node.neighbours.update((a, mac) for a in addresses)
                _teach(port, bridge.mac)


def _reached(start: Port) -> Iterator[tuple[str, list[str]]]:
    """(MAC, addresses) of everything beyond this port."""
    port = start.peer
    if port is None:
        return
    if port.bridge is None:
        yield port.mac, port.node.addresses.get(port.name, []) + _behind(port)
        return
    yield port.bridge.mac, port.node.addresses.get(port.bridge.name, [])
    for other in port.bridge.ports:
        if other is not port:
            yield from _reached(other)


def _behind(port: Port) -> list[str]:
    """Addresses that a machine answers ARP for though they sit on its loopback (arp_ignore 0)."""
    return port.node.addresses.get("lo", [])


def _teach(start: Port, mac: str) -> None:
    """What a broadcast from here teaches the bridges: who sent it is behind the port it came in by."""
    port = start.peer
    if port is None or port.bridge is None:
        return
    port.bridge.known[mac] = port
    for other in port.bridge.ports:
        if other is not port:
            _teach(other, mac)


def _router_rules(home: Home, does: Behaviour) -> Rules:
    targets = {c.name: str(c.v4) for c in home.client}
    inward = [Forward("wan", f.protocol, f.port, (targets[f.to], f.to_port)) for f in home.router.port_forward]
    if does.dns_hijack:
        inward += [Forward("br-lan", protocol, 53) for protocol in ("udp", "tcp")]
    return Rules(
        tuple(inward),
        masquerade="wan" if does.nat == "masquerade" else None,
        snat=("wan", str(home.router.wan.ip)) if does.nat == "snat" else None,
        stateful=True,
        drop_invalid=does.drop_invalid,
    )


__all__ = ["LAN_PORT", "Bridge", "Network", "Node", "Port", "Route"]
