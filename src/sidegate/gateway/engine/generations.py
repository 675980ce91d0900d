"""Which generation of the engine runs, serves, or ends: two at most, on ports of their own.

What asks for another configuration of the engine starts the other generation beside the one that serves. Once it
serves, it is current, and new connections are steered to it; the old one goes on until its last connection ends, or for
`LEAVES_WITHIN_S`. So no connection is dropped, and an engine that cannot start replaces none that runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sidegate.gateway.children import Child, Nursery
from sidegate.problems import Problem, Problems

NAMES = ("engine-0", "engine-1")
LEAVES_WITHIN_S = 1800.0
COUNT_S = 5.0
"""Between counts of the connections of one that leaves; also the least time that it is given."""
READY_LOOK_S = 0.05
"""Between looks whether one that starts serves already."""


class Generations:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    lasting: how many connections a generation still carries; may raise Problems.
    """

    def __init__(
        self, directory: Path, state: Path, tell: Callable[[str], None], lasting: Callable[[int], int]
    ) -> None:
        self._nursery = Nursery(directory, state, tell)
        self._tell, self._lasting = tell, lasting
        self._child: Child | None = None
        self._target = 0
        self._current: int | None = None
        self._serves = False
        self._leaving_until_s: dict[int, float] = {}
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
    def target(self) -> int:
        """The one that runs, or will run, what was wanted last."""
        return self._target

    @property
    def is_new(self) -> bool:
        """Whether the current one is the one that was wanted last."""
        return self._current is not None and self._current == self._target

    @property
    def starts(self) -> bool:
        """Whether what was wanted last is still to be started."""
        return self._child is not None and not self._nursery.runs(self._child.name, self._child.digest)

    def want(self, children: tuple[Child, Child] | None) -> None:
        """One engine as generation 0 and as 1: one of them shall run from the next `turn` on. None: no engine."""
        if children is None:
            self._child, self._current, self._serves = None, None, False
            self._leaving_until_s.clear()
        else:
            self._target = self._target_of(children)
            self._child = children[self._target]
            self._leaving_until_s.pop(self._target, None)

    def turn(self, now: float) -> bool:
        """Starts, stops, notices; whether another generation is current now, or it serves and did not, or ceased to."""
        before = self._current, self._serves
        self._see_off(now)
        self._nursery.want((self._child,) if self._child else (), self._others())
        self._nursery.turn(now)
        self._look(now)
        return (self._current, self._serves) != before

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although no child ended; None: never."""
        others = [self._count_at_s if self._leaving_until_s else None, self._ready_at_s]
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

    def _target_of(self, children: tuple[Child, Child]) -> int:
        """The one that runs just so already; else the one beside the current one, if that lives; else a free one."""
        alike = [g for g in (0, 1) if self._nursery.runs(NAMES[g], children[g].digest)]
        if alike:
            return self._current if self._current in alike else alike[0]
        if self._current is not None:
            return 1 - self._current if self._nursery.runs(NAMES[self._current]) else self._current
        return next((g for g in (0, 1) if not self._nursery.runs(NAMES[g])), 0)

    def _others(self) -> list[str]:
        """Those that may go on beside the one that is wanted."""
        if self._child is None:
            return []
        is_old = self._current is not None and self._current != self._target
        adopted = self._current is None and not self._target_serves()
        return [NAMES[1 - self._target]] if is_old or adopted or 1 - self._target in self._leaving_until_s else []

    def _target_serves(self) -> bool:
        return self._child is not None and self._nursery.serves(self._child)

    def _look(self, now: float) -> None:
        is_ready = self._target_serves()
        if is_ready and self._current != self._target:
            self._switch(now)
        is_old = self._current is not None and self._current != self._target
        self._serves = is_ready or (is_old and self._nursery.runs(NAMES[1 - self._target]))
        is_starting = not is_ready and self._child is not None and self._nursery.runs(NAMES[self._target])
        self._ready_at_s = now + READY_LOOK_S if is_starting else None

    def _switch(self, now: float) -> None:
        self._current, other = self._target, 1 - self._target
        if self._nursery.runs(NAMES[other]):
            self._leaving_until_s[other] = now + LEAVES_WITHIN_S
            self._count_at_s = now + COUNT_S
            self._tell(f"{NAMES[self._current]} takes new connections, {NAMES[other]} ends its own")

    def _see_off(self, now: float) -> None:
        if not self._leaving_until_s or now < self._count_at_s:
            return
        self._count_at_s = now + COUNT_S
        for generation, until_s in list(self._leaving_until_s.items()):
            if not self._nursery.runs(NAMES[generation]) or now >= until_s or self._is_idle(generation):
                del self._leaving_until_s[generation]

    def _is_idle(self, generation: int) -> bool:
        try:
            return self._lasting(generation) == 0
        except Problems as error:
            self._tell(f"connections of {NAMES[generation]} cannot be counted: {error}")
            return False
