"""Packets on a wire: bytes -> frozen structs and back, shared by the probe, the lab and the walk.

`parse` takes anything a network may send and never raises: what it cannot understand stays as the raw bytes in the
field `body`. `build` is its inverse. Checksums (RFC 1071) are written by `build` and not judged by `parse`, since a
captured frame may carry one that hardware would have filled in (veth never does).

MAC addresses are lower case text with colons, IP addresses are `ipaddress` objects, `ttl` is also IPv6's hop limit.
Sources: RFC 791 (IPv4), 792 (ICMP), 768 (UDP), 9293 (TCP), 826 (ARP), 8200 (IPv6), 4443 (ICMPv6), IEEE 802.1Q.
"""

from __future__ import annotations

import struct
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from msgspec import Struct

Mac = str
IpAddress = IPv4Address | IPv6Address

BROADCAST: Mac = "ff:ff:ff:ff:ff:ff"
NO_MAC: Mac = "00:00:00:00:00:00"

ETH_IPV4 = 0x0800
ETH_ARP = 0x0806
ETH_IPV6 = 0x86DD
_VLAN_TAGS = (0x8100, 0x88A8)

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
_FRAGMENT = 44
_SKIPPED_EXTENSIONS = (0, 43, 60)
"""IPv6 hop-by-hop options, routing, destination options (RFC 8200 section 4)."""

ErrorKind = Literal["unreachable", "time exceeded"]


class TcpFlags(IntFlag):
    """The TCP header's control bits."""

    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32
    ECE = 64
    CWR = 128


class Echo(Struct, frozen=True, tag=True):
    """An ICMP or ICMPv6 echo. seq and id: 0 to 65535."""

    reply: bool
    id: int
    seq: int
    payload: bytes = b""


class IcmpError(Struct, frozen=True, tag=True):
    """Destination unreachable or time exceeded. inner: the packet it is about, often cut after 8 bytes of its body.

    code: as in RFC 792 or RFC 4443, which number the same reasons differently.
    """

    kind: ErrorKind
    code: int
    inner: Ipv4 | Ipv6 | bytes = b""


class Redirect(Struct, frozen=True, tag=True):
    """An IPv4 ICMP redirect: `inner` should rather have gone to `gateway`."""

    code: int
    gateway: IPv4Address
    inner: Ipv4 | Ipv6 | bytes = b""


class Udp(Struct, frozen=True, tag=True):
    sport: int
    dport: int
    payload: bytes = b""


class Tcp(Struct, frozen=True, tag=True):
    """A TCP segment. One cut after 8 bytes (inside an ICMP error) has ack, flags and window 0."""

    sport: int
    dport: int
    seq: int
    ack: int = 0
    flags: TcpFlags = TcpFlags(0)
    window: int = 65535
    options: bytes = b""
    payload: bytes = b""


Body = Echo | IcmpError | Redirect | Udp | Tcp | bytes


class Ipv4(Struct, frozen=True, tag=True):
    """protocol: the IP protocol number. fragment_offset: in bytes; any but the first fragment has a raw body."""

    src: IPv4Address
    dst: IPv4Address
    protocol: int
    body: Body = b""
    ttl: int = 64
    ident: int = 0
    tos: int = 0
    dont_fragment: bool = False
    more_fragments: bool = False
    fragment_offset: int = 0
    options: bytes = b""


class Ipv6(Struct, frozen=True, tag=True):
    """protocol: that of the body; extension headers before it are skipped and not kept."""

    src: IPv6Address
    dst: IPv6Address
    protocol: int
    body: Body = b""
    ttl: int = 64
    traffic_class: int = 0
    flow_label: int = 0


class Arp(Struct, frozen=True, tag=True):
    """An ARP message for IPv4 over Ethernet. reply: false for a request."""

    reply: bool
    sender_mac: Mac
    sender_ip: IPv4Address
    target_mac: Mac
    target_ip: IPv4Address


class Frame(Struct, frozen=True, tag=True):
    """An Ethernet frame. vlans: VLAN ids, outermost first. ethertype: of the body; -1 for less than a header."""

    dst: Mac
    src: Mac
    ethertype: int
    body: Ipv4 | Ipv6 | Arp | bytes
    vlans: tuple[int, ...] = ()


