"""Forking, so that a child neither runs its parent's handlers nor outlives it unseen."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TOLD_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True)


def fork() -> int:
    """os.fork(2); in the child the signals that end a process end it at once.

    With Python's own handler a Ctrl-C would raise KeyboardInterrupt in the child too, and run the caller's `except` and
    `finally` blocks a second time.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD_TO_END)
    try:
        pid = os.fork()
        if pid == 0:
            for number in _TOLD_TO_END:
                signal.signal(number, signal.SIG_DFL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def die_with_parent(parent: int) -> None:
    """From now on the kernel kills this process when the thread that forked it ends (prctl(2), PR_SET_PDEATHSIG).

    The kernel forgets it when the process gains capabilities (kernel/cred.c, commit_creds): call this after entering a
    user namespace. parent: its process id; if it is dead already this process ends here.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")
    if os.getppid() != parent:
        os._exit(1)


def close_other_fds(*kept: int) -> None:
    """Closes what was inherited: a pipe counts as open as long as any process holds its end."""
    edges = [2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
    for low, high in itertools.pairwise(edges):
        os.closerange(low + 1, high)
