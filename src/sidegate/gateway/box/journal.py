"""What was there before, on disk, so that it can be put back. Written before anything is done.

`before` of a step is what was found the first time and is never overwritten while the journal stands: a second `up`
after a crash must not take the first one's work for the user's own. A journal of another boot is void: all that it
speaks of was kernel state.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from sidegate.gateway.box.files import discard_file, replace_file, set_aside
from sidegate.gateway.desired import Accept, PolicyRoute
from sidegate.problems import Problem, Problems

STATE_DIR = Path("/var/lib/sidegate")
VERSION = 1
_NAME = "journal.json"


class SysctlStep(Struct, frozen=True, forbid_unknown_fields=True):
    """before: the value found; wrote: the value that replaced it or was about to.

    flips: by path, the values before of what the kernel overwrites along with it.
    """

    path: str
    before: str
    wrote: str
    flips: dict[str, str] = {}


class TableStep(Struct, frozen=True, forbid_unknown_fields=True):
    """ruleset: the transaction; listing: how nft listed our table after it, None if that was never seen."""

    ruleset: str
    listing: str | None = None


class ChildStep(Struct, frozen=True, forbid_unknown_fields=True):
    """A program of ours that runs beside the daemon.

    directory: where its record is. files: written for it. without: what its end means to people; may be empty.
    """

    name: str
    directory: str
    files: tuple[str, ...] = ()
    without: str = ""


class Journal(Struct, frozen=True, forbid_unknown_fields=True):
    """Steps in the order in which they are done; before an accept, our table, a child and a route there was nothing."""

    boot_id: str
    sysctls: tuple[SysctlStep, ...] = ()
    accepts: tuple[Accept, ...] = ()
    table: TableStep | None = None
    children: tuple[ChildStep, ...] = ()
    version: int = VERSION
    routes: tuple[PolicyRoute, ...] = ()


def boot_id() -> str:
    """Changes with every boot (`drivers/char/random.c`)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def load(state_dir: Path) -> Journal | None:
    """The journal of this boot; None if there is none or it is of another boot. Raises Problems if it is damaged."""
    path = state_dir / _NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Problems(Problem(str(path), f"cannot be read: {error.strerror}")) from None
    journal = _decode(data, path)
    return journal if journal.boot_id == boot_id() else None


def _decode(data: bytes, path: Path) -> Journal:
    try:
        journal = msgspec.json.decode(data, type=Journal)
    except msgspec.MsgspecError as error:
        remedy = f"nothing was changed; remove {path} after a reboot, which undoes all that it speaks of"
        raise Problems(Problem(str(path), f"the journal is damaged: {error}", remedy)) from None
    if journal.version != VERSION:
        what = f"the journal has version {journal.version}, this program knows {VERSION}"
        raise Problems(Problem(str(path), what, "run `down` with the program that wrote it, or reboot"))
    return journal


def set_damaged_aside(state_dir: Path) -> Problem | None:
    """For a start without a person, when nothing of ours is in the kernel: what was wrong, None if nothing was.

    A journal is damaged by a disk that loses what it said to have written, when the power goes: then it is of another
    boot and void, and must not keep the gateway from coming back. Raises Problems.
    """
    try:
        load(state_dir)
    except Problems as error:
        (damage,) = error.problems
        path = state_dir / _NAME
        try:
            aside = set_aside(path)
        except OSError as failure:
            raise Problems(damage, Problem(str(path), f"cannot be renamed: {failure.strerror}")) from None
        return Problem(damage.where, f"{damage.what}; it was set aside as {aside.name}")
    return None


def save(journal: Journal, state_dir: Path) -> None:
    """Replaces the journal as a whole: after a crash there is the old one or the new one. Raises Problems."""
    path = state_dir / _NAME
    try:
        replace_file(path, msgspec.json.format(msgspec.json.encode(journal), indent=1))
    except OSError as error:
        what = f"the journal cannot be written: {error.strerror}"
        raise Problems(
            Problem(str(path), what, "without a journal nothing is changed: make room, or mend it")
        ) from None


def discard(state_dir: Path) -> None:
    """Removes the journal, if there is one. Raises Problems."""
    discard_file(state_dir / _NAME)
