"""The engine as the daemon keeps it: stand-ins for its processes, and for what comes of trials."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.children import Child, ChildFile, end_child
from sidegate.gateway.box.places import Places
from sidegate.gateway.engine import supervision
from sidegate.gateway.engine.generations import COUNT_S
from sidegate.gateway.engine.supervision import Supervision, Wanted
from sidegate.gateway.engine.trial import WITHIN_S, Outcome, Question, Trials
from sidegate.gateway.engine.upstream import Upstream
from sidegate.gateway.engine.xray import Engine
from sidegate.gateway.split.policy import Policy
from sidegate.gateway.split.ports import GENERATIONS, ports

CHECK = Question("www.example.org", 80, "/", is_tls=False)
GOOD, BAD = Outcome(True, "answered 204", 50.0), Outcome(False, "no answer")


def stand_in(it: Engine, directory: Path) -> Child:
    """Says that it serves, and which upstreams it refuses: those whose protocol is `refused`."""
    name = f"engine-{it.generation}"
    ready, conf = directory / f"{name}.pid", directory / f"{name}.conf"
    refused = "".join(f"{u.name}\\n" for u in it.upstreams if u.outbound.get("protocol") == "refused")
    script = f"printf '{refused}' >{directory}/{name}.refused; echo $$ >{ready}; exec tail -f {conf}"
    return Child(name, ("sh", "-c", script), str(ready), (ChildFile(str(conf), repr((it, it.dns_by))),))


def stand_ins(it: Engine, directory: Path) -> list[Child]:
    return [stand_in(msgspec.structs.replace(it, generation=g), directory) for g in range(GENERATIONS)]


class Paper(Trials):
    """Trials that come out as they are told to, at the next turn."""

    def __init__(self, outcomes: dict[str, Outcome]) -> None:
        super().__init__()
        self.outcomes = outcomes
        self.asked: dict[str, int] = {}

    def start(self, name: str, port: int, it: Question, now_s: float, within_s: float = WITHIN_S) -> None:
        self.asked[name] = port

    def turn(self, now_s: float) -> list[tuple[str, Outcome]]:
        done, self.asked = list(self.asked), {}
        return [(name, self.outcomes.get(name, GOOD)) for name in done]


class Box:
    """ahead_s: the clock's lead."""

    def __init__(self, path: Path) -> None:
        self.at = Places(path / "state", path / "run")
        self.told: list[str] = []
        self.ahead_s = 0.0
        self.outcomes: dict[str, Outcome] = {}
        self.engine = self.daemon()

    def daemon(self) -> Supervision:
        return Supervision(self.at, self.told.append, lambda _: 0)

    def want(self, *names: str, policy: str = "direct", protocol: str = "socks") -> None:
        found = tuple(Upstream(n, "socks", "upstream.example", 1080, {"protocol": protocol}) for n in names)
        self.engine.want(Wanted(Engine(Policy(default=policy), found), "first", CHECK), self.now())

    def now(self) -> float:
        return time.monotonic() + self.ahead_s

    def until(self, condition: Callable[[], bool], step_s: float = 0.0) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, self.told
            self.ahead_s += step_s
            self.engine.turn(self.now())
            time.sleep(0.005)

    def serving(self, generation: int) -> None:
        self.until(lambda: self.engine.state.generation == generation and self.engine.state.serves)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    outcomes: dict[str, Outcome] = {}
    monkeypatch.setattr(supervision, "engine_children", stand_ins)
    monkeypatch.setattr(supervision, "Trials", lambda: Paper(outcomes))
    box = Box(tmp_path)
    box.outcomes = outcomes
    yield box
    journal = journals.load(tmp_path / "state")
    for child in journal.children if journal else ():
        end_child(child)


def test_the_first_upstream_is_used_as_soon_as_the_engine_serves(box: Box) -> None:
    box.want("a", "b")
    assert box.engine.place("a") is None
    box.serving(0)
    assert box.engine.state.chosen == "a"
    assert (box.engine.place("a"), box.engine.place("b"), box.engine.place("c")) == (ports(0, 0), ports(0, 1), None)
    assert box.engine.dns_port() == ports(0, 0).socks + 1


