"""Of two resolvers one answers at any time: played against a model of the nursery and the kernel."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.dns.places import NAME, NAMES, RELIEF, Name
from sidegate.gateway.dns.seating import Seat, Seating, seating

WANTED, OTHER = Seat(True, True, True), Seat(True)
STARTING, GONE = Seat(True, True), Seat()


def test_a_change_is_answered_by_the_relief_first() -> None:
    assert seating(OTHER, GONE, NAME, is_over=True) == Seating(NAME, (RELIEF,), (NAME,))
    assert seating(OTHER, STARTING, NAME, is_over=True) == Seating(NAME, (RELIEF,), (NAME,))
    assert seating(OTHER, WANTED, NAME, is_over=True) == Seating(RELIEF, (RELIEF,), (NAME,))
    assert seating(OTHER, WANTED, RELIEF, is_over=False) == Seating(RELIEF, (), (NAME, RELIEF))
    assert seating(OTHER, WANTED, RELIEF, is_over=True) == Seating(RELIEF, (NAME,), (RELIEF,))
    assert seating(STARTING, WANTED, RELIEF, is_over=True) == Seating(RELIEF, (NAME,), (RELIEF,))
    assert seating(WANTED, WANTED, RELIEF, is_over=True) == Seating(NAME, (NAME,), (RELIEF,))
    assert seating(WANTED, WANTED, NAME, is_over=False) == Seating(NAME, (NAME,), (RELIEF,))
    assert seating(WANTED, WANTED, NAME, is_over=True) == Seating(NAME, (NAME,))


def test_without_a_relief_the_one_at_port_53_is_started_anew() -> None:
    assert seating(OTHER, Seat(fails=True), NAME, is_over=True) == Seating(NAME, (NAME,))


@dataclass
class One:
    version: int
    age: int = 0

    @property
    def is_up(self) -> bool:
        return self.age >= 2


@dataclass
class Model:
    """A resolver that starts takes two turns, one that is to be another one ends first; the kernel follows late."""

    version: int = 0
    running: dict[Name, One] = field(default_factory=dict)
    led: Name | None = None
    kernel: Name = NAME
    since: int = 0

    def seat(self, name: Name) -> Seat:
        it = self.running.get(name)
        if it is None:
            return Seat()
        is_wanted = it.version == self.version
        return Seat(True, is_wanted, is_wanted and it.is_up)

    def turn(self, *, kernel_follows: bool) -> None:
        home, relief = map(self.seat, NAMES)
        it = seating(home, relief, self.led, is_over=self.since >= 3)
        for name in NAMES:
            self._mind(name, it)
        self.since += 1
        if kernel_follows and it.lead in self.running and self.running[it.lead].is_up:
            self.since = 0 if it.lead != self.led else self.since
            self.led = self.kernel = it.lead

    def _mind(self, name: Name, it: Seating) -> None:
        one = self.running.get(name)
        if one is None:
            if name in it.start:
                self.running[name] = One(self.version)
        elif name not in (*it.start, *it.keep) or (name in it.start and one.version != self.version):
            del self.running[name]
        else:
            one.age += 1

    @property
    def is_answered(self) -> bool:
        return self.kernel in self.running and self.running[self.kernel].is_up


@given(st.lists(st.sampled_from(["turn", "deaf", "change", "restart"]), max_size=60))
def test_whoever_is_asked_answers_whatever_changes(steps: list[str]) -> None:
    """deaf: the kernel's rules do not follow at once. restart: of the daemon, which knows no more whom they lead to."""
    model = Model()
    for _ in range(5):
        model.turn(kernel_follows=True)
    for step in steps:
        model.version += step == "change"
        model.led = None if step == "restart" else model.led
        model.turn(kernel_follows=step != "deaf")
        assert model.is_answered
    for _ in range(30):
        model.turn(kernel_follows=True)
        assert model.is_answered
    assert model.led == NAME
    assert {name: one.version for name, one in model.running.items()} == {NAME: model.version}


@given(st.lists(st.sampled_from(NAMES), max_size=6))
def test_it_comes_home_whoever_ends(ends: list[Name]) -> None:
    model = Model()
    for name in ends:
        model.version += 1
        for _ in range(4):
            model.turn(kernel_follows=True)
        model.running.pop(name, None)
    for _ in range(40):
        model.turn(kernel_follows=True)
    assert model.led == NAME
    assert {name: one.version for name, one in model.running.items()} == {NAME: model.version}
