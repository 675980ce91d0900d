"""Generations of an engine: stand-ins that say that they serve, and are real processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.children import Child, ChildFile, end_child
from sidegate.gateway.engine.generations import (
    COUNT_S,
    LEAVES_WITHIN_S,
    NAMES,
    WAITS_WITHIN_S,
    Generations,
)


class Box:
    """Engines below a temporary directory. lasting: what is counted for each generation. ahead_s: the clock's lead."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[str] = []
        self.lasting = dict.fromkeys(range(len(NAMES)), 1)
        self.most_leaving = 2
        self.ahead_s = 0.0
        self.engines = self.daemon()

    def daemon(self) -> Generations:
        run, state = self.path / "run", self.path / "state"
        return Generations(run, state, self.told.append, lambda g: self.lasting[g], lambda: self.most_leaving)

    def children(self, mark: str, command: str = "true") -> list[Child]:
        return [self.child(g, mark, command) for g in range(len(NAMES))]

    def child(self, generation: int, mark: str, command: str) -> Child:
        name = NAMES[generation]
        ready, conf = f"{self.path}/{name}.ready", f"{self.path}/{name}.conf"
        script = f"{command}; echo $$ >{ready}; exec tail -f {conf}"
        return Child(name, ("sh", "-c", script), ready, (ChildFile(conf, mark),))

    def want(self, mark: str, command: str = "true") -> None:
        self.engines.want(self.children(mark, command))

    def turn(self) -> bool:
        return self.engines.turn(time.monotonic() + self.ahead_s)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            self.turn()
            time.sleep(0.005)

    def serving(self, generation: int) -> None:
        self.until(lambda: self.engines.current == generation and self.engines.serves)

    def running(self) -> set[str]:
        return {p.stem for p in (self.path / "run").glob("*.json") if self.engines._nursery.runs(p.stem)}


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    journal = journals.load(tmp_path / "state")
    for child in journal.children if journal else ():
        end_child(child)


def test_the_first_one(box: Box) -> None:
    assert (box.engines.current, box.engines.serves) == (None, False)
    box.want("a")
    box.serving(0)
    assert (box.running(), box.engines.is_new, box.engines.faults()) == ({"engine-0"}, True, ())
    pid = box.engines.pid()
    box.want("a")
    assert not box.turn(), "the same again changes nothing"
    assert box.engines.pid() == pid


def test_another_configuration_runs_beside_it_until_the_last_connection_ends(box: Box) -> None:
    box.want("a")
    box.serving(0)
    box.want("b", "test -e go || sleep 0.05")
    assert (box.engines.is_new, box.engines.serves) == (False, True)
    box.serving(1)
    assert (box.running(), box.engines.leaving) == ({"engine-0", "engine-1"}, (0,))
    box.ahead_s += 2 * COUNT_S
    box.turn()
    assert box.running() == {"engine-0", "engine-1"}, "it has a connection still"
    box.lasting[0] = 0
    box.ahead_s += 2 * COUNT_S
    box.until(lambda: box.running() == {"engine-1"})
    assert (box.engines.leaving, box.engines.current, box.engines.faults()) == ((), 1, ())


def test_what_never_ends_is_ended(box: Box) -> None:
    box.want("a")
    box.serving(0)
    box.want("b")
    box.serving(1)
    box.ahead_s += LEAVES_WITHIN_S + 1
    box.until(lambda: box.running() == {"engine-1"})


def test_one_that_cannot_start_replaces_none(box: Box) -> None:
    box.want("a")
    box.serving(0)
    box.want("b", "echo what a configuration; exit 1")
    box.until(lambda: bool(box.engines.faults()))
    assert (box.engines.current, box.engines.serves, box.engines.is_new) == (0, True, False)
    assert "what a configuration" in box.engines.faults()[0].what
    box.want("a")
    box.turn()
    assert (box.engines.is_new, box.engines.faults(), box.running()) == (True, (), {"engine-0"})


def test_killed_it_comes_back_in_its_place(box: Box) -> None:
    box.want("a")
    box.serving(0)
    pid = box.engines.pid()
    os.kill(pid or 0, signal.SIGKILL)
    box.until(lambda: not box.engines.serves)
    assert box.engines.current == 0
    box.serving(0)
    assert box.engines.pid() != pid


