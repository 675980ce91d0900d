"""Steps in words, for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sidegate.install import layout
from sidegate.install.layout import is_below
from sidegate.install.steps import (
    Compile,
    EndGateway,
    Flush,
    MakeDirectory,
    MakeLink,
    Remove,
    RemoveIfEmpty,
    RestartDaemon,
    Run,
    Save,
    Step,
    Write,
)

_IMPLIED = (Flush, Save, MakeDirectory, Compile, RemoveIfEmpty)
"""Steps that go without saying: whoever wants to see them all asks for JSON."""
_NAMED_AT_MOST = 3
"""More files than that in one directory are one line together."""


def verb(step: Step) -> str:
    return str(step.__struct_config__.tag)


def object_of(step: Step) -> str:
    """What it is done to."""
    if isinstance(step, Run):
        return " ".join(step.arguments)
    if isinstance(step, RestartDaemon):
        return layout.UNIT_NAME
    if isinstance(step, EndGateway):
        return "the gateway"
    if isinstance(step, MakeLink):
        return f"{step.path} -> {step.link.target}"
    return step.path


def report(steps: Sequence[Step], dry_run: bool) -> dict[str, Any]:
    """Every step, for machines."""
    told = [{"do": verb(step), "what": object_of(step)} for step in steps]
    return {"schema": 1, "dry_run": dry_run, "steps": told}


def text(steps: Sequence[Step], dry_run: bool) -> str:
    """What was done, or would be; empty if that is nothing."""
    head = ["Nothing was changed. What would be done:"] if dry_run and steps else []
    return "\n".join([*head, *lines(steps)])


def lines(steps: Sequence[Step]) -> Iterator[str]:
    """One line for each step that a person wants to know of; many files of one directory are one line together."""
    telling = [(verb(s), *_place(s)) for s in steps if not isinstance(s, _IMPLIED)]
    count = Counter((word, directory) for word, directory, _ in telling)
    told: set[tuple[str, str]] = set()
    for word, directory, rest in telling:
        key = (word, directory)
        if not directory or count[key] <= _NAMED_AT_MOST:
            yield f"{word}: {directory}{rest}"
        elif key not in told:
            told.add(key)
            yield f"{word}: {count[key]} files in {directory}"


def _place(step: Step) -> tuple[str, str]:
    """Directory and what follows it; all of the program's own files are in one. Not a file: no directory."""
    text = object_of(step)
    if is_below(text, layout.RELEASES):
        return layout.RELEASES, text.removeprefix(layout.RELEASES)
    if text.startswith("/"):
        directory = step.path.rpartition("/")[0] if isinstance(step, Write | MakeLink | Remove) else ""
        return directory, text.removeprefix(directory)
    return "", text
