"""Pure: operations on files -> every tree that a disk may hold after a power cut.

What POSIX and the file systems of Linux promise (fsync(2)): a file's content is there after its fsync, the names of a
directory after the directory's. Until then a content may be there, be cut off, be empty, or be zeros; and of the
changes of names any beginning may be there, in the order in which they were made.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

Op = dict[str, str]
Tree = dict[str, bytes | None]
"""Paths and contents; None for a directory."""


class _File(Struct, eq=False):
    """now: as programs see it. safe: as of its last fsync, None if there was none."""

    now: bytes = b""
    safe: bytes | None = None
    is_directory: bool = False


class _Naming(Struct, eq=False):
    """One change of names: gone, and a new name for a file."""

    directory: str
    gone: str = ""
    name: str = ""
    file: _File | None = None


class Disk:
    """root: exists from the beginning, and is safe."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._names: dict[str, _File] = {}
        self._safe: dict[str, _File] = {}
        self._unsafe: list[_Naming] = []

    def do(self, op: Op) -> None:
        kind, path = op["do"], op["path"]
        if kind in ("create", "make directory"):
            self._rename(_Naming(_parent(path), "", path, _File(is_directory=kind == "make directory")))
        elif kind == "truncate" and path in self._names:
            self._names[path].now = b""
        elif kind == "sync" and path in self._names:
            file = self._names[path]
            file.now = file.safe = base64.b64decode(op["data"])
        elif kind == "rename":
            self._rename(_Naming(_parent(path), path, op["to"], self._names[path]))
        elif kind == "remove":
            self._rename(_Naming(_parent(path), path))
        elif kind == "sync directory":
            self._sync(path)

    def _rename(self, naming: _Naming) -> None:
        _apply(self._names, naming)
        self._unsafe.append(naming)

    def _sync(self, directory: str) -> None:
        for naming in (n for n in self._unsafe if n.directory == directory):
            _apply(self._safe, naming)
        self._unsafe = [n for n in self._unsafe if n.directory != directory]

    def trees(self) -> Iterator[Tree]:
        """Every tree that a cut at this moment may leave; some of them more than once."""
        for count in range(len(self._unsafe) + 1):
            names = dict(self._safe)
            for naming in self._unsafe[:count]:
                _apply(names, naming)
            for damage in (lambda b: b, lambda b: b[: len(b) // 2], lambda b: b"", lambda b: bytes(len(b))):
                yield {
                    path: None if file.is_directory else file.safe if file.safe == file.now else damage(file.now)
                    for path, file in names.items()
                    if self._is_reachable(path, names)
                }

    def _is_reachable(self, path: str, names: dict[str, _File]) -> bool:
        above = _parent(path)
        return above == self._root or (above in names and self._is_reachable(above, names))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _apply(names: dict[str, _File], naming: _Naming) -> None:
    names.pop(naming.gone, None)
    if naming.file is not None:
        names[naming.name] = naming.file


def cuts(ops: Iterable[Op], root: str) -> Iterator[tuple[int, str, Tree]]:
    """After how many operations, in which phase (operations `phase` name one), and a tree; none twice in a row."""
    disk, phase, last = Disk(root), "", list[Tree]()
    for count, op in enumerate(ops):
        if op["do"] == "phase":
            phase, last = op["path"], []
            continue
        disk.do(op)
        now: list[Tree] = []
        for tree in disk.trees():
            if tree not in now:
                now.append(tree)
        yield from ((count, phase, tree) for tree in now if tree not in last)
        last = now


def lay_out(tree: Tree, root: str, target: Path) -> None:
    """Makes the tree below a directory."""
    for path, content in sorted(tree.items()):
        place = target / Path(path).relative_to(root)
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
