"""What dnsmasq is told, held against the rules read one after the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.dns.names import Verdict, name_table
from sidegate.gateway.dns.resolver import Asked, Learned, NameTable
from sidegate.gateway.split.policy import Destination, Policy, Rule
from sidegate.problems import Problems

LABELS = st.sampled_from(("a", "b", "c"))
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
SOME = st.lists(NAMES, max_size=3, unique=True).map(lambda names: tuple(sorted(names)))
DESTINATIONS = st.none() | st.builds(Destination, names=SOME, suffixes=SOME)
SENDS = st.sampled_from(("proxy", "direct", "block", "tokyo"))
RULES = st.builds(
    Rule,
    origin=st.just("rule[0]"),
    send=SENDS,
    destination=DESTINATIONS,
    protocol=st.sampled_from((None, None, None, "tcp")),
)
POLICIES = st.builds(Policy, st.lists(RULES, max_size=5).map(tuple), st.sampled_from(("proxy", "direct")))


def rule(send: str, *suffixes: str, names: tuple[str, ...] = (), partial: bool = False) -> Rule:
    destination = Destination(names=names, suffixes=suffixes)
    return Rule("rule[0]", send, destination, protocol="tcp" if partial else None)


def keys(*suffixes: str) -> tuple[str, ...]:
    return tuple(Destination(suffixes=(it,)).names_key for it in suffixes)


def verdict(policy: Policy, name: str) -> Verdict:
    """One rule after the other, as they are written."""
    deciding, sends = [], set()
    for i, it in enumerate(policy.rules):
        is_partial = it.protocol is not None
        if it.destination is None:
            if not is_partial:
                sends.add(it.send)
                break
            continue
        if name not in it.destination.names and not is_at_or_below(name, it.destination.suffixes):
            continue
        deciding.append(i)
        sends.add(it.send)
        if not is_partial:
            break
    else:
        sends.add(policy.default)
    if sends & {"proxy", "tokyo"}:
        return Verdict("proxied", tuple(deciding))
    return Verdict("blocked" if sends == {"block"} else "direct", tuple(deciding))


def is_at_or_below(name: str, suffixes: tuple[str, ...]) -> bool:
    return any(f".{name}".endswith(f".{suffix}") for suffix in suffixes)


def asked(table: NameTable, name: str) -> str:
    """As dnsmasq finds a server: the longest entry; a dot more is longer."""
    found = [
        (len(entry.lstrip("*")), group.answer) for group in table.asked for entry in group.names if holds(entry, name)
    ]
    return max(found)[1] if found else table.default


def holds(entry: str, name: str) -> bool:
    return name.endswith(entry[1:]) if entry.startswith("*") else is_at_or_below(name, (entry,))


def learned(table: NameTable, name: str) -> tuple[str, ...]:
    found = [(len(entry), group.keys) for group in table.learned for entry in group.names if holds(entry, name)]
    return max(found)[1] if found else ()


def above(name: str) -> list[str]:
    labels = name.split(".")
    return [".".join(labels[i:]) for i in range(1, len(labels))]


@given(POLICIES, NAMES)
def test_every_name_is_asked_where_the_rules_say(policy: Policy, name: str) -> None:
    assert asked(name_table(policy), name) == verdict(policy, name).answer


@given(POLICIES, NAMES)
def test_every_address_is_learned_for_the_rules_that_may_decide(policy: Policy, name: str) -> None:
    expected = verdict(policy, name)
    exact = {it for r in policy.rules if r.destination for it in r.destination.names}
    if expected.answer != "blocked" and not exact & set(above(name)):
        rules = [policy.rules[i].destination for i in expected.rules]
        keys = dict.fromkeys(it.names_key for it in rules if it is not None)
        assert learned(name_table(policy), name) == tuple(keys)


@given(POLICIES)
def test_nothing_is_told_twice(policy: Policy) -> None:
    """No entry could be left out."""
    table = name_table(policy)
    for group in table.asked:
        for name in group.names:
            rest = [Asked(g.answer, tuple(n for n in g.names if n != name)) for g in table.asked]
            without = NameTable(table.default, tuple(rest))
            probe = name.replace("*", "zz")
            assert asked(without, probe) != group.answer or any(f"*.{name}" in g.names for g in table.asked)


def test_a_name_that_an_earlier_rule_sends_direct_is_no_part_of_a_later_suffix() -> None:
    table = name_table(Policy((rule("direct", "cn.example.org"), rule("proxy", "example.org"))))
    assert table == NameTable(
        "direct",
        (Asked("proxied", ("example.org",)), Asked("direct", ("cn.example.org",))),
        (Learned(keys("example.org"), ("example.org",)), Learned(keys("cn.example.org"), ("cn.example.org",))),
    )


def test_a_later_and_narrower_rule_has_no_say() -> None:
    table = name_table(Policy((rule("proxy", "example.org"), rule("direct", "cn.example.org"))))
    assert table == NameTable(
        "direct", (Asked("proxied", ("example.org",)),), (Learned(keys("example.org"), ("example.org",)),)
    )


def test_a_name_alone_leaves_those_below_it_to_others() -> None:
    table = name_table(Policy((rule("block", names=("example.org",)), rule("proxy", "org"))))
    assert table.asked == (Asked("proxied", ("*.example.org", "org")), Asked("blocked", ("example.org",)))
    assert table.learned == (Learned(keys("org"), ("org",)),)


def test_what_one_client_proxies_is_asked_through_the_engine_for_all() -> None:
    table = name_table(Policy((rule("proxy", "example.org", partial=True), rule("direct", "org"))))
    assert asked(table, "www.example.org") == "proxied"
    assert learned(table, "www.example.org") == keys("example.org", "org")


def test_a_rule_for_everything_ends_the_rules() -> None:
    everything = Rule("rule[1]", "proxy")
    table = name_table(Policy((rule("direct", "cn"), everything, rule("block", "org"))))
    assert table == NameTable("proxied", (Asked("direct", ("cn",)),), (Learned(keys("cn"), ("cn",)),))


def test_more_rules_than_a_line_holds_are_refused() -> None:
    with pytest.raises(Problems, match=r"www\.example\.org is named by more than 10 rules"):
        name_table(Policy((*(rule("proxy", "org", partial=True) for _ in range(10)), rule("proxy", "www.example.org"))))


@pytest.mark.parametrize("name", ["a,b", "a/b", "a\nserver=1.2.3.4", "", "-a", "a" * 64, ".".join(["a" * 60] * 5), "ü"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(Problems) as raised:
        name_table(Policy((rule("proxy", name),)))
    assert raised.value.problems[0].where == "rule[0]"
    assert "\n" not in raised.value.problems[0].what
