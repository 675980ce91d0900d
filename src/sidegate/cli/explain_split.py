"""For `explain`: the address of a name, as a client gets it, and what the split does with packets there."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct

from sidegate.gateway.split.explaining import FOREIGN, ExplainView
from sidegate.gateway.split.names import ascii_name
from sidegate.probe.dns import DnsAnswer, ask
from sidegate.problems import Problem, Problems

_ASKED = {
    "direct": "asked at the servers for names that go straight",
    "proxied": "asked through the upstream, as long as one works",
    "blocked": "not asked for anywhere: a rule blocks the name",
}
_QUESTIONS = 3
"""As clients ask: again, since a datagram may be lost on its way to an upstream, and dnsmasq sends no second one."""
_NOT_FOUND = "is it spelt so? does DNS work here (sidegate status)? Or give an IPv4 address"
_GOES = {"straight": "goes: straight on", "refused": "goes: nowhere, it is refused at once"}


class Target(Struct, frozen=True):
    """how: how this box came to the address, for people. by_us: whether our resolver gave it, or refused to."""

    address: IPv4Address | IPv6Address
    name: str = ""
    how: str = ""
    by_us: bool = False


def look_up(destination: str, own: IPv4Address) -> Target:
    """destination: a name or an address. own: where our resolver would be. Raises Problems."""
    try:
        return Target(ip_address("" if "%" in destination else destination))
    except ValueError:
        pass
    try:
        name = ascii_name(destination)
    except ValueError as error:
        where = destination or "DESTINATION"
        raise Problems(Problem(where, f"no address: {error}", "give a name or an address")) from None
    answer = ask(own, name, times=_QUESTIONS)
    if answer is not None and answer.addresses:
        return Target(IPv4Address(answer.addresses[0]), name, f", as this box answers clients for {name}", by_us=True)
    return _elsewhere(name, answer)


def _elsewhere(name: str, answer: DnsAnswer | None) -> Target:
    """Where our resolver does not serve, or does not tell. Raises Problems."""
    told = "" if answer is None else f"; clients that ask this box are told {answer.code}, without an address"
    try:
        found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = f"{getattr(error, 'strerror', None) or error}{told}"
        raise Problems(Problem(name, f"no IPv4 address: {why}", _NOT_FOUND)) from None
    how = f", as this box's own resolver answers for {name}{told}"
    return Target(IPv4Address(found[0][4][0]), name, how, by_us=answer is not None)


IPV6 = {
    "off": "this box tells no name's IPv6 address, and does not split IPv6",
    "router": "it stays the main router's; this box tells no IPv6 address of names that are proxied",
    "gateway": "it is split as IPv4 is, by the same rules",
}
"""By ipv6.mode."""


def ipv6_line(mode: str) -> str:
    return f"ipv6: {IPV6[mode]} (ipv6.mode is {mode})"


ROUND_US = (
    "goes: round this box, to the main router: no rule is asked. A device has such an address from another resolver, "
    "or from a program of its own",
    'note: for IPv6 to be split: ipv6.mode = "gateway"',
)


def split_lines(split: ExplainView | None, by_us: bool) -> list[str]:
    """by_us: whether our resolver serves."""
    if split is None:
        return ["rule: unknown; the daemon is of another version and does not tell: restart it"]
    dns = [f"dns: {_ASKED[split.dns]}"] if by_us and split.dns else []
    notes = [f"note: {note}" for note in split.notes]
    return [*dns, f"rule: {split.rule}: {split.why}", f"decided by: the {split.decides}", _goes(split), *notes]


def _goes(split: ExplainView) -> str:
    if split.upstream == FOREIGN:
        return f"goes: to {FOREIGN}, which listens for TPROXY and does as it is configured"
    return f"goes: through the upstream {split.upstream}" if split.goes == "proxied" else _GOES[split.goes]


def is_walked(split: ExplainView) -> bool:
    """Whether the client's own packets leave this box for the router."""
    return split.goes == "straight" and split.decides == "kernel"


def without_walk(split: ExplainView) -> str:
    if split.goes == "refused":
        return "the walk: none; this box answers with a reset, or with ICMP"
    ends = "the walk: none; the client's packets end in this box"
    if split.upstream == FOREIGN:
        return ends
    if split.goes == "straight":
        return f"{ends}, and the engine makes a connection of its own to the destination"
    return f"{ends}, and the engine makes connections of its own to the upstream: no return path is needed"
