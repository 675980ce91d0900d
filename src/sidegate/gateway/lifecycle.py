"""Starting and ending the gateway, for the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlencode

import msgspec

from sidegate.gateway import apply as applying
from sidegate.gateway import control
from sidegate.gateway import journal as journals
from sidegate.gateway.apply import LiveBox
from sidegate.gateway.config import Config, load_config
from sidegate.gateway.daemon import NotStarted, Report, Started, digest
from sidegate.gateway.facts import list_table
from sidegate.gateway.places import Lock, Places, running_pid
from sidegate.gateway.view import ClientsView, StatusView, clients_in_kernel
from sidegate.problems import Exit, Problem, Problems
from sidegate.reading import decode_address

_ENDS_WITHIN_S = 10.0
_MODULE = "sidegate.gateway.daemon"


def _daemon_command(config: Path | None, *more: str) -> list[str]:
    options = ["--config", str(config)] if config is not None else []
    return [sys.executable, "-m", _MODULE, *options, *more]


def become_daemon(config: Path | None) -> NoReturn:
    """This process goes on as the daemon: as a service manager wants it."""
    command = _daemon_command(config)
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


def start_daemon(config: Path | None, at: Places) -> Started | None:
    """Starts the daemon in the background. None: one runs already with this configuration, nothing to do.

    Raises Problems; nothing is changed then.
    """
    if (pid := running_pid(at.lock)) is not None:
        _check_same(load_config(config), pid, at)
        return None
    read_end, write_end = os.pipe()
    _prepare(at)
    with open(read_end, "rb") as answer, at.log.open("w") as log:
        subprocess.Popen(
            _daemon_command(config, "--report-fd", str(write_end)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(write_end,),
            start_new_session=True,
            cwd="/",
        )
        os.close(write_end)
        said = answer.read()
    return _started(said, at)


def _prepare(at: Places) -> None:
    try:
        at.runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
        at.log.touch(mode=0o600)
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise Problems(Problem(str(at.runtime), what, "run it as root, with sudo", Exit.MISSING)) from None


def _started(said: bytes, at: Places) -> Started:
    if not said:
        raise Problems(Problem(str(at.log), "the daemon ended while starting", "its last words are there", Exit.FAULT))
    report: Report = msgspec.json.decode(said, type=Report)
    if isinstance(report, NotStarted):
        raise Problems(*report.problems)
    return report


def _check_same(config: Config, pid: int, at: Places) -> None:
    if status(at).config_digest != digest(config):
        what = f"a daemon is running (process {pid}) with another configuration"
        raise Problems(Problem("sidegate", what, "sidegate down, then sidegate up"))


def end(at: Places) -> applying.Report:
    """Ends the daemon and puts everything back as it was. Raises Problems."""
    lock = Lock(at.lock)
    if not lock.take():
        _end_daemon(at)
        if not lock.take():
            raise Problems(Problem("sidegate", "another command is at work", "try again", Exit.FAULT))
    try:
        report = applying.undo(LiveBox(), at.state)
        at.control.unlink(missing_ok=True)
        at.log.unlink(missing_ok=True)
    finally:
        lock.release()
    return report


def _end_daemon(at: Places) -> None:
    """SIGTERM, and SIGKILL for one that does not listen: nothing is lost with it."""
    pid = running_pid(at.lock)
    if pid is None:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _ENDS_WITHIN_S / 2
        try:
            signal.pidfd_send_signal(pidfd, number)
        except PermissionError:
            what = f"the daemon (process {pid}) cannot be ended"
            raise Problems(Problem("sidegate", what, "run it as root, with sudo", Exit.MISSING)) from None
        except ProcessLookupError:
            break
        while running_pid(at.lock) == pid and time.monotonic() < deadline:
            time.sleep(0.01)
        if running_pid(at.lock) != pid:
            break
    os.close(pidfd)


def status(at: Places) -> StatusView:
    """From the daemon, or from the kernel and the journal where none runs. Raises Problems."""
    if running_pid(at.lock) is not None:
        return msgspec.convert(control.ask(at.control, "GET", "/v1/status"), StatusView, dec_hook=decode_address)
    up = list_table() is not None
    faults = (
        ("no daemon is running: clients are masqueraded as their proofs lapse; start it: sidegate up",) if up else ()
    )
    if not up and journals.load(at.state) is not None:
        faults = ("a change was interrupted; `sidegate down` puts everything back, `sidegate up` completes it",)
    return StatusView(up=up, daemon=False, faults=faults)


def clients(at: Places, config: Path | None, ip: str | None = None, *, evidence: bool = False) -> ClientsView:
    """From the daemon, or from the kernel where none runs. Raises Problems."""
    if running_pid(at.lock) is not None:
        query = urlencode({**({"ip": ip} if ip else {}), **({"evidence": "1"} if evidence else {})})
        target = f"/v1/clients?{query}"
        return msgspec.convert(control.ask(at.control, "GET", target), ClientsView, dec_hook=decode_address)
    seen = clients_in_kernel(load_config(config))
    return ClientsView(tuple(c for c in seen if ip in (None, str(c.ip))), daemon=False)
