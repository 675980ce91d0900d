"""Keeps children running, for the daemon's loop."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.children.process import (
    has_ended,
    keep_small,
    last_words,
    load,
    open_alive,
    read_text,
    send_signal,
    spawn,
    starting,
    status_words,
)
from sidegate.gateway.box.children.schedule import (
    STEADY_S,
    Child,
    Past,
    Seen,
    Start,
    Step,
    Stop,
    failed,
    next_steps,
    next_time,
)
from sidegate.gateway.box.journal import ChildStep
from sidegate.problems import Exit, Problem, Problems

_STARTS_WITHIN_S = 10.0
"""Most serve after some hundredths; a box that has just been switched on is busy."""
_LOOK_AGAIN_S = 0.01


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
        return (
            it is not None and it.digest == child.digest and read_text(Path(child.ready)) == str(self.pid(child.name))
        )

    def pid(self, name: str) -> int | None:
        """Of a child that runs."""
        record = load(self._directory, name) if name in self._alive else None
        return record.pid if record else None

    def signal(self, name: str, number: signal.Signals) -> None:
        """For a child that runs."""
        send_signal(self._alive[name].pidfd, number)

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although no child ended; None: never."""
        return next_time(self._desired, self._seen(), self._past)

    def turn(self, now: float) -> None:
        """Notices who ended; starts and stops. What fails is a fault and is tried again."""
        for name in [name for name, it in self._alive.items() if has_ended(it.pidfd)]:
            self._ended(name, now)
        for step in next_steps(self._desired, self._seen(), self._past, now):
            self._do(step, now)
        for child in self._desired:
            self._note_adopted(child)
        for name in self._alive:
            keep_small(self._log(name))

    def settle(self, within_s: float | None = None) -> None:
        """Waits until all that should run serves, as long as a start may take. Raises Problems for each that does not.

        within_s: no longer than this, for a loop that others wait for. The time counts once they are begun, and there
        is a look after it: whoever is held up in between may be late.
        """
        self.turn(time.monotonic())
        deadline = time.monotonic() + (_STARTS_WITHIN_S if within_s is None else within_s)
        while True:
            is_late = time.monotonic() >= deadline
            lacking = [c for c in self._desired if not self.serves(c)]
            if not lacking:
                return
            if is_late or any(p.failures for p in self._past.values()):
                raise Problems(*map(self._problem, lacking))
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
        words = past.words or last_words(self._log(child.name)) or "it said nothing"
        often = f" {past.failures} times in a row" if past.failures > 1 else ""
        what = f"ended{often}: {words}" if past.failures else f"does not serve yet: {words}"
        return Problem(child.name, what, f"its log: {self._log(child.name)}", Exit.FAULT)

    # What is done

    def _adopt(self, name: str) -> None:
        record = load(self._directory, name)
        pidfd = open_alive(record)
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
            send_signal(self._alive[step.name].pidfd, signal.SIGTERM)
        else:
            send_signal(self._alive[step.name].pidfd, signal.SIGKILL)

    def _start(self, child: Child, now: float) -> None:
        try:
            self._register(child)
            with starting(self._directory, child.name):
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
        return spawn(child, self._directory)

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
        words = " ".join(w for w in (status_words(status), last_words(self._log(name))) if w)
        self._past[name] = failed(self._past.get(name, Past()), now - it.began_s, words, now)
        self._tell(f"{name}: ended unasked: {words}")
