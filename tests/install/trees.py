"""Small plans and trees for the tests of the install room."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from sidegate.install import layout
from sidegate.install.disk import Disk
from sidegate.install.plan import File, Link, Plan
from sidegate.install.steps import (
    EndGateway,
    Kept,
    RestartDaemon,
    Run,
    Step,
    Surroundings,
    install_steps,
    uninstall_steps,
)

DEBIAN = ("etc/systemd/system", "opt", "run", "usr/local/bin", "usr/local/share/man", "var/lib")
"""Directories that a bare Debian has."""


def small_plan(release: str = "1", config: str = "#a", extra: Iterable[File | Link] = ()) -> Plan:
    """A program of two files, and around it the unit, the configuration, the command and `extra`."""
    directory = layout.release_dir(release)
    program = (
        File(f"{directory}/bin/sidegate", b"#!/bin/sh\n", 0o755),
        File(f"{directory}/lib/module.py", f"RELEASE = {release!r}\n".encode()),
        Link(f"{directory}/bin/python", "/usr/bin/python3"),
    )
    around = (
        File(layout.UNIT, f"# unit of {release}\n".encode()),
        File(layout.CONFIG, config.encode(), is_config=True),
        *extra,
        Link(layout.COMMAND, f"{layout.CURRENT}/bin/sidegate"),
    )
    return Plan(release, release, program, around)


def bare_tree(place: Path) -> Disk:
    """A disk with what a bare Debian has, and a file of somebody else's."""
    for directory in DEBIAN:
        (place / directory).mkdir(parents=True)
    (place / "usr/local/bin/other").write_text("not ours")
    return Disk(place)


def picture(place: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a directory: path -> mode with type, and content or target."""
    found = {}
    for path in sorted(place.rglob("*")):
        mode = path.lstat().st_mode
        is_data = stat.S_ISREG(mode)
        content = path.read_bytes() if is_data else b""
        if stat.S_ISLNK(mode):
            content = str(path.readlink()).encode()
        found[str(path.relative_to(place))] = (mode, content)
    return found


def perform(steps: Iterable[Step], disk: Disk) -> None:
    """The steps that concern the disk."""
    for step in steps:
        if not isinstance(step, Run | RestartDaemon | EndGateway):
            disk.perform(step)


def to_install(plan: Plan, disk: Disk, machine: Surroundings | None = None, *, start: bool = False) -> tuple[Step, ...]:
    return install_steps(plan, disk.look(plan), machine, start=start)


def install(plan: Plan, disk: Disk) -> tuple[Step, ...]:
    steps = to_install(plan, disk)
    perform(steps, disk)
    return steps


def uninstall(disk: Disk, *keep: Kept) -> None:
    perform(uninstall_steps(disk.look(), None, frozenset(keep)), disk)
