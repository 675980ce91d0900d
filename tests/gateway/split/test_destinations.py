"""Names and networks from many places, without anything said twice."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.split.destinations import Gathered, covers, holds_address, holds_name, merged
from sidegate.gateway.split.names import ascii_name
from sidegate.gateway.split.policy import Destination

names = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4).map(".".join)
networks4 = st.tuples(st.integers(0, 31), st.integers(27, 32)).map(lambda it: IPv4Network(it, strict=False))
networks6 = st.tuples(st.integers(0, 31), st.integers(123, 128)).map(lambda it: IPv6Network(it, strict=False))
Parts = tuple[list[str], list[str], list[IPv4Network], list[IPv6Network]]
parts = st.tuples(
    st.lists(names, max_size=4),
    st.lists(names, max_size=4),
    st.lists(networks4, max_size=5),
    st.lists(networks6, max_size=5),
)


def made(it: Parts) -> Destination:
    found = Gathered()
    found.names.update(it[0])
    found.suffixes.update(it[1])
    for network4 in it[2]:
        found.add_network(network4)
    for network6 in it[3]:
        found.add_network(network6)
    return found.destination()


@given(parts, names)
def test_names_are_held_by_the_few_that_are_left(it: Parts, name: str) -> None:
    found = made(it)
    assert holds_name(found, name) == (name in it[0] or any(name == s or name.endswith(f".{s}") for s in it[1]))
    for i, one in enumerate(found.names):
        assert not holds_name(Destination((*found.names[:i], *found.names[i + 1 :]), found.suffixes), one)
    for i, one in enumerate(found.suffixes):
        assert not holds_name(Destination(found.names, (*found.suffixes[:i], *found.suffixes[i + 1 :])), one)


@given(parts, st.integers(0, 40))
def test_addresses_are_held_as_before(it: Parts, number: int) -> None:
    found = made(it)
    assert holds_address(found, IPv4Address(number)) == any(IPv4Address(number) in n for n in it[2])
    assert holds_address(found, IPv6Address(number)) == any(IPv6Address(number) in n for n in it[3])


@given(st.lists(parts, min_size=1, max_size=3))
def test_merged_is_as_if_gathered_at_once(several: list[Parts]) -> None:
    at_once: Parts = ([], [], [], [])
    for one in several:
        for whole, more in zip(at_once, one, strict=True):
            whole += more  # type: ignore[operator]
    assert merged(map(made, several)) == made(at_once)
    assert all(covers(made(at_once), made(one)) for one in several)


@given(parts, parts)
def test_covers_is_true_where_more_changes_nothing(wide: Parts, narrow: Parts) -> None:
    both: Parts = tuple(a + b for a, b in zip(wide, narrow, strict=True))  # type: ignore[operator]
    if covers(made(wide), made(narrow)):
        assert made(both) == made(wide)
    elif not (narrow[2] or narrow[3]):
        assert made(both) != made(wide)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Example.ORG.", "example.org"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("食狮。中国", "xn--85x722f.xn--fiqs8s"),
        ("_sip._tcp.a_b.example", "_sip._tcp.a_b.example"),
    ],
)
def test_names_as_dns_carries_them(name: str, wanted: str) -> None:
    assert ascii_name(name) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a b.c",
        "a..b",
        "-a.b",
        "a-.b",
        "1.2.3.4",
        "a.b1\n",
        "x" * 64,
        "a/b",
        "*.a",
        "\udcff.b",
        ".".join(["abc"] * 64),
    ],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"not a domain name|longer than"):
        ascii_name(name)
