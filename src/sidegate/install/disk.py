"""Looks at the files and does what the steps say. `root`: everything happens below it, as with make's DESTDIR."""

from __future__ import annotations

import compileall
import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from py_compile import PycInvalidationMode

from sidegate.install import layout, manifest
from sidegate.install.manifest import Manifest
from sidegate.install.plan import Plan
from sidegate.install.steps import (
    Compile,
    DiskStep,
    Entry,
    Flush,
    Found,
    MakeDirectory,
    MakeLink,
    Remove,
    RemoveIfEmpty,
    RemoveTree,
    Save,
    Write,
    digest,
    interesting_paths,
)
from sidegate.problems import Exit, Problem, Problems


class Disk:
    """The files of a machine, or of a tree that is to become one. Every method raises Problems."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def at(self, path: str) -> Path:
        """Where a path of the machine lies."""
        return self.root / path.lstrip("/")

    def look(self, plan: Plan | None = None) -> Found:
        """What is there now. plan: what is to come; None: only what an earlier install made."""
        try:
            known = self._manifest()
            entries = {p: e for p in interesting_paths(plan, known) if (e := self._entry(p)) is not None}
            opt = [name for name in self._names(layout.OPT) if name != _fresh(self.at(layout.MANIFEST)).name]
            releases = self._names(layout.RELEASES)
        except OSError as error:
            raise Problems(_refused(error.filename or self.root, error)) from None
        return Found(entries, releases, not opt, known)

    def perform(self, step: DiskStep) -> None:
        try:
            self._do(step)
        except OSError as error:
            raise Problems(_refused(self.at(step.path), error)) from None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While no other install or uninstall is at work: a lock on the directory above /opt/sidegate, or the root."""
        directory = next(d for d in (self.at("/opt"), self.root) if d.is_dir())
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            what = "another install or uninstall is at work"
            raise Problems(Problem(str(directory), what, "try again when it is done", Exit.FAULT)) from None
        finally:
            os.close(handle)

    def _manifest(self) -> Manifest | None:
        try:
            return manifest.decode(self.at(layout.MANIFEST).read_bytes())
        except FileNotFoundError:
            return None

    def _names(self, directory: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(os.listdir(self.at(directory))))
        except FileNotFoundError:
            return ()

    def _entry(self, path: str) -> Entry | None:
        place = self.at(path)
        try:
            found = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISLNK(found.st_mode):
            return Entry("link", target=os.readlink(place))
        if stat.S_ISREG(found.st_mode):
            return Entry("file", mode, digest(place.read_bytes()))
        return Entry("directory" if stat.S_ISDIR(found.st_mode) else "other", mode)

    def _do(self, step: DiskStep) -> None:
        place = self.at(step.path)
        match step:
            case Write(file):
                _replace(place, file.content, file.mode)
            case Save(noted):
                _replace(place, manifest.encode(noted), 0o644, flush=True)
            case MakeLink(link):
                _relink(place, link.target)
            case MakeDirectory():
                place.mkdir(exist_ok=True)
                place.chmod(step.mode)
            case Compile():
                _compile(place, step.path)
            case Flush():
                os.sync()
            case Remove():
                _fresh(place).unlink(missing_ok=True)
                place.unlink(missing_ok=True)
            case RemoveTree():
                _remove_tree(place)
            case RemoveIfEmpty():
                _remove_if_empty(place)


def _replace(place: Path, content: bytes, mode: int, *, flush: bool = False) -> None:
    fresh = _fresh(place)
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        if flush:
            file.flush()
            os.fsync(file.fileno())
    os.replace(fresh, place)


def _relink(place: Path, target: str) -> None:
    fresh = _fresh(place)
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    os.replace(fresh, place)


def _compile(place: Path, path: str) -> None:
    """By content, not by time (PEP 552, unchecked): nobody else writes there, and two installs come out alike.

    What does not compile, as a template in a package, runs from its source or not at all: no fault of ours.
    """
    mode = PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(place, quiet=2, stripdir=place, prependdir=path, invalidation_mode=mode)


def _remove_tree(place: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(place)


def _remove_if_empty(place: Path) -> None:
    try:
        place.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        # Somebody else's things came into it meanwhile: they stay, and it with them.
        if error.errno != errno.ENOTEMPTY:
            raise


def _fresh(place: Path) -> Path:
    """Where the new content is written before it takes the old one's place."""
    return place.with_name(f".{place.name}.sidegate-new")


def _refused(place: Path | str, error: OSError) -> Problem:
    what = f"cannot be changed: {error.strerror or error}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return Problem(str(place), what, "run it as root, with sudo", Exit.MISSING)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(str(place), what, "make room, then run it again; or take it back: sidegate uninstall")
    return Problem(str(place), what, "mend that, then run it again; what was done so far is noted")
