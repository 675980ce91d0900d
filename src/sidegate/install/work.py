"""Installing and uninstalling from end to end: look, decide, do."""

from __future__ import annotations

from pathlib import Path

import click

from sidegate.install import machine
from sidegate.install.disk import Disk
from sidegate.install.plan import Plan, make_plan
from sidegate.install.release import check_visible, gather
from sidegate.install.steps import (
    EndGateway,
    Kept,
    RestartDaemon,
    Run,
    Step,
    Surroundings,
    conflicts,
    install_steps,
    uninstall_steps,
)
from sidegate.problems import Problems


def install(
    disk: Disk, command: click.Command, python: Path | None, *, on_machine: bool, start: bool, dry: bool
) -> tuple[Step, ...]:
    """The steps that were done, or would be if `dry`. Raises Problems; before the first step, nothing is changed.

    command: the whole command line. on_machine: systemd and the group too. start: the service as well.
    """
    surroundings = machine.look(*machine.NEEDED, dry=dry) if on_machine else None
    if on_machine and python is not None:
        check_visible(python)
    plan = make_plan(gather(python), command)
    with disk.alone():
        steps = _checked_steps(plan, disk, surroundings, start)
        return steps if dry else _perform(steps, disk)


def _checked_steps(plan: Plan, disk: Disk, surroundings: Surroundings | None, start: bool) -> tuple[Step, ...]:
    found = disk.look(plan)
    problems = conflicts(plan, found)
    if problems:
        raise Problems(*problems)
    return install_steps(plan, found, surroundings, start=start)


def uninstall(disk: Disk, keep: frozenset[Kept], *, on_machine: bool, dry: bool) -> tuple[Step, ...]:
    """The steps that were done, or would be if `dry`. Raises Problems; if the gateway cannot be ended, before anything
    is removed."""
    surroundings = machine.look(dry=dry) if on_machine else None
    with disk.alone():
        steps = uninstall_steps(disk.look(), surroundings, keep)
        return steps if dry else _perform(steps, disk)


def _perform(steps: tuple[Step, ...], disk: Disk) -> tuple[Step, ...]:
    for step in steps:
        if isinstance(step, Run | RestartDaemon | EndGateway):
            machine.perform(step)
        else:
            disk.perform(step)
    return steps
