"""What is to be done, in order: plan × what is there × what an earlier install noted -> steps. Pure.

A step is one thing that happens as a whole or not at all; wherever the sequence breaks off, a following install
completes it and a following uninstall takes it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import Struct

from sidegate.install import layout
from sidegate.install.layout import ancestors, is_below
from sidegate.install.manifest import Manifest
from sidegate.install.plan import File, Link, Plan
from sidegate.problems import Problem

Kept = Literal["config", "state"]


class Entry(Struct, frozen=True):
    """What is at a path. mode: permission bits; digest: of a file's content; target: of a link."""

    kind: Literal["file", "link", "directory", "other"]
    mode: int = 0
    digest: str = ""
    target: str = ""


class Found(Struct, frozen=True):
    """What is there now. entries: by path; those that do not exist are missing. releases: names below RELEASES.

    opt_is_empty: /opt/sidegate is not there, or holds nothing but what is left of a manifest that was never finished.
    """

    entries: dict[str, Entry]
    releases: tuple[str, ...]
    opt_is_empty: bool
    manifest: Manifest | None


class Surroundings(Struct, frozen=True):
    """The machine itself, as far as an install concerns it; there is none below `--root`.

    has_systemd: the machine is run by it (sd_booted(3)). is_active: it runs our service. has_group: the group exists.
    """

    has_systemd: bool
    is_active: bool
    has_group: bool


class MakeDirectory(Struct, frozen=True, tag="make directory"):
    path: str
    mode: int = 0o755


class Write(Struct, frozen=True, tag="write"):
    file: File

    @property
    def path(self) -> str:
        return self.file.path


class MakeLink(Struct, frozen=True, tag="link"):
    link: Link

    @property
    def path(self) -> str:
        return self.link.path


class Compile(Struct, frozen=True, tag="compile"):
    """Python's compiled files: root would write them later otherwise, at its first run."""

    path: str


class Flush(Struct, frozen=True, tag="flush"):
    """All that was written is on the disk before anything relies on it."""

    path: str = "/"


class Save(Struct, frozen=True, tag="note"):
    manifest: Manifest

    @property
    def path(self) -> str:
        return layout.MANIFEST


class Remove(Struct, frozen=True, tag="remove"):
    """A file or a link, and what a crash left of it half-written; fine if there is none."""

    path: str


class RemoveTree(Struct, frozen=True, tag="remove all of"):
    path: str


class RemoveIfEmpty(Struct, frozen=True, tag="remove if empty"):
    path: str


class Run(Struct, frozen=True, tag="run"):
    """A program of the machine. is_needed: its failure ends the work."""

    arguments: tuple[str, ...]
    is_needed: bool = True


class RestartDaemon(Struct, frozen=True, tag="restart"):
    """The daemon is killed, systemd starts the new one, and the kernel carries the clients meanwhile."""


class EndGateway(Struct, frozen=True, tag="down"):
    """`sidegate down`: everything on the box as it was."""


DiskStep = MakeDirectory | Write | MakeLink | Compile | Flush | Save | Remove | RemoveTree | RemoveIfEmpty
MachineStep = Run | RestartDaemon | EndGateway
Step = DiskStep | MachineStep


def interesting_paths(plan: Plan | None, manifest: Manifest | None) -> set[str]:
    """All that must be looked at before steps can be told."""
    paths = {layout.CONFIG_DIR, layout.DROP_INS, layout.STATE_DIR, layout.RUNTIME_DIR, layout.ENABLED, layout.OPT}
    paths |= {item.path for item in plan.items} if plan else set()
    paths |= {*manifest.paths, *manifest.directories} if manifest else set()
    return paths | {above for path in paths for above in ancestors(path)}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def conflicts(plan: Plan, found: Found) -> list[Problem]:
    """What of somebody else's stands where ours must go."""
    known = set(found.manifest.paths) if found.manifest else set()
    strangers = [i for i in plan.around if i.path not in known and _is_strange(i, found.entries.get(i.path))]
    remedy = "move it away, then try again"
    problems = [Problem(i.path, "is there already, and no install of Sidegate made it", remedy) for i in strangers]
    if found.manifest is None and not found.opt_is_empty:
        problems.append(Problem(layout.OPT, "is there already, and no install of Sidegate made it", remedy))
    above = sorted({path for item in plan.items for path in ancestors(item.path)} & set(found.entries))
    in_the_way = [path for path in above if found.entries[path].kind in ("file", "other")]
    return problems + [Problem(path, "is no directory", remedy) for path in in_the_way]


