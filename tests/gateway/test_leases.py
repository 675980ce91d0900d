"""The lease file: whatever a crash leaves of it, no lease is lost that its copy knows, and none is made up."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.dhcp import leases as module
from sidegate.gateway.dhcp.leases import Lease, merged, parse_leases, read_leases, recover
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
def test_the_live_file_counts_where_both_speak(live: list[Lease], copy: list[Lease]) -> None:
    newer = [Lease(NOW_S + 9999, it.mac, it.ip) for it in live]
    found, _ = merged(text(*newer), text(*copy), NOW_S)
    assert found[: len(newer)] == tuple(newer)
    assert len({it.ip for it in found}) == len({it.mac for it in found}) == len(found)


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
