"""Files that are there whole or not at all, whenever the power goes."""

from __future__ import annotations

import os
from pathlib import Path

from sidegate.problems import Problem, Problems

_OPEN = 0o755
"""Of a directory whose files guard themselves."""


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """After a crash there is the old content or the new one; its directory is made where it lacks. Raises OSError.

    A name that begins with another file's and ends in `.new` is ours: what a crash left of it is overwritten.
    """
    fresh = path.with_suffix(".new")
    try:
        make_directory(path.parent, _OPEN)
        _write(fresh, data, mode)
        os.replace(fresh, path)
        _sync_directory(path.parent)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def make_directory(path: Path, mode: int = 0o700) -> None:
    """With those above it that lack; each is on the disk when this returns. Fine if it is there. Raises OSError.

    mode: of this directory. Those above it can be read, as the one is that systemd makes for the service.
    A file's directory entry outlives a power cut only if the directory's own entry does (fsync(2)).
    """
    lacking = [path] if not path.is_dir() else []
    while lacking and not lacking[-1].parent.is_dir():
        lacking.append(lacking[-1].parent)
    for directory in reversed(lacking):
        directory.mkdir(mode=mode if directory == path else _OPEN, exist_ok=True)
        _sync_directory(directory.parent)


def remove_file(path: Path) -> None:
    """Removes it, and what a crash left of a fresh one; fine if there is none. Raises OSError."""
    path.with_suffix(".new").unlink(missing_ok=True)
    if path.exists():
        # Another process may do so at the same moment, as after one that was about to end by itself.
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)


def discard_file(path: Path) -> None:
    """`remove_file` for a file of ours. Raises Problems."""
    try:
        remove_file(path)
    except OSError as error:
        raise Problems(Problem(str(path), f"cannot be removed: {error.strerror}")) from None


def set_aside(path: Path) -> Path:
    """Gives a file that nobody can read another name, over an earlier one's; where it is now. Raises OSError."""
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    _sync_directory(path.parent)
    return aside


def _write(path: Path, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with open(handle, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
