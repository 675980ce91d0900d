"""The process that `sidegate up` starts: without the command line's libraries it needs half the memory.

It holds the lock, tells how its start went, and runs the daemon to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import msgspec

from sidegate.gateway.box.apply import Changes
from sidegate.gateway.box.places import Lock, Places, places, running_pid
from sidegate.gateway.change import history
from sidegate.gateway.daemon import refusal
from sidegate.gateway.daemon.loop import Daemon
from sidegate.problems import Exit, Problem, Problems


class Started(msgspec.Struct, frozen=True, tag="started"):
    pid: int
    changes: Changes


class NotStarted(msgspec.Struct, frozen=True, tag="not-started"):
    problems: tuple[Problem, ...]


Report = Started | NotStarted

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""malloc.h"""
_LARGE = 1 << 16

Use = Literal["file", "file-or-last-good", "last-good"]


def notify_service_manager(state: str) -> None:
    """sd_notify(3): one datagram to the socket in NOTIFY_SOCKET, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


def give_memory_back() -> None:
    """Has large pieces that are freed go back to the system at once; glibc keeps more with every one (mallopt(3)).

    The text of a large list is needed for a moment, several times over. Another C library has its own ways.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(parameter, _LARGE)


def start(config_path: Path | None, at: Places, tell: Callable[[Report], None], use: Use = "file") -> int:
    """Runs the daemon to its end; `tell` hears how the start went. Returns the exit code."""
    lock = Lock(at.lock)

    def refuse(problems: tuple[Problem, ...]) -> None:
        if use != "file":
            refusal.keep(problems, at.state)
        tell(NotStarted(problems))

    try:
        chosen = _chosen(config_path, at, use)
    except Problems as error:
        refuse(error.problems)
        return int(Exit.SETTINGS if use == "file-or-last-good" else error.exit_code)
    try:
        if not lock.take():
            what = f"a daemon is running already (process {running_pid(at.lock)})"
            raise Problems(Problem("sidegate", what, "see: sidegate status"))
        lock.sign()
        daemon, changes = _begin(chosen, config_path, at, use)
    except Problems as error:
        refuse(error.problems)
        return int(error.exit_code)
    refusal.forget(at.state)
    tell(Started(os.getpid(), changes))
    notify_service_manager("READY=1")
    daemon.run()
    notify_service_manager("STOPPING=1")
    lock.release()
    return 0


def _begin(chosen: history.Chosen, path: Path | None, at: Places, use: Use) -> tuple[Daemon, Changes]:
    """Without a person, what asks for more than this box can do is replaced like a broken file. Raises Problems."""
    daemon = Daemon(chosen, path, at, is_attended=use == "file")
    try:
        return daemon, daemon.begin()
    except Problems as error:
        other = history.stand_in(chosen, at.state, error.problems) if use == "file-or-last-good" else None
        if other is None:
            raise
        daemon = Daemon(other, path, at, is_attended=False)
        try:
            return daemon, daemon.begin()
        except Problems:
            # It is this box that is not ready, not the file that is wrong.
            raise error from None


def _chosen(path: Path | None, at: Places, use: Use) -> history.Chosen:
    if use == "last-good":
        return history.last_good(at.state)
    return history.choose(path, at.state, by_person=use == "file")


def main() -> None:
    parser = argparse.ArgumentParser(prog="sidegate-daemon")
    parser.add_argument("--config", type=Path)
    about_use = "what to run with: the file; the last good version if it is broken or was rolled back; that one anyway"
    parser.add_argument("--use", choices=get_args(Use), default="file", help=about_use)
    parser.add_argument("--report-fd", type=int, help="where to tell, in JSON, how the start went")
    options = parser.parse_args()
    give_memory_back()

    def tell(report: Report) -> None:
        if options.report_fd is not None:
            with open(options.report_fd, "wb") as out:
                out.write(msgspec.json.encode(report))
        elif isinstance(report, NotStarted):
            print(Problems(*report.problems), file=sys.stderr)

    sys.exit(start(options.config, places(), tell, options.use))


if __name__ == "__main__":
    main()
