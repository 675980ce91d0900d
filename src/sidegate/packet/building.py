"""Structs -> bytes."""

from __future__ import annotations

import struct

from sidegate.packet.data import VLAN_TAGS, Arp, Echo, Frame, IcmpError, Ipv4, Ipv6, Redirect, Tcp, Udp, mac_bytes


def build(frame: Frame) -> bytes:
    """The frame's bytes, without padding. Raises ValueError or struct.error for a field out of its range."""
    if frame.ethertype == -1 and isinstance(frame.body, bytes):
        return frame.body
    tags = b"".join(struct.pack("!HH", VLAN_TAGS[0], vlan) for vlan in frame.vlans)
    head = mac_bytes(frame.dst) + mac_bytes(frame.src) + tags + struct.pack("!H", frame.ethertype)
    if isinstance(frame.body, Arp):
        return head + _build_arp(frame.body)
    return head + build_ip(frame.body)


def _build_arp(arp: Arp) -> bytes:
    head = b"\0\1\x08\0\6\4" + (b"\0\2" if arp.reply else b"\0\1")
    sender = mac_bytes(arp.sender_mac) + arp.sender_ip.packed
    return head + sender + mac_bytes(arp.target_mac) + arp.target_ip.packed


def build_ip(packet: Ipv4 | Ipv6 | bytes) -> bytes:
    """The packet's bytes, header and checksums included; raw bytes as they are."""
    if isinstance(packet, bytes):
        return packet
    return _build_ipv4(packet) if isinstance(packet, Ipv4) else _build_ipv6(packet)


def _build_ipv4(packet: Ipv4) -> bytes:
    body, size = _build_body(packet), 20 + len(packet.options)
    fragment = packet.dont_fragment << 14 | packet.more_fragments << 13 | packet.fragment_offset // 8
    fields = (0x40 | size // 4, packet.tos, size + len(body), packet.ident, fragment, packet.ttl, packet.protocol)
    addresses = packet.src.packed + packet.dst.packed
    head = struct.pack("!BBHHHBBH", *fields, 0) + addresses + packet.options
    return struct.pack("!BBHHHBBH", *fields, checksum(head)) + addresses + packet.options + body


def _build_ipv6(packet: Ipv6) -> bytes:
    body = _build_body(packet)
    word = 6 << 28 | packet.traffic_class << 20 | packet.flow_label
    head = struct.pack("!IHBB", word, len(body), packet.protocol, packet.ttl)
    return head + packet.src.packed + packet.dst.packed + body


def _build_body(packet: Ipv4 | Ipv6) -> bytes:
    body = packet.body
    if isinstance(body, bytes):
        return body
    if isinstance(body, Udp):
        data = struct.pack("!HHHH", body.sport, body.dport, 8 + len(body.payload), 0) + body.payload
        # RFC 768: a sum of zero is sent as ones, since zero means that there is none
        return _with_sum(data, 6, checksum(_pseudo_header(packet, len(data)) + data) or 0xFFFF)
    if isinstance(body, Tcp):
        data = _build_tcp(body)
        return _with_sum(data, 16, checksum(_pseudo_header(packet, len(data)) + data))
    data = _build_icmp(body, v6=isinstance(packet, Ipv6))
    pseudo = _pseudo_header(packet, len(data)) if isinstance(packet, Ipv6) else b""
    return _with_sum(data, 2, checksum(pseudo + data))


def _with_sum(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("!H", value) + data[at + 2 :]


def _pseudo_header(packet: Ipv4 | Ipv6, length: int) -> bytes:
    """RFC 768 and RFC 8200 section 8.1."""
    layout = "!HH" if isinstance(packet, Ipv4) else "!II"
    return packet.src.packed + packet.dst.packed + struct.pack(layout, packet.protocol, length)


def _build_tcp(tcp: Tcp) -> bytes:
    offset = (20 + len(tcp.options)) // 4 << 4
    ports = struct.pack("!HHIIBBH", tcp.sport, tcp.dport, tcp.seq, tcp.ack, offset, tcp.flags, tcp.window)
    return ports + b"\0\0\0\0" + tcp.options + tcp.payload


def _build_icmp(body: Echo | IcmpError | Redirect, *, v6: bool) -> bytes:
    if isinstance(body, Echo):
        kind = (129 if body.reply else 128) if v6 else (0 if body.reply else 8)
        return struct.pack("!BBHHH", kind, 0, 0, body.id, body.seq) + body.payload
    if isinstance(body, Redirect):
        return struct.pack("!BBH", 5, body.code, 0) + body.gateway.packed + build_ip(body.inner)
    kinds = {"unreachable": (3, 1), "time exceeded": (11, 3)}
    return struct.pack("!BBHI", kinds[body.kind][v6], body.code, 0, 0) + build_ip(body.inner)


def checksum(data: bytes) -> int:
    """The internet checksum of RFC 1071 over `data`, an odd last byte padded with zero."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
