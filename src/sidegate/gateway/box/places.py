"""Where the gateway keeps things, and the lock that says a daemon is running.

systemd gives a service its directories in STATE_DIRECTORY and RUNTIME_DIRECTORY (systemd.exec(5)); by hand they are
/var/lib/sidegate and /run/sidegate.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from pathlib import Path

from msgspec import Struct

from sidegate.gateway.box.journal import STATE_DIR
from sidegate.gateway.daemon.control import SOCKET_NAME
from sidegate.problems import Exit, Problem, Problems

RUNTIME_DIR = Path("/run/sidegate")
_LOOK_AGAIN_S = 0.02


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
    def commands(self) -> Path:
        """Held by `up` and `down` while they work, so that they do so one after the other."""
        return self.runtime / "command.pid"

    @property
    def timer(self) -> Path:
        """Held by the process that rolls back what nobody confirms."""
        return self.runtime / "timer.pid"

    @property
    def aside(self) -> Path:
        """Held by the process that hands clients to the router after `down`."""
        return self.runtime / "step-aside.pid"

    @property
    def chosen(self) -> Path:
        """The upstream that is used, for the next daemon to go on with."""
        return self.runtime / "chosen-upstream"

    @property
    def log(self) -> Path:
        return self.runtime / "daemon.log"


def places() -> Places:
    """Those of this environment; of several directories of a service the first counts."""
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Places(Path(state) if state else STATE_DIR, Path(runtime) if runtime else RUNTIME_DIR)


class Lock:
    """Held by the running daemon, or by `down` while it puts things back. It ends with its process.

    An open file description lock (fcntl(2)): unlike flock(2), it can be asked for without being taken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def take(self, wait_s: float = 0.0) -> bool:
        """Whether we have it now, or wait_s later. Raises Problems if the file cannot be made."""
        fd = self._open()
        deadline = time.monotonic() + wait_s
        while not _lock(fd):
            if time.monotonic() >= deadline:
                os.close(fd)
                return False
            time.sleep(_LOOK_AGAIN_S)
        self._fd = fd
        os.ftruncate(fd, 0)
        return True

    def fileno(self) -> int:
        """What a child is to inherit that goes on holding it. Raises ValueError where we have it not."""
        if self._fd is None:
            raise ValueError(f"{self._path} is not held")
        return self._fd

    def inherit(self, fd: int) -> None:
        """We hold it on, by the file descriptor that our parent took it with."""
        self._fd = fd
        os.set_inheritable(fd, False)

    def sign(self) -> None:
        """Tells our process id to whoever asks. Raises Problems where there is no room for it.

        Not a part of `take`, so that a full disk keeps nobody from `down`.
        """
        try:
            if self._fd is not None:
                os.write(self._fd, f"{os.getpid()}\n".encode())
        except OSError as error:
            raise Problems(unwritable(self._path, error)) from None

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Problems(unwritable(self._path, error)) from None


def unwritable(path: Path, error: OSError) -> Problem:
    """For a file or a directory of ours that the system refuses."""
    what = f"cannot be written: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return Problem(str(path), what, "run it as root, with sudo", Exit.MISSING)
    return Problem(str(path), what)


def _record(kind: int) -> bytes:
    """struct flock (fcntl(2)) for the whole file; l_pid is 0 for open file description locks."""
    return struct.pack("@hhqqi0q", kind, os.SEEK_SET, 0, 0, 0)


def _lock(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _record(fcntl.F_WRLCK))
    except BlockingIOError:
        return False
    return True


def running_pid(path: Path) -> int | None:
    """The process that holds the lock, None if nobody does; 0 for one that has not signed."""
    try:
        with path.open("rb") as file:
            found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _record(fcntl.F_WRLCK))
            if struct.unpack_from("@h", found)[0] == fcntl.F_UNLCK:
                return None
            return int(file.read().strip() or 0)
    except (OSError, ValueError):
        return None
