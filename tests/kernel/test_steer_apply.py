"""`apply` and `undo` of a split on the real kernel: the box is as it was, or as desired, whatever happens between."""

from __future__ import annotations

import itertools
import re
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from msgspec import structs

from sidegate.gateway.box.apply import Changes, Report, apply, undo
from sidegate.gateway.box.facts import observe
from sidegate.gateway.box.livebox import LiveBox
from sidegate.gateway.config import Config, Ipv6
from sidegate.gateway.decide import NO_SPLIT, Situation, decide
from sidegate.gateway.desired import TABLE, PolicyRoute
from sidegate.gateway.health.selfcheck import would_reach_us
from sidegate.gateway.ruleset import nftchange
from sidegate.gateway.split.policy import Destination, Policy, Rule
from sidegate.gateway.split.ports import TABLE as MARKED_TABLE
from sidegate.probe.talk import Vantage
from sidegate.problems import Problems
from tests.kernel.box_rig import FIREWALLD, STATE_DIR, files, state
from tests.kernel.gateway_rig import (
    CLIENT,
    CLIENT_MAC,
    GATEWAY,
    GATEWAY_MAC,
    OTHER_SERVER,
    ROUTER,
    ROUTER_MAC,
    SERVER,
    Rig,
    in_namespaces,
    once_own,
    shell,
)
from tests.kernel.killing import Watching, every_step, killed
from tests.kernel.steer_rig import CHOSEN, CLIENT6, LAN6, SERVER6, Engine, syn, went
from tests.kernel.test_steer import ALL, LISTED

pytestmark = pytest.mark.kernel

SPLIT = Situation(ALL, (("proxy", CHOSEN),), answers_names=True)
BOTH_FAMILIES = Config(ipv6=Ipv6("gateway"))
UFW = (
    "iptables-nft -P INPUT DROP; iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT;"
    " ip6tables-nft -P INPUT DROP; ip6tables-nft -P FORWARD DROP; iptables-nft -P FORWARD DROP"
)
DROPPING = "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }'"
LEGACY = "iptables-legacy -P INPUT DROP; ip6tables-legacy -P INPUT DROP; ip6tables-legacy -P FORWARD DROP"
ADDRESSES6 = (
    f"ip -6 address add {LAN6[2]}/64 dev eth0 nodad; ip -6 route add default via {LAN6[1]} dev eth0;"
    f" ip neighbour add {LAN6[1]} lladdr {ROUTER_MAC} dev eth0; ip neighbour add {CLIENT6} lladdr {CLIENT_MAC} dev eth0"
    f"\n{once_own(LAN6[2])}"
)
NETWORK = IPv4Network("192.168.1.0/24")
SETTINGS6 = ("forwarding", "force_forwarding", "accept_ra")


def up(situation: Situation = SPLIT, config: Config = BOTH_FAMILIES, box: LiveBox | None = None) -> Changes:
    facts = observe(config, STATE_DIR)
    return apply(decide(config, facts, situation), facts, box or LiveBox(), STATE_DIR)


def down(box: LiveBox | None = None) -> Report:
    return undo(box or LiveBox(), STATE_DIR)


def everything() -> dict[str, str]:
    """As `state`, and IPv6. Sorted: in which order sets were made does not matter."""
    settings = {str(p): p.read_text() for p in Path("/proc/sys/net/ipv6/conf").glob("*/*") if p.name in SETTINGS6}
    programs = {p: _steady(shell(p)) for p in ("ip -6 rule", "ip -6 route show table all", "ip6tables-legacy -S")}
    found = state()
    return found | settings | programs | {"nft list ruleset": _steady(found["nft list ruleset"])}


def _steady(text: str) -> str:
    """Without times that pass, and routes that come by themselves a little later."""
    kept = [re.sub(r" linkdown| expires \d+sec", "", line) for line in text.splitlines()]
    return "\n".join(sorted(line for line in kept if not re.search("multicast|ff00::|fe80::|anycast", line)))


