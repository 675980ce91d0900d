"""Router advertisements: bytes -> a frozen struct and back (RFC 4861 sections 4.1, 4.2 and 4.6; 4191; 8106).

`advert_in` takes anything a network may send and never raises; what RFC 4861 section 6.1.2 tells a host to ignore is
ignored here, all but the checksum, which a captured frame may leave to hardware.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, IPv6Network
from typing import Literal

from msgspec import Struct

from sidegate.packet import ICMPV6, Frame, Ipv6, Mac, checksum, frame_of, mac_bytes

ALL_NODES, ALL_ROUTERS = IPv6Address("ff02::1"), IPv6Address("ff02::2")
ALL_NODES_MAC, ALL_ROUTERS_MAC = "33:33:00:00:00:01", "33:33:00:00:00:02"
SOLICITATION, ADVERTISEMENT = 133, 134
NOBODY = IPv6Address("::")
FOREVER_S = 2**32 - 1

Preference = Literal["low", "medium", "high"]

_SOURCE_MAC, _PREFIX, _RDNSS = 1, 3, 25
_HOP_LIMIT = 255
_MOST_ADDRESSES = 16
"""Of prefixes and DNS servers in one advertisement: more of them are somebody's joke."""
_PREFERENCES: dict[int, Preference] = {0: "medium", 1: "high", 2: "medium", 3: "low"}
"""RFC 4191 section 2.1: two bits; 2 is reserved and read as medium."""
_HIGH = 1


class Prefix(Struct, frozen=True):
    """preferred_s, valid_s: 4294967295 for ever. makes_addresses: hosts take addresses of it (the A flag)."""

    network: IPv6Network
    valid_s: int
    preferred_s: int
    makes_addresses: bool


class Advert(Struct, frozen=True):
    """What one router says of itself. router: its link-local address.

    lifetime_s: 0: it is no default router. dns: RDNSS addresses that are not withdrawn; dns_lifetime_s: of the first.
    """

    router: IPv6Address
    mac: Mac
    preference: Preference
    lifetime_s: int
    prefixes: tuple[Prefix, ...] = ()
    dns: tuple[IPv6Address, ...] = ()
    dns_lifetime_s: int | None = None
    uses_dhcp: bool = False
    """Whether addresses (M) or other settings (O) come by DHCPv6."""

    def terms(self) -> str:
        """What it says, in words."""
        role = f"default router, {self.preference} preference, for {self.lifetime_s} s" if self.lifetime_s else ""
        parts = [role or "no default router", *(f"prefix {p.network}" for p in self.prefixes)]
        parts.append(f"DNS {' and '.join(map(str, self.dns)) or 'none'}")
        return ", ".join([*parts, *(["more by DHCPv6"] if self.uses_dhcp else [])])


def advert_in(frame: Frame) -> Advert | None:
    """The advertisement in a frame, if a host would believe it (RFC 4861 section 6.1.2)."""
    packet = frame.body
    if not isinstance(packet, Ipv6) or packet.protocol != ICMPV6 or not isinstance(packet.body, bytes):
        return None
    body = packet.body
    if packet.ttl != _HOP_LIMIT or not packet.src.is_link_local or len(body) < 16 or body[:2] != b"\x86\0":
        return None
    options = _options(body[16:])
    return None if options is None else _advert(packet.src, frame.src, body, options)


def _options(data: bytes) -> list[tuple[int, bytes]] | None:
    """Kind and content of each; None where one is of no length or cut off: then all of it is to be ignored."""
    found = []
    while data:
        size = data[1] * 8 if len(data) > 1 else 0
        if not 0 < size <= len(data):
            return None
        found.append((data[0], data[2:size]))
        data = data[size:]
    return found


def _advert(router: IPv6Address, mac: Mac, body: bytes, options: list[tuple[int, bytes]]) -> Advert:
    flags, lifetime_s = body[5], int.from_bytes(body[6:8])
    prefixes = [p for kind, data in options if kind == _PREFIX and (p := _prefix(data))]
    servers = [s for kind, data in options if kind == _RDNSS for s in _servers(data)][:_MOST_ADDRESSES]
    return Advert(
        router=router,
        mac=mac,
        preference=_PREFERENCES[flags >> 3 & 3],
        lifetime_s=lifetime_s,
        prefixes=tuple(prefixes[:_MOST_ADDRESSES]),
        dns=tuple(dict.fromkeys(address for address, _ in servers)),
        dns_lifetime_s=servers[0][1] if servers else None,
        uses_dhcp=bool(flags & 0xC0),
    )


def _prefix(data: bytes) -> Prefix | None:
    """RFC 4861 section 4.6.2; link-local ones mean nothing."""
    if len(data) != 30 or data[0] > 128:
        return None
    network = IPv6Network((data[14:30], data[0]), strict=False)
    valid_s, preferred_s = struct.unpack_from("!II", data, 2)
    return None if network.is_link_local else Prefix(network, valid_s, preferred_s, bool(data[1] & 0x40))


def _servers(data: bytes) -> list[tuple[IPv6Address, int]]:
    """RFC 8106 section 5.1: each with its lifetime; 0 withdraws them."""
    if len(data) < 22 or len(data) % 16 != 6:
        return []
    lifetime_s = int.from_bytes(data[2:6])
    return [(IPv6Address(data[i : i + 16]), lifetime_s) for i in range(6, len(data), 16)] if lifetime_s else []


def solicitation(mac: Mac, ip: IPv6Address | None) -> Frame:
    """Asks every router to advertise itself. ip: our link-local address; without one the question has no sender."""
    options = bytes((_SOURCE_MAC, 1)) + mac_bytes(mac) if ip else b""
    return _frame(mac, ip or NOBODY, ALL_ROUTERS_MAC, ALL_ROUTERS, bytes((SOLICITATION,)) + bytes(7) + options)


def withdrawal(mac: Mac, ip: IPv6Address) -> Frame:
    """Says to all that we are no default router any more, and no DNS server (lifetimes of 0). ip: our link-local one.

    Nothing is said of prefixes: they are the router's.
    """
    head = struct.pack("!BBHBBHII", ADVERTISEMENT, 0, 0, 0, _HIGH << 3, 0, 0, 0)
    options = bytes((_SOURCE_MAC, 1)) + mac_bytes(mac) + struct.pack("!BBHI", _RDNSS, 3, 0, 0) + ip.packed
    return _frame(mac, ip, ALL_NODES_MAC, ALL_NODES, head + options)


def _frame(mac: Mac, src: IPv6Address, to: Mac, dst: IPv6Address, message: bytes) -> Frame:
    """With the checksum of RFC 4443 section 2.3 and the hop limit that says: from this very link."""
    pseudo = src.packed + dst.packed + struct.pack("!II", len(message), ICMPV6)
    summed = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    return frame_of(to, mac, Ipv6(src, dst, ICMPV6, summed, ttl=_HOP_LIMIT))
