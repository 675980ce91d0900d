"""Parsers of captured output of `ip` and `nft`, bad lines included."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.gateway.box.facts import (
    Neighbour,
    Route,
    missing_capabilities,
    parse_links,
    parse_neighbours,
    parse_routes,
    twins,
)
from sidegate.gateway.box.firewalls import parse_drops
from sidegate.gateway.desired import Hook
from sidegate.problems import Problems

LINKS = """[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"mtu":65536,"operstate":"UNKNOWN",
"link_type":"loopback","address":"00:00:00:00:00:00","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,
"scope":"host","label":"lo"},{"family":"inet6","local":"::1","prefixlen":128}]},{},{"ifindex":3,"link":"b0",
"ifname":"a0","flags":["NO-CARRIER","BROADCAST","MULTICAST","UP","M-DOWN"],"mtu":1500,"operstate":"LOWERLAYERDOWN",
"link_type":"ether","address":"9E:30:24:b1:8f:4f","addr_info":[{"family":"inet","local":"10.0.0.1","prefixlen":24,
"dynamic":true}]},
{"ifindex":4,"ifname":"tun0","flags":["POINTOPOINT","UP","LOWER_UP"],"mtu":1420,"link_type":"none"}]"""

ROUTES = """[{"dst":"default","gateway":"192.168.1.9","dev":"wlan0","protocol":"dhcp","metric":600,"flags":[]},
{"dst":"default","gateway":"192.168.1.1","dev":"eth0","protocol":"dhcp","metric":100,"flags":[]},
{"dst":"default","flags":[],"nexthops":[{"gateway":"10.0.0.1","dev":"eth2","weight":1,"flags":[]}]},
{"type":"unreachable","dst":"10.9.0.0/16","dev":"lo","flags":[]},{"dst":"fe80::/64","dev":"eth0","flags":[]},
{"dst":"192.168.1.0/24","dev":"eth0","scope":"link","prefsrc":"192.168.1.2","flags":["linkdown"]},
{"dst":"172.16.0.9","dev":"eth0","scope":"link","flags":[]}]"""

NEIGHBOURS = """[{"dst":"192.168.1.1","lladdr":"7E:3f:83:f7:20:1a","state":["REACHABLE"]},
{"dst":"192.168.1.7","state":["FAILED"]},{"dst":"192.168.1.8","lladdr":"02:00:00:00:00:08","state":[]},
{"dst":"fe80::1","lladdr":"7e:3f:83:f7:20:1a","router":null,"state":["STALE"]},{},{"lladdr":"02:00:00:00:00:09"}]"""


def test_links() -> None:
    lo, a0, tun0 = parse_links(LINKS)
    assert (lo.kind, lo.has_carrier, [str(a) for a in lo.interface.addresses]) == ("loopback", True, ["127.0.0.1/8"])
    assert (a0.interface.name, a0.interface.mac, a0.interface.mtu) == ("a0", "9e:30:24:b1:8f:4f", 1500)
    assert (lo.interface.borrowed, a0.interface.borrowed) == ((), (IPv4Address("10.0.0.1"),))
    assert (a0.kind, a0.is_up, a0.has_carrier) == ("ether", True, False)
    assert (tun0.kind, tun0.interface.mac, tun0.interface.addresses) == ("none", "", ())


def test_twins_have_an_address_in_the_same_lan() -> None:
    places = (
        ("eth0", "10.0.0.2", 24),
        ("wlan0", "10.0.0.3", 24),
        ("shim", "10.0.0.9", 32),
        ("docker0", "172.17.0.1", 16),
    )
    said = [
        {"ifname": name, "link_type": "ether", "addr_info": [{"family": "inet", "local": ip, "prefixlen": length}]}
        for name, ip, length in places
    ]
    links = parse_links(json.dumps(said))
    assert [twins(link, links) for link in links] == [["shim", "wlan0"], ["eth0", "shim"], [], []]


def test_routes_come_by_metric() -> None:
    assert parse_routes(ROUTES) == [
        Route(IPv4Network("192.168.1.0/24"), None, "eth0", 0),
        Route(IPv4Network("172.16.0.9/32"), None, "eth0", 0),
        Route(None, IPv4Address("192.168.1.1"), "eth0", 100),
        Route(None, IPv4Address("192.168.1.9"), "wlan0", 600),
    ]


def test_neighbours() -> None:
    assert parse_neighbours(NEIGHBOURS) == (
        Neighbour(IPv4Address("192.168.1.1"), "7e:3f:83:f7:20:1a", "REACHABLE"),
        Neighbour(IPv4Address("192.168.1.7"), None, "FAILED"),
        Neighbour(IPv4Address("192.168.1.8"), "02:00:00:00:00:08", "NONE"),
    )


@pytest.mark.parametrize("parse", [parse_links, parse_routes, parse_neighbours])
def test_nothing_printed_is_nothing_there(parse: Any) -> None:
    assert list(parse("")) == list(parse("[]")) == list(parse("[{}]")) == list(parse("[ {},{} ]\n")) == []


def test_old_iproute_is_told() -> None:
    with pytest.raises(Problems, match="prints no JSON"):
        parse_neighbours("192.168.1.1 lladdr 7e:3f:83:f7:20:1a REACHABLE")


FIELDS = ("dst", "gateway", "dev", "state", "lladdr", "metric", "type")
ODD = st.none() | st.integers() | st.text("a1.:/", max_size=8) | st.lists(st.text("a1.:/", max_size=4), max_size=2)


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), ODD)))
@settings(deadline=None)
def test_odd_lines_never_raise(lines: list[dict[str, Any]]) -> None:
    parse_neighbours(json.dumps(lines))
    parse_routes(json.dumps(lines))


def test_capabilities() -> None:
    assert missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n") == []
    assert missing_capabilities("CapEff:\t0000000000001000\n") == ["CAP_NET_RAW"]
    assert missing_capabilities("CapEff:\t0000000000000000\n") == ["CAP_NET_ADMIN", "CAP_NET_RAW"]
    assert missing_capabilities("") == ["CAP_NET_ADMIN", "CAP_NET_RAW"]


def chain(family: str, table: str, name: str, hook: str, policy: str) -> dict[str, Any]:
    return {"chain": {"family": family, "table": table, "name": name, "hook": hook, "policy": policy, "handle": 1}}


def drops(listing: list[dict[str, Any]], hook: Hook) -> set[tuple[str, str, str, str]]:
    found = parse_drops(json.dumps({"nftables": listing}), hook)
    return {(d.family, d.table, d.chain, d.why) for d in found}


def test_only_foreign_chains_of_the_hook_count() -> None:
    listing = [
        {"metainfo": {"version": "1.0.6"}},
        chain("ip", "filter", "FORWARD", "forward", "drop"),
        chain("ip", "filter", "INPUT", "input", "drop"),
        chain("ip6", "filter", "FORWARD", "forward", "drop"),
        chain("bridge", "filter", "FORWARD", "forward", "drop"),
        chain("inet", "sidegate", "downstream", "forward", "drop"),
        chain("inet", "fw", "open", "forward", "accept"),
        {"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER", "handle": 7}},
    ]
    why = "its policy is drop"
    assert drops(listing, "forward") == {("ip", "filter", "FORWARD", why), ("ip6", "filter", "FORWARD", why)}
    assert drops(listing, "input") == {("ip", "filter", "INPUT", why)}


def test_invalid_is_dropped_by_every_firewall_at_the_input_and_nothing_of_ours_is() -> None:
    invalid = {"match": {"op": "==", "left": {"ct": {"key": "state"}}, "right": "invalid"}}
    rule = {"rule": {"family": "ip", "table": "fw", "chain": "c", "expr": [invalid, {"drop": None}]}}
    assert len(drops([chain("ip", "fw", "c", "forward", "accept"), rule], "forward")) == 1
    assert len(drops([chain("ip", "fw", "c", "input", "accept"), rule], "input")) == 0
