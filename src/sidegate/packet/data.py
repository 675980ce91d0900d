"""Frames and packets as frozen structs, and the numbers that tell them apart."""

from __future__ import annotations

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
VLAN_TAGS = (0x8100, 0x88A8)

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58

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


def mac_text(raw: bytes) -> Mac:
    """Six bytes -> `aa:bb:cc:dd:ee:ff`."""
    return raw.hex(":")


def mac_bytes(mac: Mac) -> bytes:
    """`aa:bb:cc:dd:ee:ff` -> six bytes. Raises ValueError for anything else."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"not a MAC address: {mac!r}")
    return raw


def frame_of(dst: Mac, src: Mac, body: Ipv4 | Ipv6 | Arp) -> Frame:
    """A frame with the ethertype that its body asks for."""
    ethertype = ETH_ARP if isinstance(body, Arp) else ETH_IPV4 if isinstance(body, Ipv4) else ETH_IPV6
    return Frame(dst, src, ethertype, body)
