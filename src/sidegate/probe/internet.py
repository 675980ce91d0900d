"""Is the internet there, by way of the router? One good answer from anybody is enough."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address

from msgspec import Struct

from sidegate.packet import UDP, Ipv4, Udp, frame_of
from sidegate.probe.reach import ReachResult, echo
from sidegate.probe.talk import DNS_PORT, FreshUdpPort, Heard, Talk, Vantage, Wait, send

_ANSWERS_WITHIN_S = 1.0


class InternetResult(Struct, frozen=True):
    """is_there: whether any target answered. reason: which one and how, or that none did."""

    is_there: bool
    reason: str


def internet(vantage: Vantage, targets: tuple[IPv4Address, ...], rng: random.Random) -> Talk[InternetResult]:
    """Each target by ICMP echo, then by a DNS query, until one answers: at most 2 s for each of them.

    Frames go to the router's MAC address: this box's own routes and tunnels have no say.
    """
    for target in targets:
        result: ReachResult = yield from echo(vantage, target, rng)
        if result.answer == "answered":
            return InternetResult(True, f"{target} answered an echo")
        if (yield from _answers_dns(vantage, target, rng)):
            return InternetResult(True, f"{target} answered a DNS query, not an echo")
    return InternetResult(False, f"none of {', '.join(map(str, targets))} answered an echo or a DNS query")


def _answers_dns(vantage: Vantage, target: IPv4Address, rng: random.Random) -> Talk[bool]:
    """Whether anything comes back from its port 53 with our number: a refusal is an answer as well."""
    port: int = yield FreshUdpPort()
    number = rng.randrange(1 << 16)
    query = struct.pack("!HHHHHHBHH", number, 0x0100, 1, 0, 0, 0, 0, 2, 1)  # RFC 1035 section 4: the root's NS
    at_s = yield from send(
        frame_of(vantage.router_mac, vantage.mac, Ipv4(vantage.ip, target, UDP, Udp(port, 53, query)))
    )
    while True:
        heard: Heard | None = yield Wait(at_s + _ANSWERS_WITHIN_S)
        if heard is None:
            return False
        packet = heard.frame.body
        if isinstance(packet, Ipv4) and packet.src == target and isinstance(packet.body, Udp):
            answer = packet.body
            if (answer.sport, answer.dport, answer.payload[:2]) == (DNS_PORT, port, struct.pack("!H", number)):
                return True
