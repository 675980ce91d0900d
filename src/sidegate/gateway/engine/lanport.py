"""The port for devices that prefer a proxy (`proxy.lan_port`), in Xray's configuration. Pure.

The same rules, for another way in: here the engine is told the name, or the address, that is wanted, and decides alone;
the kernel's part is who may come in, and that what goes straight from here leaves by the LAN's interface (`services`).
`judge.at_lan_port` says in words what these rules do.

A rule with networks is asked with the address that a name has now. Xray looks one up only when no rule matched, and
then asks all of them anew (app/router/router.go pickRouteInternal, IPIfNonMatch): so a rule that comes after one with
networks must not match before the address is known, and asks for `ANY` address too. What has none matches nothing, and
goes to the first outbound, which refuses it.

There is a place for each upstream, where `proxy` means this one, and a last one for the time when none works: the
kernel leads the port to one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from msgspec import Struct

from sidegate.gateway.config.fields import OnFailure
from sidegate.gateway.engine import geodata
from sidegate.gateway.engine.sets import domains_of, networks_of
from sidegate.gateway.engine.silence import tcp_tag
from sidegate.gateway.engine.upstream import Json, Upstream
from sidegate.gateway.ruleset.steer import INTERNET6, PRIVATE4
from sidegate.gateway.split.policy import BLOCK, DIRECT, PROXY, Policy, Rule
from sidegate.gateway.split.ports import engine_mark, lan_mark, lan_port

STRAIGHT = "lan-direct"
ANY = ["0.0.0.0/0", "::/0"]
_INTERNET = "INTERNET"
"""The set of all that is not private."""
_NOT_INTERNET6 = ["::/3", "4000::/2", "8000::/1"]
"""All but INTERNET6, which no rule is asked about (`steer`)."""
_NAMED = ["regexp:.+"]
_BLACKHOLE = "block"


class LanPort(Struct, frozen=True):
    """default: where goes what no rule names. names_at: our own resolver, which knows whom to ask for which name;

    None: none serves; names are then looked up through the upstream, and only where a rule has networks.
    """

    on_failure: OnFailure = "direct"
    default: str = DIRECT
    names_at: IPv4Address | None = None


def sets_text() -> str:
    """What the rules refer to besides the sets of the policy, in the same form (`sets`)."""
    left = [IPv4Network("0.0.0.0/0")]
    for private in map(IPv4Network, PRIVATE4):
        left = [part for it in left for part in _without(it, private)]
    return "\n".join([f"[{_INTERNET}]", *map(str, sorted(collapse_addresses(left))), INTERNET6, ""])


def _without(it: IPv4Network, private: IPv4Network) -> Iterable[IPv4Network]:
    if private.supernet_of(it):
        return ()
    return it.address_exclude(private) if private.subnet_of(it) else (it,)


def inbounds(generation: int, upstreams: int, sniffing: Json) -> Iterator[Json]:
    """TCP alone: what a client would send to a UDP port of ours is shut to it. Marked, for `lasting` counts by that."""
    for i in (*range(upstreams), None):
        yield {
            "tag": _tag(i),
            "listen": "::",
            "port": lan_port(generation, i),
            "protocol": "mixed",
            "settings": {"auth": "noauth", "udp": False},
            "streamSettings": {"sockopt": {"mark": engine_mark(generation)}},
            "sniffing": {**sniffing, "routeOnly": True},
        }


def outbound(generation: int, lan: LanPort, strategy: str) -> Json:
    """What goes straight. Without a resolver of ours, names are this box's own resolver's to look up."""
    settings = {"targetStrategy": strategy} if lan.names_at else {}
    stream = {"sockopt": {"mark": lan_mark(generation)}}
    return {"tag": STRAIGHT, "protocol": "freedom", "settings": settings, "streamSettings": stream}


def routing(policy: Policy, lan: LanPort, upstreams: Sequence[Upstream]) -> Iterator[Json]:
    for i in (*range(len(upstreams)), None):
        for send, condition in _cases(policy, lan, looks_up=lan.names_at is not None or i is not None):
            yield {"inboundTag": [_tag(i)], **condition, "outboundTag": _target(send, i, lan, upstreams)}


def _tag(upstream: int | None) -> str:
    return "lan-lost" if upstream is None else f"lan-{upstream}"


def _target(send: str, upstream: int | None, lan: LanPort, upstreams: Sequence[Upstream]) -> str:
    names = [it.name for it in upstreams]
    if send in (DIRECT, BLOCK):
        return STRAIGHT if send == DIRECT else _BLACKHOLE
    if upstream is None or send not in (PROXY, *names):
        return STRAIGHT if lan.on_failure == "direct" else _BLACKHOLE
    number = upstream if send == PROXY else names.index(send)
    return tcp_tag(upstreams[number], number)


def _cases(policy: Policy, lan: LanPort, *, looks_up: bool) -> Iterator[tuple[str, Json]]:
    """Where it is sent, and on what condition; in order. looks_up: whether names are looked up for rules' networks."""
    yield DIRECT, {"ip": _NOT_INTERNET6}
    has_address = lan.names_at is not None
    for number, rule in enumerate(policy.rules):
        if _is_for_others(rule):
            continue
        for condition in _conditions(number, rule, has_address=has_address):
            yield rule.send, {**_common(rule), **condition}
        has_address = has_address or (looks_up and _has_networks(rule))
    yield from ((lan.default, it) for it in _anything(lan.default, has_address=has_address))
    yield DIRECT, {"ip": ANY}


def _is_for_others(rule: Rule) -> bool:
    """Devices that are known by their MAC addresses alone do not come in here."""
    source = rule.source
    return rule.protocol == "udp" or (source is not None and not (source.networks4 or source.networks6))


def _has_networks(rule: Rule) -> bool:
    return rule.destination is not None and bool(rule.destination.networks4 or rule.destination.networks6)


def _common(rule: Rule) -> Json:
    common: Json = {}
    if rule.ports is not None:
        common["port"] = ",".join(f"{a}-{b}" if a != b else str(a) for a, b in rule.ports)
    if rule.source is not None:
        common["sourceIP"] = [str(network) for network in (*rule.source.networks4, *rule.source.networks6)]
    return common


def _conditions(number: int, rule: Rule, *, has_address: bool) -> Iterator[Json]:
    """has_address: whether a name matches only once its address is known."""
    if rule.destination is None:
        yield from _anything(rule.send, has_address=has_address)
        return
    if rule.destination.has_names:
        named = {"domain": [f"ext:{geodata.FILE}:{domains_of(number)}"]}
        yield {**named, "ip": _where(rule.send)} if has_address else named
    if _has_networks(rule):
        yield {"ip": [f"ext:{geodata.FILE}:{networks_of(number)}"]}


def _anything(send: str, *, has_address: bool) -> Iterator[Json]:
    yield {"ip": _where(send)}
    if not has_address:
        yield {"domain": _NAMED}


def _where(send: str) -> list[str]:
    """What is not of the internet goes to an upstream only by a rule with a network that holds it."""
    return ANY if send in (DIRECT, BLOCK) else [f"ext:{geodata.FILE}:{_INTERNET}"]
