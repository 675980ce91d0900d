"""Reading TOML into structs: every error at once, and never any other exception."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from sidegate.home import Home, RouterProfile, check_home, check_router
from sidegate.problems import Problem, Problems
from sidegate.reading import decode_address, describe, encode_address, read

T = TypeVar("T")

patient = settings(deadline=None)
"""Machines that run many tests at once are slow now and then."""


class Leaf(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    count: int = 0


class Box(Struct, Generic[T], frozen=True, forbid_unknown_fields=True):
    value: T | None = None


class Tree(Struct, frozen=True, forbid_unknown_fields=True):
    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    one: Leaf | None = None
    kind: Literal["oak", "elm"] = "oak"
    port: Annotated[int, Meta(ge=1, le=65535, description="a port number")] = 80
    ratio: float = 1.0
    tall: bool = False
    address: IPv4Address | IPv6Address | None = None
    host: IPv4Interface | None = None
    nested: dict[str, tuple[int, ...]] = {}
    box: Box[Literal["full"]] = Box()


def told(text: str, kind: type[Any] = Tree) -> list[str]:
    with pytest.raises(Problems) as raised:
        read(text, kind, "f.toml")
    return [f"{p.where}: {p.what}" for p in raised.value.problems]


def test_a_well_formed_file_becomes_structs() -> None:
    text = """
    leaf = { name = "a", count = 3 }
    leaves = [{ name = "b" }]
    one = { name = "c" }
    kind = "elm"
    port = 53
    ratio = 2
    tall = true
    address = "2001:db8::1"
    host = "192.168.1.1/24"
    nested = { x = [1, 2] }
    box = { value = "full" }
    """
    assert read(text, Tree, "f.toml") == Tree(
        leaf=Leaf("a", 3),
        leaves=(Leaf("b"),),
        one=Leaf("c"),
        kind="elm",
        port=53,
        ratio=2.0,
        tall=True,
        address=IPv6Address("2001:db8::1"),
        host=IPv4Interface("192.168.1.1/24"),
        nested={"x": (1, 2)},
        box=Box("full"),
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("leaf = 1", "leaf: expected a table such as { name = … }, got 1"),
        ("leaf = {}", "leaf.name: missing; expected a text"),
        ('leaf = { name = 5, count = "x" }', 'leaf.count: expected a whole number, got "x"'),
        ("leaves = [{ name = 1 }]", "leaves[0].name: expected a text, got 1"),
        ("one = []", "one: expected a table such as { name = … }, got a list"),
        ('kind = "ash"', 'kind: expected one of "oak", "elm", got "ash"'),
        ("port = 0", "port: expected a port number, got 0"),
        ("tall = 1", "tall: expected true or false, got 1"),
        ("port = true", "port: expected a port number, got true"),
        ("ratio = '1'", 'ratio: expected a number, got "1"'),
        (
            'address = "1.2.3"',
            'address: expected an IPv4 address such as 192.168.1.2 or an IPv6 address such as 2001:db8::2, got "1.2.3"',
        ),
        (
            'host = "192.168.1.1"',
            'host: expected an IPv4 address with its prefix such as 192.168.1.1/24, got "192.168.1.1"',
        ),
        ('nested = { x = [1, "2"] }', 'nested.x[1]: expected a whole number, got "2"'),
        ('nested = { "a b" = 1 }', 'nested."a b": expected a list, each item a whole number, got 1'),
        ('box = { value = "empty" }', 'box.value: expected one of "full", got "empty"'),
        ("kind = 2001-02-03", 'kind: expected one of "oak", "elm", got 2001-02-03'),
        ('kind = "a\\nb"', 'kind: expected one of "oak", "elm", got "a\\nb"'),
        (f"port = 0x1{'0' * 5000}", "port: expected a port number, got a number of more than 64 bits"),
    ],
)
def test_a_wrong_value_is_told_with_its_path_and_what_was_expected(line: str, expected: str) -> None:
    assert f"f.toml: {expected}" in told(line)


def test_a_long_value_is_cut() -> None:
    (wrong,) = (line for line in told(f'leaf = {{ name = "a" }}\nkind = "{"k" * 500}"') if "kind" in line)
    assert wrong.endswith("kkk…")
    assert len(wrong) < 120


def test_all_errors_of_a_file_are_told_at_once() -> None:
    text = 'kind = "ash"\nport = 0\nheight = 3\n[[leaves]]\ncount = "x"\n'
    assert told(text) == [
        "f.toml: height: unknown key",
        "f.toml: leaf: missing; expected a table such as { name = … }",
        "f.toml: leaves[0].name: missing; expected a text",
        'f.toml: leaves[0].count: expected a whole number, got "x"',
        'f.toml: kind: expected one of "oak", "elm", got "ash"',
        "f.toml: port: expected a port number, got 0",
    ]


def test_a_misspelt_key_gets_a_suggestion() -> None:
    with pytest.raises(Problems) as raised:
        read('leav = 1\nquite-other = 2\nleaf = { name = "a" }', Tree, "f.toml")
    near, far = raised.value.problems
    assert near.remedy in ('did you mean "leaf"?', 'did you mean "leaves"?')
    assert far.remedy.startswith("known keys here: leaf, leaves, one")


KEYS = st.lists(st.text('abcdefghijklmnopqrstuvwxyz_- ."é', min_size=1, max_size=6), unique=True, max_size=8)


@patient
@given(KEYS)
def test_unknown_keys_are_told_in_the_order_of_the_file(keys: list[str]) -> None:
    unknown = [key for key in keys if key not in Leaf.__struct_fields__]
    text = 'name = "a"\n' + "".join(f"{json.dumps(key, ensure_ascii=False)} = 1\n" for key in unknown)
    if not unknown:
        assert read(text, Leaf, "f.toml") == Leaf("a")
        return
    assert [line.partition(": ")[2] for line in told(text, Leaf)] == [f"{shown(key)}: unknown key" for key in unknown]


def shown(key: str) -> str:
    bare = key.isascii() and all(c.isalnum() or c in "_-" for c in key)
    return key if bare else json.dumps(key, ensure_ascii=False)


def test_the_check_sees_only_what_is_well_formed() -> None:
    seen: list[Leaf] = []

    def check(leaf: Leaf) -> list[Problem]:
        seen.append(leaf)
        return [Problem("count", "too few", "count again"), Problem("", "all of it")]

    with pytest.raises(Problems):
        read("count = 1", Leaf, "f.toml", check)
    assert seen == []
    with pytest.raises(Problems) as raised:
        read('name = "a"', Leaf, "f.toml", check)
    assert seen == [Leaf("a")]
    assert str(raised.value) == "f.toml: count: too few\n    count again\nf.toml: all of it"


TOML_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.ip_addresses().map(str)
    | st.just("192.168.1.1/24")
    | st.just(date(2001, 2, 3))
    | st.just(datetime(2001, 2, 3, 4, 5))  # noqa: DTZ001 - TOML has local times
    | st.just(time(4, 5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


def toml_of(value: Any) -> str:
    """A value as TOML; None, which TOML lacks, becomes an empty table."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value).replace("\\ud", "\\u0").replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_of(key)} = {toml_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    if value is None:
        return "{}"
    return value.isoformat() if isinstance(value, date | time) else str(value)


