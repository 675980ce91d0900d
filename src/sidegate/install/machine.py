"""The machine beyond its files: systemd, the group, a gateway that is up. Never used below `--root`."""

from __future__ import annotations

import grp
import os
import time
from pathlib import Path

from sidegate.gateway import lifecycle
from sidegate.gateway.box import programs
from sidegate.gateway.box.places import Places, running_pid
from sidegate.install import layout
from sidegate.install.steps import EndGateway, MachineStep, RestartDaemon, Run, Surroundings
from sidegate.problems import Exit, Problem, Problems

_BOOTED = Path("/run/systemd/system")
"""Is there where systemd runs the machine (sd_booted(3))."""
_RESTARTS_WITHIN_S = 30.0
_LOOK_AGAIN_S = 0.1
NEEDED = ("nft", "ip")
"""Programs that the gateway cannot do without."""


def look(*needed: str, dry: bool = False) -> Surroundings:
    """The machine as it is. Raises Problems: one of the needed programs is missing, or, unless `dry`, the privilege."""
    problems = programs.missing(*needed)
    if os.geteuid() != 0 and not dry:
        what = "only root may change what is installed on the machine itself"
        problems.append(
            Problem("privileges", what, "run it with sudo, or give another place with --root", Exit.MISSING)
        )
    if problems:
        raise Problems(*problems)
    return Surroundings(_BOOTED.is_dir(), is_service_active(), _has_group())


def is_service_active() -> bool:
    return _BOOTED.is_dir() and _show("ActiveState") in ("active", "reloading")


def perform(step: MachineStep) -> None:
    """Raises Problems if it fails."""
    if isinstance(step, EndGateway):
        lifecycle.end(Places())
    elif isinstance(step, RestartDaemon):
        _restart()
    else:
        _run(step)


def daemon_by_hand() -> int | None:
    """The process of a daemon that runs without systemd, hence still with what it was started from."""
    pid = running_pid(Places().lock)
    if pid is None or (_BOOTED.is_dir() and _show("MainPID") == str(pid)):
        return None
    return pid


def _has_group() -> bool:
    try:
        grp.getgrnam(layout.GROUP)
    except KeyError:
        return False
    return True


def _run(step: Run) -> None:
    status, _, said = programs.attempt(*step.arguments, timeout_s=_RESTARTS_WITHIN_S * 2)
    if status and step.is_needed:
        what = said.strip() or f"failed with exit code {status}"
        raise Problems(Problem(" ".join(step.arguments), what, "mend that, then run it again", Exit.FAULT))


def _show(name: str) -> str:
    """A property of our service; empty if systemd does not know it."""
    return programs.run("systemctl", "show", "--value", f"--property={name}", layout.UNIT_NAME).strip()


def _restart() -> None:
    """Killed, it undoes nothing: rules and proofs stay in the kernel. Restart=on-failure brings the new one."""
    before = _show("MainPID")
    programs.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", layout.UNIT_NAME)
    deadline = time.monotonic() + _RESTARTS_WITHIN_S
    while time.monotonic() < deadline:
        if _show("ActiveState") == "active" and _show("MainPID") not in (before, "0"):
            return
        time.sleep(_LOOK_AGAIN_S)
    what = f"the new daemon is not up after {_RESTARTS_WITHIN_S:.0f} s; clients go on being masqueraded"
    raise Problems(Problem(layout.UNIT_NAME, what, f"see: journalctl --unit {layout.UNIT_NAME}", Exit.FAULT))
