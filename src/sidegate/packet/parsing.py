"""Bytes -> structs."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from sidegate.packet.data import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    ICMP,
    ICMPV6,
    NO_MAC,
    TCP,
    UDP,
    VLAN_TAGS,
    Arp,
    Body,
    Echo,
    Frame,
    IcmpError,
    Ipv4,
    Ipv6,
    Redirect,
    Tcp,
    TcpFlags,
    Udp,
    mac_text,
)

_FRAGMENT = 44
_SKIPPED_EXTENSIONS = (0, 43, 60)
"""IPv6 hop-by-hop options, routing, destination options (RFC 8200 section 4)."""


class _Unclear(Exception):
    """These bytes are not what they should be: keep them raw."""


def parse(frame: bytes) -> Frame:
    """The frame that these bytes are; never raises."""
    if len(frame) < 14:
        return Frame(NO_MAC, NO_MAC, -1, frame)
    ethertype, at, vlans = int.from_bytes(frame[12:14]), 14, []
    while ethertype in VLAN_TAGS and len(frame) >= at + 4:
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
