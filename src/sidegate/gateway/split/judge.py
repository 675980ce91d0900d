"""Pure: what the policy says of one packet, and who decides it. What the kernel and the engine do is held against this.

A name is known to the kernel only as addresses that were learned when a client asked this box for it. So there are
three answers:

    meant    the first rule that matches by name or by address: what whoever wrote the rules wants
    kernel   the first rule one of whose networks holds the address, or for whose names it was learned
    engine   what the kernel sends to an upstream by a learned address, or by the default, shows its name in its first
             bytes (TLS, HTTP, QUIC), and the rules are asked once more, with that name; those for MAC addresses, which
             the engine does not know, are the kernel's alone

What the kernel sends straight on never meets the engine, whatever name it would show.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from msgspec import Struct

from sidegate.gateway.ruleset.steer import INTERNET6, PRIVATE4
from sidegate.gateway.split.destinations import holds_address, holds_name
from sidegate.gateway.split.policy import BLOCK, DIRECT, Policy, Rule, Source, barred_macs

QUIC_PORT = 443
By = Literal["network", "name", "learned", "other", "default", "private", "spared"]
"""What of the rule matched: the destination's address, its name, its address as one that was learned for a name of the
rule; conditions that ask for no destination. Where no rule does: the policy's default; or the destination is not of the
internet, and not asked about; or no rule is asked, for who sends it is an upstream's server (`sparing`)."""
WORDS: dict[By, str] = {
    "network": "its networks hold the address",
    "name": "it names the destination",
    "learned": "the address was learned for one of its names",
    "other": "it asks for no destination, and its conditions hold",
    "default": "no rule matches",
    "private": "the address is not of the internet, and no rule steers it",
    "spared": "the device answers for an upstream, to which what it sends would come back",
}
_PRIVATE4 = tuple(map(IPv4Network, PRIVATE4))
_INTERNET6 = IPv6Network(INTERNET6)


class Packet(Struct, frozen=True):
    """A LAN client's first packet. mac: lower case. name: the destination's, as `names.ascii_name` gives it; or None.

    protocol: `tcp`, `udp`, or another one, which has no port. learned: the rules, by their place in the policy, among
    whose learned addresses the destination is. is_spared: whether the client is an upstream's server.
    """

    mac: str
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    name: str | None = None
    protocol: str = "tcp"
    port: int = 443
    learned: Collection[int] = ()
    is_spared: bool = False


class Judgement(Struct, frozen=True):
    """rule: its place in the policy; None: the default. origin: where a person finds it. send: as in Rule.

    is_quic: QUIC that would be proxied, so that `send` is what is said of QUIC.
    """

    rule: int | None
    origin: str
    send: str
    by: By
    is_quic: bool = False

    @property
    def why(self) -> str:
        return WORDS[self.by] + (", and QUIC has a setting of its own" if self.is_quic else "")


_SPARED = Judgement(None, "", DIRECT, "spared")


class Outcome(Struct, frozen=True):
    """engine: None where it is not asked. meant: what the rules say to whoever knows the name."""

    kernel: Judgement
    engine: Judgement | None
    meant: Judgement

    @property
    def final(self) -> Judgement:
        return self.engine or self.kernel


def judge(policy: Policy, packet: Packet) -> Judgement:
    """What the policy means for it: the first rule that matches by name or by address."""
    return _first(policy, packet, lambda _, rule: _matches(rule, packet, packet.name, is_learned=False))


def at_kernel(policy: Policy, packet: Packet) -> Judgement:
    """What the kernel does with it, which knows names only as learned addresses."""
    return _first(policy, packet, lambda i, rule: _matches(rule, packet, None, is_learned=i in packet.learned))


def at_lan_port(policy: Policy, packet: Packet) -> Judgement | None:
    """What the engine does with a connection that is asked for at `proxy.lan_port`; None: that is shut to the device.

    packet: its destination the address that was asked for, or that the name has.
    """
    if packet.mac in barred_macs(policy):
        return None

    def matches(_: int, rule: Rule) -> By | None:
        return _matches(rule, packet, packet.name, is_learned=False)

    return _first(policy, packet, matches)


def outcome(policy: Policy, packet: Packet) -> Outcome:
    """All three."""
    if packet.is_spared:
        return Outcome(_SPARED, None, _SPARED)
    kernel = at_kernel(policy, packet)
    asked = packet.name is not None and is_proxied(kernel) and _is_asked_again(policy, kernel)
    return Outcome(kernel, _at_engine(policy, packet) if asked else None, judge(policy, packet))


def is_proxied(it: Judgement) -> bool:
    return it.send not in (DIRECT, BLOCK)


def _is_asked_again(policy: Policy, it: Judgement) -> bool:
    return it.by == "default" or (it.by == "learned" and it.rule is not None and not _has_macs(policy.rules[it.rule]))


def _at_engine(policy: Policy, packet: Packet) -> Judgement:
    """It knows devices by their addresses only: rules for MAC addresses were the kernel's to decide."""

    def matches(_: int, rule: Rule) -> By | None:
        return None if _has_macs(rule) else _matches(rule, packet, packet.name, is_learned=False)

    return _first(policy, packet, matches)


def _has_macs(rule: Rule) -> bool:
    return rule.source is not None and bool(rule.source.macs)


def _first(policy: Policy, packet: Packet, matches: Callable[[int, Rule], By | None]) -> Judgement:
    """Only a rule with a network that holds it steers what is not of the internet; of IPv6 nothing does."""
    is_public = _is_public(packet.destination)
    if not is_public and packet.destination.version == 6:
        return Judgement(None, "", DIRECT, "private")
    for i, rule in enumerate(policy.rules):
        by = matches(i, rule)
        if by == "network" or (by is not None and (is_public or rule.send in (DIRECT, BLOCK))):
            return _judged(packet, i, rule.origin, rule.send, rule.quic, by)
    if policy.default != DIRECT and not is_public:
        return Judgement(None, "", DIRECT, "private")
    return _judged(packet, None, "proxy.mode", policy.default, policy.quic, "default")


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        return address in _INTERNET6
    return not any(address in network for network in _PRIVATE4)


def _judged(packet: Packet, rule: int | None, origin: str, send: str, quic: str, by: By) -> Judgement:
    is_quic = packet.protocol == "udp" and packet.port == QUIC_PORT and send not in (DIRECT, BLOCK) and quic != "proxy"
    return Judgement(rule, origin, quic if is_quic else send, by, is_quic)


def _matches(rule: Rule, packet: Packet, name: str | None, *, is_learned: bool) -> By | None:
    if not (_is_protocol(rule, packet) and _is_port(rule, packet) and is_source(rule.source, packet)):
        return None
    if rule.destination is None:
        return "other"
    if holds_address(rule.destination, packet.destination):
        return "network"
    if name is not None and holds_name(rule.destination, name):
        return "name"
    return "learned" if is_learned else None


def _is_protocol(rule: Rule, packet: Packet) -> bool:
    return rule.protocol is None or rule.protocol == packet.protocol


def _is_port(rule: Rule, packet: Packet) -> bool:
    if rule.ports is None:
        return True
    return packet.protocol in ("tcp", "udp") and any(low <= packet.port <= high for low, high in rule.ports)


def is_source(source: Source | None, packet: Packet) -> bool:
    """Whether the condition, if there is one, holds for who sent it."""
    if source is None or packet.mac in source.macs:
        return True
    networks = source.networks4 if isinstance(packet.source, IPv4Address) else source.networks6
    return any(packet.source in network for network in networks)
