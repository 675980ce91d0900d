"""The lease file: whatever a crash leaves of it, no lease is lost that its copy knows, and none is made up."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.dhcp import leases as module
from sidegate.gateway.dhcp.leases import Lease, after_jump, kept_alive, merged, parse_leases, read_leases, recover
from sidegate.problems import Problems

NOW_S = 1_800_000_000


def lease(n: int, ends_s: int = NOW_S + 600) -> Lease:
    return Lease(ends_s, f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}", IPv4Address("10.0.0.0") + n, "*", f"01:{n:02x}")


def text(*leases: Lease) -> str:
    return "".join(it.line() for it in leases)


some = st.lists(st.integers(1, 2000), unique=True, max_size=30).map(lambda ns: [lease(n) for n in ns])


def test_what_dnsmasq_writes_is_read() -> None:
    line = "1795363676 4E:b8:48:9b:b9:2b 192.168.9.127 tv 01:4e:b8:48:9b:b9:2b\n"
    (found,), is_whole = parse_leases(line)
    assert (found, is_whole) == (
        Lease(1795363676, "4e:b8:48:9b:b9:2b", IPv4Address("192.168.9.127"), "tv", "01:4e:b8:48:9b:b9:2b"),
        True,
    )
    assert parse_leases("") == ((), True)


@given(some, st.data())
def test_a_file_cut_anywhere_is_mended_from_its_copy(leases: list[Lease], data: st.DataObject) -> None:
    whole = text(*leases)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    found, _ = merged(cut, whole, NOW_S)
    assert set(found) == set(leases)


@given(some, some)
def test_the_later_lease_counts_where_both_speak(live: list[Lease], copy: list[Lease]) -> None:
    newer = [Lease(NOW_S + 9999, it.mac, it.ip) for it in live]
    found, _ = merged(text(*newer), text(*copy), NOW_S)
    assert found[: len(newer)] == tuple(newer)
    assert len({it.ip for it in found}) == len({it.mac for it in found}) == len(found)


def test_a_live_file_from_before_the_last_leases_is_not_believed() -> None:
    """As a power cut may leave it: it is whole, and old. The address of the one that left belongs to another now."""
    old = [lease(1), lease(2)]
    new = [lease(1, NOW_S + 900), Lease(NOW_S + 900, "02:00:00:00:00:99", lease(2).ip)]
    assert merged(text(*old), text(*new), NOW_S) == (tuple(new), 2)
    assert merged(text(*new), text(*old), NOW_S) == (tuple(new), 0)


@given(some, some)
def test_no_address_and_no_device_twice(live: list[Lease], copy: list[Lease]) -> None:
    theirs = [Lease(it.ends_s + 1, it.mac, it.ip + 1) for it in copy]
    found, _ = merged(text(*live), text(*theirs), NOW_S)
    assert len({it.ip for it in found}) == len({it.mac for it in found}) == len(found)
    for it in (*live, *theirs):
        assert any(it.ip == kept.ip or it.mac == kept.mac for kept in found), "held by whoever came later"


LEASE_S = 43200
YEARS = [1.0, NOW_S - 56 * 365 * 86400.0, float(NOW_S), NOW_S + 73 * 365 * 86400.0]


@pytest.mark.parametrize("after_s", YEARS)
@pytest.mark.parametrize("before_s", YEARS)
def test_as_much_is_left_after_the_clock_was_set(before_s: float, after_s: float) -> None:
    given_now = [lease(n, int(before_s) + LEASE_S - n) for n in (1, 60, LEASE_S - 10)]
    left = [it.ends_s - before_s for it in given_now]
    moved = after_jump(given_now, before_s, after_s, LEASE_S)
    assert [round(it.ends_s - after_s) for it in moved] == [round(s) for s in left]
    assert all(it.lasts(after_s) for it in moved)


def test_leases_of_another_clock_and_those_for_ever_are_left_alone() -> None:
    """Read at the start by a box that believes it is 1970, they have decades left; then NTP answers."""
    others = (lease(1, NOW_S + 600), lease(2, 0), lease(3, 10))
    assert after_jump(others, 100.0, float(NOW_S), LEASE_S) == others


def test_under_a_doubtful_clock_nobody_loses_a_lease(tmp_path: Path) -> None:
    """A box that believes it is 2099: all have ended, by its clock."""
    live, copy, later_s = tmp_path / "leases", tmp_path / "leases.copy", NOW_S + 73 * 365 * 86400
    live.write_text(text(lease(1), lease(2, 0)))
    copy.write_text(text(lease(3)))
    recover(live, copy, later_s, LEASE_S)
    assert read_leases(live) == (lease(1, later_s + LEASE_S), lease(2, 0), lease(3, later_s + LEASE_S))
    before = live.read_text()
    recover(live, copy, 1.0, LEASE_S)
    assert live.read_text() == before, "a clock far behind ends nothing either"
    assert kept_alive([lease(1)], 1.0, LEASE_S) == (lease(1),)


@given(st.text(), st.text())
def test_nothing_crashes_it(live: str, copy: str) -> None:
    merged(live, copy, NOW_S)


def test_what_has_ended_does_not_come_back_and_what_never_ends_does() -> None:
    gone, forever = lease(1, NOW_S - 1), lease(2, 0)
    assert merged("", text(gone, forever), NOW_S) == ((forever,), 1)


def test_a_half_written_last_line_is_not_believed() -> None:
    """Its address is cut to one that looks whole as well."""
    line = text(lease(127))
    assert parse_leases(line[: line.index("10.0.0.127") + 8])[0] == ()
    assert parse_leases(line[:-1]) == ((), False)


def test_recovery_writes_only_where_something_was_wrong(tmp_path: Path) -> None:
    live, copy = tmp_path / "leases", tmp_path / "leases.copy"
    assert recover(live, copy, NOW_S) == ""
    assert not live.exists()
    copy.write_text(text(lease(1), lease(2)))
    live.write_text(text(lease(1)) + "18000")
    assert recover(live, copy, NOW_S) == "the lease file was cut off; 1 of 2 leases came from its copy"
    assert read_leases(live) == (lease(1), lease(2))
    assert recover(live, copy, NOW_S) == ""


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "replace_file", full)
    (tmp_path / "copy").write_text(text(lease(1)))
    with pytest.raises(Problems, match="No space left on device"):
        recover(tmp_path / "live", tmp_path / "copy", NOW_S)
