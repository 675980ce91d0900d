"""The bridge probe's questions as packets, what answers them, and both in words."""

from __future__ import annotations

from ipaddress import IPv4Address

from msgspec import Struct

from sidegate.packet import ICMP, UDP, Echo, IcmpError, Ipv4, Redirect, Udp
from sidegate.probe.bridge_plan import Method
from sidegate.probe.talk import DNS_PORT

_DNS_QUESTION = b"\7example\3com\0\0\1\0\1"
"""A record of example.com (RFC 2606: reserved, always there); class IN."""


class Question(Struct, frozen=True):
    """What is asked of one target by one method, again and again. token: 16 random bytes that an echo carries."""

    source: IPv4Address
    target: IPv4Address
    method: Method
    token: bytes

    def packet(self, flow: int, serial: int, ttl: int) -> Ipv4:
        """With its serial, twice: as echo sequence number or DNS id, and as IP identification.

        The latter because ICMP errors may quote no more than 8 bytes behind the IP header (RFC 792).
        """
        if self.method == "icmp":
            body: Echo | Udp = Echo(False, flow, serial, self.token)
        else:
            body = Udp(flow, DNS_PORT, serial.to_bytes(2) + b"\1\0\0\1\0\0\0\0\0\0" + _DNS_QUESTION)
        protocol = ICMP if self.method == "icmp" else UDP
        return Ipv4(self.source, self.target, protocol, body, ttl=ttl, ident=serial)

    def serial_of(self, packet: Ipv4) -> tuple[int | None, bool]:
        """The serial of the question that this packet answers, and whether it also proves to have seen it."""
        body = packet.body
        if isinstance(body, Echo):
            return body.seq, body.payload == self.token and packet.src == self.target
        if isinstance(body, Udp):
            return int.from_bytes(body.payload[:2]), len(body.payload) >= 12 and packet.src == self.target
        if isinstance(body, IcmpError | Redirect) and isinstance(body.inner, Ipv4):
            return body.inner.ident, body.inner.dst == self.target
        return None, False

    def is_answered_by(self, packet: Ipv4) -> bool:
        """Whether the target itself answered: by an echo reply, by DNS, or by refusing the UDP port."""
        port_closed = isinstance(packet.body, IcmpError) and packet.body.kind == "unreachable" and packet.body.code == 3
        return packet.src == self.target and (isinstance(packet.body, Echo | Udp) or port_closed)


def words(packet: Ipv4) -> str:
    """The packet as evidence tells it."""
    body = packet.body
    if isinstance(body, Echo):
        what = f"echo {'reply' if body.reply else 'request'} id {body.id} seq {body.seq}"
    elif isinstance(body, Udp):
        name = "DNS answer" if body.sport == DNS_PORT else "DNS query"
        what = f"{name} id {int.from_bytes(body.payload[:2])}, ports {body.sport} to {body.dport}"
    elif isinstance(body, IcmpError):
        what = f"ICMP {body.kind} (code {body.code})"
    else:
        what = "ICMP redirect" if isinstance(body, Redirect) else f"IP protocol {packet.protocol}"
    return f"{what}, {packet.src} to {packet.dst}, ttl {packet.ttl}"


def flow_number(packet: Ipv4) -> int | None:
    """The ICMP id of an echo, or the port from which UDP is sent."""
    if isinstance(packet.body, Echo):
        return packet.body.id
    return packet.body.sport if isinstance(packet.body, Udp) else None
