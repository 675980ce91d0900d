"""Who hands out addresses here, and which gateway and DNS with them? A DHCPDISCOVER, and every offer to it.

Asked in the name of a device that does not exist (a random MAC address), so that no lease of anybody is touched: an
offer that is not taken up binds nothing (RFC 2131 section 3.1). A server keeps an offered address back for a while,
so whoever asks again and again must do so in one name, or it uses up the server's addresses.

The frame carries our own Ethernet address: an access point takes no frame of a station that it does not know. Offers
are asked for by broadcast, hence heard although they are not for us. A server on this box itself does not hear the
question: what a packet socket sends goes out only.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from msgspec import Struct

from sidegate.packet import BROADCAST, UDP, Frame, Ipv4, Mac, Udp, frame_of
from sidegate.probe import dhcp_message as dhcp
from sidegate.probe.talk import Clock, FreshDhcpXid, Heard, Observation, Talk, Wait, send
from sidegate.probe.wire import Wire, ip_of, mac_of, run

NOBODY, EVERYBODY = IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255")  # noqa: S104 (an address, not a bind)
FOREVER_S = 2**32 - 1
MOST_SERVERS = 16
"""More of them are one that lies about its address."""


class Plan(Struct, frozen=True):
    """asks_at_s: seconds after the beginning when the question is sent. until_s: how long offers are waited for.

    settle_s: once there is an offer, only so long for further ones; None: until_s whatever comes.
    Some servers look first whether an address is free: dnsmasq waits 3 s for a ping (src/config.h, PING_WAIT).
    """

    asks_at_s: tuple[float, ...] = (0.0, 0.5)
    until_s: float = 4.0
    settle_s: float | None = None


class Offer(Struct, frozen=True):
    """What one server would hand out. server: its own word for its address (option 54), else whence it came.

    address: the one it would give. gateways, dns: options 3 and 6. lease_s: None where it does not say.
    """

    server: IPv4Address
    server_mac: Mac
    address: IPv4Address
    gateways: tuple[IPv4Address, ...] = ()
    dns: tuple[IPv4Address, ...] = ()
    lease_s: int | None = None
    domain: str = ""

    @property
    def identity(self) -> tuple[IPv4Address, Mac]:
        """Tells servers apart."""
        return self.server, self.server_mac

    def terms(self, ours: Collection[IPv4Address] = ()) -> str:
        """What it hands out, in words. ours: this box's addresses, marked as such."""
        parts = [f"gateway {_list(self.gateways, ours)}", f"DNS {_list(self.dns, ours)}"]
        parts.append(f"an address such as {self.address} {_for(self.lease_s)}")
        return ", ".join([*parts, *([f"domain {self.domain}"] if self.domain else [])])


class DhcpResult(Struct, frozen=True):
    """offers: one of each server, first come first. waited_s: how long they were waited for."""

    offers: tuple[Offer, ...]
    waited_s: float
    evidence: tuple[Observation, ...]

    @property
    def disagree(self) -> bool:
        """Whether it depends on chance what a client gets."""
        return len({(o.gateways, o.dns) for o in self.offers}) > 1


def discover(our_mac: Mac, mac: Mac, plan: Plan = Plan()) -> Talk[DhcpResult]:  # noqa: B008
    """Asks and collects. our_mac: our Ethernet address. mac: of the device in whose name it is asked."""
    began_s: float = yield Clock()
    xid: int = yield FreshDhcpXid()
    question = Ipv4(NOBODY, EVERYBODY, UDP, Udp(dhcp.CLIENT_PORT, dhcp.SERVER_PORT, dhcp.build_discover(xid, mac)))
    look = _Look(mac, began_s, plan)
    for asks_s, until_s in zip(plan.asks_at_s, (*plan.asks_at_s[1:], plan.until_s), strict=True):
        sent_s = yield from send(frame_of(BROADCAST, our_mac, question))
        look.note(sent_s, "sent", BROADCAST, "discover", f"who hands out? I am {mac}")
        yield from look.collect(began_s + max(until_s, asks_s))
        if look.is_settled:
            yield from look.collect(began_s + plan.until_s)
            break
    ended_s: float = yield Clock()
    return DhcpResult(tuple(look.offers.values()), round(ended_s - began_s, 3), tuple(look.evidence))


