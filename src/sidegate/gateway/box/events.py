"""What the kernel tells without being asked: new neighbours, and that a link, an address, a route or a rule changed.

Two families of netlink messages are read here by hand, because a netlink library costs more memory than all the rest
of the daemon (see `facts`). Layout: rtnetlink(7), include/uapi/linux/neighbour.h, linux/netfilter/nfnetlink.h. What
packets put into sets is not announced (net/netfilter/nft_dynset.c), what `nft` does is. iptables-legacy is not.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from ipaddress import IPv4Address

from msgspec import Struct

from sidegate.gateway.ruleset.nft import Client

_RTMGRP_LINK, _RTMGRP_NEIGH, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE = 0x1, 0x4, 0x10, 0x40
_RTMGRP_IPV6_IFADDR, _RTMGRP_IPV6_ROUTE = 0x100, 0x400
_RTMGRP_IPV4_RULE, _RTMGRP_IPV6_RULE = 1 << 8 - 1, 1 << 19 - 1  # RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE
_NETLINK_NETFILTER = 12  # include/uapi/linux/netlink.h
_RTM_NEWADDR, _RTM_DELADDR = 20, 21
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_GROUP_NFTABLES = 1 << 7 - 1  # NFNLGRP_NFTABLES
_NFTABLES, _LAST_OF_RULES = 10, 8
"""NFNL_SUBSYS_NFTABLES in a type's high byte; in the low one NFT_MSG_NEWTABLE to DELRULE, beyond them sets and more."""
_IFA_ADDRESS = 1
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x80 | 0x40
"""Reachable, stale, delay, probe, permanent, noarp: states in which the MAC address is known."""
_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")


class Changed(Struct, frozen=True):
    """A link, an address, a route, a rule of routing, or a table, chain or rule of nftables changed."""


class Met(Struct, frozen=True):
    """An IPv4 neighbour whose MAC address the kernel knows now, by its interface's index."""

    client: Client
    index: int


Event = Changed | Met


class KernelEvents:
    """Netlink sockets to wait on as one."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        places = _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_IFADDR | _RTMGRP_IPV6_ROUTE
        links = _RTMGRP_LINK | _RTMGRP_NEIGH | places | _RTMGRP_IPV4_RULE | _RTMGRP_IPV6_RULE
        self._sockets = (_listen(socket.NETLINK_ROUTE, links), _listen(_NETLINK_NETFILTER, _GROUP_NFTABLES))
        self._known6: set[bytes] = set()
        for heard in self._sockets:
            self._poll.register(heard, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def read(self) -> list[Event]:
        """What happened since. Where the kernel had to drop messages, that counts as a change of everything."""
        return [event for heard in self._sockets for event in _read(heard, self._known6)]

    def close(self) -> None:
        self._poll.close()
        for heard in self._sockets:
            heard.close()


def _listen(protocol: int, groups: int) -> socket.socket:
    heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    heard.bind((0, groups))
    heard.setblocking(False)
    return heard


def _read(heard: socket.socket, known6: set[bytes]) -> list[Event]:
    events: list[Event] = []
    while True:
        try:
            events += parse(heard.recv(1 << 16), known6)
        except BlockingIOError:
            return events
        except OSError as error:
            # The receive buffer overran (netlink(7)); reading goes on behind the gap.
            if error.errno != errno.ENOBUFS:
                raise
            known6.clear()
            events.append(Changed())


def parse(data: bytes, known6: set[bytes]) -> list[Event]:
    """The events in what one `recv` returned; truncated messages end the list.

    known6: the IPv6 addresses that were announced, kept up to date. Each of them is announced again with every router
    advertisement, every few seconds on a large LAN (`addrconf.c` addrconf_prefix_rcv_add_addr): that is no change.
    """
    events: list[Event] = []
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            break
        event = _event(kind, data[_HEADER.size : length], known6)
        events += [event] if event else []
        data = data[(length + 3) & ~3 :]
    return events


def _event(kind: int, body: bytes, known6: set[bytes]) -> Event | None:
    if kind >> 8 == _NFTABLES and kind & 0xFF > _LAST_OF_RULES:
        return None
    if kind in (_RTM_NEWNEIGH, _RTM_DELNEIGH):
        return _met(body) if kind == _RTM_NEWNEIGH else None
    if kind in (_RTM_NEWADDR, _RTM_DELADDR) and body[:1] == bytes([socket.AF_INET6]):
        return _address6(body, known6, is_there=kind == _RTM_NEWADDR)
    return Changed()


def _address6(body: bytes, known6: set[bytes], *, is_there: bool) -> Changed | None:
    if len(body) < _ADDRESS.size:
        return None
    _, prefix_length, _, _, index = _ADDRESS.unpack_from(body)
    address = _attributes(body[_ADDRESS.size :]).get(_IFA_ADDRESS, b"")
    key = struct.pack("=BI", prefix_length, index) + address
    if is_there and key in known6:
        return None
    (known6.add if is_there else known6.discard)(key)
    return Changed()


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