class _Unclear(Exception):
    """These bytes are not what they should be: keep them raw."""


def mac_text(raw: bytes) -> Mac:
    """Six bytes -> `aa:bb:cc:dd:ee:ff`."""
    return raw.hex(":")


def mac_bytes(mac: Mac) -> bytes:
    """`aa:bb:cc:dd:ee:ff` -> six bytes. Raises ValueError for anything else."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"not a MAC address: {mac!r}")
    return raw


def checksum(data: bytes) -> int:
    """The internet checksum of RFC 1071 over `data`, an odd last byte padded with zero."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(frame: bytes) -> Frame:
    """The frame that these bytes are; never raises."""
    if len(frame) < 14:
        return Frame(NO_MAC, NO_MAC, -1, frame)
    ethertype, at, vlans = int.from_bytes(frame[12:14]), 14, []
    while ethertype in _VLAN_TAGS and len(frame) >= at + 4:
        vlans.append(int.from_bytes(frame[at : at + 2]) & 0xFFF)
        ethertype, at = int.from_bytes(frame[at + 2 : at + 4]), at + 4
    return Frame(
        mac_text(frame[:6]), mac_text(frame[6:12]), ethertype, _parse_network(ethertype, frame[at:]), (*vlans,)
    )


def _parse_network(ethertype: int, data: bytes) -> Ipv4 | Ipv6 | Arp | bytes:
    try:
        if ethertype == ETH_ARP:
            return _parse_arp(data)
        if ethertype in (ETH_IPV4, ETH_IPV6):
            return parse_ip(data)
    except _Unclear:
        pass  # kept raw, as `parse` promises
    return data


def _parse_arp(data: bytes) -> Arp:
    if len(data) < 28 or data[:6] != b"\0\1\x08\0\6\4" or data[6:8] not in (b"\0\1", b"\0\2"):
        raise _Unclear
    sender, target = IPv4Address(data[14:18]), IPv4Address(data[24:28])
    return Arp(data[7] == 2, mac_text(data[8:14]), sender, mac_text(data[18:24]), target)


def parse_ip(data: bytes, *, in_error: bool = False) -> Ipv4 | Ipv6 | bytes:
    """The IP packet that these bytes are, or the bytes.

    in_error: it comes from inside an ICMP error. There an ICMP error stays raw: none is ever about another (RFC 1122
    section 3.2.2), and a forged nest of them must not exhaust the stack.
    """
    try:
        version = data[0] >> 4 if data else 0
        if version == 4:
            return _parse_ipv4(data, in_error)
        return _parse_ipv6(data, in_error) if version == 6 else data
    except _Unclear:
        return data


def _parse_ipv4(data: bytes, in_error: bool) -> Ipv4:
    if len(data) < 20:
        raise _Unclear
    _, tos, total, ident, fragment, ttl, protocol, _ = struct.unpack_from("!BBHHHBBH", data)
    header = (data[0] & 15) * 4
    if not 20 <= header <= min(len(data), total):
        raise _Unclear
    payload, offset = data[header:total], (fragment & 0x1FFF) * 8
    return Ipv4(
        src=IPv4Address(data[12:16]),
        dst=IPv4Address(data[16:20]),
        protocol=protocol,
        body=payload if offset else _parse_body(protocol, payload, in_error),
        ttl=ttl,
        ident=ident,
        tos=tos,
        dont_fragment=bool(fragment & 0x4000),
        more_fragments=bool(fragment & 0x2000),
        fragment_offset=offset,
        options=data[20:header],
    )


def _parse_ipv6(data: bytes, in_error: bool) -> Ipv6:
    if len(data) < 40:
        raise _Unclear
    word, length, following, ttl = struct.unpack_from("!IHBB", data)
    protocol, payload, whole = _skip_extensions(following, data[40 : 40 + length])
    return Ipv6(
        src=IPv6Address(data[8:24]),
        dst=IPv6Address(data[24:40]),
        protocol=protocol,
        body=_parse_body(protocol, payload, in_error) if whole else payload,
        ttl=ttl,
        traffic_class=word >> 20 & 0xFF,
        flow_label=word & 0xFFFFF,
    )


