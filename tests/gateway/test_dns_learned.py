"""No address is forgotten while a client may use it; what rules learned follows them."""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.dns.dnsmasq import CACHE_TTL_S, CLIENT_TTL_S
from sidegate.gateway.dns.learned import (
    KEPT_S,
    LOOK_EVERY_S,
    MOVED_AFTER_S,
    ageing,
    carried,
    former,
    opened,
    still_asked,
)
from sidegate.gateway.ruleset.nft import Element, Shape, ruleset
from sidegate.gateway.ruleset.nftchange import blocks
from sidegate.gateway.ruleset.steer import LEARNED_S, LEARNED_SIZE, Steering, learned_sets
from sidegate.gateway.split.policy import Destination, Policy, Rule
from sidegate.gateway.split.ports import ports


def element(address: str, expires_s: int = LEARNED_S) -> Element:
    return Element((address,), expires_s=expires_s)


def rule(origin: str, *suffixes: str, send: str = "proxy") -> Rule:
    return Rule(origin, send, Destination(suffixes=suffixes))


A, B = rule("rule[0]", "a.example"), rule("rule[1]", "b.example")
SHAPE = Shape(
    "eth0",
    "02:00:00:00:00:01",
    (IPv4Network("192.168.1.0/24"),),
    "auto",
    steering=Steering(Policy((A, B)), (("proxy", ports(0, 0)),)),
)


def key(it: Rule) -> str:
    assert it.destination is not None
    return it.destination.names_key


def test_nothing_ends_before_it_is_moved_nor_while_a_client_has_it() -> None:
    """Whatever is answered just before a move may be used for as long as dnsmasq and then the client keep it."""
    longest_use_s = CACHE_TTL_S + CLIENT_TTL_S
    assert longest_use_s < LEARNED_S - MOVED_AFTER_S - LOOK_EVERY_S
    assert longest_use_s < KEPT_S


def test_what_is_old_is_moved_and_lasts_anew() -> None:
    old = LEARNED_S - MOVED_AFTER_S
    sets = {
        "names_a_4": [element("1.1.1.1", old), element("1.1.1.2", old + 1)],
        "kept_a_4": [element("1.1.1.3", 1)],
        "names_d_6": [element("2001:db8::1", 5)],
        "clients4": [element("1.1.1.9", 1)],
    }
    assert ageing(sets) == (
        "add element inet sidegate names_a_4 { 1.1.1.1 }\ndelete element inet sidegate names_a_4 { 1.1.1.1 }\n"
        "add element inet sidegate kept_a_4 { 1.1.1.1 }\ndelete element inet sidegate kept_a_4 { 1.1.1.1 }\n"
        "add element inet sidegate kept_a_4 { 1.1.1.1 timeout 86400s }\n"
        "add element inet sidegate names_d_6 { 2001:db8::1 }\ndelete element inet sidegate names_d_6 { 2001:db8::1 }\n"
        "add element inet sidegate kept_d_6 { 2001:db8::1 }\ndelete element inet sidegate kept_d_6 { 2001:db8::1 }\n"
        "add element inet sidegate kept_d_6 { 2001:db8::1 timeout 86400s }\n"
    )


def test_what_is_young_stays() -> None:
    assert ageing({"names_a_4": [element("1.1.1.1")]}) == ""


def test_a_set_never_fills_up() -> None:
    """The oldest make room, however young."""
    crowd = [element(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", LEARNED_S - n % 3) for n in range(LEARNED_SIZE)]
    moved = ageing({"names_a_4": crowd}).count(" timeout ")
    assert moved == LEARNED_SIZE // 4


NOW = rule("rule[0]", "a.example", "c.example")


def test_a_rule_with_other_names_asks_those_before_until_nobody_learns_them() -> None:
    before = former(Policy((A, B)), Policy((NOW, B)), {})
    assert before == {key(NOW): (A.destination,)}
    assert still_asked(Policy((NOW, B)), before).rules == (NOW, A, B)
    sets = {
        f"names_{key(A)}_4": [element("1.1.1.1", 7)],
        f"kept_{key(A)}_4": [element("1.1.1.1", 8), element("1.1.1.2", 8)],
    }
    assert carried(before, sets, (4,)) == (
        f"add element inet sidegate kept_{key(NOW)}_4 {{ 1.1.1.1 timeout 86400s, 1.1.1.2 timeout 86400s }}\n"
    )


def test_those_before_them_too() -> None:
    later = rule("rule[0]", "d.example")
    before = former(Policy((A, B)), Policy((NOW, B)), {})
    assert former(Policy((NOW, B)), Policy((later, B)), before) == {key(later): (NOW.destination, A.destination)}
    assert former(Policy((NOW, B)), Policy((B, NOW)), before) == before
    assert former(Policy((NOW, B)), Policy((A, B)), before) == {key(A): (NOW.destination,)}


def test_it_asks_names_alone() -> None:
    own = Rule("rule[0]", "proxy", Destination(suffixes=("a.example",), networks4=(IPv4Network("192.0.2.0/24"),)))
    assert former(Policy((own,)), Policy((NOW,)), {}) == {key(NOW): (A.destination,)}


def test_one_that_leads_elsewhere_too_begins_with_nothing() -> None:
    assert former(Policy((A,)), Policy((rule("rule[0]", "c.example", send="direct"),)), {}) == {}


def test_names_that_stay_have_nothing_to_carry() -> None:
    for new in (Policy((B, A)), Policy((rule("rule[0]", "a.example", send="direct"),)), Policy()):
        assert former(Policy((A, B)), new, {}) == {}


def test_sets_are_opened_as_the_ruleset_makes_them() -> None:
    text = ruleset(SHAPE)
    names = learned_sets(Policy((A,)), (4,))
    made = opened(text, names)
    assert [name for _, name in blocks(made)] == list(names)
    assert all(it in text for it in made.split("table inet sidegate {\n")[1].removesuffix("}\n").splitlines())


@given(st.permutations((A, B, rule("proxy.list", "c.example"))))
def test_sets_stand_for_the_same_names_in_any_order(rules: list[Rule]) -> None:
    before = Policy((A, B, rule("proxy.list", "c.example")))
    assert set(learned_sets(Policy(tuple(rules)))) == set(learned_sets(before))
    assert key(A) != key(Rule("rule[0]", "proxy", Destination(names=("a.example",))))
