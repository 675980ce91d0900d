"""`apply` and `undo` of a split on the real kernel: the box is as it was, or as desired, whatever happens between."""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from sidegate.gateway.box.apply import Changes, Report, apply, undo
from sidegate.gateway.box.facts import observe
from sidegate.gateway.box.livebox import LiveBox
from sidegate.gateway.config import Config, Ipv6
from sidegate.gateway.decide import NO_SPLIT, Situation, decide
from sidegate.gateway.desired import TABLE
from sidegate.gateway.ruleset import nftchange
from sidegate.gateway.split.policy import Destination, Policy, Rule
from tests.kernel.gateway_rig import CLIENT, CLIENT_MAC, OTHER_SERVER, ROUTER_MAC, Rig, in_namespaces, shell
from tests.kernel.steer_rig import CHOSEN, CLIENT6, LAN6, SERVER6, Engine, syn, went
from tests.kernel.test_gateway_apply import FIREWALLD, STATE_DIR, Watching, every_step, files, state
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
)
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
    assert {c.why for c in changes.changes if "rule 5093" in c.what} == {"no longer needed"}
    assert shell("ip rule; ip -6 rule").count(str(5093)) == 0
    down()
    assert (differing(before), files()) == ({}, [])


@in_namespaces
def test_route_that_somebody_took_away_comes_back() -> None:
    rig = box()
    up()
    Engine(CHOSEN)
    shell("ip rule delete priority 5093; ip route flush table 5093")
    assert [c.what.split(":")[0] for c in up().changes] == ["ipv4 rule 5093"]
    assert went(rig, syn()) == "engine"


@in_namespaces
def test_own_ipv6_route_outlives_forwarding() -> None:
    """One that the main router advertised: the kernel forgets these where forwarding begins and accept_ra is 1."""
    box()
    shell(f"ip -6 route replace default via {LAN6[1]} dev eth0 proto ra expires 600")
    up()
    assert "proto ra" in shell("ip -6 route show default")
    down()
    assert "proto ra" in shell("ip -6 route show default")
