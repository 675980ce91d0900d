"""What Xray's routing makes of traffic with a name is what the policy's judge says: the two are written apart."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_network

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.sets import sets_text
from sidegate.gateway.engine.upstream import Json
from sidegate.gateway.engine.xray import Engine, xray_config
from sidegate.gateway.split.judge import Packet, judge
from sidegate.gateway.split.policy import BLOCK, DIRECT, PROXY, Destination, Policy, Rule, Source

UPSTREAMS = ("one", "two")
NAMES = ("a.example", "www.a.example", "b.example", "c.b.example")
ADDRESSES = tuple(map(IPv4Address, ("203.0.113.1", "203.0.113.200", "198.51.100.1")))
LAN = tuple(map(IPv4Address, ("192.168.1.2", "192.168.1.200")))


def _some(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), unique=True, max_size=2).map(lambda it: tuple(sorted(it)))


NETWORKS = _some(("203.0.113.0/25", "203.0.113.128/25")).map(lambda it: tuple(map(IPv4Network, it)))
DESTINATIONS = st.builds(Destination, _some(NAMES), _some(NAMES), NETWORKS).filter(
    lambda it: it.has_names or bool(it.networks4)
)
SOURCES = st.sampled_from([Source(networks4=(IPv4Network("192.168.1.0/25"),))])
PORTS = st.sampled_from([((80, 80),), ((1, 79), (443, 500))])
RULES = st.builds(
    Rule,
    st.just("rule"),
    st.sampled_from([PROXY, DIRECT, BLOCK, *UPSTREAMS]),
    st.none() | DESTINATIONS,
    st.none() | SOURCES,
    st.none() | PORTS,
    st.none() | st.sampled_from(["tcp", "udp"]),
)
POLICIES = st.builds(Policy, st.lists(RULES, max_size=5).map(tuple), st.sampled_from([PROXY, DIRECT]))
PACKETS = st.builds(
    Packet,
    st.just("aa:bb:cc:dd:ee:ff"),
    st.sampled_from(LAN),
    st.sampled_from(ADDRESSES),
    st.sampled_from([*NAMES, "d.example"]),
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from([80, 443, 600]),
)


@settings(max_examples=300)
@given(POLICIES, PACKETS, st.integers(0, 1))
def test_the_engine_sends_where_the_policy_means(policy: Policy, packet: Packet, came_by: int) -> None:
    """What is proxied goes to the upstream by whose port it came, unless the rule names one."""
    meant = judge(policy, packet).send
    expected = {PROXY: f"again-{came_by}", DIRECT: "direct", BLOCK: "block"}.get(meant)
    assert _routed(policy, packet, f"named-{came_by}") == (expected or f"again-{UPSTREAMS.index(meant)}")


def _routed(policy: Policy, packet: Packet, inbound: str) -> str:
    """As Xray does: the first rule of which every condition holds (app/router/router.go, pickRouteInternal)."""
    upstreams = tuple(
        msgspec.structs.replace(upstream_of_link("socks5://192.0.2.1:1080", "x"), name=name) for name in UPSTREAMS
    )
    rules = xray_config(Engine(policy, upstreams))["routing"]["rules"]
    sets = _sets(policy)
    return str(next(rule["outboundTag"] for rule in rules if _holds(rule, packet, inbound, sets)))


def _holds(rule: Json, packet: Packet, inbound: str, sets: dict[str, list[str]]) -> bool:
    return (
        inbound in rule["inboundTag"]
        and ("network" not in rule or rule["network"] == packet.protocol)
        and ("port" not in rule or _has_port(rule["port"], packet.port))
        and ("sourceIP" not in rule or any(packet.source in ip_network(it) for it in rule["sourceIP"]))
        and ("ip" not in rule or any(packet.destination in ip_network(n) for it in rule["ip"] for n in _set(it, sets)))
        and ("domain" not in rule or any(_is_named(it, packet.name or "", sets) for it in rule["domain"]))
    )


def _has_port(ranges: str, port: int) -> bool:
    ends = [part.split("-") for part in ranges.split(",")]
    return any(int(it[0]) <= port <= int(it[-1]) for it in ends)


def _set(reference: str, sets: dict[str, list[str]]) -> list[str]:
    return sets[reference.rpartition(":")[2]]


def _is_named(condition: str, name: str, sets: dict[str, list[str]]) -> bool:
    if condition == "regexp:.+":
        return True
    return any(name == it[1:] or (it[0] == "." and name.endswith(it)) for it in _set(condition, sets))


def _sets(policy: Policy) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    for line in sets_text(policy).splitlines():
        if line.startswith("["):
            sets[line[1:-1]] = []
        else:
            sets[list(sets)[-1]].append(line)
    return sets
