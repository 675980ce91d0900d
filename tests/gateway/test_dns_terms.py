"""What our resolver should be, and what dnsmasq is told for it: golden files and properties."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sidegate.gateway.aside.handover import pointed_to_router
from sidegate.gateway.box import programs
from sidegate.gateway.config import Config, parse_config
from sidegate.gateway.dhcp.dnsmasq import LeasePlaces
from sidegate.gateway.dhcp.dnsmasq import dnsmasq_conf as dhcp_conf
from sidegate.gateway.dhcp.terms import dhcp_server
from sidegate.gateway.dns.dnsmasq import answers, dnsmasq_conf
from sidegate.gateway.dns.names import MOST_RULES
from sidegate.gateway.dns.places import ResolverPlaces
from sidegate.gateway.dns.resolver import Asked, Learned, NameTable, Proxied, Resolver
from sidegate.gateway.dns.standby import past_engine
from sidegate.gateway.dns.terms import direct_servers, resolver
from sidegate.gateway.split.policy import Destination, Policy, Rule
from tests.conftest import Golden
from tests.gateway.test_decide import facts

AT = ResolverPlaces(Path("/run/sidegate"))
WE, ROUTER, ISP = map(IPv4Address, ("192.168.1.2", "192.168.1.1", "123.100.96.53"))
SPLIT = '[proxy]\nupstream = "socks5://192.0.2.1:1080"\n'
FULL = """
[proxy]
upstream = "socks5://192.0.2.1:1080"
[dns]
servers = ["223.5.5.5", "119.29.29.29"]
[dhcp]
domain = "Home.Example"
[[rule]]
domain = ["NAS.example.org"]
send = "direct"
"""
RULES = (
    Rule("rule[0]", "direct", Destination(suffixes=("nas.example.org",))),
    Rule("rule[1]", "block", Destination(names=("example.org",), suffixes=("ads.example",))),
    Rule("rule[2]", "tokyo", Destination(suffixes=("example.org",)), protocol="tcp"),
    Rule("proxy.list", "proxy", Destination(names=("www.example.net",), suffixes=("lan", "org"))),
)


POLICY = Policy(RULES)


def wanted(text: str = SPLIT, policy: Policy = POLICY, proxied: Proxied = "asked", **how: object) -> Resolver:
    it = resolver(parse_config(text, "config"), facts(), policy, (ISP,), proxied)
    assert it is not None
    return structs.replace(it, **how)


CASES: dict[str, Resolver] = {
    "listed": wanted(),
    "listed-fallen-back": wanted(proxied="direct"),
    "listed-refused": wanted(proxied="refused"),
    "all-but": wanted(policy=Policy(RULES, "proxy")),
    "all-but-fallen-back": wanted(policy=Policy(RULES, "proxy"), proxied="direct"),
    "ipv6-router-fallen-back": wanted(SPLIT + '[ipv6]\nmode = "router"', proxied="direct"),
    "ipv6-gateway": wanted(SPLIT + '[ipv6]\nmode = "gateway"'),
    "full": wanted(FULL),
    "nothing-else": wanted(policy=Policy((Rule("rule[0]", "block"),))),
}


@pytest.mark.parametrize("name", CASES)
def test_configuration(name: str, golden: Golden, tmp_path: Path) -> None:
    text = dnsmasq_conf(CASES[name], AT, "dnsmasq")
    golden(f"dns/{name}.conf", text)
    if (program := programs.find("dnsmasq")) is None:
        pytest.skip("no dnsmasq")
    (tmp_path / "conf").write_text(text.replace("user=dnsmasq", "user=root"))
    done = subprocess.run([program, "--test", f"--conf-file={tmp_path / 'conf'}"], capture_output=True, text=True)
    assert "syntax check OK" in done.stderr


@given(st.lists(st.integers(1, 63).map("a".__mul__), min_size=1, max_size=300), st.integers(0, MOST_RULES))
def test_no_line_is_longer_than_dnsmasq_reads_and_no_name_is_lost(labels: list[str], rules: int) -> None:
    names = tuple(f"{label}.{label}.{label}.n{i}.example" for i, label in enumerate(labels))
    table = NameTable(
        "direct",
        (Asked("proxied", names),),
        (Learned(tuple(f"{n:010x}" for n in range(rules)), names),) if rules else (),
    )
    lines = dnsmasq_conf(structs.replace(CASES["ipv6-gateway"], names=table), AT, "root").splitlines()
    assert max(map(len, lines)) < 1024
    for start in ("server=/", "nftset=/") if rules else ("server=/",):
        assert set(names) <= {word for line in lines if line.startswith(start) for word in line.split("/")}


def test_where_nothing_is_split_nothing_is_resolved() -> None:
    assert resolver(Config(), facts(), Policy()) is None
    assert resolver(parse_config('[dns]\nmode = "off"\n' + SPLIT, "config"), facts(), POLICY) is None
    assert resolver(parse_config('[dns]\nmode = "on"', "config"), facts(), Policy()) is not None


@pytest.mark.parametrize(
    ("servers", "own", "expected"),
    [
        ("[]", (), (ROUTER,)),
        ("[]", (ISP, ISP), (ISP,)),
        ('["9.9.9.9"]', (ISP,), (IPv4Address("9.9.9.9"),)),
        ('["192.168.1.2"]', (ISP,), (ISP,)),
        ("[]", (WE,), (ROUTER,)),
        ("[]", (IPv4Address("0.0.0.0"), ISP), (ISP,)),
    ],
)
def test_this_box_never_asks_itself(
    servers: str, own: tuple[IPv4Address, ...], expected: tuple[IPv4Address, ...]
) -> None:
    config = parse_config(f"[dns]\nservers = {servers}", "config")
    assert direct_servers(config, facts(), own) == expected


def test_only_a_name_that_a_rule_itself_sends_straight_may_have_a_private_address() -> None:
    """A public name that leads into the home is an attack (DNS rebinding); a list is somebody else's work."""
    rules = (
        ("domain", "NAS.example.org", "direct"),
        ("domain", "full:tv.example", "direct"),
        ("domain", "x.org", "proxy"),
    )
    text = "".join(f'[[rule]]\n{key} = ["{name}"]\nsend = "{send}"\n' for key, name, send in rules)
    assert wanted(f"{SPLIT}{text}").rebinding == ("nas.example.org", "tv.example")