def toml_with_keys_of(kind: type[Any]) -> st.SearchStrategy[str]:
    """Files whose keys are mostly known ones, as deep as the struct goes, with values of any type."""

    def tables(struct: Any) -> st.SearchStrategy[dict[str, Any]]:
        hints = {f.encode_name: value_like(f.type) for f in msgspec.structs.fields(struct)}
        return st.fixed_dictionaries({}, optional={**hints, "unknown": TOML_VALUES})

    def value_like(hint: Any) -> st.SearchStrategy[Any]:
        if isinstance(hint, type) and issubclass(hint, Struct):
            return TOML_VALUES | tables(hint)
        inner = next((a for a in getattr(hint, "__args__", ()) if isinstance(a, type) and issubclass(a, Struct)), None)
        if inner is not None:
            return TOML_VALUES | tables(inner) | st.lists(tables(inner), max_size=3)
        return TOML_VALUES

    return tables(kind).map(lambda data: "".join(f"{toml_of(key)} = {toml_of(item)}\n" for key, item in data.items()))


@patient
@given(toml_with_keys_of(Home) | st.text())
@example("a = " + "[" * 3000)
@example("a = " + "9" * 5000)
@example("a = 0x" + "f" * 5000)
@example("\x00")
@example('router = { ports = 1e999, "" = 1 }')
def test_a_home_is_read_or_its_problems_are_told(text: str) -> None:
    assert_read_or_told(text, Home)


