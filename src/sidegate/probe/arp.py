"""Who has this address? ARP requests, and every MAC address that answers (RFC 826).

Two different answers mean that two devices use the address. Asked with the sender 0.0.0.0 it is the probe of RFC 5227
section 2.1.1: nobody's ARP cache learns from it, so it may ask about an address that is not ours yet.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from msgspec import Struct

from sidegate.packet import BROADCAST, NO_MAC, Arp, Mac, frame_of
from sidegate.probe.talk import Clock, Heard, ListenArp, Observation, Talk, Vantage, Wait, send
from sidegate.probe.wire import Wire, ip_of, mac_of, run
from sidegate.problems import Problem, Problems

_COPIES = 3
_GAP_S = 0.2
_SECOND_ANSWER_S = 0.1
"""After the first answer: time for a second owner of the address to answer as well."""


class ArpResult(Struct, frozen=True):
    """macs: all that answered for the address, first come first; empty when nobody did."""

    ip: IPv4Address
    macs: tuple[Mac, ...]
    evidence: tuple[Observation, ...]

    def text(self) -> str:
        """The answer as a sentence, and every frame of the evidence, a line each."""
        who = f"is at {' and at '.join(self.macs)}" if self.macs else "is nobody's: no answer"
        return "\n".join([f"{self.ip} {who}.", *(f"  {seen}" for seen in self.evidence)])


def who_has(ip: IPv4Address, our_mac: Mac, our_ip: IPv4Address = IPv4Address(0)) -> Talk[ArpResult]:  # noqa: B008
    """Asks up to 3 times, 0.2 s apart; listens 0.1 s longer once answered. our_ip: 0.0.0.0 for an RFC 5227 probe."""
    began_s: float = yield Clock()
    yield ListenArp(ip)
    macs: dict[Mac, None] = {}
    evidence: list[Observation] = []
    question = frame_of(BROADCAST, our_mac, Arp(False, our_mac, our_ip, NO_MAC, ip))
    for _ in range(_COPIES):
        sent_s = yield from send(question)
        evidence.append(Observation(sent_s - began_s, "sent", BROADCAST, "arp", f"who has {ip}? tell {our_ip}"))
        until_s = sent_s + _GAP_S
        while (heard := (yield from _answer(until_s, our_mac))) is not None:
            mac, at_s = heard
            evidence.append(Observation(at_s - began_s, "received", mac, "arp", f"{ip} is at {mac}"))
            if not macs:
                until_s = at_s + _SECOND_ANSWER_S
            macs[mac] = None
        if macs:
            break
    return ArpResult(ip, tuple(macs), tuple(evidence))


def _answer(until_s: float, our_mac: Mac) -> Talk[tuple[Mac, float] | None]:
    while True:
        heard: Heard | None = yield Wait(until_s)
        if heard is None:
            return None
        arp = heard.frame.body
        if isinstance(arp, Arp) and arp.reply and arp.sender_mac != our_mac:
            return arp.sender_mac, heard.at_s


def resolve(interface: str, *ips: IPv4Address) -> list[ArpResult]:
    """Ask for addresses from this box, all at once. Blocks at most about 0.7 s. Raises Problems."""
    mac, ip = mac_of(interface), ip_of(interface)
    with Wire[ArpResult](interface, ip) as wire:
        return run(wire, *(who_has(asked, mac, ip) for asked in ips))


def stand_at(interface: str, router_ip: IPv4Address) -> Vantage:
    """Our vantage on an interface, the router's MAC found by ARP. Blocks at most about 0.7 s. Raises Problems."""
    (router,) = resolve(interface, router_ip)
    if not router.macs:
        remedy = "is it switched on, on this network, and is the address right?"
        raise Problems(Problem(f"router {router_ip}", f"does not answer ARP on {interface}", remedy))
    return Vantage(interface, mac_of(interface), ip_of(interface), router_ip, router.macs[0])
