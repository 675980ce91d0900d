"""A forked child ends when it is told to, and with its parent."""

from __future__ import annotations

import os
import signal
import time

import pytest

from sidegate.lab.processes import close_other_fds, die_with_parent, fork

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_a_child_without_running_handlers(number: signal.Signals) -> None:
    """Not even those of the parent: its `finally` blocks are on the child's stack too."""
    before = signal.signal(number, lambda *_: os._exit(77))
    try:
        pid = fork()
        if pid == 0:
            os.kill(os.getpid(), number)
            os._exit(78)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -number
    finally:
        signal.signal(number, before)


def test_the_parent_keeps_its_handlers_and_its_mask() -> None:
    before = [signal.getsignal(number) for number in ENDING], signal.pthread_sigmask(signal.SIG_BLOCK, ())
    pid = fork()
    if pid == 0:
        os._exit(0 if not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(ENDING) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ([signal.getsignal(number) for number in ENDING], signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before


def test_a_child_dies_with_its_parent() -> None:
    """The reading end of a pipe sees the end of the last process that holds the other one."""
    reading, writing = os.pipe()
    parent = fork()
    if parent == 0:
        child = fork()
        if child == 0:
            die_with_parent(os.getppid())
            os.write(writing, b"ready")
            time.sleep(1000)
        while True:
            signal.pause()
    os.close(writing)
    assert os.read(reading, 5) == b"ready"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_child_whose_parent_is_dead_already_ends_at_once() -> None:
    pid = fork()
    if pid == 0:
        die_with_parent(os.getppid() + 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_close_other_fds() -> None:
    reading, writing = os.pipe()
    kept, other = os.dup(0), os.dup(0)
    pid = fork()
    if pid == 0:
        os.dup2(other, 200)
        close_other_fds(kept, writing)
        left = [fd for fd in range(256) if is_open(fd)]
        os.write(writing, repr(left).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    assert os.read(reading, 1000).decode() == repr(sorted([0, 1, 2, kept, writing]))
    for fd in (reading, kept, other):
        os.close(fd)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