def _is_strange(item: File | Link, entry: Entry | None) -> bool:
    if entry is None or _is_as_planned(item, entry):
        return False
    return not (isinstance(item, File) and item.is_config and entry.kind == "file")


def _is_as_planned(item: File | Link, entry: Entry | None) -> bool:
    if entry is None:
        return False
    if isinstance(item, Link):
        return entry.kind == "link" and entry.target == item.target
    return entry.kind == "file" and entry.mode == item.mode and entry.digest == digest(item.content)


def install_steps(plan: Plan, found: Found, machine: Surroundings | None, *, start: bool = False) -> tuple[Step, ...]:
    """Empty: all is as planned. start: enable and start the service too."""
    begun, finished = _manifests(plan, found, machine)
    pending = [item for item in plan.items if _is_pending(item, found)]
    after = _obsolete_steps(plan, found, finished)
    service = _service_steps(machine, is_new=bool(pending or after), start=start)
    if not pending and not after and found.manifest == finished:
        return service
    return (
        *_directory_steps([layout.MANIFEST], found),
        Save(begun),
        *_making_steps(plan, pending, found),
        *service,
        *after,
        Save(finished),
    )


def _is_pending(item: File | Link, found: Found) -> bool:
    entry = found.entries.get(item.path)
    if isinstance(item, File) and item.is_config:
        return _is_config_ours(found) and (entry is None or entry.digest != digest(item.content))
    return not _is_as_planned(item, entry)


def _is_config_ours(found: Found) -> bool:
    """Nobody changed the configuration, nor removed it, since we wrote it; or there never was one."""
    entry, old = found.entries.get(layout.CONFIG), found.manifest
    if old is None or not old.config_digest:
        return entry is None
    return entry is not None and entry.digest == old.config_digest


def _manifests(plan: Plan, found: Found, machine: Surroundings | None) -> tuple[Manifest, Manifest]:
    """Before the first change, and after the last one."""
    old = found.manifest
    paths = {item.path for item in plan.around}
    above = {above for item in (*plan.around, plan.current) for above in ancestors(item.path)}
    earlier = set(old.directories) if old else set()
    made = {path for path in above if path not in found.entries} | earlier
    made_group = (old is not None and old.made_group) or (machine is not None and not machine.has_group)
    written = next((digest(i.content) for i in plan.around if isinstance(i, File) and i.is_config), "")
    before = old.config_digest if old else ""
    entry = found.entries.get(layout.CONFIG)
    is_ours = _is_config_ours(found) or (entry is not None and entry.digest == written)
    begun = Manifest(
        release=plan.release,
        is_finished=False,
        paths=tuple(sorted(paths | (set(old.paths) if old else set()))),
        directories=tuple(sorted(made)),
        config_digest=before,
        made_group=made_group,
    )
    finished = msgspec.structs.replace(
        begun,
        is_finished=True,
        paths=tuple(sorted(paths)),
        directories=tuple(sorted(made & above)),
        config_digest=written if is_ours else before,
    )
    return begun, finished


def _making_steps(plan: Plan, pending: list[File | Link], found: Found) -> list[Step]:
    """The program, complete and on the disk, before anything points to it."""
    program = [item for item in pending if is_below(item.path, plan.directory)]
    around = [item for item in pending if item not in program and item != plan.current]
    directories = _directory_steps((i.path for i in pending), found)
    above_manifest = _directory_steps([layout.MANIFEST], found)
    steps: list[Step] = [*(d for d in directories if d not in above_manifest), *map(_making_step, program)]
    if program or (found.manifest is not None and not found.manifest.is_finished):
        steps.append(Compile(plan.directory))
    steps += map(_making_step, around)
    if plan.current in pending:
        steps += [Flush(), _making_step(plan.current)]
    return steps


def _making_step(item: File | Link) -> Step:
    return Write(item) if isinstance(item, File) else MakeLink(item)