def _skip_extensions(protocol: int, data: bytes) -> tuple[int, bytes, bool]:
    """Protocol and bytes behind the extension headers, and whether this is a packet's beginning."""
    whole = True
    while protocol in (*_SKIPPED_EXTENSIONS, _FRAGMENT) and len(data) >= 8:
        length = 8 if protocol == _FRAGMENT else (data[1] + 1) * 8
        if length > len(data):
            break
        if protocol == _FRAGMENT and int.from_bytes(data[2:4]) & 0xFFF8:
            whole = False
        protocol, data = data[0], data[length:]
        if not whole:
            break
    return protocol, data, whole


def _parse_body(protocol: int, data: bytes, in_error: bool) -> Body:
    if len(data) < 8:
        return data
    try:
        if protocol == UDP:
            return _parse_udp(data)
        if protocol == TCP:
            return _parse_tcp(data)
        if protocol == ICMP:
            return _parse_icmp(data, in_error)
        if protocol == ICMPV6:
            return _parse_icmpv6(data, in_error)
    except _Unclear:
        pass  # kept raw, as `parse` promises
    return data


def _parse_udp(data: bytes) -> Udp:
    sport, dport, length, _ = struct.unpack_from("!HHHH", data)
    if length < 8:
        raise _Unclear
    return Udp(sport, dport, data[8:length])


def _parse_tcp(data: bytes) -> Tcp:
    sport, dport, seq = struct.unpack_from("!HHI", data)
    if len(data) < 20:
        return Tcp(sport, dport, seq, window=0)
    ack, offset, flags, window = struct.unpack_from("!IBBH", data, 8)
    header = (offset >> 4) * 4
    if not 20 <= header <= len(data):
        raise _Unclear
    return Tcp(sport, dport, seq, ack, TcpFlags(flags), window, data[20:header], data[header:])


def _parse_icmp(data: bytes, in_error: bool) -> Body:
    kind, code = data[0], data[1]
    if kind in (0, 8) and code == 0:
        return _parse_echo(data, reply=kind == 0)
    if in_error:
        return data
    if kind in (3, 11):
        return IcmpError("unreachable" if kind == 3 else "time exceeded", code, parse_ip(data[8:], in_error=True))
    if kind == 5:
        return Redirect(code, IPv4Address(data[4:8]), parse_ip(data[8:], in_error=True))
    return data


def _parse_icmpv6(data: bytes, in_error: bool) -> Body:
    kind, code = data[0], data[1]
    if kind in (128, 129) and code == 0:
        return _parse_echo(data, reply=kind == 129)
    if kind in (1, 3) and not in_error:
        return IcmpError("unreachable" if kind == 1 else "time exceeded", code, parse_ip(data[8:], in_error=True))
    return data


def _parse_echo(data: bytes, *, reply: bool) -> Echo:
    ident, seq = struct.unpack_from("!HH", data, 4)
    return Echo(reply, ident, seq, data[8:])


def build(frame: Frame) -> bytes:
    """The frame's bytes, without padding. Raises ValueError or struct.error for a field out of its range."""
    if frame.ethertype == -1 and isinstance(frame.body, bytes):
        return frame.body
    tags = b"".join(struct.pack("!HH", _VLAN_TAGS[0], vlan) for vlan in frame.vlans)
    head = mac_bytes(frame.dst) + mac_bytes(frame.src) + tags + struct.pack("!H", frame.ethertype)
    if isinstance(frame.body, Arp):
        return head + _build_arp(frame.body)
    return head + build_ip(frame.body)


def frame_of(dst: Mac, src: Mac, body: Ipv4 | Ipv6 | Arp) -> Frame:
    """A frame with the ethertype that its body asks for."""
    ethertype = ETH_ARP if isinstance(body, Arp) else ETH_IPV4 if isinstance(body, Ipv4) else ETH_IPV6
    return Frame(dst, src, ethertype, body)


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
