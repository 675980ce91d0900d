"""The configuration and its lists as a policy."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from sidegate.gateway.config import Config, parse_config
from sidegate.gateway.split.policy import Destination, Policy, Rule, Source
from sidegate.gateway.split.rules import hints, is_proxied, is_split, next_turn, policy
from sidegate.gateway.split.shelf import Material
from sidegate.problems import Problem, Problems

MONDAY_NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
CHINA = Destination(networks4=(IPv4Network("203.0.112.0/20"),), networks6=(IPv6Network("2001:db8:c::/48"),))
LISTED = Destination(suffixes=("listed.example",), networks4=(IPv4Network("198.51.100.0/24"),))
MATERIAL = Material(
    {"/l": LISTED, "/empty": Destination(), "/more": Destination(names=("one.example",))}, {"CN": CHINA}
)
UPSTREAM = '[proxy]\nupstream = "socks5://192.0.2.1:1080#first"\n'
LISTS = '[lists]\ncountry_db = "/c.mmdb"\n'


def config(text: str) -> Config:
    return parse_config(text, "x.toml")


def made(text: str, now: datetime = MONDAY_NOON) -> Policy:
    return policy(config(text), MATERIAL, ("first", "second"), now)


def test_without_settings_everything_goes_straight() -> None:
    assert made("") == Policy()
    assert not is_split(made(""))


def test_listed_proxies_what_it_lists() -> None:
    found = made(UPSTREAM + 'list = ["/l", "/more"]\ncountry = ["cn"]\nquic = "block"\n' + LISTS)
    both = Destination(("one.example",), LISTED.suffixes, LISTED.networks4)
    rules = Rule("proxy.list", "proxy", both, quic="block"), Rule("proxy.country", "proxy", CHINA, quic="block")
    assert found == Policy(rules, "direct", "block")
    assert is_proxied(found)


def test_all_but_lets_it_go_straight() -> None:
    found = made(UPSTREAM + 'mode = "all-but"\ncountry = ["CN"]\n' + LISTS)
    assert found == Policy((Rule("proxy.country", "direct", CHINA),), "proxy")


def test_all_asks_no_list() -> None:
    text = UPSTREAM + 'mode = "all"\nlist = ["/l"]\n'
    assert made(text) == Policy((), "proxy")
    assert [p.where for p in hints(config(text), MATERIAL, ("first",))] == ["proxy.list"]


def test_a_rule_with_every_condition() -> None:
    found = made(
        UPSTREAM
        + """
