"""Children: what is decided, as tables and properties; and real processes that outlive whoever started them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.children import Child, ChildFile, Nursery, end_child, process
from sidegate.gateway.box.children.schedule import (
    LONGEST_REST_S,
    STEADY_S,
    STOP_WITHIN_S,
    Kill,
    Past,
    Seen,
    Start,
    Step,
    Stop,
    failed,
    next_steps,
    next_time,
)
from sidegate.problems import Problems

A, OTHER_A, B = (Child(n, (c,), "/ready") for n, c in (("a", "one"), ("a", "two"), ("b", "one")))
RUNS = {"a": Seen(A.digest)}
STOPPING = {"a": Seen(A.digest, 100.0)}


@pytest.mark.parametrize(
    ("desired", "seen", "past", "steps"),
    [
        ((A,), {}, {}, [Start(A)]),
        ((A, B), RUNS, {}, [Start(B)]),
        ((A,), RUNS, {}, []),
        ((), RUNS, {}, [Stop("a", "no longer needed")]),
        ((OTHER_A,), RUNS, {}, [Stop("a", "its configuration changed")]),
        ((OTHER_A,), STOPPING, {}, []),
        ((), {"a": Seen(A.digest, 100.0 - STOP_WITHIN_S)}, {}, [Kill("a")]),
        ((A,), {}, {"a": Past(1, 100.1)}, []),
        ((A,), {}, {"a": Past(1, 100.0)}, [Start(A)]),
    ],
    ids=["none", "one lacks", "as it should be", "not wanted", "changed", "ending", "deaf", "resting", "rested"],
)
def test_decisions(desired: tuple[Child, ...], seen: dict[str, Seen], past: dict[str, Past], steps: list[Step]) -> None:
    assert next_steps(desired, seen, past, 100.0) == steps
    at = next_time(desired, seen, past)
    assert (at is not None and at <= 100.0) == any(not isinstance(s, Stop) for s in steps)


def test_rests_grow_to_a_limit_and_are_forgotten_after_a_steady_run() -> None:
    past, rests = Past(), []
    for _ in range(8):
        past = failed(past, 1.0, "", 0.0)
        rests.append(past.rest_until_s)
    assert rests == pytest.approx([0.1, 0.4, 1.6, 6.4, 25.6, LONGEST_REST_S, LONGEST_REST_S, LONGEST_REST_S])
    assert failed(past, STEADY_S, "", 0.0).rest_until_s == pytest.approx(0.1)


@given(st.lists(st.sampled_from(["want a", "want other a", "want none", "dies", "ends", "later"]), max_size=40))
def test_one_of_a_name_at_most_and_the_wanted_one_in_the_end(happenings: list[str]) -> None:
    desired: tuple[Child, ...] = ()
    seen: dict[str, Seen] = {}
    past: dict[str, Past] = {}
    now = 0.0

    def act() -> None:
        for step in next_steps(desired, seen, past, now):
            if isinstance(step, Start):
                assert step.child.name not in seen
                seen[step.child.name] = Seen(step.child.digest)
            elif isinstance(step, Stop):
                seen[step.name] = Seen(seen[step.name].digest, now)
            else:
                del seen[step.name]

    wanted: dict[str, tuple[Child, ...]] = {"want a": (A,), "want other a": (OTHER_A,), "want none": ()}
    for what in [*happenings, *["later"] * 12]:
        desired = wanted.get(what, desired)
        it = seen.get("a")
        if what in ("dies", "ends") and it is not None and (what == "dies" or it.stopping_s is not None):
            del seen["a"]
            past["a"] = Past() if it.stopping_s is not None else failed(past.get("a", Past()), 1.0, "", now)
        now += 10.0 if what == "later" else 0.01
        act()
    assert {n: s.digest for n, s in seen.items()} == {c.name: c.digest for c in desired}


# Real processes


MARK = "sidegate-test-child"


def sleeper(tmp_path: Path, mark: str = MARK, command: str = "") -> Child:
    """A shell that says that it serves, then waits as `tail`."""
    ready, conf = str(tmp_path / "ready"), str(tmp_path / "sleeper.conf")
    script = f"{command or 'true'}; echo $$ >{ready}; exec tail -f {conf}"
    return Child("sleeper", ("sh", "-c", script), ready, (ChildFile(conf, mark),))


def sleeping(tmp_path: Path) -> list[int]:
    """Processes of this test that are still there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"{tmp_path}/sleeper.conf".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


