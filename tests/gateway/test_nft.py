"""Texts for nft and what it prints; tests/kernel/test_gateway_rules.py asks the kernel what they mean."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.gateway.config import Masquerade
from sidegate.gateway.ruleset.nft import Client, Element, Shape, parse_elements, prove, ruleset, withdraw
from tests.conftest import GOLDEN_ROOT

PHONE = Client("02:00:00:00:00:10", IPv4Address("192.168.1.16"))
TV = Client("02:00:00:00:00:11", IPv4Address("192.168.1.17"))
SETTINGS = st.sampled_from(["auto", "always", "never"])


def test_prove_renews_in_one_transaction() -> None:
    assert prove([TV, PHONE, TV], 60) == (
        "add element inet sidegate stale4 { 02:00:00:00:00:10 . 192.168.1.16, 02:00:00:00:00:11 . 192.168.1.17 }\n"
        "delete element inet sidegate stale4 { 02:00:00:00:00:10 . 192.168.1.16, 02:00:00:00:00:11 . 192.168.1.17 }\n"
        "add element inet sidegate direct4 { 02:00:00:00:00:10 . 192.168.1.16, 02:00:00:00:00:11 . 192.168.1.17 }\n"
        "delete element inet sidegate direct4 { 02:00:00:00:00:10 . 192.168.1.16, 02:00:00:00:00:11 . 192.168.1.17 }\n"
        "add element inet sidegate direct4 { 02:00:00:00:00:10 . 192.168.1.16 timeout 60s, "
        "02:00:00:00:00:11 . 192.168.1.17 timeout 60s }\n"
    )


def test_withdraw() -> None:
    assert withdraw([PHONE]) == (
        "add element inet sidegate direct4 { 02:00:00:00:00:10 . 192.168.1.16 }\n"
        "delete element inet sidegate direct4 { 02:00:00:00:00:10 . 192.168.1.16 }\n"
        "add element inet sidegate stale4 { 02:00:00:00:00:10 . 192.168.1.16 }\n"
    )


def test_nobody_is_no_transaction() -> None:
    assert prove([]) == withdraw([]) == ""


LISTING = """{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
{"set": {"family": "inet", "name": "clients4", "table": "sidegate", "type": ["ether_addr", "ipv4_addr"], "handle": 10,
"size": 16384, "flags": ["timeout"], "timeout": 3600, "elem": [
{"elem": {"val": {"concat": ["02:00:00:00:00:01", "1.2.3.4"]}, "expires": 3599,
"counter": {"packets": 2, "bytes": 90}}},
{"elem": {"val": {"concat": ["02:00:00:00:00:02", "1.2.3.5"]}, "timeout": 5, "expires": 4}}, {"concat": ["a", "b"]},
"1.2.3.6"]}}]}"""


def test_elements_of_every_kind() -> None:
    assert parse_elements(LISTING) == (
        Element(("02:00:00:00:00:01", "1.2.3.4"), 2, 90, 3599),
        Element(("02:00:00:00:00:02", "1.2.3.5"), None, None, 4),
        Element(("a", "b")),
        Element(("1.2.3.6",)),
    )


def test_empty_set() -> None:
    assert parse_elements('{"nftables": [{"metainfo": {}}, {"set": {"name": "direct4"}}]}') == ()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"nftables": 1}', '{"nftables": [{"set": {"elem": [{"elem": 1}]}}]}']
)
def test_other_text_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_elements(text)


@given(SETTINGS, st.dictionaries(st.integers(0, 9).map(lambda n: f"02:00:00:00:00:0{n}"), SETTINGS))
@settings(deadline=None)
def test_every_set_named_is_declared_and_used(common: Masquerade, own: dict[str, Masquerade]) -> None:
    shape = Shape("eth0", "02:00:00:00:00:02", (IPv4Network("10.0.0.0/8"),), common, tuple(own.items()))
    words = ruleset(shape).split()
    declared = {words[i + 1] for i, w in enumerate(words) if w == "set"}
    assert {w.removeprefix("@") for w in words if w.startswith("@")} == declared


@given(SETTINGS, st.dictionaries(st.integers(0, 9).map(lambda n: f"02:00:00:00:00:0{n}"), SETTINGS))
@settings(deadline=None)
def test_order_of_clients_does_not_matter(common: Masquerade, own: dict[str, Masquerade]) -> None:
    shapes = [Shape("eth0", "02:00:00:00:00:02", (), common, tuple(i)) for i in (own.items(), reversed(own.items()))]
    assert ruleset(shapes[0]) == ruleset(shapes[1])


@pytest.mark.parametrize("file", sorted((GOLDEN_ROOT / "gateway").glob("*.txt")), ids=lambda file: file.stem)
def test_no_rule_holds_ranges_of_its_own(file: Path) -> None:
    """They would hold nothing for a moment whenever rules are replaced; see `among`."""
    rules = [line for line in file.read_text().splitlines() if not line.strip().startswith("elements")]
    assert [line for line in rules if re.search(r"[{,] [0-9a-f.:]+[/-][0-9a-f.:]+[ ,]", line)] == []