def differing(before: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    now = everything()
    return {k: (before.get(k), now.get(k)) for k in before | now if before.get(k) != now.get(k)}


def box(script: str = "true") -> Rig:
    rig = Rig()
    shell(f"{ADDRESSES6}; {script}")
    return rig


@pytest.mark.parametrize("script", ["true", UFW, LEGACY, FIREWALLD])
@in_namespaces
def test_up_steers_and_down_restores(script: str) -> None:
    rig = box(script)
    before = everything()
    up()
    assert up() == Changes()
    Engine(CHOSEN)
    assert went(rig, syn()) == went(rig, syn(to=SERVER6)) == "engine"
    assert down().restored
    assert (differing(before), files()) == ({}, [])


@in_namespaces
def test_killed_at_every_step_of_up_then_down() -> None:
    box(DROPPING)
    before = everything()

    def restored(step: int) -> None:
        down()
        assert (step, differing(before), files()) == (step, {}, [])

    every_step(lambda box: up(config=Config(), box=box), restored, least=16)


@in_namespaces
def test_killed_at_every_step_of_down_then_up() -> None:
    box(DROPPING)
    up(config=Config())
    desired = everything()

    def converges(step: int) -> None:
        up(config=Config())
        assert (step, differing(desired)) == (step, {})

    every_step(down, converges, least=11)


@in_namespaces
def test_killed_at_every_step_of_a_change_of_the_rules_then_up() -> None:
    """From no split to one with more networks than one transaction takes."""
    nftchange.MOST_AT_ONCE = 20
    many = tuple(IPv4Network((0x10000000 + (i << 9), 24)) for i in range(30))
    large = Situation(Policy((Rule("rule[0]", "proxy", Destination(networks4=many)),)), (("proxy", CHOSEN),))
    box()
    before = everything()
    up(large, Config())
    desired = everything()

    def converges(step: int) -> None:
        up(large, Config())
        assert (step, differing(desired)) == (step, {})
        assert shell(f"nft list table inet {TABLE}").count("/24") > len(many)
        up(NO_SPLIT, Config())

    up(NO_SPLIT, Config())
    every_step(lambda box: up(large, Config(), box), converges, least=8)
    down()
    assert (differing(before), files()) == ({}, [])


@in_namespaces
def test_one_more_rule_leaves_elements_and_connections_alone() -> None:
    rig = box()
    up(Situation(LISTED, (("proxy", CHOSEN),)))
    Engine(CHOSEN)
    rig.nft(f"add element inet {TABLE} direct4 {{ {CLIENT_MAC} . {CLIENT} }}\n")
    told: list[str] = []
    more = Policy((*LISTED.rules, Rule("rule[1]", "block", None, None, ((25, 25),))))
    up(Situation(more, (("proxy", CHOSEN),)), box=Watching(told.append))
    assert rig.holds("direct4")
    assert "elements" not in "".join(told)
    assert went(rig, syn(dport=25)) == "engine"
    assert went(rig, syn(to=OTHER_SERVER, dport=25)) == "refused"


@in_namespaces
def test_split_that_ends_takes_its_routes_along() -> None:
    box(UFW)
    before = everything()
    up()
    changes = up(NO_SPLIT, Config())
    assert {c.why for c in changes.changes if " rule 0" in c.what} == {"no longer needed"}
    assert shell("ip rule; ip -6 rule").count(str(5093)) == 0
    down()
    assert (differing(before), files()) == ({}, [])


@in_namespaces
def test_route_that_somebody_took_away_comes_back() -> None:
    rig = box()
    up()
    Engine(CHOSEN)
    shell("ip rule delete lookup 5093; ip route flush table 5093")
    assert [c.what.split(":")[0] for c in up().changes] == ["ipv4 rule 0"]
    assert went(rig, syn()) == "engine"


ELSEWHERE = (
    f"ip route add default via {ROUTER} dev eth0 table 100; ip -6 route add default via {LAN6[1]} dev eth0 table 100"
)


@in_namespaces
def test_rules_that_somebody_adds_later_come_after_ours_and_stay() -> None:
    """As people write them, without a priority."""
    rig = box(ELSEWHERE)
    up()
    Engine(CHOSEN)
    rules = f"ip rule add from {NETWORK} lookup 100; ip -6 rule add from {LAN6} lookup 100"
    shell(rules)
    assert went(rig, syn()) == went(rig, syn(to=SERVER6)) == "engine"
    assert up() == Changes()
    down()
    assert shell("ip rule; ip -6 rule").splitlines() == [
        "0:\tfrom all lookup local",
        f"0:\tfrom {NETWORK} lookup 100",
        "32766:\tfrom all lookup main",
        "32767:\tfrom all lookup default",
        "0:\tfrom all lookup local",
        f"0:\tfrom {LAN6} lookup 100",
        "32766:\tfrom all lookup main",
    ]


@in_namespaces
def test_rule_of_a_version_before_gives_way_and_packets_arrive_all_the_while() -> None:
    """Its journal does not speak of a priority: that was the table's number."""
    rig = box()
    before = everything()
    up_as_before()
    Engine(CHOSEN)
    assert shell("ip rule; ip -6 rule").count("5093:") == 2
    rules = [c.what.split(":")[0] for c in up(box=Arriving(rig)).changes]
    assert rules == ["ipv4 rule 0", "ipv6 rule 0", "ipv4 rule 5093", "ipv6 rule 5093"]
    assert up() == Changes()
    assert went(rig, syn()) == went(rig, syn(to=SERVER6)) == "engine"
    down()
    assert (differing(before), files()) == ({}, [])


def up_as_before() -> None:
    facts = observe(BOTH_FAMILIES, STATE_DIR)
    desired = decide(BOTH_FAMILIES, facts, SPLIT)
    older = tuple(structs.replace(it, priority=None) for it in desired.routes)
    apply(structs.replace(desired, routes=older), facts, LiveBox(), STATE_DIR)


@in_namespaces
def test_killed_while_the_rule_of_a_version_before_gives_way_then_down() -> None:
    box()
    before = everything()
    up_as_before()
    assert killed(lambda box: up(box=box), 8)
    assert sorted(line.split(":")[0] for line in shell("ip rule").splitlines()) == ["0", "0", "32766", "32767", "5093"]
    down()
    assert (differing(before), files()) == ({}, [])


class Arriving(LiveBox):
    """Looks after each change of a route whether packets still arrive."""

    def __init__(self, rig: Rig) -> None:
        self._rig, self._ports = rig, itertools.count(50000)

    def add_route(self, route: PolicyRoute) -> None:
        super().add_route(route)
        assert went(self._rig, syn(next(self._ports))) == "engine"

    def delete_rule(self, route: PolicyRoute) -> None:
        super().delete_rule(route)
        assert went(self._rig, syn(next(self._ports))) == "engine"


@pytest.mark.parametrize("route", [f"default via {ROUTER} dev eth0", "10.0.0.0/8 dev eth0"])
@in_namespaces
def test_a_table_of_somebody_else_is_left_alone(route: str) -> None:
    box(f"ip route add {route} table {MARKED_TABLE}")
    before = everything()
    with pytest.raises(
        Problems, match=f"routing table {MARKED_TABLE} is somebody else's: it has a route to {route[:3]}"
    ):
        up()
    assert (differing(before), files()) == ({}, [])


VANTAGE = Vantage("eth0", GATEWAY_MAC, GATEWAY, ROUTER, ROUTER_MAC)


def steering() -> str:
    """Empty where what is steered arrives, else why it does not."""
    facts = observe(BOTH_FAMILIES, STATE_DIR)
    answer = would_reach_us(VANTAGE, decide(BOTH_FAMILIES, facts, SPLIT).routes, (LAN6,), SERVER)
    return "" if answer.is_good else answer.why


@pytest.mark.parametrize(
    ("rule", "is_in_the_way"),
    [
        (f"from {NETWORK} lookup 100", True),
        (f"from {NETWORK[77]} lookup 100", True),
        ("from all to 203.0.113.0/24 lookup 100", True),
        (f"from {LAN6} lookup 100", True),
        (f"from {CLIENT6} blackhole", True),
        ("from all iif eth0 lookup 100", True),
        (f"not from {NETWORK} lookup 100", False),
        ("fwmark 0x1/0xff lookup 100", False),
        (f"from {NETWORK} lookup 777", False),
    ],
)
@in_namespaces
def test_rules_that_come_before_ours_are_told_where_they_take_what_is_steered(rule: str, is_in_the_way: bool) -> None:
    family = "-6" if ":" in rule else "-4"
    box(f"{ELSEWHERE}; ip {family} rule add priority 0 {rule}")
    up()
    assert (f"comes before ours: {rule}" in steering()) == is_in_the_way
    shell(f"ip {family} rule delete priority 0 {rule}")
    assert steering() == ""


@in_namespaces
def test_what_is_steered_does_not_arrive_without_our_rule_or_by_another_route() -> None:
    box()
    up()
    assert steering() == ""
    shell(f"ip route replace default via {ROUTER} dev eth0 table {MARKED_TABLE}")
    assert f"routing table {MARKED_TABLE} has another route" in steering()
    shell(f"ip -4 rule delete lookup {MARKED_TABLE}")
    assert "our rule is gone (ipv4 rule 0: fwmark" in steering()


@in_namespaces
def test_own_ipv6_route_outlives_forwarding() -> None:
    """One that the main router advertised: the kernel forgets these where forwarding begins and accept_ra is 1."""
    box()
    shell(f"ip -6 route replace default via {LAN6[1]} dev eth0 proto ra expires 600")
    up()
    assert "proto ra" in shell("ip -6 route show default")
    down()
    assert "proto ra" in shell("ip -6 route show default")