[[rule]]
domain = ["Example.org", "www.example.org", "full:straße.example", "full:a.b.c"]
cidr = ["192.0.2.0/25", "192.0.2.128/25", "2001:db8::/33", "2001:db8:8000::/33"]
list = ["/l"]
country = ["CN"]
port = [443, "8000-8999", "9000"]
protocol = "udp"
client = ["TV", "AA:BB:CC:00:00:02", "192.168.1.64/26", "fd00::/8", "192.168.1.7"]
time = ["Mon-Fri 08:00-15:30"]
send = "second"
quic = "direct"
[[client]]
name = "tv"
mac = "AA:BB:CC:00:00:01"
ip = "192.168.1.30"
"""
        + LISTS
    )
    (rule,) = found.rules
    assert rule.destination == Destination(
        names=("a.b.c", "xn--strae-oqa.example"),
        suffixes=("example.org", "listed.example"),
        networks4=tuple(map(IPv4Network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.112.0/20"))),
        networks6=tuple(map(IPv6Network, ("2001:db8::/32",))),
    )
    lan = ("192.168.1.7/32", "192.168.1.30/32", "192.168.1.64/26")
    assert rule.source == Source(
        ("aa:bb:cc:00:00:01", "aa:bb:cc:00:00:02"), tuple(map(IPv4Network, lan)), (IPv6Network("fd00::/8"),)
    )
    assert (rule.ports, rule.protocol, rule.send, rule.quic) == (((443, 443), (8000, 9000)), "udp", "second", "direct")
    assert IPv4Address("192.168.1.30") in rule.source.networks4[1]


def test_rules_come_before_the_mode_and_in_order() -> None:
    rule = '[[rule]]\nsend = "{}"\nport = [{}]\n'
    found = made(UPSTREAM + 'list = ["/l"]\n' + rule.format("block", 25) + rule.format("direct", 22))
    assert [r.origin for r in found.rules] == ["rule[0]", "rule[1]", "proxy.list"]
    assert [r.send for r in found.rules] == ["block", "direct", "proxy"]


def test_rules_that_name_nothing_are_left_out() -> None:
    text = UPSTREAM + 'mode = "all-but"\nlist = ["/empty"]\n'
    assert made(text).rules == ()
    assert hints(config(text), MATERIAL, ("first",)) == (Problem("proxy.list", "never matches: its lists are empty"),)


def test_only_rules_whose_time_is_now() -> None:
    text = '[[rule]]\nsend = "block"\nclient = ["aa:bb:cc:00:00:01"]\ntime = ["22:00-06:00", "Mon 12:30-13:00"]\n'
    assert made(text).rules == ()
    assert len(made(text, MONDAY_NOON.replace(minute=30)).rules) == 1
    assert next_turn(config(text), MONDAY_NOON, UTC) == MONDAY_NOON.replace(minute=30)
    assert next_turn(config(""), MONDAY_NOON, UTC) is None


def test_an_upstream_that_nobody_named() -> None:
    text = UPSTREAM + '[[rule]]\nport = [22]\nsend = "thrid"\n'
    with pytest.raises(Problems, match=r'rule\[0\].send: "thrid" is the name of no upstream\n.*first, second'):
        made(text)


def test_a_subscription_may_name_it_tomorrow() -> None:
    text = '[proxy]\nsubscription = "/s"\n[[rule]]\nport = [22]\nsend = "tokyo"\n'
    assert policy(config(text), MATERIAL, (), MONDAY_NOON).rules[0].send == "tokyo"
    assert [p.where for p in hints(config(text), MATERIAL, ())] == ["rule[0].send"]


@pytest.mark.parametrize(
    ("first", "second", "is_covered"),
    [
        ('domain = ["example.org"]', 'domain = ["full:a.example.org", "b.example.org"]', True),
        ('domain = ["full:example.org"]', 'domain = ["example.org"]', False),
        ('domain = ["example.org"]', 'domain = ["notexample.org"]', False),
        ('cidr = ["10.0.0.0/8"]', 'cidr = ["10.1.0.0/16"]', True),
        ('cidr = ["10.1.0.0/16"]', 'cidr = ["10.0.0.0/8"]', False),
        ('cidr = ["0.0.0.0/0"]', 'domain = ["example.org"]', False),
        ("port = [443]", 'port = [443]\nprotocol = "udp"', True),
        ('port = [443]\nprotocol = "udp"', "port = [443]", False),
        ('port = ["1-1000"]', "port = [22, 1001]", False),
        ('client = ["192.168.1.0/24"]', 'client = ["192.168.1.7"]\nport = [1]', True),
        ('client = ["192.168.1.7"]', "port = [1]", False),
        ('list = ["/l"]', 'domain = ["x.listed.example"]', True),
        ('time = ["08:00-09:00"]\nport = [1]', "port = [1]", False),
    ],
)
def test_a_rule_that_never_matches_is_hinted_at(first: str, second: str, is_covered: bool) -> None:
    text = f'[[rule]]\nsend = "block"\n{first}\n[[rule]]\nsend = "direct"\n{second}\n'
    wanted = [Problem("rule[1]", "never matches: rule[0] takes all of it", "move it up, or drop it")]
    assert list(hints(config(text), MATERIAL, ())) == wanted * is_covered


def test_what_a_mode_lists_may_be_covered_too() -> None:
    text = UPSTREAM + 'list = ["/l"]\n[[rule]]\nsend = "direct"\nlist = ["/l"]\n'
    assert [str(p.where) for p in hints(config(text), MATERIAL, ("first",))] == ["proxy.list"]
