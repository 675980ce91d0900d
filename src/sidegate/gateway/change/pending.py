"""A change that undoes itself unless it is confirmed: what is on disk about it, and when its time is over.

The laws

| found | by whom | then |
|---|---|---|
| waiting, in time | the timer, the daemon | go on waiting; the daemon starts a timer that died anew |
| waiting, too late | the timer, any command on the box | roll back, or go on with a rollback that was killed |
| waiting, of another boot | the same | the reboot rolled it back; a start without a person must not redo it |
| rolled back | `up --foreground`, as at boot | refuse, or use the configuration from before |
| rolled back | `up` by hand, `down`, `confirm` | a person knows: forgotten |

Time is CLOCK_BOOTTIME (clock_gettime(2)): it goes on while the box sleeps, and nobody can set it. With the boot's id a
deadline is one moment, whatever happens to the calendar.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.files import discard_file, replace_file, set_aside
from sidegate.gateway.view import ConfirmView
from sidegate.problems import Problem, Problems

_NAME = "pending.json"
_VERSION = 1

State = Literal["waiting", "rolled-back"]


class Pending(Struct, frozen=True, forbid_unknown_fields=True):
    """deadline_s: CLOCK_BOOTTIME of the boot `boot_id`. allowed_s: what was asked for.

    back_to: the version of the configuration to go back to; None: the box was down before.
    connection: of whom the change came from, as in SSH_CONNECTION; empty where it was no network connection.
    told: what came of the rollback.
    """

    boot_id: str
    deadline_s: float
    allowed_s: float
    back_to: int | None = None
    connection: str = ""
    state: State = "waiting"
    told: str = ""
    version: int = _VERSION

    def left_s(self, now_s: float, boot_id: str) -> float:
        """Seconds until its time is over; 0 when it is."""
        return max(0.0, self.deadline_s - now_s) if boot_id == self.boot_id else 0.0

    def is_due(self, now_s: float, boot_id: str) -> bool:
        """Whether somebody has to roll it back. Once it is due it stays so: the clock cannot be set."""
        return self.state == "waiting" and self.left_s(now_s, boot_id) <= 0


def boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def is_due(pending: Pending) -> bool:
    """Now, on this box."""
    return pending.is_due(boottime_s(), journals.boot_id())


def left_s(pending: Pending) -> float:
    """Now, on this box."""
    return pending.left_s(boottime_s(), journals.boot_id())


def load(state_dir: Path) -> Pending | None:
    """None if nothing waits, or for somebody who may not read it. Raises Problems if it is damaged."""
    path = state_dir / _NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pending)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError) as error:
        what = f"whether a change waits to be confirmed cannot be read: {error}"
        raise Problems(Problem(str(path), what, "the next command on this box sets it aside")) from None


def set_damaged_aside(state_dir: Path) -> Path:
    """What cannot be read keeps nobody from starting or ending the gateway. Raises Problems."""
    path = state_dir / _NAME
    try:
        return set_aside(path)
    except OSError as error:
        raise Problems(Problem(str(path), f"cannot be renamed: {error.strerror}")) from None


def save(pending: Pending, state_dir: Path) -> None:
    """Raises Problems."""
    path = state_dir / _NAME
    try:
        replace_file(path, msgspec.json.encode(pending))
    except OSError as error:
        raise Problems(Problem(str(path), f"cannot be written: {error.strerror}", "nothing was changed")) from None


def discard(state_dir: Path) -> None:
    """Raises Problems."""
    discard_file(state_dir / _NAME)


def fresh(allowed_s: float, back_to: int | None, connection: str) -> Pending:
    """One whose time begins now."""
    return Pending(journals.boot_id(), boottime_s() + allowed_s, allowed_s, back_to, connection)


def view(state_dir: Path) -> ConfirmView | None:
    """What `status` tells of it. Raises Problems."""
    waiting = load(state_dir)
    if waiting is None:
        return None
    return ConfirmView(round(left_s(waiting), 1) if waiting.state == "waiting" else 0.0, waiting.told)


def connection_of(pid: int, proc: Path = Path("/proc")) -> str:
    """The network connection that a process was started over: SSH_CONNECTION of it or its nearest ancestor with one.

    `sudo` drops the variable, hence the ancestors. Empty: none, as at the box's own console.
    """
    while pid > 1:
        try:
            found = _variable((proc / str(pid) / "environ").read_bytes(), b"SSH_CONNECTION")
            if found:
                return found
            pid = _parent((proc / str(pid) / "stat").read_text())
        except OSError:
            return ""
    return ""


def _variable(environ: bytes, name: bytes) -> str:
    values = [v for k, _, v in (entry.partition(b"=") for entry in environ.split(b"\0")) if k == name]
    return values[0].decode(errors="replace") if values else ""


def _parent(stat: str) -> int:
    """Field 4 of proc_pid_stat(5), behind a name that may contain anything."""
    return int(stat.rpartition(")")[2].split()[1])


def own_connection() -> str:
    return connection_of(os.getpid())
