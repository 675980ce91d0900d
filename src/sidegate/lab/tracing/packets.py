"""Packets and connections as the kernel has them and as the walk does."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import cast

import msgspec

from sidegate import packet as wire
from sidegate.walk.data import Hop, Packet, Protocol, Sighting, Tracked


def hops_of(seen: Iterable[Sighting]) -> tuple[Hop, ...]:
    """Sightings, in order of time -> hops: what left a machine belongs to what came in before it."""
    hops: list[Hop] = []
    open_at: dict[str, int] = {}
    for it in seen:
        last = hops[open_at[it.node]] if it.node in open_at else None
        if it.out and last is not None and last.step == it.step:
            hops[open_at[it.node]] = msgspec.structs.replace(last, leaves=(*last.leaves, (it.interface, it.packet)))
            continue
        open_at[it.node] = len(hops)
        if it.out:
            hops.append(Hop(it.step, it.node, None, None, ((it.interface, it.packet),)))
        else:
            hops.append(Hop(it.step, it.node, it.interface, it.packet, ()))
    return tuple(hops)


def parse_entry(machine: str, line: str) -> Tracked | None:
    """A line of /proc/net/nf_conntrack (net/netfilter/nf_conntrack_standalone.c, ct_seq_show); None: no IP protocol."""
    words = line.split()
    protocol = words[2]
    if protocol not in ("tcp", "udp", "icmp"):
        return None
    pairs = [word.split("=", 1) for word in words if "=" in word]
    half = [i for i, (key, _) in enumerate(pairs) if key == "src"][1]
    original, reply = _ends(dict(pairs[:half])), _ends(dict(pairs[half:]))
    state = words[5] if protocol == "tcp" else ""
    flags = "[UNREPLIED]" not in words, "[ASSURED]" in words
    return Tracked(machine, cast(Protocol, protocol), original, reply, state, *flags)


def _ends(pairs: dict[str, str]) -> tuple[str, int, str, int]:
    if "id" in pairs:
        return pairs["src"], int(pairs["id"]), pairs["dst"], 0
    return pairs["src"], int(pairs["sport"]), pairs["dst"], int(pairs["dport"])


def frame_of(packet: Packet) -> bytes:
    """The bytes of a walk's packet, with its checksums right; a TCP segment needs its numbers."""
    number, body = _body_of(packet)
    ip = wire.Ipv4(IPv4Address(packet.src), IPv4Address(packet.dst), number, body, packet.ttl)
    return wire.build(wire.frame_of(packet.dst_mac, packet.src_mac, ip))


def _body_of(packet: Packet) -> tuple[int, wire.Body]:
    if packet.protocol == "udp":
        return wire.UDP, wire.Udp(packet.sport, packet.dport, b"hello")
    if packet.protocol == "icmp":
        return wire.ICMP, wire.Echo(packet.kind == "echo reply", packet.sport, 1)
    it, words = packet.numbers, packet.kind.split()
    if not it:
        raise ValueError(f"a segment without numbers: {packet}")
    flags = functools.reduce(operator.or_, (wire.TcpFlags[name] for name in words))
    payload = bytes(it.end - it.seq - ("SYN" in words) - ("FIN" in words))
    return wire.TCP, wire.Tcp(packet.sport, packet.dport, it.seq, it.ack or 0, flags, it.window, payload=payload)


def packet_of(frame: wire.Frame) -> Packet | None:
    """A captured frame as the walk has it; None for what no conversation consists of (ARP, multicast listeners)."""
    if not isinstance(frame.body, wire.Ipv4 | wire.Ipv6):
        return None
    return _packet_of_ip(frame.body, frame.src, frame.dst)


def _packet_of_ip(ip: wire.Ipv4 | wire.Ipv6, src_mac: str, dst_mac: str) -> Packet | None:
    told = _told(ip.body)
    if told is None:
        return None
    protocol, sport, dport, kind = told
    inner, gateway = None, ""
    if isinstance(ip.body, wire.IcmpError | wire.Redirect):
        quoted = ip.body.inner
        inner = None if isinstance(quoted, bytes) else _packet_of_ip(quoted, "", "")
        gateway = str(ip.body.gateway) if isinstance(ip.body, wire.Redirect) else ""
    return Packet(src_mac, dst_mac, str(ip.src), str(ip.dst), protocol, sport, dport, ip.ttl, kind, inner, gateway)


def _told(body: wire.Body) -> tuple[Protocol, int, int, str] | None:
    """(protocol, source port, destination port, kind)"""
    if isinstance(body, wire.Tcp):
        flags = [name for name in _FLAGS if body.flags & wire.TcpFlags[name]]
        return "tcp", body.sport, body.dport, " ".join(flags)
    if isinstance(body, wire.Udp):
        return "udp", body.sport, body.dport, "datagram"
    if isinstance(body, wire.Echo):
        return "icmp", body.id, 0, "echo reply" if body.reply else "echo request"
    if isinstance(body, wire.Redirect):
        return "icmp", 0, 0, "redirect"
    if isinstance(body, wire.IcmpError):
        return "icmp", 0, 0, _error_kind(body)
    return None


_FLAGS = ("SYN", "FIN", "RST", "PSH", "ACK")


def _error_kind(error: wire.IcmpError) -> str:
    """RFC 792 and RFC 4443 number the reasons differently; IPv6's port unreachable is 4."""
    if error.kind == "time exceeded":
        return "time exceeded"
    names = {0: "network unreachable", 1: "host unreachable", 3: "port unreachable", 4: "port unreachable"}
    return names.get(error.code, f"unreachable {error.code}")