@pytest.mark.parametrize("at_first", [0, 1])
def test_the_next_daemon_goes_on_with_it(box: Box, at_first: int) -> None:
    box.want("a")
    box.serving(0)
    if at_first:
        box.want("b")
        box.serving(1)
    box.engines.close()
    box.engines = box.daemon()
    box.want("b" if at_first else "a")
    box.turn()
    assert (box.engines.current, box.engines.serves) == (at_first, True)


def test_the_next_daemon_with_another_configuration_drops_no_connection(box: Box) -> None:
    box.want("a")
    box.serving(0)
    box.engines.close()
    box.engines = box.daemon()
    box.want("b")
    box.serving(1)
    assert box.running() == {"engine-0", "engine-1"}
    assert box.engines.leaving == (0,)


def serve_in_turn(box: Box, marks: str) -> None:
    for generation, mark in enumerate(marks):
        box.want(mark)
        box.serving(generation)


def test_several_end_their_connections_beside_the_current_one(box: Box) -> None:
    serve_in_turn(box, "abc")
    assert (box.engines.leaving, box.running()) == ((0, 1), set(NAMES))
    box.ahead_s += 2 * COUNT_S
    box.turn()
    assert box.running() == set(NAMES), "each has a connection still"
    box.lasting[1] = 0
    box.ahead_s += 2 * COUNT_S
    box.until(lambda: box.running() == {"engine-0", "engine-2"})


def test_without_room_it_waits_until_one_has_ended(box: Box) -> None:
    serve_in_turn(box, "abc")
    box.want("d")
    assert (box.engines.waits, box.engines.starts, box.engines.target) == (True, True, None)
    box.turn()
    assert (box.engines.current, box.engines.serves, box.running()) == (2, True, set(NAMES))
    box.lasting[0] = 0
    box.ahead_s += 2 * COUNT_S
    box.serving(0)
    assert (box.engines.leaving, box.engines.waits, box.running()) == ((1, 2), False, set(NAMES))


def test_in_the_end_the_one_with_the_fewest_connections_makes_room(box: Box) -> None:
    serve_in_turn(box, "abc")
    box.lasting.update({0: 7, 1: 2, 2: 9})
    box.want("d")
    box.turn()
    box.ahead_s += WAITS_WITHIN_S + 1
    box.serving(1)
    assert set(box.engines.leaving) == {0, 2}
    assert "engine-1 makes room for another engine, with 2 connections" in box.told


def test_what_was_wanted_before_is_wanted_again_and_waits_no_more(box: Box) -> None:
    serve_in_turn(box, "abc")
    box.want("d")
    box.turn()
    box.want("a")
    box.turn()
    assert (box.engines.current, box.engines.waits, set(box.engines.leaving)) == (0, False, {1, 2})
    assert box.engines.faults() == ()


def test_killed_while_another_waits_that_takes_its_place(box: Box) -> None:
    serve_in_turn(box, "abc")
    box.want("d")
    box.turn()
    os.kill(box.engines.pid() or 0, signal.SIGKILL)
    box.until(lambda: not box.engines.waits)
    box.serving(2)
    assert set(box.engines.leaving) == {0, 1}


def test_with_little_memory_fewer_run(box: Box) -> None:
    box.most_leaving = 1
    serve_in_turn(box, "ab")
    box.want("c")
    box.turn()
    assert (box.engines.waits, box.running()) == (True, {"engine-0", "engine-1"})


def test_the_next_daemon_ends_no_connection_of_those_that_leave(box: Box) -> None:
    serve_in_turn(box, "abc")
    box.engines.close()
    box.engines = box.daemon()
    box.want("c")
    box.serving(2)
    assert (set(box.engines.leaving), box.running()) == ({0, 1}, set(NAMES))


def test_the_next_daemon_with_another_configuration_and_no_room(box: Box) -> None:
    serve_in_turn(box, "abc")
    box.lasting.update({0: 7, 1: 2, 2: 9})
    box.engines.close()
    box.engines = box.daemon()
    box.want("d")
    box.serving(1)
    assert set(box.engines.leaving) == {0, 2}


def test_none_is_wanted(box: Box) -> None:
    box.want("a")
    box.serving(0)
    box.engines.want(None)
    box.until(lambda: box.running() == set())
    assert (box.engines.current, box.engines.serves) == (None, False)