@pytest.mark.parametrize("outcome", [GOOD, BAD])
def test_it_is_sure_once_the_chosen_one_has_answered_or_none_works(box: Box, outcome: Outcome) -> None:
    box.outcomes["a"] = outcome
    box.want("a")
    assert not box.engine.is_sure
    box.until(lambda: box.engine.is_sure)
    assert box.engine.state.chosen == ("a" if outcome is GOOD else None)


def test_down_it_has_no_place_and_names_are_asked_by_the_other(box: Box) -> None:
    box.want("a", "b")
    box.serving(0)
    box.outcomes["a"] = BAD
    box.until(lambda: box.engine.state.chosen == "b", step_s=5)
    box.until(lambda: "a" in box.engine.state.down, step_s=5)
    assert box.engine.place("a") is None
    assert box.engine.dns_port() == ports(0, 1).socks + 1
    assert "upstream a -> b: a does not work: no answer" in box.told
    box.outcomes["a"] = GOOD
    box.until(lambda: box.engine.state.chosen == "a", step_s=5)
    assert box.engine.held() == (ports(0, 1),), "datagram flows that b carries stay with it"


def test_what_only_the_next_engine_knows_has_no_place_yet(box: Box) -> None:
    box.want("a")
    box.serving(0)
    box.want("new", "a")
    assert (box.engine.state.chosen, box.engine.place("new"), box.engine.place("a")) == ("a", None, ports(0, 0))
    box.serving(1)
    assert (box.engine.place("new"), box.engine.place("a")) == (ports(1, 0), ports(1, 1))
    assert ports(0, 0) in box.engine.held(), "the old engine ends what it has"
    box.until(lambda: box.engine.state.chosen == "new", step_s=5)
    box.ahead_s += 2 * COUNT_S
    box.until(lambda: box.engine.state.leaving == ())


def test_one_that_is_gone_is_used_until_the_next_engine_serves(box: Box) -> None:
    box.want("a")
    box.serving(0)
    box.want("b")
    assert (box.engine.state.chosen, box.engine.place("a")) == ("a", ports(0, 0))
    box.engine.turn(box.now())
    assert box.engine.place(box.engine.state.chosen) is not None
    box.serving(1)
    assert (box.engine.state.chosen, box.engine.place("b")) == ("b", ports(1, 0))


def test_the_same_again_is_no_other_engine(box: Box) -> None:
    box.want("a")
    box.serving(0)
    pid = box.engine.pid()
    box.want("a")
    for _ in range(5):
        assert not box.engine.turn(box.now())
    assert (box.engine.pid(), box.engine.state.generation) == (pid, 0)


def test_one_that_the_engine_refuses(box: Box) -> None:
    box.want("a", protocol="refused")
    box.serving(0)
    box.until(lambda: box.engine.state.chosen is None, step_s=5)
    assert "a: the engine refuses its settings" in box.engine.faults()[0].what


def test_killed_it_keeps_its_places_and_says_that_it_does_not_serve(box: Box) -> None:
    box.want("a")
    box.serving(0)
    os.kill(box.engine.pid() or 0, signal.SIGKILL)
    box.until(lambda: not box.engine.state.serves)
    assert box.engine.place("a") == ports(0, 0), "the kernel sees by itself that nobody listens"
    box.serving(0)


def test_the_next_daemon_goes_on_with_the_upstream_that_was_used(box: Box) -> None:
    box.want("a", "b")
    box.serving(0)
    box.outcomes["a"] = BAD
    box.until(lambda: box.engine.state.chosen == "b", step_s=5)
    pid = box.engine.pid()
    box.engine.close()
    box.engine = box.daemon()
    box.want("a", "b")
    box.serving(0)
    assert (box.engine.pid(), box.engine.state.chosen) == (pid, "b")
    assert box.told[-1] == "upstream none -> b: it was used before"


def test_none_is_wanted_any_more(box: Box) -> None:
    box.want("a")
    box.serving(0)
    box.engine.want(None, box.now())
    box.until(lambda: box.engine.state.generation is None)
    assert (box.engine.state.chosen, box.engine.place("a"), box.engine.faults()) == (None, None, ())
