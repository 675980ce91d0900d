"""Labs that outlive the command that built them: one small file each, trusted only as far as the process is there."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import Any

import msgspec

from sidegate.home import Home
from sidegate.lab.blueprint import Blueprint
from sidegate.lab.init import Ready
from sidegate.lab.lab import Lab
from sidegate.lab.papers import Papers
from sidegate.problems import Exit, Problem, Problems
from sidegate.reading import encode_address, restore

_NAME = re.compile(r"\w[\w.-]{0,49}")


class Record(msgspec.Struct, frozen=True):
    """A lab that is up. home: as plain data, see `reading.restore`.

    started: when PID 1 of the lab was started, in clock ticks since boot: a process id alone may be used again.
    """

    name: str
    home: dict[str, Any]
    plan: Blueprint
    ready: Ready
    user_namespace: bool
    started: int
    papers: Papers | None


def folder() -> Path:
    """Of this user's records; made if need be. Raises Problems if it is not a folder of this user."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):  # else it is invalid (XDG Base Directory Specification)
        path = Path(runtime, "sidegate-labs")
    else:
        path = Path("/run/sidegate-labs" if os.geteuid() == 0 else f"/tmp/sidegate-labs-{os.geteuid()}")  # noqa: S108 - the owner is checked
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = path.lstat()
    except OSError as error:
        raise Problems(Problem(str(path), f"cannot be made: {error.strerror}", "set XDG_RUNTIME_DIR")) from None
    if there.st_uid != os.geteuid() or not stat.S_ISDIR(there.st_mode):
        raise Problems(Problem(str(path), "is not a folder of yours", "set XDG_RUNTIME_DIR to a folder of your own"))
    return path


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc_pid_stat(5)); None for a process that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def remember(lab: Lab) -> None:
    """Writes a lab's record. Raises Problems if a living lab has this name, or if it is no name for a file."""
    started = start_time(lab.pid)
    if started is None:
        raise Problems(Problem(lab.name, "it ended before it could be used", exit_code=Exit.FAULT))
    home = msgspec.to_builtins(lab.home, enc_hook=encode_address)
    record = Record(lab.name, home, lab.plan, Ready(lab.pid, lab.machines), lab.user_namespace, started, lab.papers)
    records()  # removes a dead one of this name
    _write(_path(lab.name), msgspec.json.encode(record))


def _path(name: str) -> Path:
    if not _NAME.fullmatch(name):
        what = "cannot be the name of a lab: letters, digits, _ . and - only, at most 50, a letter or digit first"
        raise Problems(Problem(repr(name), what, "give --name"))
    return folder() / f"{name}.json"


def _write(path: Path, data: bytes) -> None:
    """Puts a whole file in place, or raises Problems: a reader never sees half of it, and nobody's is replaced."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        os.link(draft, path)
    except FileExistsError:
        name = path.stem
        remedy = f"sidegate lab down {name}, or give --name"
        raise Problems(Problem(name, "a lab of this name is up", remedy)) from None
    except OSError as error:
        raise Problems(Problem(str(path), f"cannot be written: {error.strerror}", "set XDG_RUNTIME_DIR")) from None
    finally:
        draft.unlink(missing_ok=True)


def records() -> list[Record]:
    """All living labs of this user; records of dead ones are removed."""
    found = []
    for path in sorted(folder().glob("[!.]*.json")):
        record = _read(path)
        if record is not None and start_time(record.ready.pid) == record.started:
            found.append(record)
        else:
            path.unlink(missing_ok=True)
    return found


def _read(path: Path) -> Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None


def find(name: str) -> Lab:
    """The living lab of this name. Raises Problems."""
    for record in records():
        if record.name == name:
            home = restore(record.home, Home)
            with contextlib.suppress(ProcessLookupError):
                return Lab(record.name, home, record.plan, record.ready, record.user_namespace, record.papers)
    up = ", ".join(r.name for r in records()) or "none"
    raise Problems(Problem(name, "no lab of this name is up", f"sidegate lab up {name}; labs that are up: {up}"))


def forget(name: str) -> None:
    """Removes a lab's record. Raises Problems for what cannot be a name."""
    _path(name).unlink(missing_ok=True)