@patient
@given(toml_with_keys_of(RouterProfile) | st.text())
def test_a_router_profile_is_read_or_its_problems_are_told(text: str) -> None:
    assert_read_or_told(text, RouterProfile)


def assert_read_or_told(text: str, kind: Any) -> None:
    check = check_home if kind is Home else check_router
    told: tuple[Problem, ...] = ()
    try:
        value = read(text, kind, "f.toml", check)
    except Problems as problems:
        told = problems.problems
    assert told or isinstance(value, kind)
    assert all(problem.where.startswith("f.toml") and problem.what for problem in told)
    assert all("\n" not in str(problem.where) for problem in told)


HOST: st.SearchStrategy[dict[str, str]] = st.builds(
    dict,
    name=st.sampled_from(["a", "b", "router", "gateway", "internet", "study"]),
    v4=st.sampled_from(["192.168.1.1", "192.168.1.2", "192.168.1.3", "10.0.0.1", "1.2.3.4"]),
    at=st.sampled_from(["router", "study", "attic", "a"]),
    by=st.sampled_from(["wire", "wifi"]),
)


@patient
@given(
    clients=st.lists(HOST, max_size=4),
    nodes=st.lists(HOST.map(lambda host: {k: v for k, v in host.items() if k != "v4"}), max_size=4),
    to=st.sampled_from(["server", "a", "router:80", "study", "a:b", ":", "a:²", "server:0"]),
    ports=st.integers(0, 3),
)
def test_a_well_formed_home_is_right_or_its_contradictions_are_told(
    clients: list[dict[str, str]], nodes: list[dict[str, str]], to: str, ports: int
) -> None:
    data = {
        "title": "a home",
        "internet": {"server": [{"name": "server", "v4": "1.2.3.4"}]},
        "router": {"wan": "123.100.101.102/24", "lan": "192.168.1.1/24", "ports": ports},
        "client": clients,
        "node": nodes,
        "gateway": {"v4": "192.168.1.2"},
        "expect": [{"to": to, "v4": {"a": "direct", "server": "dead"}}],
    }
    assert_read_or_told("".join(f"{key} = {toml_of(item)}\n" for key, item in data.items()), Home)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (IPv4Address, "192.168.1.2"),
        (IPv4Interface, "192.168.1.1/24"),
        (IPv4Network, "192.168.1.0/24"),
        (IPv6Address, "2001:db8::2"),
        (IPv6Interface, "2001:db8::1/64"),
        (IPv6Network, "2001:db8::/64"),
    ],
)
def test_addresses_survive_a_round_trip(kind: type, text: str) -> None:
    value = decode_address(kind, text)
    assert isinstance(value, kind)
    assert encode_address(value) == text
    assert text in describe(kind)


def test_what_is_no_address_is_refused() -> None:
    for kind, value in ((IPv4Address, 1), (IPv4Interface, "192.168.1.1"), (IPv4Network, "192.168.1.1/24"), (str, "a")):
        with pytest.raises(ValueError, match=r"expected|prefix|host bits"):
            decode_address(kind, value)
    with pytest.raises(NotImplementedError, match="cannot encode object"):
        encode_address(object())
