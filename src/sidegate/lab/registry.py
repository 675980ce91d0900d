"""Labs that outlive the command that built them: one small file each, trusted only as far as the process is there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from sidegate.home import Home, load_router
from sidegate.lab.blueprint import blueprint
from sidegate.lab.init import Ready
from sidegate.lab.lab import Lab
from sidegate.problems import Exit, Problem, Problems
from sidegate.reading import decode_address, encode_address


class Record(msgspec.Struct, frozen=True):
    """started: when PID 1 of the lab was started, in clock ticks since boot: a process id alone may be used again."""

    name: str
    home: Home
    ready: Ready
    user_namespace: bool
    started: int


def folder() -> Path:
    """Of this user's records; made if need be. Raises Problems if it belongs to somebody else."""
    base = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.geteuid() == 0 else f"/tmp/sidegate-{os.geteuid()}")  # noqa: S108 - owner is checked
    path = Path(base, "sidegate-labs")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = path.stat().st_uid
    except OSError as error:
        raise Problems(Problem(str(path), f"cannot be made: {error.strerror}", "set XDG_RUNTIME_DIR")) from None
    if owner != os.geteuid():
        raise Problems(Problem(str(path), "belongs to somebody else", "set XDG_RUNTIME_DIR to a folder of your own"))
    return path


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc_pid_stat(5)); None for a process that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def remember(lab: Lab) -> None:
    """Writes a lab's record. Raises Problems if a living lab has this name."""
    if any(record.name == lab.name for record in records()):
        raise Problems(Problem(lab.name, "a lab of this name is up", f"sidegate lab down {lab.name}, or give --name"))
    ready = Ready(lab.pid, lab.machines)
    record = Record(lab.name, lab.home, ready, lab.user_namespace, start_time(lab.pid) or 0)
    path = folder() / f"{lab.name}.json"
    path.write_bytes(msgspec.json.encode(record, enc_hook=encode_address))


def records() -> list[Record]:
    """All living labs of this user; records of dead ones are removed."""
    found = []
    for path in sorted(folder().glob("*.json")):
        record = _read(path)
        if record is not None and start_time(record.ready.pid) == record.started:
            found.append(record)
        else:
            path.unlink(missing_ok=True)
    return found


def _read(path: Path) -> Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record, dec_hook=decode_address)
    except (OSError, msgspec.MsgspecError):
        return None


def find(name: str) -> Lab:
    """The living lab of this name. Raises Problems."""
    for record in records():
        if record.name == name:
            plan = blueprint(record.home, load_router(record.home.router.profile))
            with contextlib.suppress(ProcessLookupError):
                return Lab(record.name, record.home, plan, record.ready, record.user_namespace)
    raise Problems(Problem(name, "no lab of this name is up", f"sidegate lab up {name}", Exit.USAGE))


def forget(name: str) -> None:
    (folder() / f"{name}.json").unlink(missing_ok=True)
