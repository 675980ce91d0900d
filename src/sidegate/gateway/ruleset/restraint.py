"""How much one device may begin, so that none takes from the others what all share: the engine, the resolver, and the
sets that remember flows. Pure.

The laws, which go on from those of `nft.py`, `steer.py` and `inbound.py`

16. A device begins no more proxied flows than `CONNECTIONS` and `DATAGRAMS` allow, and no connection while it has too
   many (`crowds`): the engine holds them for minutes or hours, and where it ends for want of memory all lose the proxy.
   What is beyond is lost, as on a line that is full: TCP and QUIC ask again after a second, and come through. It is
   not refused, which an honest client takes for the answer; and never sent straight, which is not what the rules say.
   What the engine has already goes on, and where nobody listens nobody is held back.
17. From one UDP port a device reaches no more strangers than `STRANGERS` allows. The engine opens a file for each that
   answers, and closes them all when the port falls silent: that of a BitTorrent client never does.
18. What goes straight is never held back. Beyond `STRAIGHT` it is only not remembered: should the rules change, such a
   flow of this device may change its way, while those of all others are known.
19. A device asks our resolver for no more names than `NAMES` allows, for it waits for only so many at a time.

A device is its MAC address: the addresses of IPv6 change by themselves, and who floods may choose those of IPv4. So
those behind a repeater that hides their MAC addresses are one. Where a set is full, as by made-up MAC addresses, who is
not in it is not held back.

Sources: `nft_dynset.c` nft_dynset_eval (an element that is there is renewed, and asked with its own state);
`nft_limit.c` nft_limit_eval (a bucket of tokens; `over` holds when none is left); Xray-core proxy/dokodemo/dokodemo.go
PacketWriter, and issue 4194 there (a file for each address that answers is meant so).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from sidegate.gateway.desired import TABLE
from sidegate.gateway.ruleset.nfttext import block, dynamic

DEVICE = "ether saddr"
_DEVICES_SIZE = 16384
_HELD_SIZE = 1024
_HELD_S = 600
"""How long it is told that a device was held back."""
_SECONDS = {"second": 1, "minute": 60}


class Allowance(Struct, frozen=True):
    """Who has the key may begin `at_once`, and then `rate` more each `unit`. name: of the set of those that began any.

    known_s: for how long they are known while they begin nothing. kept: how many.
    """

    name: str
    at_once: int
    rate: int
    known_s: int
    unit: Literal["second", "minute"] = "second"
    key: str = DEVICE
    kept: int = _DEVICES_SIZE

    @property
    def held(self) -> str:
        """The set of the devices that were held back, with how often, and the chain that does it."""
        return f"{self.name}_too_much"

    @property
    def over(self) -> str:
        """What matches the packet that begins one more than is allowed."""
        limit = f"limit rate over {self.rate}/{self.unit} burst {self.at_once} packets"
        return f"update @{self.name} {{ {self.key} {limit} }}"

    @property
    def known(self) -> str:
        """The set."""
        return dynamic(self.name, self.key, self.kept, self.known_s)

    def begun_within(self, seconds: float) -> int:
        """How many at the most."""
        return self.at_once + int(seconds * self.rate / _SECONDS[self.unit]) + 1


CONNECTIONS = Allowance("connects", 600, 30, 30)
"""A browser has 256 connections at the most (Chromium: g_max_sockets_per_pool in client_socket_pool_manager.cc), and
two of them may open all of these at once. BitTorrent opens 30 a second, 200 in all (libtorrent: connection_speed and
connections_limit in settings_pack.cpp)."""
DATAGRAMS = Allowance("sends", 400, 10, 60)
"""A page has some dozens of servers, each of them a flow of QUIC. In the engine a flow stays for two minutes after its
last datagram: 1,600 are there at a time, with 50 kB each."""
STRANGERS = Allowance("reaches", 1000, 6, 600, "minute", f"{DEVICE} . udp sport", 65536)
"""A call or a game has some dozens, and QUIC has one."""
STRAIGHT = Allowance("strays", 5000, 100, 60)
"""BitTorrent's table of nodes asks some 80 a second (libtorrent: dht_upload_rate_limit in settings_pack.cpp). One
device fills a third of a set of 65,536 flows that are remembered for 180 s."""
NAMES = Allowance("asks", 400, 50, 10)
"""The resolver waits for 1,000 answers at a time, for each 10 s at the most (dnsmasq: TIMEOUT in config.h): 900 of one
device. A page asks for a hundred; a home with its own resolver for one or two a second."""

CROWDS = "crowds"
CROWD = 1000
"""Connections through the proxy with which a device gets no more; in the engine each takes 30 kB."""
CROWD_S = 30
"""How long the kernel believes it; a daemon that lives says so again."""


def held_back(it: Allowance) -> str:
    """Its set; the chain is `holding_back`."""
    return dynamic(it.held, DEVICE, _HELD_SIZE, _HELD_S, "counter")


def holding_back(it: Allowance) -> str:
    return block("chain", it.held, [f"update @{it.held} {{ {DEVICE} }}", "drop"])


def crowds() -> str:
    """The set that the daemon fills with devices that have CROWD connections."""
    return block("set", CROWDS, ["type ether_addr", f"size {_HELD_SIZE}", "flags timeout", f"timeout {CROWD_S}s"])


def crowded(macs: Iterable[str]) -> str:
    """The transaction that says so. One at least. Add, delete, add: see `nft.prove`."""
    elements = f"element inet {TABLE} {CROWDS} {{ {', '.join(sorted(macs))} }}\n"
    return f"add {elements}delete {elements}add {elements}"
