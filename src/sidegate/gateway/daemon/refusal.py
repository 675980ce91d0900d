"""Why the last start without a person failed, on disk: nobody read what it said, and `status` is asked later."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path

import msgspec

from sidegate.gateway.box.files import remove_file, replace_file
from sidegate.problems import Problem

_NAME = "refused-start.json"


class Refusal(msgspec.Struct, frozen=True):
    """at: RFC 3339, local time."""

    at: str
    problems: tuple[Problem, ...]


def keep(problems: tuple[Problem, ...], state: Path) -> None:
    """state: the state directory. A full disk keeps nobody from hearing of the failure itself."""
    it = Refusal(datetime.now().astimezone().isoformat(timespec="seconds"), problems)
    with contextlib.suppress(OSError):
        replace_file(state / _NAME, msgspec.json.encode(it))


def forget(state: Path) -> None:
    """A start went well, or nobody wants one."""
    with contextlib.suppress(OSError):
        remove_file(state / _NAME)


def told(state: Path) -> tuple[str, ...]:
    """As faults for `status`; empty where nothing failed. What cannot be read says nothing."""
    try:
        it = msgspec.json.decode((state / _NAME).read_bytes(), type=Refusal)
    except (OSError, msgspec.MsgspecError):
        return ()
    remedy = "once that is mended: sidegate up, or systemctl restart sidegate"
    return (*(_line(problem, it.at) for problem in it.problems), remedy)


def _line(it: Problem, at: str) -> str:
    return f"the start of {at} failed: {it.where}: {it.what}" + (f" ({it.remedy})" if it.remedy else "")
