"""What comes out of a walk, and out of a capture in the lab: the same type for both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

Protocol = Literal["tcp", "udp", "icmp"]
Code = Literal[
    "delivered",
    "reply-lost-private-source",
    "dropped-nat-interface-changed",
    "reply-to-other-tuple",
    "rst-by-client",
    "connection-refused",
    "connection-reset",
    "masqueraded-mid-stream",
    "dropped-invalid",
    "dropped-by-firewall",
    "blocked-by-isp",
    "ttl-exceeded",
    "loop",
    "not-forwarding",
    "no-route",
    "no-neighbour",
    "martian-source",
    "reverse-path-filtered",
    "unknown",
]
ReturnPath = Literal["direct", "masqueraded", "through-gateway", "proxied", "none"]

ANY_PORT = -1
"""A port that the kernel chooses at random (nf_nat_core.c, nf_nat_l4proto_unique_tuple): unknown, never guessed."""


class Numbers(Struct, frozen=True, gc=False):
    """A TCP segment's numbers. end: seq and all that it takes up (data, SYN, FIN). ack: None without the flag."""

    seq: int
    end: int
    ack: int | None
    window: int = 65535


class Packet(Struct, frozen=True, gc=False):
    """An Ethernet frame with an IP packet, as far as a walk looks into it.

    src, dst: IP addresses as text. sport, dport: ports; for an ICMP echo sport is its id and dport 0; for an ICMP error
    both are 0. ttl: also the hop limit. kind: TCP flags (`SYN`, `SYN ACK`, `ACK`, `PSH ACK`, `RST`, `RST ACK`, …), what
    kind of ICMP, or `datagram`. inner: the packet that an ICMP error quotes (its MACs are empty). gateway: what an
    ICMP redirect recommends. numbers: of a TCP segment that was made up; a socket's own, in the window, have none here.
    """

    src_mac: str
    dst_mac: str
    src: str
    dst: str
    protocol: Protocol
    sport: int
    dport: int
    ttl: int
    kind: str
    inner: Packet | None = None
    gateway: str = ""
    numbers: Numbers | UnsetType = UNSET


class Decision(Struct, frozen=True, gc=False):
    """One decision on a packet. law: a key of `laws.LAWS`. about: what fills that law's sentence."""

    law: str
    about: tuple[str, ...] = ()


class Hop(Struct, frozen=True, gc=False):
    """A packet at one node. node: a machine of the blueprint.

    enters, before: the interface and the packet as it arrived. Where it begins, enters is None and before is the packet
    as the program or the kernel wanted it, without MACs; None in a capture. leaves: each interface that
    something left by, and what; empty where it ends. step: the number of the conversation's step that caused it.
    decisions: in their order; none in a capture, since the kernel does not say why.
    """

    step: int
    node: str
    enters: str | None
    before: Packet | None
    leaves: tuple[tuple[str, Packet], ...]
    decisions: tuple[Decision, ...] = ()


class Tracked(Struct, frozen=True, order=True):
    """A conntrack entry. original, reply: (source, its port, destination, its port); an ICMP echo has its id as the
    first port and 0 as the second. state: of TCP, else empty. replied: a packet in the other direction was seen.
    """

    node: str
    protocol: Protocol
    original: tuple[str, int, str, int]
    reply: tuple[str, int, str, int]
    state: str = ""
    replied: bool = False
    assured: bool = False


class Step(Struct, frozen=True):
    """One thing that a program did: its title, and whether its packet came to the program that it was meant for."""

    title: str
    arrived: bool


class Verdict(Struct, frozen=True):
    """code: stable. says: the sentence. node: where it ended. remedy: empty where none is known."""

    code: Code
    says: str
    return_path: ReturnPath = "none"
    node: str = ""
    remedy: str = ""


class Walk(Struct, frozen=True):
    """A conversation's way through a home, predicted or captured. entries: what conntrack holds in the end."""

    home: str
    title: str
    steps: tuple[Step, ...]
    hops: tuple[Hop, ...]
    verdict: Verdict
    entries: tuple[Tracked, ...] = ()
    source: Literal["model", "kernel"] = "model"


class Sighting(Struct, frozen=True, gc=False):
    """A packet at an interface. out: it left the node there."""

    step: int
    node: str
    interface: str
    out: bool
    packet: Packet


def sightings(walk: Walk) -> tuple[Sighting, ...]:
    """A walk as what one would see at every interface, in order."""
    return sightings_of(walk.hops)


def sightings_of(hops: Iterable[Hop]) -> tuple[Sighting, ...]:
    """The same for hops."""
    seen: list[Sighting] = []
    for hop in hops:
        if hop.before is not None and hop.enters is not None:
            seen.append(Sighting(hop.step, hop.node, hop.enters, False, hop.before))
        seen += [Sighting(hop.step, hop.node, interface, True, packet) for interface, packet in hop.leaves]
    return tuple(seen)
