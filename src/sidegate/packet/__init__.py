"""Packets on a wire: bytes -> frozen structs and back, shared by the probe, the lab and the walk.

`parse` takes anything a network may send and never raises: what it cannot understand stays as the raw bytes in the
field `body`. `build` is its inverse. Checksums (RFC 1071) are written by `build` and not judged by `parse`, since a
captured frame may carry one that hardware would have filled in (veth never does).

MAC addresses are lower case text with colons, IP addresses are `ipaddress` objects, `ttl` is also IPv6's hop limit.
Sources: RFC 791 (IPv4), 792 (ICMP), 768 (UDP), 9293 (TCP), 826 (ARP), 8200 (IPv6), 4443 (ICMPv6), IEEE 802.1Q.
"""

from __future__ import annotations

from sidegate.packet.building import build, build_ip, checksum
from sidegate.packet.data import (
    BROADCAST,
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    ICMP,
    ICMPV6,
    NO_MAC,
    TCP,
    UDP,
    Arp,
    Body,
    Echo,
    Frame,
    IcmpError,
    IpAddress,
    Ipv4,
    Ipv6,
    Mac,
    Redirect,
    Tcp,
    TcpFlags,
    Udp,
    frame_of,
    mac_bytes,
    mac_text,
)
from sidegate.packet.parsing import parse, parse_ip

__all__ = [
    "BROADCAST",
    "ETH_ARP",
    "ETH_IPV4",
    "ETH_IPV6",
    "ICMP",
    "ICMPV6",
    "NO_MAC",
    "TCP",
    "UDP",
    "Arp",
    "Body",
    "Echo",
    "Frame",
    "IcmpError",
    "IpAddress",
    "Ipv4",
    "Ipv6",
    "Mac",
    "Redirect",
    "Tcp",
    "TcpFlags",
    "Udp",
    "build",
    "build_ip",
    "checksum",
    "frame_of",
    "mac_bytes",
    "mac_text",
    "parse",
    "parse_ip",
]
