"""Does somebody else use our address? Pure: what was heard, what to say, and when (RFC 5227 section 2.4).

| found | then |
|---|---|
| an ARP packet with our address as its sender's, from another MAC address | told at once; announced, once in 10 s |
| the other again and again | announced once in 10 s, never more: no war (case c: a host that must keep it) |
| nobody else for 35 s | it is over |

Such a question is also how gateways that clients do not know of hear of each other: each asks for its own address.

A gateway cannot give its address up: every client names it. The announcement takes back those that learned the other's
MAC address. A device that was there first says nothing by itself: it is asked for, by the probe of section 2.1.1, from
which nobody's ARP cache learns.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from msgspec import Struct

from sidegate.packet import BROADCAST, ETH_ARP, NO_MAC, Arp, Frame, Mac, frame_of

DEFEND_INTERVAL_S = 10.0
"""RFC 5227 section 1.1."""
ASK_S = 10.0
FORGET_S = 35.0
"""Three questions without an answer, and some."""
MOST_RIVALS = 8
"""More of them are one that makes addresses up."""
_WORD, _HALF, _IS, _TAKE = 0x20, 0x28, 0x15, 0x06
_PACKET_TYPE, _OUTGOING = 0xFFFFF000 + 4, 4
_LARGEST_FRAME = 65536


class Rival(Struct):
    """Who uses our address too. Times: seconds of a monotonic clock."""

    mac: Mac
    since_s: float
    heard_s: float


class Rivals:
    """Of one address."""

    def __init__(self, ip: IPv4Address, our_mac: Mac) -> None:
        self.ip, self._our_mac = ip, our_mac
        self._rivals: dict[Mac, Rival] = {}
        self._defended_s = self._ask_at_s = float("-inf")

    def __iter__(self) -> Iterator[Rival]:
        return iter(self._rivals.values())

    def heard(self, frame: Frame, now: float) -> Rival | None:
        """The one that this frame is a new sign of, if it was not known yet."""
        body = frame.body
        if not isinstance(body, Arp) or body.sender_ip != self.ip or body.sender_mac in (self._our_mac, NO_MAC):
            return None
        known = self._rivals.get(body.sender_mac)
        if known is not None:
            known.heard_s = now
            return None
        if len(self._rivals) >= MOST_RIVALS:
            return None
        rival = self._rivals[body.sender_mac] = Rival(body.sender_mac, now, now)
        return rival

    def gone(self, now: float) -> list[Rival]:
        """Those not heard of for long; they are forgotten."""
        silent = [it for it in self if now >= it.heard_s + FORGET_S]
        for it in silent:
            del self._rivals[it.mac]
        return silent

    def to_say(self, now: float) -> list[Frame]:
        """What is due: the question, and an announcement where somebody was heard since the last one."""
        said = []
        if now >= self._ask_at_s:
            self._ask_at_s = now + ASK_S
            said.append(question(self.ip, self._our_mac))
        if self._is_attacked(now):
            self._defended_s = now
            said.append(announcement(self.ip, self._our_mac))
        return said

    def _is_attacked(self, now: float) -> bool:
        return any(it.heard_s > self._defended_s for it in self) and now >= self._defended_s + DEFEND_INTERVAL_S

    def next_s(self) -> float:
        """When there is something to say or to forget."""
        times = [it.heard_s + FORGET_S for it in self]
        if any(it.heard_s > self._defended_s for it in self):
            times.append(self._defended_s + DEFEND_INTERVAL_S)
        return min([self._ask_at_s, *times])


def asked_for(frame: Frame) -> tuple[Mac, IPv4Address] | None:
    """Who asks whether an address is free, as one that has it or is about to; None for any other frame."""
    body = frame.body
    if not isinstance(body, Arp) or body.reply or int(body.sender_ip) != 0 or body.sender_mac != frame.src:
        return None
    return body.sender_mac, body.target_ip


def question(ip: IPv4Address, our_mac: Mac) -> Frame:
    """Who has our address? An ARP probe: its sender has none."""
    return frame_of(BROADCAST, our_mac, Arp(False, our_mac, IPv4Address(0), NO_MAC, ip))


def announcement(ip: IPv4Address, our_mac: Mac) -> Frame:
    """It is ours: to everybody (RFC 5227 section 2.3)."""
    return frame_of(BROADCAST, our_mac, Arp(False, our_mac, ip, NO_MAC, ip))


def senders_of(ip: IPv4Address) -> dict[str, list[tuple[int, int, str, str]]]:
    """For `wire.assemble`: ARP packets whose sender has this address or none, and that we did not send ourselves.

    Offsets count from the Ethernet header: 12 ethertype, 28 the sender's address.
    """
    return {
        "direction": [(_WORD, _PACKET_TYPE, "", ""), (_IS, _OUTGOING, "drop", "")],
        "ethertype": [(_HALF, 12, "", ""), (_IS, ETH_ARP, "", "drop")],
        "sender": [(_WORD, 28, "", ""), (_IS, int(ip), "take", ""), (_IS, 0, "take", "drop")],
        "drop": [(_TAKE, 0, "", "")],
        "take": [(_TAKE, _LARGEST_FRAME, "", "")],
    }
