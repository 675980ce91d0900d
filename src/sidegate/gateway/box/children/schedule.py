"""What is to be done about children, from what should run and what does: pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

STOP_WITHIN_S = 3.0
"""From asking a child to end to ending it."""
STEADY_S = 30.0
"""A child that ran so long did not end for the reason it ended for before."""
FIRST_REST_S, LONGEST_REST_S = 0.1, 30.0
"""Before a child is started again: four times as long after each failure in a row."""


class ChildFile(Struct, frozen=True):
    """A file that a child reads, written before it starts. path: absolute."""

    path: str
    text: str
    mode: int = 0o600


class Child(Struct, frozen=True):
    """A program that should run. ready: a file in which it writes its process id once it serves.

    without: what its end means to people; may be empty. more: other files that go when it does for good, and their
    directories, where nothing else is in them. digest: of all else; another one means that it has to be started anew.
    Made once, for it is asked for all the time, and files may be large.
    """

    name: str
    command: tuple[str, ...]
    ready: str
    files: tuple[ChildFile, ...] = ()
    without: str = ""
    more: tuple[str, ...] = ()
    digest: str = ""

    def __post_init__(self) -> None:
        made_of = (self.name, self.command, self.ready, self.files, self.without)
        msgspec.structs.force_setattr(self, "digest", hashlib.sha256(repr(made_of).encode()).hexdigest()[:16])


class Seen(Struct, frozen=True):
    """A child that runs. stopping_s: since when it has been asked to end, None if it was not."""

    digest: str
    stopping_s: float | None = None


class Past(Struct, frozen=True):
    """failures: ends that nobody asked for, in a row. rest_until_s: it is not started before. words: its last ones."""

    failures: int = 0
    rest_until_s: float = 0.0
    words: str = ""


class Start(Struct, frozen=True):
    child: Child


class Stop(Struct, frozen=True):
    name: str
    why: str


class Kill(Struct, frozen=True):
    name: str


Step = Start | Stop | Kill


def next_steps(desired: Sequence[Child], seen: Mapping[str, Seen], past: Mapping[str, Past], now: float) -> list[Step]:
    """What is to be done now. A child is started only when no other of its name runs."""
    wanted = {c.name: c for c in desired}
    steps: list[Step] = []
    for name, it in seen.items():
        if it.stopping_s is not None:
            steps += [Kill(name)] if now >= it.stopping_s + STOP_WITHIN_S else []
        elif name not in wanted:
            steps.append(Stop(name, "no longer needed"))
        elif wanted[name].digest != it.digest:
            steps.append(Stop(name, "its configuration changed"))
    idle = (c for c in desired if c.name not in seen)
    return steps + [Start(c) for c in idle if now >= past.get(c.name, Past()).rest_until_s]


def next_time(desired: Sequence[Child], seen: Mapping[str, Seen], past: Mapping[str, Past]) -> float | None:
    """When `next_steps` has something to do although nothing happened; None: never."""
    ends = [it.stopping_s + STOP_WITHIN_S for it in seen.values() if it.stopping_s is not None]
    starts = [past.get(c.name, Past()).rest_until_s for c in desired if c.name not in seen]
    return min([*ends, *starts], default=None)


def failed(past: Past, ran_s: float, words: str, now: float) -> Past:
    """After an end that nobody asked for."""
    failures = 1 if ran_s >= STEADY_S else past.failures + 1
    rest_s = min(FIRST_REST_S * 4.0 ** min(failures - 1, 10), LONGEST_REST_S)
    return Past(failures, now + rest_s, words)
