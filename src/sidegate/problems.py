"""What went wrong, told to a person: where, what, and what to do next.

A phase (reading a file, looking at the box) collects every problem it can find and raises them together as one
`Problems`. The command line prints them and exits with the highest `exit_code` among them. Nothing else in the project
prints an error or ends the process.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import msgspec


class Exit(IntEnum):
    """Exit codes of every command."""

    FINE = 0
    FAULT = 1
    """A fault was found: the home is broken, a check failed."""
    USAGE = 2
    """The command line, a configuration file or the surroundings are not as they must be."""
    MISSING = 3
    """A privilege or a program is missing."""
    SETTINGS = 78
    """A start without a person found no configuration that can be used: EX_CONFIG of sysexits.h."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong.

    where: a file, a key's path or a thing on the box, as `homes/x.toml: client[2].v4` or `eth0`.
    what: what is wrong there, as a sentence without a full stop.
    remedy: what the person can do next; empty when `what` says it already.
    """

    where: str
    what: str
    remedy: str = ""
    exit_code: Exit = Exit.USAGE

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"\n    {self.remedy}" if self.remedy else "")


class Problems(Exception):
    """All problems of one phase; never empty."""

    def __init__(self, *problems: Problem) -> None:
        if not problems:
            raise ValueError("Problems needs at least one Problem")
        self.problems = problems
        super().__init__("\n".join(str(p) for p in problems))

    @property
    def exit_code(self) -> Exit:
        return max(p.exit_code for p in self.problems)


def unreadable(path: object, error: OSError, remedy: str = "") -> Problem:
    """A file that cannot be read, and why. remedy: what to do unless only root may."""
    if error.errno == errno.EACCES:
        return Problem(str(path), f"cannot be read: {error.strerror}", "run it as root, with sudo", Exit.MISSING)
    return Problem(str(path), f"cannot be read: {error.strerror}", remedy)


@contextmanager
def in_file(name: str) -> Iterator[None]:
    """Problems with settings tell the file that they are in; those with other files name these, by absolute paths."""
    try:
        yield
    except Problems as error:
        raise Problems(*(_told_in(p, name) for p in error.problems)) from None


def _told_in(problem: Problem, name: str) -> Problem:
    if not name or problem.where.startswith("/"):
        return problem
    return msgspec.structs.replace(problem, where=f"{name}: {problem.where}")
