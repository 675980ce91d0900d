"""Pure: the configuration and what its files hold -> the Policy that is on now.

The rules of the configuration come first, in their order; then what the mode says:

    listed    proxy.list and proxy.country are proxied, the rest goes straight
    all-but   proxy.list and proxy.country go straight, the rest is proxied
    all       the rest is proxied
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, tzinfo
from ipaddress import IPv4Network

from sidegate.gateway.config import ClientConfig, Config, RuleConfig
from sidegate.gateway.config.split import TARGETS, client_of, port_range
from sidegate.gateway.split.destinations import Gathered, covers, merged
from sidegate.gateway.split.names import ascii_name
from sidegate.gateway.split.policy import BLOCK, DIRECT, PROXY, Destination, Policy, Rule, Source
from sidegate.gateway.split.shelf import Material
from sidegate.gateway.split.times import is_on, next_change, span_of
from sidegate.problems import Problem, Problems

_FULL = "full:"
_NOTHING = Destination()


def policy(config: Config, material: Material, upstream_names: Collection[str], now: datetime) -> Policy:
    """What holds now, without rules that name nothing. now: by the local clock.

    Raises Problems: a rule sends to an upstream that nobody named. With a subscription, which may name it tomorrow,
    that is only a hint.
    """
    unknown = [] if config.proxy.subscriptions else _unknown_upstreams(config, upstream_names)
    if unknown:
        raise Problems(*unknown)
    made = [_rule(f"rule[{i}]", it, config, material) for i, it in enumerate(config.rule) if _is_now(it, now)]
    rules = (rule for rule in (*made, *_of_mode(config, material)) if rule.destination != _NOTHING)
    return Policy(tuple(rules), _default(config), config.proxy.quic)


def hints(config: Config, material: Material, upstream_names: Collection[str]) -> tuple[Problem, ...]:
    """What is no error, and hardly meant: rules that never match, and what is said in vain."""
    unknown = _unknown_upstreams(config, upstream_names) if config.proxy.subscriptions else []
    never = _never_matched(config, material)
    idle = (*_idle_upstreams(config), *_idle_settings(config))
    return (*unknown, *idle, *_at_lan_port(config), *_asked_straight(config), *never)


def next_turn(config: Config, now: datetime, zone: tzinfo | None = None) -> datetime | None:
    """When a rule turns on or off by the clock next, in UTC; None: never. zone: default: this box's."""
    return next_change([span_of(text) for rule in config.rule for text in rule.time], now, zone)


def is_split(policy: Policy) -> bool:
    """Whether anything may go another way than straight."""
    return policy.default != DIRECT or any(rule.send != DIRECT for rule in policy.rules)


def is_proxied(policy: Policy) -> bool:
    """Whether anything may go through an upstream."""
    return policy.default == PROXY or any(rule.send not in (DIRECT, BLOCK) for rule in policy.rules)


def lan_default(config: Config) -> str:
    """Where `proxy.lan_port` sends what no rule names.

    Where nothing else is proxied, that port is what the upstream is there for.
    """
    return _default(config) if proxies(config) else PROXY


def proxies(config: Config) -> bool:
    """Whether anything is to be proxied at any time, whatever way it comes."""
    proxy = config.proxy
    is_listed = proxy.mode != "listed" or bool(proxy.list or proxy.country)
    return is_listed or any(rule.send not in (DIRECT, BLOCK) for rule in config.rule)


def fails_closed(config: Config) -> bool:
    """Whether something is proxied, and may not go straight even while nothing works."""
    return config.proxy.on_failure == "block" and proxies(config)


def _is_now(setting: RuleConfig, now: datetime) -> bool:
    return not setting.time or any(is_on(span_of(text), now) for text in setting.time)


def _rule(origin: str, it: RuleConfig, config: Config, material: Material) -> Rule:
    return Rule(
        origin=origin,
        send=it.send,
        destination=_destination(it, material),
        source=_source(it.client, config.client) if it.client else None,
        ports=_ports(it.port) if it.port else None,
        protocol=it.protocol,
        quic=it.quic or config.proxy.quic,
    )


def _destination(it: RuleConfig, material: Material) -> Destination | None:
    """None where the rule does not ask for one; _NOTHING for that of empty lists."""
    parts = [material.whole(it.list, it.country)] if it.list or it.country else []
    if it.domain or it.cidr:
        own = Gathered()
        own.names.update(ascii_name(name[len(_FULL) :]) for name in it.domain if name.startswith(_FULL))
        own.suffixes.update(ascii_name(name) for name in it.domain if not name.startswith(_FULL))
        for network in it.cidr:
            own.add_network(network)
        parts.append(own.destination())
    return merged(parts) if parts else None


def _source(words: Sequence[str], clients: Sequence[ClientConfig]) -> Source:
    """A device that is named is known by its MAC address, and by its fixed address where a repeater hides the MAC."""
    macs: set[str] = set()
    gathered = Gathered()
    for word in words:
        found = client_of(word)
        if not isinstance(found, str):
            gathered.add_network(found)
            continue
        named = [c for c in clients if c.name and c.name.lower() == word.lower()]
        macs.update(c.mac for c in named)
        macs.update([found] if not named else [])
        for ip in [c.ip for c in named if c.ip]:
            gathered.add_network(IPv4Network(ip))
    networks = gathered.destination()
    return Source(tuple(sorted(macs)), networks.networks4, networks.networks6)


