"""Rolling back a change that nobody confirmed; and the process that does so in time (`main`)."""

from __future__ import annotations

import sys
import time

from msgspec import structs

from sidegate.gateway import lifecycle
from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.places import Lock, Places, places
from sidegate.gateway.change import history, pending
from sidegate.gateway.change.pending import Pending
from sidegate.problems import Exit, Problem, Problems

_LOOK_S = 1.0
"""Between looks: sleeping is by CLOCK_MONOTONIC, which stands still while the box sleeps."""
_RETRY_S = 5.0
_PREDECESSOR_ENDS_WITHIN_S = 3.0


def honour(at: Places) -> Pending | None:
    """Rolls back what is due; what came of it, None if nothing was due.

    One that cannot be read, as from a disk that lost it, is set aside: what it was to undo stays, and that is said.
    Raises Problems where the box is not as it was before; it stays due then.
    """
    try:
        waiting = pending.load(at.state)
    except Problems as error:
        print(f"{error}\nIt was set aside: {pending.set_damaged_aside(at.state)}", file=sys.stderr, flush=True)
        return None
    if waiting is None or not pending.is_due(waiting):
        return None
    with lifecycle.alone(at):
        waiting = pending.load(at.state)
        return _roll_back(waiting, at) if waiting is not None and pending.is_due(waiting) else None


def confirm(at: Places, connection: str) -> None:
    """The change stays. connection: over which this comes. Raises Problems: nothing waits, too late, not a new one."""
    with lifecycle.alone(at):
        waiting = pending.load(at.state)
        if waiting is None:
            raise Problems(Problem("sidegate", "no change waits for its confirmation", "sidegate status"))
        if pending.is_due(waiting):
            waiting = _roll_back(waiting, at)
        if waiting.state == "rolled-back":
            pending.discard(at.state)
            raise Problems(Problem("sidegate", f"too late: {waiting.told}", "sidegate up", Exit.FAULT))
        if connection and connection == waiting.connection:
            what = "this is the connection that the change came by; it may live on where no new one can begin"
            raise Problems(Problem("sidegate", what, "log in anew and confirm there, or: sidegate confirm --anyway"))
        pending.discard(at.state)


def _roll_back(waiting: Pending, at: Places) -> Pending:
    """Verified: whatever is not back raises Problems, and stays due."""
    if waiting.boot_id == journals.boot_id():
        told = f"nobody confirmed it within {waiting.allowed_s:g} s: {_back(waiting, at)}"
    else:
        # The kernel has forgotten it; a start without a person is kept from doing it again.
        if waiting.back_to is not None:
            history.save(history.gone_back(history.load(at.state), waiting.back_to), at.state)
        told = "the box was started anew before anybody confirmed it"
    done = structs.replace(waiting, state="rolled-back", told=told)
    pending.save(done, at.state)
    return done


def _back(waiting: Pending, at: Places) -> str:
    """Where the earlier configuration cannot be had again, the box as it was before Sidegate is the safe place."""
    why = ""
    if waiting.back_to is not None:
        try:
            lifecycle.go_back(waiting.back_to, at)
            return f"version {waiting.back_to} of the configuration is in force again"
        except Problems as error:
            why = f" (version {waiting.back_to} of the configuration could not be used: {error})"
    lifecycle.end_alone(at)
    return f"everything was put back as it was{why}"


def wait_and_roll_back(at: Places) -> None:
    """Returns when nothing waits any more. What cannot be rolled back is told and tried again."""
    while (waiting := pending.load(at.state)) is not None and waiting.state == "waiting":
        if not pending.is_due(waiting):
            time.sleep(min(pending.left_s(waiting), _LOOK_S))
            continue
        try:
            honour(at)
        except Problems as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(_RETRY_S)


def main() -> None:
    at = places()
    lock = Lock(at.timer)
    if not lock.take(_PREDECESSOR_ENDS_WITHIN_S):
        return
    try:
        lock.sign()
    except Problems as error:
        # What counts is the lock: without our process id in it nobody can end us by name, and that is all.
        print(error, file=sys.stderr, flush=True)
    wait_and_roll_back(at)


if __name__ == "__main__":
    main()
