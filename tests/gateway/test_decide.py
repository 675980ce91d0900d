"""Config × Facts -> Desired, as text beside golden files, and what must hold for any box."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from sidegate.gateway.box.facts import Facts, Interface, Router
from sidegate.gateway.box.firewalls import ForeignDrop
from sidegate.gateway.config import ClientConfig, Config, Dns, Ipv6, Masquerade, Nat, Proxy
from sidegate.gateway.decide import Situation, decide
from sidegate.gateway.desired import Backend, Desired
from sidegate.gateway.split.policy import Destination, Policy, Rule, Source
from sidegate.gateway.split.ports import lan_port, ports
from tests.conftest import Golden

CONF = "net/ipv4/conf"
FIREWALL: tuple[tuple[Backend, str], ...] = (("iptables-nft", "ip"), ("ip6tables-nft", "ip6"))


def facts(name: str = "eth0", **sysctls: str) -> Facts:
    """A fresh box; sysctls as all_rp_filter="1"."""
    values = {"all_send_redirects": "1", "own_send_redirects": "1", "all_rp_filter": "0", "own_rp_filter": "0"}
    paths = {k.replace("own", name, 1).replace("_", "/", 1): v for k, v in (values | sysctls).items()}
    return Facts(
        interface=Interface(name, "02:00:00:00:00:02", (IPv4Interface("192.168.1.2/24"),), 1500),
        router=Router(IPv4Address("192.168.1.1"), "02:00:00:00:00:01"),
        lan=(IPv4Network("192.168.1.0/24"),),
        neighbours=(),
        sysctls={f"{CONF}/{p}": v for p, v in paths.items()} | {f"{CONF}/{name}/forwarding": "0"},
        forward_drops=(),
        table=None,
        boot_id="boot",
    )


def shown(desired: Desired) -> str:
    """As a person may read it."""
    lines = [f"sysctl {s.path}={s.value}  # {s.reason}" for s in desired.sysctls]
    lines += [f"accept in {a.place} by {a.interface}  # {a.reason}" for a in desired.accepts]
    lines += [f"{r.place}  # {r.reason}" for r in desired.routes]
    return "\n".join([*lines, f"# {desired.ruleset_reason}", desired.ruleset])


def clients(*settings: Masquerade | None) -> tuple[ClientConfig, ...]:
    return tuple(ClientConfig(f"02:00:00:00:00:1{n}", masquerade=s) for n, s in enumerate(settings))


CASES: dict[str, tuple[Config, Facts]] = {
    "auto": (Config(), facts()),
    "always": (Config(nat=Nat("always")), facts()),
    "never": (Config(nat=Nat("never")), facts()),
    "auto-with-own": (Config(client=clients("always", "never", "auto", None)), facts()),
    "always-with-own": (Config(nat=Nat("always"), client=clients("always", "never", "auto")), facts()),
    "never-with-own": (Config(nat=Nat("never"), client=clients("always", "never", "auto")), facts()),
    "forwarded": (
        Config(client=(ClientConfig("02:00:00:00:00:10", forwarded=(25565, "udp/27015", "udp/25565")),)),
        facts(),
    ),
    "surroundings": (
        Config(),
        structs.replace(
            facts("eth0.10", all_rp_filter="1"),
            forward_drops=(
                ForeignDrop("iptables-nft", "ip", "filter", "FORWARD", "its policy is drop"),
                ForeignDrop("nft", "inet", "firewalld", "filter_FORWARD", "its last rule drops everything"),
            ),
            lan=(IPv4Network("10.0.0.0/16"), IPv4Network("192.168.1.0/24")),
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_desired(name: str, golden: Golden) -> None:
    golden(f"gateway/{name}.txt", shown(decide(*CASES[name])))


NAMED = Destination(("full.example",), ("example.org",), (IPv4Network("1.2.3.0/24"),), (IPv6Network("2606::/32"),))
RULES = (
    Rule("rule[0]", "block", None, Source(("02:00:00:00:00:10",), (IPv4Network("192.168.1.64/26"),)), ((1, 5), (8, 8))),
    Rule("rule[1]", "proxy", NAMED, quic="block"),
    Rule("rule[2]", "home", None, None, None, "udp", "direct"),
    Rule("rule[3]", "direct", Destination(suffixes=("example.net",))),
)
WORKING = (("proxy", ports(0, 1)), ("home", None))
SPLITS: dict[str, tuple[Config, Situation]] = {
    "listed": (Config(), Situation(Policy(RULES), WORKING, answers_names=True)),
    "all": (
        Config(
            nat=Nat("never"),
            proxy=Proxy(on_failure="block", lan_port=1080),
            dns=Dns(redirect=False),
            ipv6=Ipv6("gateway"),
        ),
        Situation(
            Policy((), "proxy"),
            WORKING,
            (ports(1, 1),),
            True,
            (IPv4Address("192.168.1.9"),),
            spares=True,
            lan_port=lan_port(0, 1),
        ),
    ),
    "resolver-alone": (Config(), Situation(Policy(), answers_names=True)),
}


def behind_firewall() -> Facts:
    sysctls = {"net/ipv6/conf/eth0/accept_ra": "1", "net/ipv6/conf/eth0/force_forwarding": "0"}
    drops = tuple(ForeignDrop(b, f, "filter", "INPUT", "its policy is drop") for b, f in FIREWALL)
    before = facts()
    return structs.replace(
        before, sysctls=before.sysctls | sysctls, lan6=(IPv6Network("2001:db8:1::/64"),), input_drops=drops
    )


@pytest.mark.parametrize("name", SPLITS)
def test_split(name: str, golden: Golden) -> None:
    config, situation = SPLITS[name]
    golden(f"gateway/split-{name}.txt", shown(decide(config, behind_firewall(), situation)))


@pytest.mark.parametrize("name", SPLITS)
def test_every_set_of_a_split_is_declared_and_used(name: str) -> None:
    config, situation = SPLITS[name]
    text = decide(config, behind_firewall(), situation).ruleset
    assert set(re.findall(r"@(?!th,)(\w+)", text)) == set(re.findall(r"^\tset (\w+)", text, re.MULTILINE))
    assert set(re.findall(r"(?:goto|jump) (\w+)", text)) <= set(re.findall(r"^\tchain (\w+)", text, re.MULTILINE))


def test_nothing_is_split_where_everything_goes_straight() -> None:
    straight = Policy((Rule("rule[0]", "direct", NAMED),))
    assert decide(Config(), facts(), Situation(straight)).ruleset == decide(Config(), facts()).ruleset


def test_names_are_answered_by_ipv6_where_nothing_is_split_too() -> None:
    nothing = Situation(Policy(), answers_names=True)
    for it, is_answered in ((Ipv6(), False), (Ipv6("gateway"), True)):
        ruleset = decide(Config(ipv6=it), behind_firewall(), nothing).ruleset
        chain = ruleset.partition("chain lan_only {")[2].partition("}")[0]
        assert ("ip6 saddr @lan6 " in chain) == is_answered


def test_older_kernels_forward_ipv6_by_the_common_word() -> None:
    config, before = Config(ipv6=Ipv6("gateway")), behind_firewall()
    older = {p: v for p, v in before.sysctls.items() if not p.endswith("force_forwarding")}
    older |= {f"net/ipv6/conf/{name}/forwarding": "0" for name in ("all", "default", "eth0", "eth1")}
    desired = decide(config, structs.replace(before, sysctls=older))
    assert [(s.path.partition("conf/")[2], s.value) for s in desired.sysctls if "ipv6" in s.path] == [
        ("eth0/accept_ra", "2"),
        ("all/forwarding", "1"),
        ("eth0/forwarding", "1"),
    ]
    (everywhere,) = (s for s in desired.sysctls if s.flips)
    assert [p.split("/")[3] for p in everywhere.flips] == ["default", "eth0", "eth1"]


@pytest.mark.parametrize(
    ("everywhere", "own", "wanted"),
    [("0", "0", None), ("1", "0", "2"), ("0", "1", "2"), ("1", "1", "2"), ("2", "1", None), ("1", "2", "2")],
)
def test_reverse_path_is_loosened_only_where_it_is_strict(everywhere: str, own: str, wanted: str | None) -> None:
    desired = decide(Config(), facts(all_rp_filter=everywhere, own_rp_filter=own))
    assert next((s.value for s in desired.sysctls if s.path.endswith("rp_filter")), None) == wanted


@pytest.mark.parametrize(("now", "wanted"), [("0", "1"), ("1", "1"), ("2", None), ("8", None)])
def test_another_interface_in_the_lan_answers_for_itself_alone(now: str, wanted: str | None) -> None:
    path = f"{CONF}/wlan0/arp_ignore"
    box = structs.replace(facts(), sysctls=facts().sysctls | {path: now})
    assert next((s.value for s in decide(Config(), box).sysctls if s.path == path), None) == wanted


@pytest.mark.parametrize("now", ["0", "1"])
def test_a_bridge_keeps_its_frames_from_netfilter_before_anything_is_forwarded(now: str) -> None:
    """Also where it does already: else a second `up` would put back what the first one did."""
    path = "net/bridge/bridge-nf-call-iptables"
    box = structs.replace(facts("br0"), sysctls=facts("br0").sysctls | {path: now})
    assert [(s.path, s.value) for s in decide(Config(), box).sysctls][-2:] == [
        (path, "0"),
        (f"{CONF}/br0/forwarding", "1"),
    ]


SETTINGS = st.sampled_from(["0", "1", "2"])


@given(SETTINGS, SETTINGS, st.sampled_from(["auto", "always", "never"]))
@settings(deadline=None)
def test_what_is_applied_stays_desired(everywhere: str, own: str, masquerade: Masquerade) -> None:
    """Else a second `up` would take back what the first one did."""
    config, before = Config(nat=Nat(masquerade)), facts(all_rp_filter=everywhere, own_rp_filter=own)
    desired = decide(config, before)
    after = structs.replace(before, sysctls=before.sysctls | {s.path: s.value for s in desired.sysctls})
    assert decide(config, after) == desired


@given(SETTINGS, SETTINGS)
@settings(deadline=None)
def test_forwarding_comes_last_and_everything_has_a_reason(everywhere: str, own: str) -> None:
    desired = decide(Config(), facts("eth0.10", all_rp_filter=everywhere, own_rp_filter=own))
    assert desired.sysctls[-1].path == f"{CONF}/eth0.10/forwarding"
    assert all(s.reason for s in desired.sysctls)
    assert desired.ruleset_reason
