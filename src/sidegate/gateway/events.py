"""What the kernel tells without being asked: new neighbours, and that a link, an address or a route changed.

Two message types of rtnetlink are read here by hand, because a netlink library costs more memory than all the rest of
the daemon (see `facts`). Layout: rtnetlink(7), include/uapi/linux/neighbour.h.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

from msgspec import Struct

from sidegate.gateway.nft import Client

_RTMGRP_LINK, _RTMGRP_NEIGH, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE = 0x1, 0x4, 0x10, 0x40
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x80 | 0x40
"""Reachable, stale, delay, probe, permanent, noarp: states in which the MAC address is known."""
_HEADER = struct.Struct("=IHHII")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")


class Changed(Struct, frozen=True):
    """A link, an IPv4 address or an IPv4 route changed."""


class Met(Struct, frozen=True):
    """An IPv4 neighbour whose MAC address the kernel knows now, by its interface's index."""

    client: Client
    index: int


Event = Changed | Met


class KernelEvents:
    """A netlink socket to wait on."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_NEIGH | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[Event]:
        """What happened since. Where the kernel had to drop messages, that counts as a change of everything."""
        events: list[Event] = []
        while True:
            try:
                events += parse(self._socket.recv(1 << 16))
            except BlockingIOError:
                return events
            except OSError:
                # ENOBUFS: the receive buffer overran (netlink(7)).
                events.append(Changed())

    def close(self) -> None:
        self._socket.close()


def parse(data: bytes) -> list[Event]:
    """The events in what one `recv` returned; truncated messages end the list."""
    events: list[Event] = []
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            break
        if kind in (_RTM_NEWNEIGH, _RTM_DELNEIGH):
            met = _met(data[_HEADER.size : length]) if kind == _RTM_NEWNEIGH else None
            events += [met] if met else []
        else:
            events.append(Changed())
        data = data[(length + 3) & ~3 :]
    return events


def _met(body: bytes) -> Met | None:
    if len(body) < _NEIGHBOUR.size:
        return None
    family, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
    if family != socket.AF_INET or not state & _NUD_VALID:
        return None
    attributes = _attributes(body[_NEIGHBOUR.size :])
    ip, mac = attributes.get(_NDA_DST, b""), attributes.get(_NDA_LLADDR, b"")
    if len(ip) != 4 or len(mac) != 6:
        return None
    return Met(Client(mac.hex(":"), IPv4Address(ip)), index)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found
