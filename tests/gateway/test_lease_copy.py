"""The copy of the lease file: whatever dnsmasq is doing to the file at the moment, the copy is whole."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sidegate.gateway.dhcp import copying
from sidegate.gateway.dhcp.copying import AGAIN_S, SETTLE_S, LeaseCopy, WallClock
from sidegate.gateway.dhcp.leases import Lease, text_of

LEASES = [Lease(1_800_000_000, f"02:00:00:00:00:{n:02x}", IPv4Address("10.0.0.0") + n) for n in range(1, 90)]
ONE, ALL = text_of(LEASES[:1]), text_of(LEASES)


class Scene:
    """A lease file that is rewritten in place, and its copy; the time is ours."""

    def __init__(self, directory: Path) -> None:
        self.live, self.copy = directory / "leases", directory / "leases.copy"
        self.it, self.now = LeaseCopy(self.live, self.copy), 1000.0
        self.it.begin(self.now)

    def write(self, text: str) -> None:
        self.live.write_text(text)

    def later(self, seconds: float) -> str:
        """What the copy holds so many seconds later."""
        self.now += seconds
        self.it.turn(self.now)
        return self.copy.read_text() if self.copy.exists() else ""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.it.close()


def test_what_is_there_at_the_beginning_and_what_comes(scene: Scene) -> None:
    scene.write(ONE)
    assert scene.later(0) == ONE
    assert scene.it.next_deadline() is None, "nothing to do until it is written"
    scene.write(ALL)
    assert scene.later(0) == ONE, "a crowd passes first"
    assert scene.later(SETTLE_S) == ALL
    assert scene.it.leases == tuple(LEASES)
    assert scene.later(60) == ALL
    assert scene.it.next_deadline() is None


def test_it_waits_for_a_file_that_is_not_there_yet(scene: Scene) -> None:
    assert scene.later(0) == ""
    assert scene.it.next_deadline() == scene.now + AGAIN_S
    scene.write(ONE)
    assert scene.later(AGAIN_S) == ONE


@pytest.mark.parametrize("cut", [0, 30, len(ALL) // 2 + 7])
def test_a_file_that_is_being_written_is_not_copied(scene: Scene, cut: int) -> None:
    scene.write(ONE)
    scene.later(0)
    scene.write(ALL[:cut])
    scene.later(0)
    assert scene.later(SETTLE_S) == ONE
    scene.write(ALL)
    assert scene.later(AGAIN_S) == ALL


def test_a_file_that_was_replaced_is_watched_on(scene: Scene) -> None:
    """As `recover` does it, before dnsmasq starts again."""
    scene.write(ONE)
    scene.later(0)
    fresh = scene.live.with_suffix(".other")
    fresh.write_text(ALL)
    os.replace(fresh, scene.live)
    scene.later(0)
    assert scene.later(SETTLE_S) == ALL
    scene.write(ONE)
    scene.later(0)
    assert scene.later(SETTLE_S) == ONE


def test_trouble_is_told_until_it_is_over(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    scene.write(ONE)
    scene.later(0)
    with monkeypatch.context() as patched:
        patched.setattr(copying, "replace_file", full)
        scene.write("")
        scene.later(0)
        assert scene.later(SETTLE_S) == ONE
        assert scene.it.trouble == "No space left on device"
    scene.write(ALL)
    assert scene.later(AGAIN_S) == ALL
    assert scene.it.trouble == ""


def test_after_the_end_nothing_is_copied(scene: Scene) -> None:
    scene.write(ONE)
    scene.later(0)
    scene.it.end()
    scene.write(ALL)
    assert scene.later(60) == ONE
    assert scene.it.next_deadline() is None


def test_a_clock_that_is_set_is_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calendar says 1970 until somebody knows better; slow corrections are none. Time itself stands still."""
    real_s = time.time()
    ahead_s = -real_s
    monkeypatch.setattr(time, "time", lambda: real_s + ahead_s)
    monkeypatch.setattr(time, "clock_gettime", lambda _: 5000.0)
    clock = WallClock()
    assert clock.jump() is None
    ahead_s += 3.0
    assert clock.jump() is None
    ahead_s = 0.0
    jump = clock.jump()
    assert jump is not None
    assert abs(jump[1] - jump[0] - real_s + 3.0) < 1
    assert clock.jump() is None


def test_a_look_that_is_held_up_sees_no_clock_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a machine that sleeps between the one clock and the other."""
    held_up_s, boottime_s, real = 0.0, WallClock._boottime(), time.time
    monkeypatch.setattr(WallClock, "_boottime", staticmethod(lambda: boottime_s + held_up_s))
    clock = WallClock()

    def after_a_while() -> float:
        nonlocal held_up_s
        held_up_s = 20.0
        return real() + held_up_s

    monkeypatch.setattr(time, "time", after_a_while)
    assert clock.jump() is None
