"""Which generation of the engine runs, serves, or ends: GENERATIONS at most, on ports of their own.

What asks for another configuration of the engine starts another generation beside the one that serves. Once it
serves, it is current, and new connections are steered to it; the old one goes on until its last connection ends, or for
`LEAVES_WITHIN_S`. So no connection is dropped, and an engine that cannot start replaces none that runs.

Where as many end their connections already as there is room for, what is wanted waits until one of them has ended.
After `WAITS_WITHIN_S` the one with the fewest connections makes room: a rule that was changed has to hold some time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sidegate.gateway.box.children import Child, Nursery
from sidegate.gateway.engine.child import child_name
from sidegate.gateway.split.ports import GENERATIONS
from sidegate.problems import Problem, Problems

NAMES = tuple(child_name(generation) for generation in range(GENERATIONS))
LEAVES_WITHIN_S = 1800.0
WAITS_WITHIN_S = 60.0
COUNT_S = 5.0
"""Between counts of the connections of one that leaves; also the least time that it is given."""
READY_LOOK_S = 0.05
"""Between looks whether one that starts serves already."""
_SCARCE_KIB = 160 * 1024
"""With less memory to spare than three engines take (50 MB each), fewer run at a time."""


def most_leaving() -> int:
    """How many may end their connections beside the one that serves, as long as a further one starts."""
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    available_kib = next((int(words[1]) for words in fields if words[0] == "MemAvailable:"), _SCARCE_KIB)
    return GENERATIONS - 1 if available_kib >= _SCARCE_KIB else 1


class Generations:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    lasting: how many connections a generation still carries; may raise Problems. room: see `most_leaving`.
    """

    def __init__(
        self,
        directory: Path,
        state: Path,
        tell: Callable[[str], None],
        lasting: Callable[[int], int],
        room: Callable[[], int] = most_leaving,
    ) -> None:
        self._nursery = Nursery(directory, state, tell)
        self._tell, self._lasting, self._room = tell, lasting, room
        self._children: Sequence[Child] = ()
        self._target: int | None = 0
        self._current: int | None = None
        self._serves = False
        self._leaving_until_s: dict[int, float] = {}
        self._waits_until_s: float | None = None
        self._count_at_s = 0.0
        self._ready_at_s: float | None = None

    def fileno(self) -> int:
        return self._nursery.fileno()

    @property
    def current(self) -> int | None:
        """The one that traffic is for, whether or not it lives just now; None before any has served."""
        return self._current

    @property
    def serves(self) -> bool:
        """Whether the current one does."""
        return self._serves

    @property
    def target(self) -> int | None:
        """The one that runs, or will run, what was wanted last; None while that waits for room."""
        return self._target

    @property
    def is_new(self) -> bool:
        """Whether the current one is the one that was wanted last."""
        return self._current is not None and self._current == self._target

    @property
    def waits(self) -> bool:
        """Whether what was wanted last waits until another one has ended its connections."""
        return self._target is None

    @property
    def starts(self) -> bool:
        """Whether what was wanted last is still to be started."""
        child = self._child
        return self.waits or (child is not None and not self._nursery.runs(child.name, child.digest))

    def want(self, children: Sequence[Child] | None) -> None:
        """One engine as each of the generations: one of them shall run from the next `turn` on. None: no engine."""
        if children is None:
            self._children, self._target, self._current, self._serves = (), 0, None, False
            self._leaving_until_s.clear()
        else:
            self._children = children
            self._find_room()

    def turn(self, now: float) -> bool:
        """Starts, stops, notices; whether another generation is current now, or it serves and did not, or ceased to."""
        before = self._current, self._serves
        self._see_off(now)
        self._wait(now)
        self._tend(now)
        if self.waits and self._current is not None and not self._runs(self._current):
            # It ended just now, so its place is free.
            self._find_room()
            self._tend(now)
        self._look(now)
        return (self._current, self._serves) != before

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although no child ended; None: never."""
        others = [self._count_at_s if self._leaving_until_s else None, self._ready_at_s, self._waits_until_s]
        return min((t for t in (self._nursery.next_deadline(), *others) if t is not None), default=None)

    def faults(self) -> tuple[Problem, ...]:
        return self._nursery.faults()

    def pid(self) -> int | None:
        """Of the current one."""
        return None if self._current is None else self._nursery.pid(NAMES[self._current])

    @property
    def leaving(self) -> tuple[int, ...]:
        """Those that only end their connections."""
        return tuple(self._leaving_until_s)

    def close(self) -> None:
        """Lets go of them; they live on."""
        self._nursery.close()

    # Which one is to run

    @property
    def _child(self) -> Child | None:
        return self._children[self._target] if self._children and self._target is not None else None

    def _find_room(self) -> None:
        self._target = self._free_one()
        if self._target is not None:
            self._leaving_until_s.pop(self._target, None)
            self._waits_until_s = None

    def _free_one(self) -> int | None:
        """The one that runs just so already; else a free one beside the current one, if that lives; None: no room."""
        alike = [g for g in range(GENERATIONS) if self._nursery.runs(NAMES[g], self._children[g].digest)]
        if alike:
            return self._current if self._current in alike else alike[0]
        if self._current is not None and not self._runs(self._current):
            return self._current
        if self._current is None:
            idle = [g for g in range(GENERATIONS) if not self._runs(g)]
            return idle[0] if idle else self._least(range(GENERATIONS))
        free = [g for g in range(GENERATIONS) if g != self._current and g not in self._leaving_until_s]
        has_room = len(self._leaving_until_s) < self._room()
        return min(free, key=self._runs) if free and has_room else None

    def _wait(self, now: float) -> None:
        """Looks for room again; in the end makes it."""
        if not self.waits:
            return
        if self._waits_until_s is None:
            self._waits_until_s = now + WAITS_WITHIN_S
        self._find_room()
        if self.waits and now >= self._waits_until_s:
            ended = self._least(self.leaving)
            self._tell(f"{NAMES[ended]} makes room for another engine, with {self._carried(ended)} connections")
            del self._leaving_until_s[ended]
            self._find_room()

    def _runs(self, generation: int) -> bool:
        return self._nursery.runs(NAMES[generation])

    def _others(self) -> list[int]:
        """Those that may go on beside the one that is wanted."""
        if not self._children:
            return []
        others = [g for g in range(GENERATIONS) if g != self._target]
        # Before any has served: those that a daemon before this one started.
        return [g for g in others if g in self._leaving_until_s or self._current in (None, g)]

    # What they do

    def _tend(self, now: float) -> None:
        child = self._child
        self._nursery.want((child,) if child else (), [NAMES[g] for g in self._others()])
        self._nursery.turn(now)

    def _target_serves(self) -> bool:
        return self._child is not None and self._nursery.serves(self._child)

    def _look(self, now: float) -> None:
        is_ready = self._target_serves()
        if is_ready and self._current != self._target:
            self._switch(now)
        is_old = self._current is not None and self._current != self._target
        self._serves = is_ready or (is_old and self._runs(self._current or 0))
        is_starting = not is_ready and self._child is not None and self._nursery.runs(self._child.name)
        self._ready_at_s = now + READY_LOOK_S if is_starting else None

    def _switch(self, now: float) -> None:
        left = [g for g in self._others() if self._runs(g) and g not in self._leaving_until_s]
        self._current = self._target
        for generation in left:
            self._leaving_until_s[generation] = now + LEAVES_WITHIN_S
            self._count_at_s = now + COUNT_S
            self._tell(f"{NAMES[self._current or 0]} takes new connections, {NAMES[generation]} ends its own")

    def _see_off(self, now: float) -> None:
        if not self._leaving_until_s or now < self._count_at_s:
            return
        self._count_at_s = now + COUNT_S
        for generation, until_s in list(self._leaving_until_s.items()):
            if not self._runs(generation) or now >= until_s or self._carried(generation) == 0:
                del self._leaving_until_s[generation]

    def _least(self, among: Sequence[int]) -> int:
        """The one with the fewest connections; those that cannot be counted come last."""
        counted = [(g, self._carried(g)) for g in among]
        return min(counted, key=lambda it: (it[1] is None, it[1] or 0))[0]

    def _carried(self, generation: int) -> int | None:
        """Connections; None: they cannot be counted."""
        try:
            return self._lasting(generation)
        except Problems as error:
            self._tell(f"connections of {NAMES[generation]} cannot be counted: {error}")
            return None
