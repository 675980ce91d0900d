"""The gateway's own table, as far as it decides what conntrack sees: `gateway/ruleset/nft.py`, laws 3 to 8 and 15.

In the order of the chains, so that the two can be read side by side; only the checks that are the same for segments
and for all else stand once, in front. What is not here: timeouts (a conversation is shorter than any of them; `forget`
stands for them), and so no proof that lapsed, of which `stale4` and `datagrams4` are; full sets; the split; our own
resolver.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from sidegate.walk.data import Packet

Client = tuple[str, str]
"""(MAC address, IPv4 address)"""
Source = tuple[str, str, int]
"""(MAC address, protocol, port)"""
Flow = tuple[str, str, int, str, int]
"""(source, protocol, its port, destination, its port)"""

PROVED = "the gateway has proved this client's return path"
ANSWERED = "this connection began directly and was answered"
FORWARDED = "an answer from a port that the router forwards to this device"


class _Sets:
    """What packets put into the table, named as there, without the 4."""

    def __init__(self, proved: frozenset[Client]) -> None:
        self.direct: set[Client] = set(proved)
        self.answered: set[Client] = set()
        self.doubted: set[Client] = set()
        self.pending: set[Flow] = set()
        self.begun: set[Flow] = set()
        self.retried: set[Flow] = set()
        self.masqueraded: set[Flow] = set()


class _Keys(NamedTuple):
    client: Client
    flow: Flow


class Table:
    """Asked for each packet that comes in by the LAN interface, in their order: it remembers."""

    def __init__(self, lan: IPv4Network, proved: frozenset[Client], forwarded: frozenset[Source]) -> None:
        self._lan, self._proved, self._forwarded = lan, proved, forwarded
        self._is_inside: dict[str, bool] = {}
        self._sets = _Sets(proved)

    def renew(self) -> None:
        """As it was loaded."""
        self._sets = _Sets(self._proved)

    def forget(self) -> None:
        """The connections, not the clients: after 120 s, or when it was loaded again."""
        self._sets.begun.clear()

    def untracked(self, packet: Packet) -> str | None:
        """Why conntrack does not see it; None where it does. The chains `upstream` and `underway`."""
        if not self._inside(packet.src) or self._inside(packet.dst):
            return None
        if (packet.src_mac, packet.protocol, packet.sport) in self._forwarded:
            return FORWARDED
        keys = _Keys(
            (packet.src_mac, packet.src), (packet.src, packet.protocol, packet.sport, packet.dst, packet.dport)
        )
        if packet.protocol == "tcp" and packet.kind != "SYN":
            return self._segment(keys, has_ack="ACK" in packet.kind)
        if keys.client in self._sets.direct:
            return self._of_proved(packet, keys)
        if packet.protocol in ("udp", "tcp"):
            self._remember(keys)
        return None

    def _inside(self, address: str) -> bool:
        found = self._is_inside.get(address)
        if found is None:
            found = self._is_inside[address] = IPv4Address(address) in self._lan
        return found

    def _remember(self, keys: _Keys) -> None:
        self._sets.begun.discard(keys.flow)
        self._sets.pending.discard(keys.flow)
        self._sets.masqueraded.add(keys.flow)

    def _of_proved(self, packet: Packet, keys: _Keys) -> str | None:
        """The chain `proved`."""
        if packet.protocol == "udp":
            return self._datagram(packet, keys)
        if packet.protocol == "tcp":
            return self._opening(keys)
        return PROVED if packet.kind == "echo request" else None

    def _datagram(self, packet: Packet, keys: _Keys) -> str | None:
        """The chain `proved_udp`."""
        if packet.dport == 53:
            return None
        if keys.flow in self._sets.masqueraded:
            self._remember(keys)
            return None
        return PROVED

    def _opening(self, keys: _Keys) -> str | None:
        """The chains `opening` and `repeated`."""
        sets = self._sets
        if keys.flow in sets.masqueraded:
            self._remember(keys)
            return None
        if keys.flow in sets.pending and keys.client not in sets.answered:
            sets.retried.add(keys.flow)
            self._remember(keys)
            return None
        sets.pending.add(keys.flow)
        sets.begun.discard(keys.flow)
        return PROVED

    def _segment(self, keys: _Keys, *, has_ack: bool) -> str | None:
        """The chain `underway`."""
        sets = self._sets
        if keys.flow in sets.begun:
            return ANSWERED
        if keys.flow in sets.pending:
            return self._answered(keys) if has_ack else None
        if has_ack and keys.flow in sets.retried and keys.client in sets.direct:
            self._doubt(keys)
        return None

    def _answered(self, keys: _Keys) -> str:
        sets = self._sets
        sets.pending.discard(keys.flow)
        sets.doubted.discard(keys.client)
        sets.answered.add(keys.client)
        sets.begun.add(keys.flow)
        return ANSWERED

    def _doubt(self, keys: _Keys) -> None:
        """The chains `doubt` and `withdrawal`."""
        sets = self._sets
        sets.retried.discard(keys.flow)
        if keys.client not in sets.doubted:
            sets.doubted.add(keys.client)
            return
        sets.direct.discard(keys.client)
        sets.doubted.discard(keys.client)