@pytest.mark.parametrize("proxied", ["direct", "refused"])
@pytest.mark.parametrize("mode", ["off", "router"])
def test_without_a_proxied_name_an_engine_that_cannot_be_asked_changes_nothing(proxied: Proxied, mode: str) -> None:
    """No name loses its IPv6 addresses for it, and nobody is alarmed."""
    text, policy = f'{SPLIT}[ipv6]\nmode = "{mode}"\n', Policy(RULES[:2])
    fallen_back = wanted(text, policy, proxied)
    assert not fallen_back.names.proxies
    assert answers(fallen_back) == answers(wanted(text, policy))
    assert wanted(text).names.proxies


def test_another_programs_engine_answers_no_names() -> None:
    own = '[proxy]\nengine = "tproxy"\n[[rule]]\ndomain = ["org"]\nsend = "proxy"'
    assert [wanted(own, proxied=it).proxied for it in ("asked", "direct", "refused")] == ["direct", "direct", "refused"]


@pytest.mark.parametrize(("text", "expected"), [("", ROUTER), (SPLIT, WE), (SPLIT + '[dns]\nmode = "off"\n', ROUTER)])
def test_devices_are_told_to_ask_whoever_answers(text: str, expected: IPv4Address) -> None:
    server = dhcp_server(parse_config(text + '[dhcp]\nmode = "server"', "config"), facts())
    assert server is not None
    assert server.dns == (expected,)


def test_who_keeps_the_router_is_told_to_ask_it() -> None:
    server = dhcp_server(parse_config(SPLIT + '[dhcp]\nmode = "server"', "config"), facts())
    assert server is not None
    told = [
        line
        for line in dhcp_conf(server, LeasePlaces(AT.directory, AT.directory), "root").splitlines()
        if "dns-server" in line
    ]
    assert told == [
        "dhcp-option=tag:!router,option:dns-server,192.168.1.2",
        "dhcp-option=tag:router,option:dns-server,192.168.1.1",
    ]


def test_while_the_router_stands_in_devices_are_told_to_ask_it() -> None:
    config = parse_config(SPLIT + '[dhcp]\nmode = "server"', "config")
    pointed = pointed_to_router(config, facts())
    assert pointed is not None
    assert (pointed.gateway, pointed.dns) == (ROUTER, (ROUTER,))


def test_while_the_router_stands_in_nobody_asks_the_engine_or_fills_sets() -> None:
    for name in ("listed", "listed-refused", "all-but", "ipv6-gateway"):
        text = past_engine(dnsmasq_conf(CASES[name], AT, "dnsmasq"), ROUTER)
        assert "127.0.0." not in text
        assert "nftset" not in text
        assert "".join(sorted(set(text.splitlines()))) == "".join(sorted(text.splitlines())), "nobody is asked twice"
        assert f"server=/lan/*.example.org/org/www.example.net/{ROUTER}" in text or name == "all-but"
