"""A box whose address changed: for how long that is told, and of which address."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.box.facts import Facts, Interface, Router
from sidegate.gateway.health.formeraddress import FormerAddress, Known, after

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
THEN = NOW.isoformat(timespec="seconds")
LAN = "192.168.1.0/24"
ADDRESSES = st.sampled_from(["192.168.1.2", "192.168.1.77", "192.168.1.78"])


def facts(*addresses: str, lan: str = LAN, borrowed: bool = True) -> Facts:
    mine = tuple(IPv4Interface(f"{it}/24") for it in addresses)
    interface = Interface("eth0", "02:00:00:00:00:02", mine, 1500, tuple(it.ip for it in mine) if borrowed else ())
    return Facts(interface, Router(IPv4Address("192.168.1.1"), None), (IPv4Network(lan),), (), {}, (), None, "")


@pytest.mark.parametrize(
    ("known", "addresses", "then"),
    [
        (None, (), None),
        (None, ("a", "b"), Known("a")),
        (Known("a"), (), Known("a")),
        (Known("a"), ("b", "a"), Known("a")),
        (Known("a"), ("b",), Known("b", "a", THEN)),
        (Known("b", "a", "t"), ("c",), Known("c", "a", "t")),
        (Known("b", "a", "t"), ("b",), Known("b", "a", "t")),
        (Known("b", "a", "t"), ("a",), Known("a")),
        (Known("b", "a", "t"), ("b", "a"), Known("b")),
    ],
)
def test_the_oldest_address_counts_until_it_is_back(
    known: Known | None, addresses: tuple[str, ...], then: Known | None
) -> None:
    assert after(known, addresses, NOW) == then


@given(st.lists(ADDRESSES, min_size=1))
def test_it_is_told_while_the_first_address_is_not_there(had: list[str]) -> None:
    known: Known | None = None
    for address in had:
        known = after(known, [address], NOW)
    assert known is not None
    assert (known.former == "") == (had[-1] == had[0])
    assert known.address == had[-1]


def test_it_is_told_by_the_next_daemon_too_and_not_in_another_lan(tmp_path: Path) -> None:
    told: list[str] = []
    first = FormerAddress(tmp_path, told.append)
    first.stand_at(facts("192.168.1.2"))
    assert (first.faults(), told) == ((), [])
    next_one = FormerAddress(tmp_path, told.append)
    next_one.stand_at(facts("192.168.1.77"))
    (fault,) = next_one.faults()
    assert fault.what.startswith("this box was 192.168.1.2 until ")
    assert "a reservation for MAC 02:00:00:00:00:02" in fault.what
    assert told == [f"fault: address: {fault.what}"]
    next_one.stand_at(facts("192.168.1.77", borrowed=False))
    assert "in its own settings" in next_one.faults()[0].what
    next_one.stand_at(facts("192.168.1.77", lan="10.0.0.0/8"))
    assert next_one.faults() == ()
    next_one.stand_at(facts("192.168.1.2"))
    assert (next_one.faults(), len(told)) == ((), 1)


def test_once_a_person_accepted_it_no_daemon_tells_it_again(tmp_path: Path) -> None:
    first = FormerAddress(tmp_path, lambda _: None)
    for address in ("192.168.1.2", "192.168.1.77"):
        first.stand_at(facts(address))
    assert first.faults()
    first.accept()
    next_one = FormerAddress(tmp_path, lambda _: None)
    for it in (first, next_one):
        it.stand_at(facts("192.168.1.77"))
        assert it.faults() == ()
    next_one.stand_at(facts("192.168.1.78"))
    assert "was 192.168.1.77" in next_one.faults()[0].what


@pytest.mark.parametrize(
    "content", ["", "[]", '{"address": "x"}', '{"address": "192.168.1.2", "former": "192.168.1.3", "until": "soon"}']
)
def test_what_a_bad_disk_left_of_it_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "address.json").write_text(content)
    former = FormerAddress(tmp_path, lambda _: None)
    former.stand_at(facts("192.168.1.77"))
    assert former.faults() == ()


def test_what_was_long_ago_is_told_no_more(tmp_path: Path) -> None:
    (tmp_path / "address.json").write_text(
        '{"address": "192.168.1.77", "former": "192.168.1.2", "until": "2020-01-01T00:00:00+00:00"}'
    )
    former = FormerAddress(tmp_path, lambda _: None)
    former.stand_at(facts("192.168.1.77"))
    assert former.faults() == ()
