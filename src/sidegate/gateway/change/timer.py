"""The timer of a change that waits for its confirmation: a process of its own, begun here.

It and the daemon guard each other: it rolls back whatever becomes of the daemon, and the daemon begins it anew if it
dies. Where both are gone, the next command on the box does what they should have done (`rollback.honour`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from sidegate.gateway.box.places import Places, running_pid
from sidegate.gateway.change import pending
from sidegate.problems import Exit, Problem, Problems

_MODULE = "sidegate.gateway.change.rollback"
_STARTS_WITHIN_S = 30.0
_LOOK_AGAIN_S = 0.02


def start(at: Places) -> None:
    """Returns once it runs. Raises Problems if it does not."""
    process = begin(at)
    end_s = time.monotonic() + _STARTS_WITHIN_S
    while running_pid(at.timer) is None:
        if process.poll() is not None or time.monotonic() >= end_s:
            what = "nothing was changed: the process that would undo the change does not start"
            raise Problems(Problem("sidegate", what, f"see the end of {at.log}", Exit.FAULT))
        time.sleep(_LOOK_AGAIN_S)


def begin(at: Places) -> subprocess.Popen[bytes]:
    """Begins it in the background; a second one ends by itself. Its words go to the daemon's log."""
    at.runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open(os.open(at.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )


def keep_alive(at: Places) -> bool:
    """Begins it where a change waits and it does not run; whether that was so. Raises Problems."""
    waiting = pending.load(at.state)
    if waiting is None or waiting.state != "waiting" or running_pid(at.timer) is not None:
        return False
    begin(at)
    return True
