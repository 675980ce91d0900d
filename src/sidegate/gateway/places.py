"""Where the gateway keeps things, and the lock that says a daemon is running.

systemd gives a service its directories in STATE_DIRECTORY and RUNTIME_DIRECTORY (systemd.exec(5)); by hand they are
/var/lib/sidegate and /run/sidegate.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from msgspec import Struct

from sidegate.gateway.control import SOCKET_NAME
from sidegate.gateway.journal import STATE_DIR
from sidegate.problems import Exit, Problem, Problems

RUNTIME_DIR = Path("/run/sidegate")


class Places(Struct, frozen=True):
    state: Path = STATE_DIR
    runtime: Path = RUNTIME_DIR

    @property
    def control(self) -> Path:
        return self.runtime / SOCKET_NAME

    @property
    def lock(self) -> Path:
        return self.runtime / "daemon.pid"

    @property
    def log(self) -> Path:
        return self.runtime / "daemon.log"


def places() -> Places:
    """Those of this environment; of several directories of a service the first counts."""
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Places(Path(state) if state else STATE_DIR, Path(runtime) if runtime else RUNTIME_DIR)


class Lock:
    """Held by the running daemon, or by `down` while it puts things back. It ends with its process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def take(self) -> bool:
        """Whether we have it now. Raises Problems if the file cannot be made."""
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            what = f"cannot be written: {error.strerror}"
            raise Problems(Problem(str(self._path), what, "run it as root, with sudo", Exit.MISSING)) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        with contextlib.suppress(OSError):
            # The process id is a courtesy to people; what counts is the lock.
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
        return True

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def running_pid(path: Path) -> int | None:
    """The process that holds the lock, None if nobody does."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0) or None
    except (OSError, ValueError):
        return None
    return None
