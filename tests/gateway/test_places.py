"""The lock that says a daemon is running, and where things are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidegate.gateway.box.places import Lock, Places, places, running_pid
from sidegate.problems import Exit, Problems


def test_lock_is_taken_once_and_tells_by_whom(tmp_path: Path) -> None:
    path = tmp_path / "run" / "daemon.pid"
    assert running_pid(path) is None
    first, second = Lock(path), Lock(path)
    assert (first.take(), second.take(), running_pid(path)) == (True, False, 0)
    first.sign()
    assert running_pid(path) == os.getpid()
    first.release()
    assert (running_pid(path), second.take(), running_pid(path)) == (None, True, 0)
    second.release()


def test_asking_never_gets_in_the_way_of_taking(tmp_path: Path) -> None:
    """With flock(2) asking took the lock for a moment, and a daemon starting then thought that another one ran."""
    path = tmp_path / "daemon.pid"
    asking = "import sys; from pathlib import Path; from sidegate.gateway.box.places import running_pid\n"
    asking += "print(flush=True)\nwhile True: running_pid(Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", asking, str(path)], stdout=subprocess.PIPE) as asker:
        assert asker.stdout is not None
        asker.stdout.readline()
        for _ in range(2000):
            lock = Lock(path)
            assert lock.take()
            lock.release()
        asker.kill()


def test_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "daemon.pid"
    holding = "import sys, time; from pathlib import Path; from sidegate.gateway.box.places import Lock\n"
    holding += "lock = Lock(Path(sys.argv[1]))\nprint(lock.take(), lock.sign(), flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holding, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True None\n"
        lock = Lock(path)
        assert (lock.take(), running_pid(path)) == (False, holder.pid)
        holder.kill()
        assert lock.take(wait_s=30)
        lock.release()


def test_waiting_ends(tmp_path: Path) -> None:
    held, other = Lock(tmp_path / "l"), Lock(tmp_path / "l")
    assert held.take()
    assert not other.take(wait_s=0.05)
    held.release()


def test_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Problems, match="cannot be written") as found:
        Lock(tmp_path / "file" / "daemon.pid").take()
    assert found.value.exit_code == Exit.USAGE


def test_disk_without_room_for_the_signature() -> None:
    lock = Lock(Path("/dev/full"))
    lock._fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(Problems, match="No space left on device"):
        lock.sign()
    lock.release()


def test_places_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/a")
    assert places() == Places(Path("/var/lib/a"), Path("/run/a"))
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "")
    assert places() == Places()
