"""A change that waits: when its time is over, and over which connection it came."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.box import journal as journals
from sidegate.gateway.change import pending
from sidegate.gateway.change.pending import Pending
from sidegate.problems import Problems


@given(st.floats(0, 1e9), st.floats(0, 1e6), st.booleans())
def test_due_is_what_is_late_or_of_another_boot(now_s: float, in_s: float, is_same_boot: bool) -> None:
    waiting = Pending("a", now_s + in_s, 60)
    boot = "a" if is_same_boot else "b"
    assert waiting.is_due(now_s, boot) == (not is_same_boot or now_s + in_s <= now_s)
    assert waiting.is_due(now_s, boot) == (waiting.left_s(now_s, boot) == 0)
    assert waiting.is_due(now_s + in_s + 1, boot)


def test_what_was_rolled_back_is_not_due() -> None:
    assert not Pending("a", 0, 60, state="rolled-back").is_due(10, "b")


def test_calendar_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It jumps, as when the first NTP answer comes."""
    now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(time, "time", lambda: pytest.fail("time.time was asked"))
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: now_s}.__getitem__)
    waiting = pending.fresh(60, None, "")
    assert pending.left_s(waiting) == pytest.approx(60)
    assert waiting.boot_id == journals.boot_id()


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    waiting = pending.fresh(60, 3, "10.0.0.9 1 10.0.0.2 22")
    pending.save(waiting, tmp_path / "state")
    assert pending.load(tmp_path / "state") == waiting
    pending.discard(tmp_path / "state")
    assert pending.load(tmp_path / "state") is None
    pending.discard(tmp_path / "state")


def test_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "pending.json").write_text("{")
    with pytest.raises(Problems, match="cannot be read"):
        pending.load(tmp_path)


def process(proc: Path, pid: int, parent: int, environ: bytes) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "environ").write_bytes(environ)
    (proc / str(pid) / "stat").write_text(f"{pid} (a) b) S {parent} 1 1")


def test_connection_is_found_at_the_nearest_ancestor(tmp_path: Path) -> None:
    """sudo has dropped the variable from its child."""
    process(tmp_path, 2, 1, b"HOME=/\0")
    process(tmp_path, 10, 2, b"SSH_CONNECTION=10.0.0.9 1 10.0.0.2 22\0HOME=/root\0")
    process(tmp_path, 11, 10, b"SUDO_USER=me\0")
    assert pending.connection_of(11, tmp_path) == "10.0.0.9 1 10.0.0.2 22"
    assert pending.connection_of(2, tmp_path) == ""
    assert pending.connection_of(99, tmp_path) == ""
