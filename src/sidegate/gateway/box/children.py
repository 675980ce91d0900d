"""Programs that run beside the daemon and outlive it: started, adopted, started again when they end, stopped by `down`.

What to do is decided by `next_steps`, from what should run and what does; `Nursery` does it, for the daemon's loop.

A child writes its own record (process id and start time) before it becomes the program, so a daemon that is killed at
any moment leaves no child that the next one, or `down`, could not find; that moment is guarded by a lock that the child
inherits and that the kernel drops when the program begins. The journal names the child before anything of it exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box import programs
from sidegate.gateway.box.files import remove_file, replace_file
from sidegate.gateway.box.journal import ChildStep
from sidegate.gateway.box.places import Lock
from sidegate.problems import Exit, Problem, Problems

STOP_WITHIN_S = 3.0
"""From asking a child to end to ending it."""
STEADY_S = 30.0
"""A child that ran so long did not end for the reason it ended for before."""
FIRST_REST_S, LONGEST_REST_S = 0.1, 30.0
"""Before a child is started again: four times as long after each failure in a row."""
_STARTS_WITHIN_S = 2.0
_LOG_LARGEST = 1 << 17
_LAST_WORDS = 400
_LOOK_AGAIN_S = 0.01


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


class Record(Struct, frozen=True):
    """started: clock ticks from boot to its start (proc_pid_stat(5), field 22): with it a process id is unique."""

    pid: int
    started: int
    boot_id: str
    digest: str


class _Alive:
    """A child's process, whoever started it."""

    def __init__(self, digest: str, pidfd: int, program: subprocess.Popen[bytes] | None, began_s: float) -> None:
        self.digest, self.pidfd, self.program, self.began_s = digest, pidfd, program, began_s
        self.stopping_s: float | None = None