def _ports(values: Sequence[int | str]) -> tuple[tuple[int, int], ...]:
    """Sorted, apart from each other."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(port_range(value) for value in values):
        if found and low <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(high, found[-1][1])
        else:
            found.append((low, high))
    return tuple(found)


def _of_mode(config: Config, material: Material) -> Iterator[Rule]:
    """Names and networks apart from countries: the latter the kernel decides without asking for a name."""
    proxy = config.proxy
    if proxy.mode == "all":
        return
    send = PROXY if proxy.mode == "listed" else DIRECT
    if proxy.list:
        yield Rule("proxy.list", send, material.whole(proxy.list), quic=proxy.quic)
    if proxy.country:
        yield Rule("proxy.country", send, material.whole((), proxy.country), quic=proxy.quic)


def _default(config: Config) -> str:
    return DIRECT if config.proxy.mode == "listed" else PROXY


def _unknown_upstreams(config: Config, names: Collection[str]) -> list[Problem]:
    known = {*TARGETS, *names}
    remedy = f"one of {', '.join((*TARGETS, *sorted(names)))}"
    return [
        Problem(f"rule[{i}].send", f'"{rule.send}" is the name of no upstream', remedy)
        for i, rule in enumerate(config.rule)
        if rule.send not in known
    ]


def _idle_upstreams(config: Config) -> Iterator[Problem]:
    """As of who sets an upstream, and nothing else, and expects to be proxied."""
    proxy = config.proxy
    if proxy.lan_port is not None or proxies(config):
        return
    key = "proxy.upstream" if proxy.links else "proxy.subscription" if proxy.subscriptions else "upstream"
    if proxy.links or proxy.subscriptions or config.upstream:
        remedy = 'name what is to be proxied in proxy.list, or set proxy.mode = "all" or "all-but", or add a [[rule]]'
        yield Problem(key, "is never used: nothing is to be proxied", remedy)


def _at_lan_port(config: Config) -> Iterator[Problem]:
    """What the rules cannot be held to there."""
    if config.proxy.lan_port is None:
        return
    macs = [i for i, it in enumerate(config.rule) if it.client and _source(it.client, config.client).macs]
    if macs:
        origins = ", ".join(f"rule[{i}]" for i in macs)
        what = f"is shut to the devices of {origins}, which are known by their MAC addresses: there they could not be"
        yield Problem("proxy.lan_port", what, "name them by their addresses, or leave them to this box as gateway")
    if not proxies(config):
        yield Problem("proxy.lan_port", "proxies all that no rule names, since nothing else is to be proxied")


def _asked_straight(config: Config) -> Iterator[Problem]:
    """Whoever writes that one device is proxied hardly thinks of the names that it asks for."""
    if config.proxy.mode != "listed" or not config.resolves or config.proxy.engine != "xray":
        return
    for i, it in enumerate(config.rule):
        if it.client and it.send not in (DIRECT, BLOCK) and not (it.domain or it.list or it.cidr or it.country):
            what = "names no names: what its devices ask for is asked straight, so the provider sees it and may lie"
            remedy = "name what matters in its domain or list, which is then asked through the upstream for everybody"
            yield Problem(f"rule[{i}]", what, f'{remedy}; or set proxy.mode = "all-but"')


def _idle_settings(config: Config) -> Iterator[Problem]:
    if config.proxy.mode == "all":
        for key in ("list", "country"):
            if getattr(config.proxy, key):
                remedy = f'for that to go straight: proxy.mode = "all-but"; otherwise drop {key}'
                yield Problem(f"proxy.{key}", 'says nothing where proxy.mode is "all"', remedy)


def _never_matched(config: Config, material: Material) -> Iterator[Problem]:
    """Rules all of which an earlier one takes, at any time of day."""
    made = [_rule(f"rule[{i}]", it, config, material) for i, it in enumerate(config.rule)]
    always = [rule for rule, it in zip(made, config.rule, strict=True) if not it.time]
    for rule in [*made, *_of_mode(config, material)]:
        earlier = next(
            (r for r in always if r is not rule and r.origin in _before(rule, made) and _takes(r, rule)), None
        )
        if earlier is not None:
            yield Problem(rule.origin, f"never matches: {earlier.origin} takes all of it", "move it up, or drop it")
        if rule.destination == _NOTHING:
            yield Problem(rule.origin, "never matches: its lists are empty")


def _before(rule: Rule, made: list[Rule]) -> list[str]:
    origins = [r.origin for r in made]
    return origins[: origins.index(rule.origin)] if rule.origin in origins else origins


def _takes(earlier: Rule, later: Rule) -> bool:
    """Whether the earlier rule matches whatever the later one does."""
    return (
        (earlier.protocol is None or earlier.protocol == later.protocol)
        and (earlier.ports is None or _covers_ports(earlier.ports, later.ports))
        and (earlier.source is None or _covers_source(earlier.source, later.source))
        and (earlier.destination is None or _covers_destination(earlier.destination, later.destination))
    )


def _covers_ports(wide: Sequence[tuple[int, int]], narrow: Sequence[tuple[int, int]] | None) -> bool:
    return narrow is not None and all(any(w[0] <= n[0] and n[1] <= w[1] for w in wide) for n in narrow)


def _covers_source(wide: Source, narrow: Source | None) -> bool:
    if narrow is None:
        return False
    networks = [Destination(networks4=s.networks4, networks6=s.networks6) for s in (wide, narrow)]
    return set(narrow.macs) <= set(wide.macs) and covers(*networks)


def _covers_destination(wide: Destination, narrow: Destination | None) -> bool:
    """Networks take no names, which may turn out to have any address."""
    return narrow is not None and covers(wide, narrow)
