"""One box by itself: frames into any of its ports, and what comes out where. The packets need not make sense together.

The two lower levels at which kernel and model are compared: two hosts on a filtered bridge (conntrack's hook), and
everything that may come to a router or a gateway (the whole box). All other machines are mute. Pure, as all of `walk`.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from msgspec import UNSET, Struct, UnsetType

from sidegate.lab.blueprint import INTERNET, LAN_PORT
from sidegate.walk.conversation import Ask, Player
from sidegate.walk.data import Numbers, Packet, Protocol, Sighting, Tracked, sightings_of
from sidegate.walk.network import Network, Node


class Shot(Struct, frozen=True):
    """A frame that comes in by this port of the box."""

    port: str
    packet: Packet


class Volley(Struct, frozen=True):
    """Frames, one after the other, on a box that knows no connection yet."""

    box: str
    shots: tuple[Shot, ...]


class Outcome(Struct, frozen=True):
    """seen: at the box's ports, in and out. entries: its conntrack in the end."""

    seen: tuple[Sighting, ...]
    entries: tuple[Tracked, ...]


def carried(network: Network, volley: Volley) -> Outcome:
    """What the laws say; the box sends no ICMP redirects."""
    network.forget()
    node = network.nodes[volley.box]
    node.send_redirects = False
    engine = Player(network, Ask(volley.box, "", "", shape="stray"), only=node).engine
    for engine.step, shot in enumerate(volley.shots):
        engine.receive(node.ports[shot.port], shot.packet)
        engine.run()
    entries = node.nat.conntrack.listing(node.name) if node.nat else ()
    return Outcome(sightings_of(engine.hops), entries)


# Random volleys


class _Host(Struct, frozen=True):
    """Somebody on a wire of the box. port: of the box."""

    address: str
    mac: str
    port: str


class _Flow:
    """Packets of one tuple, to and fro. next: each side's sequence number to come."""

    def __init__(self, protocol: Protocol, ends: tuple[_Host, _Host], ports: tuple[int, int], macs: list[str]) -> None:
        self.protocol, self.ends, self.ports, self.macs = protocol, ends, ports, macs
        self.next = [_FIRST, _FIRST]


_FIRST = 300_000
_SEGMENTS = ("SYN", "SYN", "SYN ACK", "SYN ACK", "ACK", "ACK", "PSH ACK", "FIN ACK", "RST", "RST ACK", "FIN", "SYN FIN")
_SHIFTS = (0, 0, 0, 0, 0, 0, 0, 0, -1, 1, 700, -700, 100_000, -100_000)


def random_volley(random: Random, network: Network, box: str, hook: bool = False, most: int = 7) -> Volley:
    """Any packets of a few connections. hook: only between two hosts, straight through the box's bridge."""
    node = network.nodes[box]
    hosts = list(_hosts(network, node))
    flows = [
        _bridged_flow(random, hosts) if hook else _any_flow(random, network, node, hosts)
        for _ in range(random.choice((1, 1, 2)))
    ]
    shots = [_shot(random, random.choice(flows)) for _ in range(random.randint(1, most))]
    return Volley(box, tuple(shots))


def _hosts(network: Network, node: Node) -> Iterator[_Host]:
    for host in network.hosts.values():
        mac = host.mac_of(LAN_PORT)
        port = next((b.known[mac].name for b in node.bridges.values() if mac in b.known), LAN_PORT)
        if host is not node and port in node.ports:
            yield _Host(host.addresses[LAN_PORT][0], mac, port)


def _bridged_flow(random: Random, hosts: list[_Host]) -> _Flow:
    first = random.choice(hosts)
    second = random.choice([host for host in hosts if host.port != first.port])
    return _Flow(_protocol(random), (first, second), (_port(random), _port(random)), [second.mac, first.mac])


def _any_flow(random: Random, network: Network, node: Node, hosts: list[_Host]) -> _Flow:
    """Between any two of: hosts, the internet, the box's own addresses, a host under another's roof (its gateway)."""
    outside = _internet(network, node, hosts)
    first, second = random.choice(hosts), random.choice([*hosts, outside, outside, outside])
    here = random.random()
    if here < 0.2:
        own = random.choice([a for a in sorted(node.own) if ":" not in a])
        second = _Host(own, second.mac, second.port)
    elif here < 0.4:
        first = _Host(first.address, *_station(random.choice(hosts)))
    if second.port == outside.port and random.random() < 0.4:
        first, second = second, _Host(_public(node, first), first.mac, first.port)
    into = [_mac_at(random, node, host, hosts) for host in (first, second)]
    return _Flow(_protocol(random), (first, second), (_port(random), _port(random)), into)


def _station(host: _Host) -> tuple[str, str]:
    return host.mac, host.port


def _public(node: Node, host: _Host) -> str:
    return next(iter(node.addresses.get("wan", [])), host.address)


def _internet(network: Network, node: Node, hosts: list[_Host]) -> _Host:
    """A server, as the box sees it: behind its WAN, or behind its router."""
    server = str(network.home.internet.server[0].v4)
    if "wan" in node.ports:
        return _Host(server, network.nodes[INTERNET].mac_of("wan"), "wan")
    router = network.nodes[network.home.router.name]
    return _Host(server, router.mac_of("br-lan"), hosts[0].port)


def _mac_at(random: Random, node: Node, host: _Host, hosts: list[_Host]) -> str:
    """Whom a frame from this host is for: the box itself, or somebody beyond its bridge."""
    port = node.ports[host.port]
    if port.bridge is None:
        return port.mac
    beyond = [other.mac for other in hosts if other.port != host.port]
    return random.choice([port.bridge.mac, port.bridge.mac, *beyond])


def _protocol(random: Random) -> Protocol:
    return random.choice(("tcp", "tcp", "tcp", "udp", "icmp"))


def _port(random: Random) -> int:
    return random.choice((41000, 41000, 41001, 5000, 6000, 53))


def _shot(random: Random, flow: _Flow) -> Shot:
    back = random.random() < 0.4
    sender, receiver = flow.ends[back], flow.ends[not back]
    sport, dport = flow.ports[back], flow.ports[not back]
    kind, numbers = "datagram", UNSET
    if flow.protocol == "icmp":
        kind, sport, dport = ("echo reply" if back else "echo request"), flow.ports[0], 0
    elif flow.protocol == "tcp":
        kind, numbers = _segment(random, flow, back)  # type: ignore[assignment]
    ttl = random.choice((64, 64, 64, 64, 1, 2))
    return Shot(sender.port, Packet(sender.mac, flow.macs[back], sender.address, receiver.address, flow.protocol, sport,
                                    dport, ttl, kind, numbers=numbers))  # fmt: skip


def _segment(random: Random, flow: _Flow, back: bool) -> tuple[str, Numbers | UnsetType]:
    """Its numbers are mostly those that follow."""
    kind = random.choice(_SEGMENTS)
    flags = kind.split()
    seq = flow.next[back] + random.choice(_SHIFTS)
    if kind == "RST" and random.random() < 0.2:
        seq = 0
    end = seq + 5 * ("PSH" in flags) + ("SYN" in flags) + ("FIN" in flags)
    ack = flow.next[not back] + random.choice(_SHIFTS) if "ACK" in flags else None
    flow.next[back] = max(flow.next[back], end)
    return kind, Numbers(seq, end, ack, random.choice((65535, 65535, 1000, 0)))