class Home:
    """Places of a gateway below a temporary directory."""

    def __init__(self, path: Path) -> None:
        self.path, self.run, self.state = path, path / "run", path / "state"
        self.told: list[str] = []

    def nursery(self, *desired: Child) -> Nursery:
        made = Nursery(self.run, self.state, self.told.append)
        made.want(desired)
        return made

    def down(self) -> list[bool]:
        journal = journals.load(self.state)
        ended = [end_child(c) for c in journal.children] if journal else []
        journals.discard(self.state)
        return ended

    def left(self) -> list[str]:
        return sorted(p.name for p in self.path.rglob("*") if p.name != "state")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """How soon anything starts, on a disk that others use too, is not what is asked here."""
    monkeypatch.setattr("sidegate.gateway.box.children.nursery._STARTS_WITHIN_S", 60.0)
    monkeypatch.setattr(process, "STOP_WITHIN_S", 60.0)
    home = Home(tmp_path)
    yield home
    home.down()


def until(condition: Callable[[], Any], nursery: Nursery | None = None) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        if nursery is not None:
            nursery.turn(time.monotonic())
        time.sleep(0.005)


def test_started_adopted_and_ended(home: Home) -> None:
    child = sleeper(home.path)
    first = home.nursery(child)
    first.settle()
    pid = first.pid("sleeper")
    assert first.faults() == ()
    assert os.getsid(pid or 0) == pid, "its own session: what ends ours does not end it"
    first.close()
    second = home.nursery(child)
    second.settle()
    assert second.pid("sleeper") == pid, "adopted, not started again"
    assert home.told[-1] == f"sleeper: process {pid} goes on"
    second.close()
    assert home.down() == [True]
    assert (home.left(), os.path.exists(f"/proc/{pid}/exe")) == ([], False)
    assert home.down() == []


def test_what_else_is_its_own_goes_with_it(home: Home) -> None:
    more = home.run / "inner" / "written-later"
    nursery = home.nursery(msgspec.structs.replace(sleeper(home.path), more=(str(more),)))
    nursery.settle()
    more.parent.mkdir()
    more.touch()
    nursery.close()
    assert home.down() == [True]
    assert home.left() == []


def test_another_configuration_replaces_it(home: Home) -> None:
    first = home.nursery(sleeper(home.path))
    first.settle()
    old = first.pid("sleeper")
    first.want((sleeper(home.path, "other"),))
    first.settle()
    assert first.pid("sleeper") != old
    assert (home.path / "sleeper.conf").read_text() == "other"
    assert "sleeper: stopped, its configuration changed" in home.told
    first.want(())
    until(lambda: not first.runs("sleeper"), first)


def test_one_that_is_leaving_goes_on_until_it_ends_and_is_not_started_again(home: Home) -> None:
    nursery = home.nursery(sleeper(home.path))
    nursery.settle()
    pid = nursery.pid("sleeper")
    nursery.want((), leaving=["sleeper"])
    nursery.turn(time.monotonic())
    assert (nursery.pid("sleeper"), nursery.next_deadline()) == (pid, None)
    os.kill(pid or 0, signal.SIGKILL)
    until(lambda: not nursery.runs("sleeper"), nursery)
    nursery.turn(time.monotonic())
    assert (nursery.runs("sleeper"), nursery.faults()) == (False, ())


@pytest.mark.parametrize("adopted", [False, True])
def test_started_again_when_it_dies(home: Home, adopted: bool) -> None:
    nursery = home.nursery(sleeper(home.path))
    nursery.settle()
    if adopted:
        nursery.close()
        nursery = home.nursery(sleeper(home.path))
    pid = nursery.pid("sleeper")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    if adopted:
        os.waitpid(pid, 0)
    until(lambda: nursery.pid("sleeper") not in (None, pid), nursery)
    (fault,) = nursery.faults()
    assert fault.what.startswith("ended: " if adopted else "ended: signal SIGKILL;")


