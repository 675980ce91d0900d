"""One child as a process: started, found again by its record, asked to end, and the last words of its log."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box import programs
from sidegate.gateway.box.children.schedule import STOP_WITHIN_S, Child
from sidegate.gateway.box.files import remove_file, replace_file
from sidegate.gateway.box.journal import ChildStep
from sidegate.gateway.box.places import Lock
from sidegate.problems import Exit, Problem, Problems

_LOG_LARGEST = 1 << 17
_LAST_WORDS = 400


class Record(Struct, frozen=True):
    """started: clock ticks from boot to its start (proc_pid_stat(5), field 22): with it a process id is unique."""

    pid: int
    started: int
    boot_id: str
    digest: str


def end_child(step: ChildStep) -> bool:
    """Ends a child that the journal names and removes what was written for it; whether it ran. Raises Problems.

    For `down`, when no daemon runs. Blocks a few milliseconds, up to 6 s for a child that does not listen.
    """
    directory = Path(step.directory)
    with starting(directory, step.name):
        record = load(directory, step.name)
        pidfd = open_alive(record)
        if pidfd is not None:
            _end(pidfd, step.name)
        own = [str(directory / f"{step.name}{suffix}") for suffix in (".json", ".log")]
        try:
            for path in (*step.files, *own):
                remove_file(Path(path))
        except OSError as error:
            raise Problems(Problem(step.name, f"{error.filename} cannot be removed: {error.strerror}")) from None
    (directory / f"{step.name}.lock").unlink(missing_ok=True)
    _remove_empty(directory, map(Path, step.files))
    return pidfd is not None


def _remove_empty(directory: Path, files: Iterable[Path]) -> None:
    """The directory of a child, and those in it where these files were."""
    inner = [file.parent for file in files if directory in file.parent.parents]
    for place in dict.fromkeys((*inner, directory)):
        with contextlib.suppress(OSError):
            # Another child's files are in it still.
            place.rmdir()


def _end(pidfd: int, name: str) -> None:
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            send_signal(pidfd, number)
            # A pidfd is readable once its process has ended (pidfd_open(2)).
            if select.select([pidfd], [], [], STOP_WITHIN_S)[0]:
                return
        raise Problems(Problem(name, "does not end", "find out what holds it, then run `sidegate down` again"))
    finally:
        os.close(pidfd)


@contextlib.contextmanager
def starting(directory: Path, name: str) -> Iterator[None]:
    """While this is held nobody starts the child, and none is on its way from fork to exec."""
    lock = Lock(directory / f"{name}.lock")
    if not lock.take(wait_s=STOP_WITHIN_S):
        raise Problems(Problem(name, "another command is starting it", "try again", Exit.FAULT))
    try:
        yield
    finally:
        lock.release()


def spawn(child: Child, directory: Path) -> subprocess.Popen[bytes]:
    """Starts a child in a session of its own, under its lock. Raises Problems."""
    path = programs.find(child.command[0])
    if path is None:
        raise Problems(*programs.missing(child.command[0]))

    def leave_record() -> None:
        record = Record(os.getpid(), _start_time(os.getpid()), journals.boot_id(), child.digest)
        replace_file(directory / f"{child.name}.json", msgspec.json.encode(record))

    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        for file in child.files:
            replace_file(Path(file.path), file.text.encode(), file.mode)
        log = os.open(directory / f"{child.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(log, "ab") as out:
            return subprocess.Popen(
                [path, *child.command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=leave_record,
                cwd="/",
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            )
    except (OSError, subprocess.SubprocessError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise Problems(Problem(child.name, f"cannot be started: {what}", "make room, or mend it")) from None


def load(directory: Path, name: str) -> Record | None:
    """None for no record, or a damaged one: without its start time nobody may be ended."""
    try:
        return msgspec.json.decode((directory / f"{name}.json").read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None


def open_alive(record: Record | None) -> int | None:
    """A pidfd of the recorded process, None if it lives no more. Opened first, checked then: its id cannot pass on."""
    if record is None or record.boot_id != journals.boot_id():
        return None
    try:
        pidfd = os.pidfd_open(record.pid)
        if _start_time(record.pid) == record.started and not has_ended(pidfd):
            return pidfd
        os.close(pidfd)
    except OSError:
        # No such process, or it ended between the two looks.
        return None
    return None


def has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def _start_time(pid: int) -> int:
    """The name before it may hold blanks and brackets (proc_pid_stat(5)). Raises OSError."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def send_signal(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def status_words(status: int | None) -> str:
    if status is None:
        return ""
    return f"signal {signal.Signals(-status).name};" if status < 0 else f"exit code {status};"


def read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def last_words(log: Path) -> str:
    lines = read_text(log).splitlines()
    return lines[-1][-_LAST_WORDS:] if lines else ""


def keep_small(log: Path) -> None:
    """Begins it anew when it has grown too large; the child appends to it."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_LARGEST:
            os.truncate(log, 0)
