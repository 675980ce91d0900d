"""Lists of upstreams that somebody else keeps: read again every day, and the last good copy kept.

A file is read when it is asked for. What comes from an address is fetched by a process of its own (`fetch`); only what
has an upstream in it replaces the copy, so that a login page or an empty answer does no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from sidegate.gateway.box.files import replace_file
from sidegate.gateway.engine.entries import read_entries
from sidegate.gateway.engine.fetch_limits import LARGEST, WITHIN_S
from sidegate.problems import Exit, Problem

EVERY_S = 86400.0
RETRY_FIRST_S, RETRY_LONGEST_S = 60.0, 3600.0
"""After a failure, and after many: twice as long each time."""
_ENDS_WITHIN_S = 2.0
"""A process that has closed its output: it has nothing left to do, and needs no longer than until its turn comes."""
_CHUNK = 1 << 16
_LONGEST_WORDS = 200


class Copy(Struct, frozen=True):
    """Of one subscription. where: its place in the configuration. text: the last good one, None without any.

    problem: why there is no newer one.
    """

    where: str
    text: str | None = None
    problem: Problem | None = None


def copy_path(source: str, state: Path) -> Path:
    """The address is a secret: the file has another name."""
    return state / "subscriptions" / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.txt"


def is_address(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def file_copies(sources: Sequence[str]) -> tuple[Copy, ...]:
    """Of those that are files on this box, as they are now: nobody is asked for the others."""
    named = [(f"proxy.subscription[{i}]", Path(it)) for i, it in enumerate(sources) if not is_address(it)]
    return tuple(Copy(where, *_read(path, where, must_be=True)) for where, path in named)


class Subscriptions:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    sources: as `proxy.subscription`. tell: hears what came of it.
    """

    def __init__(self, sources: Sequence[str], state: Path, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._poll = select.epoll()
        self._sources = [_Source(f"proxy.subscription[{i}]", it, state) for i, it in enumerate(sources)]

    def fileno(self) -> int:
        return self._poll.fileno()

    def copies(self) -> tuple[Copy, ...]:
        """What there is now, in the order of the configuration."""
        return tuple(it.copy() for it in self._sources)

    def faults(self) -> tuple[Problem, ...]:
        """Why there is no newer copy, of each that was last fetched in vain."""
        return tuple(it.problem for it in self._sources if it.problem is not None)

    def try_again(self, now: float) -> None:
        """Somebody asks: what was fetched in vain is fetched as soon as may be."""
        for it in self._sources:
            if it.problem is not None and it.fetching is None:
                it.deadline_s = now

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although nothing came; None: never."""
        return min((it.deadline_s for it in self._sources if it.is_remote), default=None)

    def turn(self, now: float, proxy_port: int | None = None) -> bool:
        """Whether a copy changed. proxy_port: of an upstream that works, where the first way did not."""
        changed = [self._turn(it, now, proxy_port) for it in self._sources if it.is_remote]
        return any(changed)

    def _turn(self, it: _Source, now: float, proxy_port: int | None) -> bool:
        if it.fetching is None:
            if now >= it.deadline_s:
                it.start(now, proxy_port)
                self._poll.register(it.fetching_fd, select.EPOLLIN | select.EPOLLHUP)
            return False
        ended = it.fetching.read() or now >= it.deadline_s
        if not ended:
            return False
        self._poll.unregister(it.fetching_fd)
        return it.finish(now, self._tell)

    def close(self) -> None:
        """Ends what is being fetched; the copies stay."""
        for it in self._sources:
            if it.fetching is not None:
                it.fetching.end()
        self._poll.close()


class _Source:
    def __init__(self, where: str, source: str, state: Path) -> None:
        self.where, self.is_remote = where, is_address(source)
        self._source, self._path = source, copy_path(source, state) if self.is_remote else Path(source)
        self.problem: Problem | None = None
        self._failures = 0
        self.fetching: _Fetching | None = None
        self.deadline_s = time.monotonic() + max(0.0, EVERY_S - _age_s(self._path)) if self.is_remote else 0.0

    @property
    def fetching_fd(self) -> int:
        assert self.fetching is not None  # noqa: S101 (for the type checker: only called while one is under way)
        return self.fetching.fileno()

    def copy(self) -> Copy:
        text, problem = _read(self._path, self.where, must_be=not self.is_remote)
        return Copy(self.where, text, self.problem or problem)

    def start(self, now: float, proxy_port: int | None) -> None:
        """By turns straight and through the proxy: where the one is blocked, the other may not be."""
        by_proxy = proxy_port is not None and self._failures % 2 == 1
        self.fetching = _Fetching(self._source, proxy_port if by_proxy else None)
        self.deadline_s = now + WITHIN_S + 5

    def finish(self, now: float, tell: Callable[[str], None]) -> bool:
        assert self.fetching is not None  # noqa: S101 (as above)
        body, words = self.fetching.end()
        self.fetching = None
        problem = self._keep(body) if words is None else self._trouble(f"cannot be fetched: {words}")
        self._failures = self._failures + 1 if problem else 0
        rest_s = min(RETRY_FIRST_S * 2.0 ** min(self._failures - 1, 10), RETRY_LONGEST_S) if problem else EVERY_S
        self.problem, self.deadline_s = problem, now + rest_s
        tell(f"{self.where}: {problem.what if problem else 'fetched'}")
        return problem is None

    def _keep(self, body: bytes) -> Problem | None:
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            return self._trouble("what was fetched is no text")
        read = read_entries(text, self.where)
        if not read.upstreams:
            return self._trouble(f"what was fetched is not used: {read.problems[0].what}")
        try:
            replace_file(self._path, body)
        except OSError as error:
            return self._trouble(f"cannot be kept: {error.strerror}")
        return None

    def _trouble(self, what: str) -> Problem:
        kept = "the last good copy is used" if self._path.exists() else "there is no copy of it yet"
        return Problem(self.where, what, f"{kept}; it is tried again", Exit.FAULT)


def _age_s(path: Path) -> float:
    """Since the copy was written; endless without one, and where the clock has been set back."""
    try:
        age_s = time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")
    return age_s if age_s >= 0 else float("inf")


def _read(path: Path, where: str, *, must_be: bool) -> tuple[str | None, Problem | None]:
    """must_be: whether it is a problem if there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            return None, Problem(where, f"larger than {LARGEST} bytes")
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        return None, Problem(where, "not UTF-8 text")
    except FileNotFoundError as error:
        return None, Problem(where, f"cannot be read: {error.strerror}", "mend proxy.subscription") if must_be else None
    except OSError as error:
        return None, Problem(where, f"cannot be read: {error.strerror}", "mend proxy.subscription")


class _Fetching:
    """The process, whose output is taken as it comes."""

    def __init__(self, url: str, proxy_port: int | None) -> None:
        proxy = f"http://127.0.0.1:{proxy_port}" if proxy_port else None
        self._got = bytearray()
        self._is_closed = False
        self._program = subprocess.Popen(
            [sys.executable, "-I", "-m", "sidegate.gateway.engine.fetch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._program.stdin is not None and self._program.stdout is not None  # noqa: PT018, S101
        self._out = self._program.stdout
        os.set_blocking(self._out.fileno(), False)
        with contextlib.suppress(BrokenPipeError), self._program.stdin as stdin:
            # It is less than a pipe holds, so this never blocks.
            stdin.write(msgspec.json.encode({"url": url, "proxy": proxy}))

    def fileno(self) -> int:
        return self._out.fileno()

    def read(self) -> bool:
        """Whether that was all, or is too much."""
        while (piece := self._out.read(_CHUNK)) is not None:
            self._is_closed = not piece
            if self._is_closed or len(self._got) > LARGEST:
                return True
            self._got += piece
        return False

    def end(self) -> tuple[bytes, str | None]:
        """What was got, or words about why there is nothing."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.wait(_ENDS_WITHIN_S if self._is_closed else 0.0)
        self._program.kill()
        code = self._program.wait()
        self._out.close()
        if code == 0:
            return bytes(self._got), None
        words = self._got.decode("utf-8", "replace").strip()[:_LONGEST_WORDS]
        return b"", words if code == 1 and words else "no answer in time"