def _directory_steps(paths: Iterable[str], found: Found) -> list[MakeDirectory]:
    missing = {above for path in paths for above in ancestors(path)} - set(found.entries)
    return [MakeDirectory(path) for path in sorted(missing)]


def _obsolete_steps(plan: Plan, found: Found, finished: Manifest) -> list[Step]:
    """What an earlier release had and this one has not."""
    old = found.manifest
    gone = sorted(set(old.paths) - set(finished.paths)) if old else []
    releases = [name for name in found.releases if name != plan.release]
    directories = sorted(set(old.directories) - set(finished.directories), reverse=True) if old else []
    return [
        *(Remove(path) for path in gone if _may_be_there(path, found)),
        *(RemoveTree(layout.release_dir(name)) for name in releases),
        *(RemoveIfEmpty(path) for path in directories if path in found.entries),
    ]


def _service_steps(machine: Surroundings | None, *, is_new: bool, start: bool) -> tuple[Step, ...]:
    """Between the new release being complete and the old one being removed."""
    if machine is None or not machine.has_systemd:
        return ()
    steps: list[Step] = []
    if is_new:
        steps = [
            Run(("systemd-sysusers", layout.SYSUSERS)),
            Run(("systemd-tmpfiles", "--create", layout.TMPFILES)),
            Run(("systemctl", "daemon-reload")),
        ]
        steps += [RestartDaemon()] if machine.is_active else []
    if start:
        steps.append(Run(("systemctl", "enable", "--now", layout.UNIT_NAME)))
    return tuple(steps)


def uninstall_steps(
    found: Found, machine: Surroundings | None, keep: frozenset[Kept] = frozenset()
) -> tuple[Step, ...]:
    """Empty: nothing is installed. keep: what stays."""
    old = found.manifest
    if old is None:
        return (RemoveTree(layout.OPT),) if layout.OPT in found.entries and found.opt_is_empty else ()
    kept = {layout.CONFIG} if "config" in keep else set()
    trees = [t for t in _own_trees(keep) if t in found.entries]
    outside = [d for d in reversed(old.directories) if not is_below(layout.OPT, d) and d not in trees]
    return (
        *_ending_steps(machine, has_unit=layout.UNIT in found.entries),
        *(Remove(path) for path in (layout.ENABLED, *old.paths) if _may_be_there(path, found) and path not in kept),
        *(RemoveTree(path) for path in trees),
        *(RemoveIfEmpty(path) for path in outside if path in found.entries),
        *_forgetting_steps(machine, old),
        Remove(layout.CURRENT),
        RemoveTree(layout.RELEASES),
        # The manifest goes last, and what was above it.
        RemoveTree(layout.OPT),
        *(RemoveIfEmpty(d) for d in reversed(old.directories) if is_below(layout.OPT, d) and d != layout.OPT),
    )


def _may_be_there(path: str, found: Found) -> bool:
    """Of an install that broke off, a file can be there half-written, under another name."""
    return path in found.entries or found.manifest is None or not found.manifest.is_finished


def _own_trees(keep: frozenset[Kept]) -> list[str]:
    """Directories that are ours as a whole, whoever wrote into them."""
    config = [layout.CONFIG_DIR, layout.DROP_INS] if "config" not in keep else []
    return [*config, *([layout.STATE_DIR] if "state" not in keep else []), layout.RUNTIME_DIR]


def _ending_steps(machine: Surroundings | None, *, has_unit: bool) -> tuple[Step, ...]:
    """Before anything is removed. `down` comes by itself with the service's end; a daemon begun by hand needs it."""
    if machine is None:
        return ()
    is_service = machine.has_systemd and has_unit
    disable = (Run(("systemctl", "disable", "--now", layout.UNIT_NAME)),) if is_service else ()
    return (*disable, EndGateway())


def _forgetting_steps(machine: Surroundings | None, old: Manifest) -> tuple[Step, ...]:
    if machine is None:
        return ()
    reload = (Run(("systemctl", "daemon-reload")),) if machine.has_systemd else ()
    group = (Run(("groupdel", layout.GROUP), is_needed=False),) if old.made_group and machine.has_group else ()
    return (*reload, *group)