def test_one_that_cannot_start_says_why_in_its_own_words(home: Home) -> None:
    bad = sleeper(home.path, command="echo 'port 67 is taken' >&2; exit 2")
    with pytest.raises(Problems, match="ended: exit code 2; port 67 is taken") as caught:
        home.nursery(bad).settle()
    assert caught.value.problems[0].where == "sleeper"


def test_a_program_that_is_missing_is_named(home: Home) -> None:
    with pytest.raises(Problems, match="no-such-program: the program is missing"):
        home.nursery(Child("sleeper", ("no-such-program",), "/nowhere")).settle()


def test_full_disk_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(process, "replace_file", full)
    with pytest.raises(Problems, match="cannot be started: No space left on device"):
        home.nursery(sleeper(home.path)).settle()


def test_a_loop_waits_no_longer_than_it_says(home: Home) -> None:
    late = sleeper(home.path, command=f"while test ! -e {home.path}/go; do sleep 0.01; done")
    nursery = home.nursery(late)
    with pytest.raises(Problems, match="does not serve yet: it said nothing"):
        nursery.settle(0.0)
    (home.path / "go").touch()
    nursery.settle()


def test_its_log_stays_small(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LOG_LARGEST", 1000)
    nursery = home.nursery(sleeper(home.path, command="seq 1000"))
    nursery.settle()
    nursery.turn(time.monotonic())
    assert (home.run / "sleeper.log").stat().st_size <= 1000


def test_a_stranger_with_a_recorded_process_id_is_left_alone(home: Home) -> None:
    nursery = home.nursery(sleeper(home.path))
    nursery.settle()
    record = home.run / "sleeper.json"
    real = record.read_text()
    record.write_text(real.replace('"started":', '"started":1'))
    stranger = Nursery(home.run, home.state, home.told.append)
    assert not stranger.runs("sleeper")
    assert home.down() == [False]
    pid = nursery.pid("sleeper")
    assert pid is None, "its record is gone"
    # While it becomes `tail` it has no words for a moment (fs/proc/base.c, get_mm_cmdline).
    until(lambda: sleeping(home.path))
    for left in sleeping(home.path):
        os.kill(left, signal.SIGKILL)


def test_who_is_held_up_after_a_look_looks_once_more(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process is that gets no processor for a while; the child got one."""
    child, ahead_s, real = sleeper(home.path), [0.0], time.monotonic
    one = home.nursery(child)
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead_s[0])
    looks, serves = [], one.serves

    def look(it: Child) -> bool:
        looks.append(serves(it))
        if len(looks) == 1:
            until(lambda: serves(it))
            ahead_s[0] += 1000.0
            return False
        return looks[-1]

    monkeypatch.setattr(one, "serves", look)
    one.settle()
    assert len(looks) == 2


def test_killed_anywhere_while_starting_it_is_found_and_ended(home: Home) -> None:
    """Every change on disk in turn is the daemon's last, or the child's on its way; `down` finds what there is."""
    at = 1
    while _killed_at(home, at):
        home.down()
        assert (sleeping(home.path), home.left()) == ([], []), f"killed before change {at}"
        at += 1
    assert at > 8
    assert home.down() == [True]
    assert sleeping(home.path) == []


def _killed_at(home: Home, at: int) -> bool:
    pid = os.fork()
    if pid == 0:
        _die_at(home, at)
    _, status = os.waitpid(pid, 0)
    return status == signal.SIGKILL


def _die_at(home: Home, at: int) -> None:
    left = at
    daemon = os.getpid()

    def told(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                # in the child on its way as well: it goes on alone, its starter is gone
                os.kill(daemon, signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in ("open", "fsync", "replace"):
        setattr(os, name, told(getattr(os, name)))
    try:
        home.nursery(sleeper(home.path)).settle()
    finally:
        os._exit(0)
