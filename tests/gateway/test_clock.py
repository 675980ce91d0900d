"""The wall clock is set while our DHCP server runs, as on a box that wakes up in 1970: nobody loses a lease by it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sidegate.gateway.box.children import Child
from sidegate.gateway.box.places import Places
from sidegate.gateway.dhcp import handout as module
from sidegate.gateway.dhcp.handout import Handout
from sidegate.gateway.dhcp.leases import Lease, read_leases, text_of
from tests.gateway.test_dhcp import served

NOW_S = 1_800_000_000.0
YEAR_S = 365 * 86400.0
LEASE_S = 43200
SERVER = '[dhcp]\nmode = "server"'


class PaperNursery:
    """Notes which children are wanted; `start` is the moment before one starts."""

    def __init__(self, *_: object) -> None:
        self.wanted: list[tuple[Child, ...]] = []
        self.start: Callable[[str], None] = _[-1]  # type: ignore[assignment]
        self._pipe = os.pipe()

    def want(self, children: tuple[Child, ...]) -> None:
        self.wanted.append(children)

    def fileno(self) -> int:
        return self._pipe[0]

    def runs(self, *_: object) -> bool:
        return True

    def turn(self, now: float) -> None: ...

    def close(self) -> None:
        for fd in self._pipe:
            os.close(fd)


class Scene:
    """A DHCP server on paper, its lease file, and a calendar that can be set."""

    def __init__(self, at: Path, clock: list[float]) -> None:
        self.told: list[str] = []
        self.clock, self.now = clock, 1000.0
        self.handout = Handout(Places(at / "state", at / "run"), self.told.append)
        self.live = at / "state" / "dhcp" / "leases"
        self.live.parent.mkdir(parents=True)
        self.live.write_text("")
        self.handout.want(served(SERVER))
        self.nursery: PaperNursery = self.handout._nursery  # type: ignore[assignment]

    def leases(self, *leases: Lease) -> None:
        self.live.write_text(text_of(leases))

    def later(self) -> None:
        for _ in range(2):
            self.now += 10
            self.handout.turn(self.now)

    def left_s(self) -> dict[str, int]:
        """By device, by the clock as it is now."""
        return {it.mac: round(it.ends_s - self.clock[0]) for it in read_leases(self.live)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the calendar says; time itself stands still."""
    told = [NOW_S]
    monkeypatch.setattr(time, "time", lambda: told[0])
    monkeypatch.setattr(time, "clock_gettime", lambda _: 5000.0)
    monkeypatch.setattr(module, "Nursery", PaperNursery)
    monkeypatch.setattr(module, "is_clock_kept", lambda: True)
    return told


@pytest.fixture
def scene(tmp_path: Path, clock: list[float]) -> Iterator[Scene]:
    it = Scene(tmp_path, clock)
    yield it
    it.handout.close()


def lease(n: int, ends_s: float) -> Lease:
    return Lease(int(ends_s), f"02:00:00:00:00:{n:02x}", IPv4Address("192.168.1.100") + n)


@pytest.mark.parametrize("years", [-56, -1, 1, 56])
def test_leases_last_as_long_as_before(scene: Scene, years: int) -> None:
    scene.leases(lease(1, NOW_S + LEASE_S), lease(2, NOW_S + 60))
    scene.later()
    scene.clock[0] += years * YEAR_S
    # dnsmasq was quicker than we are: it has pruned what has ended by the new time, and given one more.
    scene.leases(lease(3, scene.clock[0] + LEASE_S))
    scene.later()
    (before,), (after,) = scene.nursery.wanted[0], scene.nursery.wanted[-1]
    assert before.digest != after.digest, "it is started anew"
    scene.nursery.start("dnsmasq")
    assert scene.left_s() == {
        "02:00:00:00:00:01": LEASE_S,
        "02:00:00:00:00:02": 60,
        "02:00:00:00:00:03": LEASE_S,
    }
    assert any("the clock was set by" in line for line in scene.told)


def test_leases_from_before_the_boot_keep_their_true_end(scene: Scene) -> None:
    """The box believes it is 1970; its file is from when it knew better."""
    scene.clock[0] = 100.0
    scene.later()
    scene.leases(lease(1, NOW_S + 600), lease(2, 100 + LEASE_S))
    scene.later()
    scene.clock[0] = NOW_S
    scene.later()
    scene.nursery.start("dnsmasq")
    assert scene.left_s() == {"02:00:00:00:00:01": 600, "02:00:00:00:00:02": LEASE_S}


def test_a_clock_that_is_only_put_right_restarts_nothing(scene: Scene) -> None:
    scene.leases(lease(1, NOW_S + LEASE_S))
    for _ in range(100):
        scene.clock[0] += 1.0
        scene.later()
    assert len(scene.nursery.wanted) == 1