class _Look:
    """One look's offers so far, and its evidence."""

    def __init__(self, mac: Mac, began_s: float, plan: Plan) -> None:
        self.mac, self.began_s, self.plan = mac, began_s, plan
        self.offers: dict[tuple[IPv4Address, Mac], Offer] = {}
        self.evidence: list[Observation] = []
        self._first_s: float | None = None

    @property
    def is_settled(self) -> bool:
        """Whether there is an offer, and that shortens the look."""
        return self._first_s is not None and self.plan.settle_s is not None

    def note(self, at_s: float, way: Literal["sent", "received"], mac: Mac, step: str, what: str) -> None:
        self.evidence.append(Observation(at_s - self.began_s, way, mac, step, what))

    def collect(self, until_s: float) -> Talk[None]:
        while True:
            heard: Heard | None = yield Wait(self._until_s(until_s))
            if heard is None:
                return
            offer = offer_in(heard.frame, self.mac)
            if offer is not None and offer.identity not in self.offers and len(self.offers) < MOST_SERVERS:
                self._first_s = heard.at_s if self._first_s is None else self._first_s
                self.offers[offer.identity] = offer
                self.note(heard.at_s, "received", offer.server_mac, "offer", f"{offer.server} offers {offer.terms()}")

    def _until_s(self, until_s: float) -> float:
        if self._first_s is None or self.plan.settle_s is None:
            return until_s
        return min(until_s, self._first_s + self.plan.settle_s)


def offer_in(frame: Frame, mac: Mac) -> Offer | None:
    """The offer to this device in a frame, whatever else a stranger may have sent."""
    packet = frame.body
    if not isinstance(packet, Ipv4) or not isinstance(packet.body, Udp):
        return None
    message = dhcp.parse_message(packet.body.payload)
    if message is None or not message.is_reply or message.kind != dhcp.OFFER or message.mac != mac:
        return None
    named = dhcp.addresses(message, dhcp.SERVER)
    return Offer(
        server=named[0] if len(named) == 1 else packet.src,
        server_mac=frame.src,
        address=message.address,
        gateways=dhcp.addresses(message, dhcp.GATEWAY),
        dns=dhcp.addresses(message, dhcp.DNS),
        lease_s=dhcp.seconds(message, dhcp.LEASE_TIME),
        domain=dhcp.text(message, dhcp.DOMAIN),
    )


def throwaway_mac(rng: random.Random) -> Mac:
    """Of a device that does not exist: random, individual, locally administered (IEEE 802c)."""
    first, *rest = rng.randbytes(6)
    return bytes((first & 0xFC | 0x02, *rest)).hex(":")


def ask(interface: str, plan: Plan = Plan()) -> DhcpResult:  # noqa: B008
    """Looks for DHCP servers from this box. Blocks plan.until_s. Raises Problems."""
    our_mac = mac_of(interface)
    with Wire[DhcpResult](interface, ip_of(interface)) as wire:
        return run(wire, discover(our_mac, throwaway_mac(random.SystemRandom()), plan))[0]


def serves_here(table: str | None = None) -> bool:
    """Whether a program on this box listens on the DHCP servers' port. table: the text of /proc/net/udp."""
    text = Path("/proc/net/udp").read_text("ascii") if table is None else table
    locals_ = (line.split()[1] for line in text.splitlines()[1:] if len(line.split()) > 1)
    return any(int(address.rpartition(":")[2], 16) == dhcp.SERVER_PORT for address in locals_)


def summary(result: DhcpResult, ours: Collection[IPv4Address], *, own_server: bool) -> list[str]:
    """The answer as sentences. ours: this box's addresses. own_server: one runs on this box, and was not asked."""
    lines = [_head(result.offers, result.waited_s, own_server=own_server)]
    lines += [f"{o.server} ({o.server_mac}) hands out {o.terms(ours)}." for o in result.offers]
    if result.disagree:
        lines.append("They disagree: what a client gets depends on who answers first.")
    if result.offers:
        lines += [f"Clients get {_use(who, kind, ours)}." for kind, who in _handed_out(result.offers)]
    return lines


def _head(offers: Sequence[Offer], waited_s: float, *, own_server: bool) -> str:
    others = "other " if own_server else ""
    here = "A DHCP server runs on this box. " if own_server else ""
    if not offers:
        return f"{here}No {others}DHCP server answered within {waited_s:.0f} s."
    count = f"One {others}DHCP server answers." if len(offers) == 1 else f"{len(offers)} {others}DHCP servers answer."
    return here + count


def _handed_out(offers: Sequence[Offer]) -> tuple[tuple[str, list[IPv4Address]], ...]:
    gateways = dict.fromkeys(g for o in offers for g in o.gateways[:1])
    dns = dict.fromkeys(d for o in offers for d in o.dns)
    return ("gateway", [*gateways]), ("DNS", [*dns])


def _use(who: Sequence[IPv4Address], kind: str, ours: Collection[IPv4Address]) -> str:
    if not who:
        return f"no {kind}"
    is_us = {address in ours for address in who}
    judged = "that is this box" if is_us == {True} else "not this box" if is_us == {False} else "this box among them"
    return f"{kind} {' or '.join(map(str, who))}: {judged}"


def _list(found: Sequence[IPv4Address], ours: Collection[IPv4Address]) -> str:
    return " and ".join(f"{a} (this box)" if a in ours else str(a) for a in found) or "none"


def _for(lease_s: int | None) -> str:
    if lease_s is None:
        return "for a time it does not name"
    if lease_s == FOREVER_S:
        return "for ever"
    return f"for {lease_s / 3600:g} h" if lease_s % 1800 == 0 and lease_s else f"for {lease_s} s"
