"""The LAN's port: what Xray's rules do with what is asked for there, held against what `judge` says."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Struct

from sidegate.gateway.config import parse_config
from sidegate.gateway.config.fields import OnFailure
from sidegate.gateway.engine.lanport import LanPort, inbounds, routing, sets_text
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.upstream import Json
from sidegate.gateway.split.destinations import holds_address, holds_name
from sidegate.gateway.split.judge import Packet, at_lan_port
from sidegate.gateway.split.policy import BLOCK, DIRECT, PROXY, Destination, Policy, Rule, Source
from sidegate.gateway.split.ports import GENERATIONS, MOST_UPSTREAMS, dns_port, lan_port, ports
from sidegate.gateway.split.review import review
from sidegate.gateway.split.rules import lan_default

Address = IPv4Address | IPv6Address
UPSTREAMS = (
    msgspec.structs.replace(upstream_of_link("socks5://192.0.2.1:1080", "x"), name="home"),
    msgspec.structs.replace(upstream_of_link("ss://YWVzLTEyOC1nY206cHc@192.0.2.2:8388", "x"), name="tokyo"),
)
TCP_OF = ("to-0", "tcp-1")
"""By which outbound each of them gets TCP (`silence`)."""
OURS = IPv4Address("192.168.1.2")
MAC = "aa:bb:cc:dd:ee:ff"
INTERNET = [ip_network(line) for line in sets_text().splitlines()[1:]]
ADDRESSES = list(map(ip_address, ("203.0.113.7", "198.51.100.9", "192.168.1.1", "127.0.0.1", "2001:db8::1", "fe80::1")))
NETWORKS4 = tuple(map(IPv4Network, ("192.168.0.0/16", "203.0.113.0/24")))
NAMES = ("a.example", "b.example", "www.c.example")


class Asked(Struct, frozen=True):
    """name: None where the client asks for the address itself."""

    name: str | None
    address: Address
    port: int = 443
    source: IPv4Address = IPv4Address("192.168.1.66")


def way(rules: Sequence[Json], tag: str, policy: Policy, it: Asked) -> str:
    """As Xray finds it: without the address of a name first, and then with it (app/router/router.go)."""
    own = [rule for rule in rules if rule["inboundTag"] == [tag]]
    first = [] if it.name else [it.address]
    for addresses in (first, [it.address]):
        for rule in own:
            if _matches(rule, policy, it, addresses):
                return str(rule["outboundTag"])
    return "block"


def _matches(rule: Json, policy: Policy, it: Asked, addresses: Sequence[Address]) -> bool:
    return (
        ("port" not in rule or str(it.port) in rule["port"].split(","))
        and ("sourceIP" not in rule or any(it.source in IPv4Network(n) for n in rule["sourceIP"]))
        and ("ip" not in rule or any(_is_in(a, rule["ip"], policy) for a in addresses))
        and ("domain" not in rule or (it.name is not None and _is_named(it.name, rule["domain"][0], policy)))
    )


def _is_in(address: Address, listed: Sequence[str], policy: Policy) -> bool:
    if listed[0] == "ext:100:INTERNET":
        return any(address in network for network in INTERNET)
    if listed[0].startswith("ext:100:N"):
        destination = policy.rules[int(listed[0].removeprefix("ext:100:N"))].destination
        return destination is not None and holds_address(destination, address)
    return any(address in ip_network(text) for text in listed)


def _is_named(name: str, word: str, policy: Policy) -> bool:
    if word == "regexp:.+":
        return True
    destination = policy.rules[int(word.removeprefix("ext:100:D"))].destination
    return destination is not None and holds_name(destination, name)


SENDS = st.sampled_from([PROXY, DIRECT, BLOCK, *(it.name for it in UPSTREAMS)])
DESTINATIONS = st.none() | st.builds(
    Destination,
    names=st.sets(st.sampled_from(["a.example"])).map(tuple),
    suffixes=st.sets(st.sampled_from(["c.example"])).map(tuple),
    networks4=st.sets(st.sampled_from(NETWORKS4)).map(sorted).map(tuple),
    networks6=st.sets(st.sampled_from([IPv6Network("2001:db8::/32")])).map(tuple),
).filter(lambda it: it != Destination())
SOURCES = st.none() | st.sampled_from(
    [Source(networks4=(IPv4Network("192.168.1.64/26"),)), Source(networks4=(IPv4Network("192.168.1.5/32"),))]
)
RULES = st.builds(
    Rule,
    st.just("rule"),
    SENDS,
    DESTINATIONS,
    SOURCES,
    st.none() | st.just(((443, 443),)) | st.just(((80, 80),)),
    st.sampled_from([None, "tcp", "udp"]),
)
POLICIES = st.builds(Policy, st.lists(RULES, max_size=4).map(tuple), st.sampled_from([PROXY, DIRECT]))
QUESTIONS = st.builds(Asked, st.none() | st.sampled_from(NAMES), st.sampled_from(ADDRESSES), st.sampled_from([80, 443]))
BY_NAME_FIRST = Policy(
    (
        Rule("rule[0]", DIRECT, Destination(networks4=NETWORKS4)),
        Rule("rule[1]", "tokyo", Destination(names=("a.example",))),
    ),
    PROXY,
)


@given(POLICIES, QUESTIONS, st.sampled_from(["direct", "block"]), st.sampled_from([0, 1, None]))
@example(BY_NAME_FIRST, Asked("a.example", ADDRESSES[0]), "direct", 1)
@example(Policy((Rule("rule[0]", BLOCK),), PROXY), Asked(None, ADDRESSES[5]), "direct", 0)
@example(BY_NAME_FIRST, Asked("b.example", ADDRESSES[2]), "block", None)
def test_it_goes_where_the_rules_say(policy: Policy, it: Asked, on_failure: OnFailure, chosen: int | None) -> None:
    rules = list(routing(policy, LanPort(on_failure, policy.default, OURS), UPSTREAMS))
    said = at_lan_port(policy, Packet(MAC, it.source, it.address, it.name, "tcp", it.port))
    assert said is not None
    lost = "lan-direct" if on_failure == "direct" else "block"
    ways = {DIRECT: "lan-direct", BLOCK: "block", PROXY: TCP_OF[chosen or 0], "home": TCP_OF[0], "tokyo": TCP_OF[1]}
    expected = lost if chosen is None and said.send not in (DIRECT, BLOCK) else ways[said.send]
    assert way(rules, "lan-lost" if chosen is None else f"lan-{chosen}", policy, it) == expected


@pytest.mark.parametrize(("chosen", "place"), [(0, "lan-0"), (None, "lan-lost")])
def test_without_a_resolver_names_are_not_looked_up_for_nothing(chosen: int | None, place: str) -> None:
    """With nothing to ask but the upstream, what needs no address is decided without one."""
    policy = Policy((Rule("rule[0]", BLOCK, Destination(suffixes=("c.example",))),))
    rules = list(routing(policy, LanPort("direct", PROXY), UPSTREAMS))
    named = [it for it in rules if it["inboundTag"] == [place] and "ip" not in it]
    assert [(it["domain"], it["outboundTag"]) for it in named] == [
        (["ext:100:D0"], "block"),
        (["regexp:.+"], "lan-direct" if chosen is None else "to-0"),
    ]


@given(st.builds(IPv4Address, st.integers(0, (1 << 32) - 1)) | st.sampled_from(ADDRESSES))
def test_the_internet_is_what_rules_take_for_it(address: Address) -> None:
    said = at_lan_port(Policy(default=PROXY), Packet(MAC, OURS, address))
    assert said is not None
    assert (said.by != "private") == any(address in network for network in INTERNET)


def test_whoever_a_rule_knows_by_its_mac_address_alone_is_kept_out() -> None:
    policy = Policy((Rule("rule[0]", BLOCK, None, Source((MAC,), (IPv4Network("192.168.1.66/32"),))),), PROXY)
    packet = Packet(MAC, IPv4Address("192.168.1.77"), ADDRESSES[0])
    assert at_lan_port(policy, packet) is None
    other = at_lan_port(policy, Packet("02:00:00:00:00:01", IPv4Address("192.168.1.66"), ADDRESSES[0]))
    assert other is not None
    assert other.send == BLOCK


def test_every_place_has_a_port_of_its_own() -> None:
    taken = [
        port
        for generation in range(GENERATIONS)
        for i in (*range(MOST_UPSTREAMS), None)
        for port in (lan_port(generation, i), *((ports(generation, i).socks + 1,) if i is not None else ()))
    ]
    taken += [dns_port(generation) for generation in range(GENERATIONS)]
    assert len(taken) == len(set(taken))
    assert [it["port"] for it in inbounds(1, 2, {})] == [lan_port(1, 0), lan_port(1, 1), lan_port(1, None)]


CONFIG = '[proxy]\nupstream = ["socks5://192.0.2.1:1080"]\nlan_port = 1080\n'


def test_where_nothing_else_is_proxied_it_proxies_what_no_rule_names() -> None:
    alone = '[[rule]]\ndomain = ["a.example"]\nsend = "block"\n'
    listed = alone.replace("block", "proxy")
    assert [lan_default(parse_config(CONFIG + rest, "x")) for rest in ("", alone, listed)] == [PROXY, PROXY, DIRECT]
    hints = review(parse_config(CONFIG + alone, "x"))
    assert [hint.what for hint in hints if hint.where == "proxy.lan_port"] == [
        "proxies all that no rule names, since nothing else is to be proxied"
    ]


def test_what_the_port_cannot_do_is_worth_knowing() -> None:
    device = f'[[client]]\nmac = "{MAC}"\nname = "tablet"\n'
    rule = '[[rule]]\nclient = ["{}"]\nsend = "proxy"\n'
    text = CONFIG + rule.format("192.168.1.7") + rule.format("tablet") + device
    assert [hint.what for hint in review(parse_config(text, "x")) if hint.where == "proxy.lan_port"] == [
        "is shut to the devices of rule[1], which are known by their MAC addresses: there they could not be",
    ]
    only = review(parse_config(CONFIG + rule.format("192.168.1.7"), "x"))
    assert [hint for hint in only if hint.where == "proxy.lan_port"] == []
