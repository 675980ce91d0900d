"""Starting and ending the gateway, for the command line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

import msgspec

from sidegate.gateway import apply as applying
from sidegate.gateway import control
from sidegate.gateway import journal as journals
from sidegate.gateway.apply import LiveBox
from sidegate.gateway.config import Config, load_config
from sidegate.gateway.daemon import digest
from sidegate.gateway.facts import list_table, missing_capabilities
from sidegate.gateway.places import Lock, Places, running_pid, unwritable
from sidegate.gateway.service import NotStarted, Report, Started
from sidegate.gateway.view import ClientsView, StatusView, clients_in_kernel
from sidegate.problems import Exit, Problem, Problems
from sidegate.reading import decode_address

_ENDS_WITHIN_S = 5.0
_STARTS_WITHIN_S = 5.0
_COMMAND_WAITS_S = 20.0
_LOOK_AGAIN_S = 0.02
_MODULE = "sidegate.gateway.service"


def _daemon_command(config: Path | None, *more: str) -> list[str]:
    options = ["--config", str(config.absolute())] if config is not None else []
    return [sys.executable, "-m", _MODULE, *options, *more]


def become_daemon(config: Path | None) -> NoReturn:
    """This process goes on as the daemon: as a service manager wants it."""
    command = _daemon_command(config)
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


@contextlib.contextmanager
def alone(at: Places) -> Iterator[None]:
    """While no other `up` or `down` is at work. Raises Problems if one takes too long."""
    lock = Lock(at.commands)
    if not lock.take(_COMMAND_WAITS_S):
        what = f"another command is at work (process {running_pid(at.commands)})"
        raise Problems(Problem("sidegate", what, "try again", Exit.FAULT))
    try:
        yield
    finally:
        lock.release()


def start_daemon(config: Path | None, at: Places) -> Started | None:
    """Starts the daemon in the background. None: one runs already with this configuration, nothing to do.

    Raises Problems; nothing is changed then.
    """
    with alone(at):
        if (pid := running_pid(at.lock)) is not None:
            _check_same(load_config(config), pid, at)
            return None
        return _started(_start(config, at), at)


def _start(config: Path | None, at: Places) -> bytes:
    """What the new daemon says of its start; nothing if it dies."""
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as answer, open(_fresh_log(at.log), "ab") as log:
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
        return answer.read()


def _fresh_log(path: Path) -> int:
    """Appending, so that whoever truncates the file finds it begun anew."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Problems(unwritable(path, error)) from None


def _started(said: bytes, at: Places) -> Started:
    if not said:
        raise Problems(Problem(str(at.log), "the daemon ended while starting", "its last words are there", Exit.FAULT))
    report: Report = msgspec.json.decode(said, type=Report)
    if isinstance(report, NotStarted):
        raise Problems(*report.problems)
    return report


def _check_same(config: Config, pid: int, at: Places) -> None:
    running = _ask_daemon(at, "/v1/status")
    if running is not None and running["config_digest"] != digest(config):
        what = f"a daemon is running (process {pid}) with another configuration"
        raise Problems(Problem("sidegate", what, "sidegate down, then sidegate up"))


def end(at: Places) -> applying.Report:
    """Ends the daemon and puts everything back as it was. Raises Problems."""
    with alone(at):
        return end_alone(at)


def end_alone(at: Places) -> applying.Report:
    """`end` for whoever is `alone`. Raises Problems."""
    lock = _end_daemon(at.lock)
    try:
        report = applying.undo(LiveBox(), at.state)
        at.control.unlink(missing_ok=True)
        at.log.unlink(missing_ok=True)
    finally:
        lock.release()
    return report


def _end_daemon(path: Path) -> Lock:
    """The lock that it held. SIGTERM, and SIGKILL for one that does not listen: nothing is lost with it."""
    lock = Lock(path)
    if lock.take():
        return lock
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(running_pid(path), number)
        if lock.take(_ENDS_WITHIN_S):
            return lock
    raise Problems(Problem("sidegate", "the daemon does not end", "try again", Exit.FAULT))


def _signal(pid: int | None, number: signal.Signals) -> None:
    try:
        if pid:
            os.kill(pid, number)
    except PermissionError:
        what = f"the daemon (process {pid}) cannot be ended"
        raise Problems(Problem("sidegate", what, "run it as root, with sudo", Exit.MISSING)) from None
    except ProcessLookupError:
        return


def _ask_daemon(at: Places, target: str) -> Any | None:
    """What the daemon answers; None if none is running. One that is starting is waited for. Raises Problems."""
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while running_pid(at.lock) is not None:
        try:
            return control.ask(at.control, "GET", target)
        except control.NotListening:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_LOOK_AGAIN_S)
    return None


def status(at: Places) -> StatusView:
    """From the daemon, or from the kernel and the journal where none runs. Raises Problems."""
    told = _ask_daemon(at, "/v1/status")
    if told is not None:
        return msgspec.convert(told, StatusView, dec_hook=decode_address)
    _check_privileges()
    has_table, journal = list_table() is not None, journals.load(at.state)
    is_up = has_table and journal is not None
    return StatusView(up=is_up, daemon=False, faults=_faults_without_daemon(has_table, journal is not None))


def _faults_without_daemon(has_table: bool, has_journal: bool) -> tuple[str, ...]:
    if has_table and has_journal:
        return ("no daemon is running: clients are masqueraded as their proofs lapse; start it: sidegate up",)
    if has_journal:
        return ("a change was interrupted; `sidegate down` puts everything back, `sidegate up` completes it",)
    if has_table:
        return ("an nft table named sidegate is there that is not ours",)
    return ()


def _check_privileges() -> None:
    """The kernel tells its tables to nobody else."""
    lacking = missing_capabilities(Path("/proc/self/status").read_text())
    if "CAP_NET_ADMIN" in lacking:
        what = "no daemon is running, and without privilege the kernel tells nothing"
        raise Problems(Problem("privileges", what, "run it as root, with sudo", Exit.MISSING))


def clients(at: Places, config: Path | None, ip: str | None = None, *, evidence: bool = False) -> ClientsView:
    """From the daemon, or from the kernel where none runs. Raises Problems."""
    query = urlencode({**({"ip": ip} if ip else {}), **({"evidence": "1"} if evidence else {})})
    told = _ask_daemon(at, f"/v1/clients?{query}")
    if told is not None:
        return msgspec.convert(told, ClientsView, dec_hook=decode_address)
    settings = load_config(config)
    _check_privileges()
    seen = clients_in_kernel(settings)
    return ClientsView(tuple(c for c in seen if ip in (None, str(c.ip))), daemon=False)
