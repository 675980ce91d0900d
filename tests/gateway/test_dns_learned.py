"""No address is forgotten while a client may use it; what rules learned follows them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.dns.dnsmasq import CACHE_TTL_S, CLIENT_TTL_S
from sidegate.gateway.dns.learned import KEPT_S, LOOK_EVERY_S, MOVED_AFTER_S, ageing, carried
from sidegate.gateway.nft import Element
from sidegate.gateway.split.policy import Destination, Policy, Rule
from sidegate.gateway.steer import LEARNED_S, LEARNED_SIZE


def element(address: str, expires_s: int = LEARNED_S) -> Element:
    return Element((address,), expires_s=expires_s)


def rule(origin: str, *suffixes: str, send: str = "proxy") -> Rule:
    return Rule(origin, send, Destination(suffixes=suffixes))


A, B = rule("rule[0]", "a.example"), rule("rule[1]", "b.example")
NETS = Rule("rule[2]", "proxy", Destination())


def test_nothing_ends_before_it_is_moved_nor_while_a_client_has_it() -> None:
    """Whatever is answered just before a move may be used for as long as dnsmasq and then the client keep it."""
    longest_use_s = CACHE_TTL_S + CLIENT_TTL_S
    assert longest_use_s < LEARNED_S - MOVED_AFTER_S - LOOK_EVERY_S
    assert longest_use_s < KEPT_S


def test_what_is_old_is_moved_and_lasts_anew() -> None:
    old = LEARNED_S - MOVED_AFTER_S
    sets = {
        "names0_4": [element("1.1.1.1", old), element("1.1.1.2", old + 1)],
        "kept0_4": [element("1.1.1.3", 1)],
        "names3_6": [element("2001:db8::1", 5)],
        "clients4": [element("1.1.1.9", 1)],
    }
    assert ageing(sets) == (
        "add element inet sidegate names0_4 { 1.1.1.1 }\ndelete element inet sidegate names0_4 { 1.1.1.1 }\n"
        "add element inet sidegate kept0_4 { 1.1.1.1 }\ndelete element inet sidegate kept0_4 { 1.1.1.1 }\n"
        "add element inet sidegate kept0_4 { 1.1.1.1 timeout 86400s }\n"
        "add element inet sidegate names3_6 { 2001:db8::1 }\ndelete element inet sidegate names3_6 { 2001:db8::1 }\n"
        "add element inet sidegate kept3_6 { 2001:db8::1 }\ndelete element inet sidegate kept3_6 { 2001:db8::1 }\n"
        "add element inet sidegate kept3_6 { 2001:db8::1 timeout 86400s }\n"
    )


def test_what_is_young_stays() -> None:
    assert ageing({"names0_4": [element("1.1.1.1")]}) == ""


def test_a_set_never_fills_up() -> None:
    """The oldest make room, however young."""
    crowd = [element(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", LEARNED_S - n % 3) for n in range(LEARNED_SIZE)]
    moved = ageing({"names0_4": crowd}).count(" timeout ")
    assert moved == LEARNED_SIZE // 4


def test_a_rule_that_moves_takes_its_addresses_along() -> None:
    sets = {
        "names0_4": [element("1.1.1.1", 7)],
        "kept0_4": [element("1.1.1.2", 8)],
        "names1_4": [element("2.2.2.2", 9)],
    }
    text = carried(Policy((A, B)), Policy((NETS, rule("rule[1]", "a.example"))), sets, (4,))
    assert text == (
        "flush set inet sidegate names1_4\nflush set inet sidegate kept1_4\n"
        "add element inet sidegate names1_4 { 1.1.1.1 timeout 7s }\n"
        "add element inet sidegate kept1_4 { 1.1.1.2 timeout 8s }\n"
    )


def test_a_rule_that_names_something_else_now_keeps_its_addresses_for_a_while() -> None:
    sets = {"names0_4": [element("1.1.1.1", 7)], "kept0_4": [element("1.1.1.1", 8), element("1.1.1.2", 8)]}
    text = carried(Policy((A,)), Policy((rule("rule[0]", "a.example", "c.example"),)), sets, (4,))
    assert text.endswith("add element inet sidegate kept0_4 { 1.1.1.1 timeout 86400s, 1.1.1.2 timeout 86400s }\n")


def test_a_rule_that_goes_takes_nothing_along() -> None:
    sets = {"names0_4": [element("1.1.1.1", 7)]}
    assert carried(Policy((A,)), Policy((rule("rule[0]", "a.example", send="direct"),)), sets, (4,)) == (
        "flush set inet sidegate names0_4\nflush set inet sidegate kept0_4\n"
    )
    assert carried(Policy((A,)), Policy(), sets) == ""


@given(st.permutations((A, B, NETS)))
def test_the_same_rules_in_any_order_know_what_they_knew(rules: list[Rule]) -> None:
    before = Policy((A, B, NETS))
    sets = {"names0_4": [element("1.1.1.1", 7)], "names1_4": [element("2.2.2.2", 9)]}
    text = carried(before, Policy(tuple(rules)), sets, (4,))
    for it, address in ((A, "1.1.1.1"), (B, "2.2.2.2")):
        assert f"add element inet sidegate names{rules.index(it)}_4 {{ {address} " in text
    assert text.count("add element") == 2
