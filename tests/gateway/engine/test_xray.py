"""The configuration for Xray: golden pairs, and laws that hold for every policy."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.engine import geodata
from sidegate.gateway.engine.child import engine_child
from sidegate.gateway.engine.lanport import LanPort
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.sets import sets_text
from sidegate.gateway.engine.upstream import Json, Upstream
from sidegate.gateway.engine.xray import Engine, dns_endpoints, xray_config, xray_json
from sidegate.gateway.split.policy import BLOCK, DIRECT, PROXY, Destination, Policy, Rule, Source
from sidegate.gateway.split.ports import ENGINE_MARK, MARK_MASK, MOST_UPSTREAMS, UPSTREAM_BIT, Ports, dns_port, ports
from tests.conftest import Golden

LINKS = {
    "home": "socks5://name:hunter2@198.51.100.7:1080",
    "tokyo": "vless://11111111-2222-4333-8444-555555555555@tokyo.example:443?security=tls&type=ws&path=/w",
    "web": "http://198.51.100.9:3128",
    "old": "ss://YWVzLTEyOC1nY206cHc@198.51.100.11:8388",
}


def upstream(name: str) -> Upstream:
    return msgspec.structs.replace(upstream_of_link(LINKS[name], name), name=name)


FILMS = Destination(names=("a.example",), suffixes=("b.example",), networks4=(IPv4Network("203.0.113.0/24"),))
POLICY = Policy(
    rules=(
        Rule("rule[0]", BLOCK, Destination(suffixes=("ads.example",))),
        Rule("rule[1]", "tokyo", FILMS, Source(networks4=(IPv4Network("192.168.1.64/26"),)), ((80, 80), (440, 450))),
        Rule("rule[2]", DIRECT, Destination(networks6=(IPv6Network("2001:db8::/32"),)), protocol="udp"),
        Rule("rule[3]", DIRECT, Destination(names=("mac.example",)), Source(macs=("aa:bb:cc:dd:ee:ff",))),
        Rule("rule[4]", PROXY, Destination(names=("mac.example",)), Source(macs=("aa:bb:cc:dd:ee:ff",))),
        Rule("rule[5]", PROXY, None, Source(macs=("aa:bb:cc:dd:ee:ff",))),
        Rule("rule[6]", DIRECT, ports=((22, 22),), protocol="tcp"),
        Rule("proxy.list", PROXY, Destination(suffixes=("c.example",))),
    ),
    default=DIRECT,
)


def test_one_upstream_and_the_names_of_a_list(golden: Golden) -> None:
    policy = Policy((Rule("proxy.list", PROXY, Destination(suffixes=("c.example",))),))
    golden("engine/one.json", xray_json(Engine(policy, (upstream("home"),))))


def test_every_kind_of_rule(golden: Golden) -> None:
    servers = ("1.1.1.1", "2001:db8::53", "tls://dns.example", "https://198.51.100.53/dns-query")
    it = Engine(
        POLICY,
        tuple(map(upstream, LINKS)),
        generation=1,
        proxied_dns=servers,
        direct_dns=(IPv4Address("192.168.1.1"), IPv4Address("9.9.9.9")),
        has_ipv6=True,
        lan=LanPort("block", PROXY),
        dns_by=1,
    )
    golden("engine/full.json", xray_json(it))
    golden("engine/full.sets", sets_text(POLICY))


def test_a_port_for_the_lan(golden: Golden) -> None:
    rules = (*POLICY.rules[:3], *POLICY.rules[5:])
    lan = LanPort("direct", DIRECT, IPv4Address("192.168.1.2"))
    golden("engine/lan.json", xray_json(Engine(Policy(rules), (upstream("home"), upstream("tokyo")), lan=lan)))


def test_all_but_what_is_listed(golden: Golden) -> None:
    policy = Policy((Rule("proxy.list", DIRECT, Destination(suffixes=("c.example",))),), default=PROXY)
    golden("engine/all-but.json", xray_json(Engine(policy, (upstream("home"), upstream("tokyo")))))


def test_an_outbound_keeps_its_own_settings_but_not_its_mark() -> None:
    stream = {"sockopt": {"mark": 1, "tcpFastOpen": True}, "security": "tls"}
    it = Upstream("x", "other", "", 0, {"protocol": "vless", "tag": "mine", "streamSettings": stream})
    (_, outbound, *_) = xray_config(Engine(Policy(), (it,)))["outbounds"]
    assert outbound["tag"] == "to-0"
    assert outbound["streamSettings"]["security"] == "tls"
    assert outbound["streamSettings"]["sockopt"]["tcpFastOpen"] is True
    assert outbound["streamSettings"]["sockopt"]["mark"] == ENGINE_MARK | UPSTREAM_BIT


@pytest.mark.parametrize("protocol", ["freedom", "direct"])
def test_who_answers_an_outbound_without_a_server_is_no_upstream(protocol: str) -> None:
    (_, outbound, *_) = xray_config(Engine(Policy(), (Upstream("x", "other", "", 0, {"protocol": protocol}),)))[
        "outbounds"
    ]
    assert outbound["streamSettings"]["sockopt"]["mark"] == ENGINE_MARK


@pytest.mark.parametrize(
    ("protocol", "settings", "is_needed"),
    [
        ("shadowsocks", {"address": "x", "method": "chacha20-ietf-poly1305"}, True),
        ("shadowsocks", {"servers": [{"address": "x", "method": "aes-256-gcm"}]}, True),
        ("shadowsocks", {"servers": [{"address": "x", "method": "2022-blake3-aes-128-gcm"}]}, False),
        ("shadowsocks", {"address": "x", "method": "2022-blake3-aes-128-gcm"}, False),
        ("shadowsocks", {"servers": []}, True),
        ("shadowsocks", "broken", True),
        ("VMess", {"vnext": []}, True),
        ("vless", {"address": "x"}, False),
        ("trojan", {"address": "x"}, False),
    ],
)
def test_tcp_takes_a_pipe_where_silence_would_end_it(protocol: str, settings: object, is_needed: bool) -> None:
    it = Upstream("x", "other", "", 0, {"protocol": protocol, "settings": settings})
    rules = xray_config(Engine(Policy(), (it,)))["routing"]["rules"]
    for tag in ("decided-0", "named-0", "socks-0", "again-0"):
        ways = [(rule.get("network"), rule["outboundTag"]) for rule in rules if tag in rule["inboundTag"]]
        assert [way for way in ways if way[1] != "direct"] == [
            *([("tcp", "tcp-0")] if is_needed else []),
            (None, "to-0"),
        ]


SENDS = st.sampled_from([PROXY, DIRECT, BLOCK, *LINKS])
DESTINATIONS = st.none() | st.builds(
    Destination,
    names=st.sets(st.sampled_from(["a.example", "b.example"])).map(tuple),
    suffixes=st.sets(st.sampled_from(["c.example"])).map(tuple),
    networks4=st.sets(st.sampled_from([IPv4Network("203.0.113.0/24")])).map(tuple),
)
SOURCES = st.none() | st.sampled_from(
    [Source(macs=("aa:bb:cc:dd:ee:ff",)), Source(networks4=(IPv4Network("10.0.0.0/8"),))]
)
RULES = st.builds(Rule, st.just("rule"), SENDS, DESTINATIONS, SOURCES)
POLICIES = st.builds(Policy, st.lists(RULES, max_size=4).map(tuple), st.sampled_from([PROXY, DIRECT]))


@given(POLICIES, st.integers(0, 1), st.integers(0, 2))
def test_laws(policy: Policy, generation: int, dns_by: int) -> None:
    config = xray_config(Engine(policy, tuple(map(upstream, LINKS)), generation, dns_by=dns_by))
    tags = {it["tag"] for it in config["outbounds"]}
    assert all(rule["outboundTag"] in tags for rule in config["routing"]["rules"])
    assert all(_is_marked(it) for it in config["outbounds"]), "or its packets are steered again"
    assert all(_has_a_place(config, it["tag"]) for it in config["inbounds"]), (
        "or it goes to the first outbound, which is nowhere"
    )
    where = [(it["listen"], it["port"]) for it in config["inbounds"]]
    assert len(where) == len(set(where))


def _is_marked(outbound: Json) -> bool:
    """Or leaves by another outbound, or not at all."""
    if outbound["protocol"] in ("blackhole", "loopback"):
        return True
    if outbound["protocol"] == "dns" and "streamSettings" not in outbound:
        return all(rule["action"] != "direct" for rule in outbound["settings"]["rules"])
    sockopt = outbound["streamSettings"]["sockopt"]
    return bool(sockopt.get("mark", 0) & MARK_MASK == ENGINE_MARK or sockopt.get("dialerProxy", "").startswith("to-"))


def _has_a_place(config: Json, tag: str) -> bool:
    """Some rule takes whatever comes in there; what none takes goes nowhere."""
    conditions = {"inboundTag", "outboundTag"}
    return any(tag in rule["inboundTag"] and set(rule) == conditions for rule in config["routing"]["rules"])


def test_the_ports_of_both_generations_and_all_upstreams_differ() -> None:
    servers = ("1.1.1.1", "8.8.8.8")
    all_of_them = [
        port
        for generation in (0, 1)
        for i in range(MOST_UPSTREAMS)
        for port in (*_numbers(ports(generation, i)), dns_endpoints(generation, i, servers)[0][1])
    ]
    all_of_them += [dns_port(0), dns_port(1)]
    assert len(all_of_them) == len(set(all_of_them))
    assert dns_endpoints(0, 0, servers) == (("127.0.0.1", 15003), ("127.0.0.2", 15003))


def _numbers(it: Ports) -> tuple[int, int, int]:
    return it.decided, it.named, it.socks


def test_secrets_are_in_one_file_for_root_alone() -> None:
    child = engine_child(Engine(Policy(), (upstream("home"),)), Path("/run/x"))
    assert [f.path for f in child.files if "hunter2" in f.text] == ["/run/x/engine-0.conf"]
    assert {f.path: f.mode for f in child.files}["/run/x/engine-0.conf"] == 0o600
    assert "hunter2" not in " ".join(child.command)


def _decoded(data: bytes) -> list[tuple[int, object]]:
    """Protobuf, as far as it is used here."""
    fields: list[tuple[int, object]] = []
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        value, at = _varint(data, at)
        if key & 7 == 2:
            fields.append((key >> 3, data[at : at + value]))
            at += value
        else:
            fields.append((key >> 3, value))
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return number, at


@given(st.lists(st.from_regex(r"[a-z]{1,60}(\.[a-z]{1,60}){0,3}", fullmatch=True), max_size=40))
def test_the_sets_that_xray_reads(names: list[str]) -> None:
    networks = (IPv4Network("10.0.0.0/8"), IPv4Network("192.0.2.1/32"))
    destination = Destination(names=("n.example",), suffixes=tuple(names), networks4=networks)
    data = b"".join(geodata.pieces(sets_text(Policy((Rule("r", PROXY, destination),))).splitlines(keepends=True)))
    domains, addresses = (_decoded(entry) for _, entry in _decoded(data) if isinstance(entry, bytes))
    assert domains[0] == (1, b"D0")
    assert [_decoded(d) for _, d in domains[1:] if isinstance(d, bytes)] == [
        [(1, 3), (2, b"n.example")],
        *([(1, 2), (2, name.encode())] for name in names),
    ]
    assert addresses[0] == (1, b"N0")
    assert [_decoded(d) for _, d in addresses[1:] if isinstance(d, bytes)] == [
        [(1, b"\x0a\0\0\0"), (2, 8)],
        [(1, b"\xc0\0\2\1"), (2, 32)],
    ]


@pytest.mark.parametrize("upstreams", [1, MOST_UPSTREAMS])
def test_a_long_list_is_written_once(upstreams: int) -> None:
    names = tuple(f"site-{i}.example" for i in range(1000))
    policy = Policy((Rule("proxy.list", PROXY, Destination(suffixes=names)),))
    it = Engine(policy, tuple(msgspec.structs.replace(upstream("home"), name=str(i)) for i in range(upstreams)))
    assert "site-1" not in xray_json(it)
    assert sets_text(policy).count("site-999.") == 1