class Nursery:
    """Keeps children running, for a selectors loop: wait for `fileno` until `next_deadline`, then `turn`.

    directory: where records, locks and logs are. state_dir: where the journal is. tell: hears what is done and why.
    prepare: called with a child's name before it starts; if it raises Problems the start has failed.
    """

    def __init__(
        self,
        directory: Path,
        state_dir: Path,
        tell: Callable[[str], None],
        prepare: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._directory, self._state_dir, self._tell, self._prepare = directory, state_dir, tell, prepare
        self._desired: tuple[Child, ...] = ()
        self._leaving: frozenset[str] = frozenset()
        self._alive: dict[str, _Alive] = {}
        self._past: dict[str, Past] = {}
        self._registered: set[str] = set()
        self._poll = select.epoll()
        for path in sorted(directory.glob("*.json")):
            self._adopt(path.stem)

    def fileno(self) -> int:
        return self._poll.fileno()

    def want(self, desired: tuple[Child, ...], leaving: Iterable[str] = ()) -> None:
        """From the next `turn` on these shall run, and no others.

        leaving: names of others that may run on as they are, until they end; they are not started again.
        """
        self._desired, self._leaving = desired, frozenset(leaving)

    def runs(self, name: str, digest: str | None = None) -> bool:
        """Whether a child of this name runs. digest: only if it is this one."""
        return name in self._alive and digest in (None, self._alive[name].digest)

    def serves(self, child: Child) -> bool:
        """Whether just this one runs and said that it serves."""
        it = self._alive.get(child.name)
        return it is not None and it.digest == child.digest and _read(Path(child.ready)) == str(self.pid(child.name))

    def pid(self, name: str) -> int | None:
        """Of a child that runs."""
        record = _load(self._directory, name) if name in self._alive else None
        return record.pid if record else None

    def signal(self, name: str, number: signal.Signals) -> None:
        """For a child that runs."""
        _signal(self._alive[name].pidfd, number)

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although no child ended; None: never."""
        return next_time(self._desired, self._seen(), self._past)

    def turn(self, now: float) -> None:
        """Notices who ended; starts and stops. What fails is a fault and is tried again."""
        for name in [name for name, it in self._alive.items() if _has_ended(it.pidfd)]:
            self._ended(name, now)
        for step in next_steps(self._desired, self._seen(), self._past, now):
            self._do(step, now)
        for child in self._desired:
            self._note_adopted(child)
        for name in self._alive:
            _keep_small(self._log(name))

    def settle(self) -> None:
        """Waits until all that should run serves: 2 s at the most. Raises Problems for each that does not."""
        deadline = time.monotonic() + _STARTS_WITHIN_S
        self.turn(time.monotonic())
        while not all(self.serves(c) for c in self._desired):
            if any(p.failures for p in self._past.values()) or time.monotonic() >= deadline:
                raise Problems(*(self._problem(c) for c in self._desired if not self.serves(c)))
            time.sleep(_LOOK_AGAIN_S)
            self.turn(time.monotonic())

    def faults(self) -> tuple[Problem, ...]:
        """Who does not run and should, or ended not long ago."""
        now = time.monotonic()
        return tuple(self._problem(c) for c in self._desired if self._is_shaky(c.name, now))

    def close(self) -> None:
        """Lets go of the children; they live on."""
        for it in self._alive.values():
            os.close(it.pidfd)
        self._alive.clear()
        self._poll.close()

    # What is there

    def _seen(self) -> dict[str, Seen]:
        """Those about whom there is something to decide."""
        found = (
            (name, it) for name, it in self._alive.items() if name not in self._leaving or it.stopping_s is not None
        )
        return {name: Seen(it.digest, it.stopping_s) for name, it in found}

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def _is_shaky(self, name: str, now: float) -> bool:
        past, it = self._past.get(name, Past()), self._alive.get(name)
        return past.failures > 0 and (it is None or now - it.began_s < STEADY_S)

    def _problem(self, child: Child) -> Problem:
        past = self._past.get(child.name, Past())
        words = past.words or _last_words(self._log(child.name)) or "it said nothing"
        often = f" {past.failures} times in a row" if past.failures > 1 else ""
        what = f"ended{often}: {words}" if past.failures else f"does not serve yet: {words}"
        return Problem(child.name, what, f"its log: {self._log(child.name)}", Exit.FAULT)

    # What is done

    def _adopt(self, name: str) -> None:
        record = _load(self._directory, name)
        pidfd = _open(record)
        if record is not None and pidfd is not None:
            self._keep(name, _Alive(record.digest, pidfd, None, time.monotonic() - STEADY_S))
            self._tell(f"{name}: process {record.pid} goes on")

    def _keep(self, name: str, it: _Alive) -> None:
        self._alive[name] = it
        self._poll.register(it.pidfd, select.EPOLLIN)

    def _do(self, step: Step, now: float) -> None:
        if isinstance(step, Start):
            self._start(step.child, now)
        elif isinstance(step, Stop):
            self._tell(f"{step.name}: stopped, {step.why}")
            self._alive[step.name].stopping_s = now
            _signal(self._alive[step.name].pidfd, signal.SIGTERM)
        else:
            _signal(self._alive[step.name].pidfd, signal.SIGKILL)

    def _start(self, child: Child, now: float) -> None:
        try:
            self._register(child)
            with _starting(self._directory, child.name):
                self._adopt(child.name)
                program = None if child.name in self._alive else self._spawn(child)
        except Problems as error:
            words = "; ".join(f"{p.where}: {p.what}" for p in error.problems)
            self._past[child.name] = failed(self._past.get(child.name, Past()), 0.0, words, now)
            self._tell(f"{child.name}: not started: {words}")
            return
        if program is not None:
            self._keep(child.name, _Alive(child.digest, os.pidfd_open(program.pid), program, now))
            self._tell(f"{child.name}: started, process {program.pid}")

    def _spawn(self, child: Child) -> subprocess.Popen[bytes]:
        self._prepare(child.name)
        return _spawn(child, self._directory)

    def _note_adopted(self, child: Child) -> None:
        """One that outlived `down` because clients needed it is in no journal of this `up`."""
        if child.name in self._registered or not self.runs(child.name, child.digest):
            return
        try:
            self._register(child)
        except Problems as error:
            self._tell(f"{child.name}: {error}")

    def _register(self, child: Child) -> None:
        files = (*(f.path for f in child.files), child.ready, *child.more)
        step = ChildStep(child.name, str(self._directory), files, child.without)
        journal = journals.load(self._state_dir) or journals.Journal(journals.boot_id())
        if step not in journal.children:
            others = (c for c in journal.children if c.name != step.name)
            journals.save(msgspec.structs.replace(journal, children=(*others, step)), self._state_dir)
        self._registered.add(child.name)

    def _ended(self, name: str, now: float) -> None:
        it = self._alive.pop(name)
        self._poll.unregister(it.pidfd)
        os.close(it.pidfd)
        status = it.program.wait() if it.program else None
        if it.stopping_s is not None or name in self._leaving:
            self._past.pop(name, None)
            return
        words = " ".join(w for w in (_status(status), _last_words(self._log(name))) if w)
        self._past[name] = failed(self._past.get(name, Past()), now - it.began_s, words, now)
        self._tell(f"{name}: ended unasked: {words}")


def end_child(step: ChildStep) -> bool:
    """Ends a child that the journal names and removes what was written for it; whether it ran. Raises Problems.

    For `down`, when no daemon runs. Blocks a few milliseconds, up to 6 s for a child that does not listen.
    """
    directory = Path(step.directory)
    with _starting(directory, step.name):
        record = _load(directory, step.name)
        pidfd = _open(record)
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
            _signal(pidfd, number)
            # A pidfd is readable once its process has ended (pidfd_open(2)).
            if select.select([pidfd], [], [], STOP_WITHIN_S)[0]:
                return
        raise Problems(Problem(name, "does not end", "find out what holds it, then run `sidegate down` again"))
    finally:
        os.close(pidfd)


@contextlib.contextmanager
def _starting(directory: Path, name: str) -> Iterator[None]:
    """While this is held nobody starts the child, and none is on its way from fork to exec."""
    lock = Lock(directory / f"{name}.lock")
    if not lock.take(wait_s=STOP_WITHIN_S):
        raise Problems(Problem(name, "another command is starting it", "try again", Exit.FAULT))
    try:
        yield
    finally:
        lock.release()


def _spawn(child: Child, directory: Path) -> subprocess.Popen[bytes]:
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


def _load(directory: Path, name: str) -> Record | None:
    """None for no record, or a damaged one: without its start time nobody may be ended."""
    try:
        return msgspec.json.decode((directory / f"{name}.json").read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None


def _open(record: Record | None) -> int | None:
    """A pidfd of the recorded process, None if it lives no more. Opened first, checked then: its id cannot pass on."""
    if record is None or record.boot_id != journals.boot_id():
        return None
    try:
        pidfd = os.pidfd_open(record.pid)
        if _start_time(record.pid) == record.started and not _has_ended(pidfd):
            return pidfd
        os.close(pidfd)
    except OSError:
        # No such process, or it ended between the two looks.
        return None
    return None


def _has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def _start_time(pid: int) -> int:
    """The name before it may hold blanks and brackets (proc_pid_stat(5)). Raises OSError."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _signal(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _status(status: int | None) -> str:
    if status is None:
        return ""
    return f"signal {signal.Signals(-status).name};" if status < 0 else f"exit code {status};"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _last_words(log: Path) -> str:
    lines = _read(log).splitlines()
    return lines[-1][-_LAST_WORDS:] if lines else ""


def _keep_small(log: Path) -> None:
    """Begins it anew when it has grown too large; the child appends to it."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_LARGEST:
            os.truncate(log, 0)
