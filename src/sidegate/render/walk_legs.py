"""A walk as its devices see it: one leg per cable or radio link between two devices, numbered as in the article.

A box (router, mesh node) is one device here, its switch chip and radios included; what it decided is told on the leg
that leaves it.
"""

from __future__ import annotations

from collections import defaultdict, deque

from msgspec import Struct

from sidegate.home import Home
from sidegate.lab.blueprint import INTERNET, Blueprint, hardware
from sidegate.walk.data import ANY_PORT, Decision, Hop, Packet, Walk

Passage = tuple[Packet | None, tuple[Decision, ...], tuple[str, ...]]
"""(the packet as it came to the device, what was decided since, the places passed since)"""


class Leg(Struct, frozen=True):
    """number: from 1. before: the packet as it came to the device it now leaves; None where it begins.

    decisions: what that device decided. step: of the conversation. places: names in the home's picture
    (`render.picture`), from where it came to the device to where it arrives at the next.
    """

    number: int
    step: int
    start: str
    end: str
    before: Packet | None
    packet: Packet
    decisions: tuple[Decision, ...]
    places: tuple[str, ...] = ()


class Ending(Struct, frozen=True):
    """Where a packet stayed. after: the number of the leg before it. begun: it never left the device it began at."""

    after: int
    step: int
    device: str
    packet: Packet | None
    decisions: tuple[Decision, ...]
    begun: bool = False


class Journey(Struct, frozen=True):
    """legs and endings in their order."""

    walk: Walk
    parts: tuple[Leg | Ending, ...]

    @property
    def legs(self) -> tuple[Leg, ...]:
        return tuple(part for part in self.parts if isinstance(part, Leg))

    @property
    def endings(self) -> tuple[Ending, ...]:
        return tuple(part for part in self.parts if isinstance(part, Ending))


def journey(walk: Walk, home: Home, plan: Blueprint) -> Journey:
    """The walk's legs. plan: the home's blueprint, which says what hangs on what."""
    return _Journeying(walk, home, plan).made()


class _Journeying:
    def __init__(self, walk: Walk, home: Home, plan: Blueprint) -> None:
        self.walk, self.home = walk, home
        self.boxes = {hardware(box.name): box.name for box in home.boxes}
        self.bridges = {(e.machine, e.interface): e.bridge for w in plan.wires for e in (w.near, w.far)}
        self.meshes = _mesh_radios(home)
        self.peers: dict[tuple[str, str], tuple[str, str]] = {}
        for wire in plan.wires:
            near, far = (wire.near.machine, wire.near.interface), (wire.far.machine, wire.far.interface)
            self.peers[near], self.peers[far] = far, near
        self.inside: dict[tuple[str, str], deque[Passage]] = defaultdict(deque)
        self.parts: list[Leg | Ending] = []
        self.number = 0

    def made(self) -> Journey:
        for hop in self.walk.hops:
            self._hop(hop)
        return Journey(self.walk, tuple(self.parts))

    def _device(self, machine: str, packet: Packet) -> str:
        """The internet is the server that the packet comes from or goes to."""
        if machine == INTERNET:
            for server in self.home.internet.server:
                if {str(server.v4), str(server.v6)} & {packet.src, packet.dst}:
                    return server.name
        return self.boxes.get(machine, machine)

    def _hop(self, hop: Hop) -> None:
        waiting = self.inside[hop.node, hop.enters] if hop.enters else None
        before, earlier, places = waiting.popleft() if waiting else (hop.before if hop.enters else None, (), ())
        decisions = (*earlier, *hop.decisions)
        places += self._places(hop.node, hop.enters) if hop.enters else ()
        for interface, packet in hop.leaves:
            self._leave(hop, interface, (before, decisions, places), packet)
        if not hop.leaves:
            packet_here = before or hop.before
            device = self._device(hop.node, packet_here) if packet_here else hop.node
            self.parts.append(Ending(self.number, hop.step, device, packet_here, decisions, hop.enters is None))

    def _leave(self, hop: Hop, interface: str, passage: Passage, packet: Packet) -> None:
        to = self.peers[hop.node, interface]
        before, decisions, places = passage
        places += tuple(reversed(self._places(hop.node, interface)))
        start, end = self._device(hop.node, packet), self._device(to[0], packet)
        if start == end:
            self.inside[to].append((before, decisions, places))
            return
        self.number += 1
        places += self._places(*to)[:1]
        self.parts.append(Leg(self.number, hop.step, start, end, before, packet, decisions, places))

    def _places(self, machine: str, interface: str) -> tuple[str, ...]:
        """Where an interface is in the home's picture, from its link inwards."""
        device, bridge = self.boxes.get(machine, machine), self.bridges[machine, interface]
        if machine in self.boxes:
            return (f"{device}/{'switch' if bridge == 'chip' else bridge}",)
        if bridge == "br-lan":
            port = self._port(machine, interface)
            return (*([f"{device}/{port}"] if port else []), f"{device}/br-lan")
        return (f"{device}/nat",) if device == self.home.router.name else (device,)

    def _port(self, box: str, interface: str) -> str:
        """What a port of a kernel bridge is called in the picture; empty for the links to chip and radios."""
        if interface == "uplink":
            return "backhaul" if box in self.meshes else "switch"
        if interface.startswith("mesh"):
            return self.meshes[self.peers[box, interface][0]]
        return "switch" if interface.startswith("p") else ""


def _mesh_radios(home: Home) -> dict[str, str]:
    """The radio that each mesh node's backhaul comes in by, at the box it hangs on."""
    boxes = {box.name: box for box in home.boxes}
    return {n.name: n.radio or boxes[n.at].radios[0] for n in home.node if n.by == "wifi"}


def circled(number: int) -> str:
    """① to ㊿ (U+2460, U+3251, U+32B1), then in brackets."""
    for first, last, code in ((1, 20, 0x2460), (21, 35, 0x3251), (36, 50, 0x32B1)):
        if first <= number <= last:
            return chr(code + number - first)
    return f"({number})"


def changed(leg: Leg) -> tuple[bool, bool]:
    """Whether the device that this leg leaves rewrote the packet's source, its destination."""
    old, new = leg.before, leg.packet
    if old is None or old.kind != new.kind:
        return False, False
    return (old.src, old.sport) != (new.src, new.sport), (old.dst, old.dport) != (new.dst, new.dport)


def end_of(address: str, port: int, protocol: str = "tcp") -> str:
    """An address with its port; `?` where the kernel picks one at random."""
    if protocol == "icmp":
        return address
    shown = f"[{address}]" if ":" in address else address
    return f"{shown}:{'?' if port == ANY_PORT else port}"
