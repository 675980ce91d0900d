"""Notes what a process does to the files below a directory: created, written to the disk, renamed, removed.

Run by `sitecustomize.py` in processes of their own, with POWERCUT_ROOT and POWERCUT_LOG in their environment.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Callable
from typing import Any

_REAL = {name: getattr(os, name) for name in ("open", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir")}


def install(root: str, tell: Callable[[dict[str, str]], None]) -> Callable[[], None]:
    """From now on `tell` hears every operation after it was done. Returns what takes it back."""

    def note(kind: str, path: Any, **more: str) -> None:
        where = os.path.abspath(os.fspath(path))
        if where == root or where.startswith(f"{root}/"):
            tell({"do": kind, "path": where, **more})

    def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        is_new = bool(flags & os.O_CREAT) and not os.path.exists(path)
        fd: int = _REAL["open"](path, flags, *rest, **more)
        if is_new or flags & os.O_TRUNC:
            note("create" if is_new else "truncate", path)
        return fd

    def synced(fd: Any) -> None:
        _REAL["fsync"](fd)
        number = fd if isinstance(fd, int) else fd.fileno()
        path = os.readlink(f"/proc/self/fd/{number}")
        if stat.S_ISDIR(os.fstat(number).st_mode):
            note("sync directory", path)
        else:
            with open(f"/proc/self/fd/{number}", "rb") as file:
                note("sync", path, data=base64.b64encode(file.read()).decode())

    def moved(source: Any, target: Any, **more: Any) -> None:
        _REAL["replace"](source, target, **more)
        note("rename", source, to=os.path.abspath(os.fspath(target)))

    def simple(name: str, kind: str) -> Callable[..., None]:
        def act(path: Any, *rest: Any, **more: Any) -> None:
            _REAL[name](path, *rest, **more)
            note(kind, path)

        return act

    fakes = {"open": opened, "fsync": synced, "replace": moved, "rename": moved}
    fakes |= {"unlink": simple("unlink", "remove"), "mkdir": simple("mkdir", "make directory")}
    fakes |= {"rmdir": simple("rmdir", "remove")}
    for name, fake in fakes.items():
        setattr(os, name, fake)
    return restore


def restore() -> None:
    for name, real in _REAL.items():
        setattr(os, name, real)


def install_from_environment() -> None:
    """One line of JSON each; a line this short is appended whole (write(2), O_APPEND)."""
    root, log = os.environ.get("POWERCUT_ROOT"), os.environ.get("POWERCUT_LOG")
    if not root or not log:
        return
    fd = _REAL["open"](log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    install(root, lambda op: (os.write(fd, json.dumps(op).encode() + b"\n"), None)[1])
