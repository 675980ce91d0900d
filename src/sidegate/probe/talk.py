"""The words between a talk and whoever runs it.

A talk is a generator: it yields commands and is resumed with their answers; its return value is its result.

| command | resumed with |
|---|---|
| `Clock()` | the time now, seconds of a monotonic clock |
| `Send(frame)` | the time when the frame was handed to the wire; pacing may delay it |
| `Wait(until_s)` | a `Heard` as soon as a frame of one of the talk's flows comes in, or `None` when the time has come |
| `FreshIcmpId()` | an ICMP id that nobody used for a minute; from now on its frames belong to this talk |
| `FreshUdpPort()` | a UDP source port, reserved on this host until the talk ends; its frames belong to this talk |
| `FreshDhcpXid()` | a random DHCP transaction id; from now on servers' answers with it belong to this talk |
| `ListenArp(ip)` | `None`; from now on ARP answers about that address belong to this talk |
| `ListenRa()` | `None`; from now on every router advertisement belongs to this talk |

Frames that come in while a talk waits for its `Send` are kept and handed over at its next `Wait`, before any timeout.
"""

from __future__ import annotations

from collections.abc import Generator
from ipaddress import IPv4Address
from typing import Any, Literal, TypeVar

from msgspec import Struct

from sidegate.packet import ICMPV6, Arp, Echo, Frame, IcmpError, Ipv4, Ipv6, Mac, Redirect, Udp, build

R = TypeVar("R")

Flow = tuple[Literal["icmp", "udp", "arp", "dhcp", "ra"], int]
"""What a frame belongs to: an ICMP id, our UDP port, an address asked for by ARP, or a DHCP transaction id.

Router advertisements are all one flow, of number 0: they are said to everybody.
"""

DNS_PORT = 53
ADVERTISEMENT = 134
"""The ICMPv6 type of a router advertisement (RFC 4861 section 4.2)."""
DHCP_PORTS = (67, 68)
"""Of a server's answer: from, to (RFC 2131 section 4.1)."""


class Clock(Struct, frozen=True):
    pass


class Send(Struct, frozen=True):
    frame: bytes


class Wait(Struct, frozen=True):
    until_s: float


class FreshIcmpId(Struct, frozen=True):
    pass


class FreshUdpPort(Struct, frozen=True):
    pass


class FreshDhcpXid(Struct, frozen=True):
    pass


class ListenArp(Struct, frozen=True):
    ip: IPv4Address


class ListenRa(Struct, frozen=True):
    pass


class Heard(Struct, frozen=True):
    """A frame that came in, and when."""

    frame: Frame
    at_s: float


Command = Clock | Send | Wait | FreshIcmpId | FreshUdpPort | FreshDhcpXid | ListenArp | ListenRa
Talk = Generator[Command, Any, R]
"""`Any`: which answer belongs to which command is the table above."""


class Vantage(Struct, frozen=True):
    """Where we stand: our interface, our addresses, and the main router's."""

    interface: str
    mac: Mac
    ip: IPv4Address
    router_ip: IPv4Address
    router_mac: Mac


class Observation(Struct, frozen=True):
    """One frame of the evidence.

    at_s: seconds since the probe began. way: sent or received. mac: to whom it was sent, or from whom it came.
    step: what it was for, as `control`, `poison`, `treatment`. what: the packet in words. id: ICMP id or UDP port.
    """

    at_s: float
    way: Literal["sent", "received"]
    mac: Mac
    step: str
    what: str
    id: int | None = None

    def __str__(self) -> str:
        arrow = "to" if self.way == "sent" else "from"
        return f"{self.at_s * 1000:7.1f} ms  {self.way:8} {self.step:9} {arrow:4} {self.mac}  {self.what}"


def flow_of(frame: Frame) -> Flow | None:
    """The flow whose question this frame answers (or refuses); None for what no talk can have asked for."""
    body = frame.body
    if isinstance(body, Arp):
        return "arp", int(body.sender_ip)
    if isinstance(body, Ipv6):
        is_advert = (
            body.protocol == ICMPV6 and isinstance(body.body, bytes) and body.body[:1] == bytes((ADVERTISEMENT,))
        )
        return ("ra", 0) if is_advert else None
    if not isinstance(body, Ipv4):
        return None
    if isinstance(body.body, Echo) and body.body.reply:
        return "icmp", body.body.id
    if isinstance(body.body, Udp) and body.body.sport == DNS_PORT:
        return "udp", body.body.dport
    if isinstance(body.body, Udp) and (body.body.sport, body.body.dport) == DHCP_PORTS:
        return "dhcp", int.from_bytes(body.body.payload[4:8])
    if isinstance(body.body, IcmpError | Redirect) and isinstance(body.body.inner, Ipv4):
        return _flow_asked(body.body.inner)
    return None


def _flow_asked(question: Ipv4) -> Flow | None:
    if isinstance(question.body, Echo) and not question.body.reply:
        return "icmp", question.body.id
    return ("udp", question.body.sport) if isinstance(question.body, Udp) else None


def send(frame: Frame) -> Talk[float]:
    """Send, and return when it went out."""
    at_s: float = yield Send(build(frame))
    return at_s
