"""Another configuration is asked for, while a former one waits, or where something speaks against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidegate.gateway.box.apply import Changes
from sidegate.gateway.box.facts import Facts
from sidegate.gateway.change.history import Chosen
from sidegate.gateway.config import Config
from sidegate.gateway.daemon import reloading
from sidegate.gateway.daemon.reloading import Reloading, Taking
from sidegate.gateway.daemon.splitplan import Plan
from sidegate.problems import Problem, Problems
from tests.gateway.test_decide import facts


class World:
    """The splitter and our DHCP server, as far as they are asked. refuses: by the name of the question."""

    def __init__(self) -> None:
        self.refuses = ""
        self.is_ready = False

    def _refuse(self, name: str) -> None:
        if name == self.refuses:
            raise Problems(Problem(name, "no"))

    def plan(self, config: Config) -> Plan:
        self._refuse("plan")
        return Plan(config)

    def ask_first(self, *_: object) -> None:
        self._refuse("ask_first")

    def prepare(self, plan: Plan, facts: Facts, now: float) -> bool:
        self._refuse("prepare")
        return self.is_ready


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def one(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reloading:
    monkeypatch.setattr(reloading, "observe", lambda *_: facts())
    return Reloading(world, world, tmp_path)  # type: ignore[arg-type]


class Asked:
    """A configuration, and what whoever asked for it has heard."""

    def __init__(self) -> None:
        self.heard: list[Changes | Problems] = []
        self.taking = Taking(Chosen(Config(), "", ""), None, self.heard.append)


def test_what_is_ready_does_not_wait(one: Reloading, world: World) -> None:
    world.is_ready = True
    assert one.begin(Asked().taking, 1000.0) == Plan()
    assert one.waited() is None


def test_what_waits_is_taken_once(one: Reloading) -> None:
    asked = Asked()
    assert one.begin(asked.taking, 1000.0) is None
    assert (one.waited(), one.waited()) == (asked.taking, None)
    assert asked.heard == [], "whoever takes it says how that went"


@pytest.mark.parametrize("is_ready", [True, False])
def test_the_later_one_comes_first(one: Reloading, world: World, is_ready: bool) -> None:
    early, late = Asked(), Asked()
    one.begin(early.taking, 1000.0)
    world.is_ready = is_ready
    one.begin(late.taking, 1001.0)
    assert "another change came before" in str(early.heard)
    assert (one.waited(), late.heard) == (None if is_ready else late.taking, [])


@pytest.mark.parametrize("refuses", ["plan", "ask_first"])
def test_one_that_is_refused_takes_nobodys_place(one: Reloading, world: World, refuses: str) -> None:
    early, late = Asked(), Asked()
    one.begin(early.taking, 1000.0)
    world.refuses = refuses
    with pytest.raises(Problems, match="no"):
        one.begin(late.taking, 1001.0)
    assert (one.waited(), early.heard, late.heard) == (early.taking, [], [])


def test_one_that_fails_half_way_leaves_nobody_waiting_for_ever(one: Reloading, world: World) -> None:
    early, late = Asked(), Asked()
    one.begin(early.taking, 1000.0)
    world.refuses = "prepare"
    with pytest.raises(Problems, match="no"):
        one.begin(late.taking, 1001.0)
    assert one.waited() is None
    assert len(early.heard) == 1
    assert late.heard == [], "it is raised"


def test_what_waits_in_vain_is_told_why(one: Reloading) -> None:
    asked, why = Asked(), Problems(Problem("nft", "no end after 10 s"))
    one.begin(asked.taking, 1000.0)
    one.give_up(why)
    one.give_up(why)
    assert asked.heard == [why]
