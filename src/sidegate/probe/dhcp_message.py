"""DHCP messages: bytes -> a frozen struct and back (RFC 2131 section 2, options of RFC 2132).

`parse_message` takes anything a network may send and never raises. What a server says is kept as bytes by option
number; the readers below make addresses, numbers and text of it, and give nothing for what is malformed.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from msgspec import Struct

from sidegate.packet import Mac, mac_bytes, mac_text

SERVER_PORT, CLIENT_PORT = 67, 68
DISCOVER, OFFER = 1, 2
NETMASK, GATEWAY, DNS, DOMAIN, LEASE_TIME, KIND, SERVER, PARAMETERS = 1, 3, 6, 15, 51, 53, 54, 55

_ETHERNET = 1
_BROADCAST_FLAG = 0x8000
_PAD, _OVERLOAD, _END = 0, 52, 255
_COOKIE = bytes((99, 130, 83, 99))
_SMALLEST = 300
"""Relays may drop less (RFC 1542 section 2.1)."""
_HEAD = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")


class Message(Struct, frozen=True):
    """kind: of option 53, 0 without one. address: the one that is given, 0.0.0.0 for none (`yiaddr`).

    options: by number, those without a meaning of their own left out; parts of one option joined (RFC 3396).
    """

    is_reply: bool
    kind: int
    xid: int
    mac: Mac
    address: IPv4Address
    options: dict[int, bytes]


def parse_message(data: bytes) -> Message | None:
    """The message that these bytes are; None for what is no DHCP message about an Ethernet device."""
    if len(data) < _HEAD.size:
        return None
    op, kind_of_link, mac_size, _, xid, _, _, _, address, _, _, mac, name, file, cookie = _HEAD.unpack_from(data)
    if (op, kind_of_link, mac_size, cookie) not in ((1, _ETHERNET, 6, _COOKIE), (2, _ETHERNET, 6, _COOKIE)):
        return None
    options = _all_options(data[_HEAD.size :], file, name)
    kind = options.pop(KIND, b"")
    return Message(op == 2, kind[0] if len(kind) == 1 else 0, xid, mac_text(mac[:6]), IPv4Address(address), options)


def _all_options(data: bytes, file: bytes, name: bytes) -> dict[int, bytes]:
    """Those of the options field, then of `file` and `sname` where option 52 says so (RFC 2131 section 4.1)."""
    options: dict[int, bytes] = {}
    _add_options(data, options)
    overload = options.pop(_OVERLOAD, b"")
    if overload in (b"\1", b"\3"):
        _add_options(file, options)
    if overload in (b"\2", b"\3"):
        _add_options(name, options)
    return options


def _add_options(data: bytes, options: dict[int, bytes]) -> None:
    """Up to the end mark or the first option that is cut off."""
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        body = data[at + 2 : at + 2 + data[at + 1]] if at + 1 < len(data) else b""
        if at + 1 >= len(data) or len(body) < data[at + 1]:
            return
        options[data[at]] = options.get(data[at], b"") + body
        at += 2 + len(body)


def build_discover(xid: int, mac: Mac) -> bytes:
    """A question to every DHCP server, answers by broadcast, padded to what relays pass on. mac: who asks."""
    nobody = bytes(4)
    head = _HEAD.pack(
        *(1, _ETHERNET, 6, 0, xid, 0, _BROADCAST_FLAG),
        *(nobody, nobody, nobody, nobody),
        *(mac_bytes(mac), b"", b"", _COOKIE),
    )
    wanted = bytes((NETMASK, GATEWAY, DNS, DOMAIN, LEASE_TIME, SERVER))
    options = bytes((KIND, 1, DISCOVER, PARAMETERS, len(wanted))) + wanted + bytes((_END,))
    return (head + options).ljust(_SMALLEST, b"\0")


def addresses(message: Message, option: int) -> tuple[IPv4Address, ...]:
    """The addresses of an option; none if it is missing or no list of addresses."""
    data = message.options.get(option, b"")
    return tuple(IPv4Address(data[i : i + 4]) for i in range(0, len(data), 4)) if len(data) % 4 == 0 else ()


def seconds(message: Message, option: int) -> int | None:
    """The time of an option in seconds; None if it is missing or malformed. 2**32 - 1 means for ever."""
    data = message.options.get(option, b"")
    return int.from_bytes(data) if len(data) == 4 else None


def text(message: Message, option: int) -> str:
    """The text of an option, printable ASCII only: it comes from a stranger and goes to a terminal."""
    raw = message.options.get(option, b"").rstrip(b"\0")
    return "".join(chr(b) if 32 <= b < 127 else "?" for b in raw)
