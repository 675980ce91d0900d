"""Starting and ending the gateway, for the command line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

import msgspec

from sidegate.gateway.aside import handover, stepaside
from sidegate.gateway.box import apply as applying
from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.apply import Changes
from sidegate.gateway.box.facts import list_table, missing_capabilities
from sidegate.gateway.box.livebox import LiveBox
from sidegate.gateway.box.places import Lock, Places, running_pid, unwritable
from sidegate.gateway.change import history, pending, timer
from sidegate.gateway.change.diff import on_this_box
from sidegate.gateway.config import digest, load_config
from sidegate.gateway.daemon import control, refusal
from sidegate.gateway.daemon.service import NotStarted, Report, Started, Use
from sidegate.gateway.dhcp.advert import end_advertiser
from sidegate.gateway.split import shelf
from sidegate.gateway.split.explaining import ExplainView
from sidegate.gateway.split.review import foreseen
from sidegate.gateway.view import ClientsView, StatusView, clients_in_kernel
from sidegate.problems import Exit, Problem, Problems, in_file
from sidegate.reading import decode_address

SERVES_ALONE = "this box hands out addresses until then, and nobody after: turn on the router's DHCP, or sidegate up"
_ENDS_WITHIN_S = 5.0
_STARTS_WITHIN_S = 5.0
_COMMAND_WAITS_S = 20.0
_LOOK_AGAIN_S = 0.02
_MODULE = "sidegate.gateway.daemon.service"


def _daemon_command(config: Path | None, *more: str) -> list[str]:
    options = ["--config", str(config.absolute())] if config is not None else []
    return [sys.executable, "-m", _MODULE, *options, *more]


def become_daemon(config: Path | None, at: Places) -> NoReturn:
    """This process goes on as the daemon: as a service manager wants it. Raises Problems.

    Nobody may be there: the last good configuration stands in for a broken one, and a start that was not confirmed is
    not done again.
    """
    waiting = pending.load(at.state)
    if waiting is not None and waiting.state == "rolled-back" and waiting.back_to is None:
        remedy = "sidegate up starts it all the same, sidegate down forgets it"
        raise Problems(Problem("sidegate", f"the last start was rolled back: {waiting.told}", remedy, Exit.SETTINGS))
    damage = _damaged_journal_set_aside(at)
    if damage is not None:
        print(f"{damage.where}: {damage.what}", file=sys.stderr, flush=True)
    command = _daemon_command(config, "--use", "file-or-last-good")
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


def _damaged_journal_set_aside(at: Places) -> Problem | None:
    """Where nothing of ours is in the kernel. A journal that is whole needs no look there: that may lack its means."""
    try:
        journals.load(at.state)
    except Problems:
        return journals.set_damaged_aside(at.state) if list_table() is None else None
    return None


@contextlib.contextmanager
def alone(at: Places) -> Iterator[None]:
    """While no other `up` or `down` is at work. Raises Problems if one takes too long."""
    lock = Lock(at.commands)
    if not lock.take(_COMMAND_WAITS_S):
        raise Problems(Problem("sidegate", "another command is at work", "try again", Exit.FAULT))
    try:
        yield
    finally:
        lock.release()


class Went(msgspec.Struct, frozen=True):
    """How `up` went. was_up: a daemon ran already; None for changes: with this very configuration, nothing to do."""

    pid: int
    was_up: bool
    changes: Changes | None


def start_daemon(config: Path | None, at: Places, confirm_s: float | None = None) -> Went:
    """Starts the daemon in the background, or has a running one take the configuration.

    confirm_s: rolled back after as many seconds unless confirmed. Raises Problems; nothing is changed then.
    """
    with alone(at):
        chosen = history.read(config)
        running = _ask_daemon(at, "/v1/status")
        is_same = running is not None and running["config_digest"] == digest(chosen.config)
        _check_nothing_waits(at, is_allowed=is_same and confirm_s is None)
        if running is not None:
            # Of an older version.
            with contextlib.suppress(control.Unknown):
                control.ask(at.control, "POST", "/v1/accept-address")
        if running is not None and is_same:
            _take_back(at)
            return Went(running["pid"], True, None)
        if confirm_s is None:
            return _change(config, running, at)
        return _change_for_a_while(config, running, at, confirm_s)


def _take_back(at: Places) -> None:
    """Clients that a daemon handed over are taken back by it, once the check is up; those of a killed `down` here."""
    aside = stepaside.load(at.state)
    if aside is not None and aside.cause:
        control.ask(at.control, "POST", "/v1/take-back")
    else:
        stepaside.take_back(at)


def _check_nothing_waits(at: Places, *, is_allowed: bool) -> None:
    """A second change on top of one that waits could not be undone one by one. One rolled back is forgotten here."""
    waiting = pending.load(at.state)
    if waiting is None or (waiting.state == "waiting" and is_allowed):
        return
    if waiting.state == "waiting":
        what = f"a change waits to be confirmed ({pending.left_s(waiting):.0f} s left)"
        raise Problems(Problem("sidegate", what, "sidegate confirm keeps it, sidegate down undoes it"))
    pending.discard(at.state)


def _change(config: Path | None, running: Any | None, at: Places) -> Went:
    if running is None:
        started = _started(_start(config, at), at)
        return Went(started.pid, False, started.changes)
    _read_ahead(config or Path(running["config"]), at)
    changes = control.ask(
        at.control,
        "POST",
        f"/v1/reload?{urlencode({'config': str(config.absolute())})}" if config is not None else "/v1/reload",
    )
    return Went(running["pid"], True, msgspec.convert(changes, Changes))


def _read_ahead(config: Path, at: Places) -> None:
    """The daemon reads it, too, and tells what is wrong with it."""
    with contextlib.suppress(Problems):
        shelf.read_ahead(load_config(config), at.state)


def _change_for_a_while(config: Path | None, running: Any | None, at: Places, confirm_s: float) -> Went:
    """The way back is on disk and its timer runs before anything is changed; the time counts from the end of it."""
    is_up = running is not None or journals.load(at.state) is not None
    back_to = history.load(at.state).in_force if is_up else None
    connection = pending.own_connection()
    pending.save(pending.fresh(confirm_s, back_to, connection), at.state)
    try:
        timer.start(at)
        went = _change(config, running, at)
    except Problems:
        pending.discard(at.state)
        raise
    pending.save(pending.fresh(confirm_s, back_to, connection), at.state)
    return went


def go_back(version: int, at: Places) -> None:
    """For whoever is `alone`: that version of the configuration is in force again, and it is verified that it is.

    Raises Problems.
    """
    history.save(history.gone_back(history.load(at.state), version), at.state)
    if running_pid(at.lock) is not None:
        control.ask(at.control, "POST", "/v1/reload?use=last-good")
    else:
        _started(_start(None, at, "last-good"), at)
    wanted, now = history.last_good(at.state).config, _ask_daemon(at, "/v1/status")
    if now is None or now["config_digest"] != digest(wanted):
        raise Problems(Problem("sidegate", f"version {version} of the configuration is not in force", "sidegate down"))


def reload(at: Places) -> Went:
    """The running daemon reads its configuration again. Raises Problems; what was in force stays so then."""
    with alone(at):
        running = _ask_daemon(at, "/v1/status")
        if running is None:
            raise Problems(Problem("sidegate", "no daemon is running", "sidegate up"))
        _check_nothing_waits(at, is_allowed=False)
        return _change(None, running, at)


def _start(config: Path | None, at: Places, use: Use = "file") -> bytes:
    """What the new daemon says of its start; nothing if it dies."""
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as answer, open(_fresh_log(at.log), "ab") as log:
        subprocess.Popen(
            _daemon_command(config, "--use", use, "--report-fd", str(write_end)),
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


class Ended(msgspec.Struct, frozen=True):
    """How `down` went. aside_s: for how long at most the router stands in for this box; None: clients were not handed.

    serves_alone: whether this box hands out addresses meanwhile, and nobody does after that. why_not: why they were
    not, although they might have been, or not all of it; empty if nobody used this box. unblocks: see `handover.Plan`.
    """

    report: applying.Report
    aside_s: float | None = None
    serves_alone: bool = False
    why_not: str = ""
    unblocks: bool = False


def end(at: Places, step_aside_s: float | None = None, *, must: bool = False) -> Ended:
    """Ends the daemon and puts everything back as it was. Raises Problems.

    step_aside_s: first hands the clients to the router, where there are any, which stands in for so long at most. Where
    that cannot be done it goes down without, unless it `must`: then nothing is changed.
    """
    with alone(at):
        plan, why_not = None, ""
        if step_aside_s is None:
            stepaside.clear(at)
        elif journals.load(at.state) is not None:
            plan, why_not = _plan_handover(at, step_aside_s, must=must)
        ended = _end_handing_over(at, plan, must=must) if plan else Ended(end_alone(at), why_not=why_not)
        # Only now: killed before this, what waits is rolled back, which is what `down` was to do.
        pending.discard(at.state)
        return ended


def _plan_handover(at: Places, lasts_s: float, *, must: bool) -> tuple[handover.Plan | None, str]:
    try:
        plan = handover.make_plan(lasts_s, at, always=must)
    except Problems as error:
        if must:
            raise
        stepaside.clear(at)
        return None, str(error)
    if plan is None:
        stepaside.clear(at)
    return plan, ""


def _end_handing_over(at: Places, plan: handover.Plan, *, must: bool) -> Ended:
    """The daemon goes first: it would put back what is handed over. The kernel carries the clients meanwhile."""
    _end_daemon(at.lock).release()
    try:
        trouble = handover.hand_over(plan, at, lambda _: None)
    except Problems as error:
        if must:
            _started(_start(None, at, "last-good"), at)
            raise
        stepaside.clear(at, ends_children=False)
        return Ended(end_alone(at), why_not=str(error))
    report = end_alone(at, kept=handover.KEPT)
    return Ended(report, plan.lasts_s, plan.manner.is_steady, "; ".join(map(str, trouble)), plan.unblocks)


def end_alone(at: Places, kept: Collection[str] = ()) -> applying.Report:
    """`end` for whoever is `alone`. kept: children that go on. Raises Problems."""
    lock = _end_daemon(at.lock)
    try:
        end_advertiser(at.state)
        report = applying.undo(LiveBox(), at.state, kept)
        at.control.unlink(missing_ok=True)
        at.log.unlink(missing_ok=True)
        at.chosen.unlink(missing_ok=True)
        refusal.forget(at.state)
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
    """From the daemon, or from the kernel and the journal where none runs or answers. Raises Problems."""
    stuck: tuple[str, ...] = ()
    try:
        told = _ask_daemon(at, "/v1/status")
        if told is not None:
            return msgspec.convert(told, StatusView, dec_hook=decode_address)
    except control.NotAnswering as error:
        stuck = (f"the daemon (process {running_pid(at.lock)}) does not answer: {error.problems[0].remedy}",)
    _check_privileges()
    has_table, journal = list_table() is not None, journals.load(at.state)
    is_up = has_table and journal is not None
    faults = stuck or (*_faults_without_daemon(has_table, journal is not None), *refusal.told(at.state))
    left_s, aside = stepaside.left_s(at), stepaside.load(at.state)
    is_alone = left_s is not None and aside is not None and aside.is_steady and not aside.cause
    return StatusView(
        up=is_up,
        daemon=False,
        confirm=pending.view(at.state),
        aside_left_s=left_s,
        faults=faults,
        hints=(SERVES_ALONE,) if is_alone else (),
    )


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


def clients(at: Places, config: Path | None, *, evidence: bool = False) -> ClientsView:
    """From the daemon, or from the kernel where none runs or answers. Raises Problems."""
    query = urlencode({"evidence": "1"} if evidence else {})
    with contextlib.suppress(control.NotAnswering):
        told = _ask_daemon(at, f"/v1/clients?{query}")
        if told is not None:
            return msgspec.convert(told, ClientsView, dec_hook=decode_address)
    settings = load_config(config)
    _check_privileges()
    return ClientsView(clients_in_kernel(settings), daemon=False)


def explain(at: Places, question: Mapping[str, str]) -> ExplainView | None:
    """question: see `split.lookup.packet_of`. None from a daemon of an older version. Raises Problems."""
    try:
        told = _ask_daemon(at, f"/v1/explain?{urlencode(question)}")
    except control.Unknown:
        return None
    return None if told is None else msgspec.convert(told, ExplainView)


def rehearsed(at: Places, config: Path | None) -> Changes:
    """What taking this configuration would change on the box: nothing is changed. Raises Problems: why it cannot be."""
    query = {"config": str(config.absolute())} if config else {}
    told = _ask_daemon(at, f"/v1/diff?{urlencode(query)}")
    if told is not None:
        return msgspec.convert(told, Changes)
    chosen = history.read(config)
    with in_file(chosen.source):
        situation = foreseen(chosen.config)
    return on_this_box(chosen.config, situation, at.state)
