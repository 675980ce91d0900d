"""List files -> what they name; every line that is not understood is told. A file that is as it was is not read again.

A list is someone else's work more often than not: a file of any content makes problems at worst, and what it costs is
limited. Other files are included only from the same directory, as v2fly's lists do.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from sidegate.gateway.split.destinations import Gathered
from sidegate.gateway.split.lines import BadLine, Selection, take_line
from sidegate.gateway.split.names import is_plain_name
from sidegate.gateway.split.policy import Destination
from sidegate.problems import Problem, Problems

MOST_BYTES = 16 << 20
MOST_ENTRIES = 500_000
MOST_FILES = 2000
"""That one file may include; v2fly's largest list takes in some hundreds."""
_SHOWN_LINES = 20
_BRIEFLY = 3
_WHOLE = Selection()

Stamp = tuple[int, int, int, int, int]
"""Device, inode, bytes, and the times of the last change of content and inode, in nanoseconds."""


class ListFile(Struct, frozen=True):
    """entries: what could be read. bad: the lines that could not, the first of them; bad_count: how many there are.

    made_of: the files, as they were.
    """

    path: Path
    entries: Destination
    bad: tuple[Problem, ...] = ()
    bad_count: int = 0
    made_of: tuple[tuple[Path, Stamp | None], ...] = ()

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The bad lines; at the end, how many more there are."""
        return self._first(_SHOWN_LINES, "")

    @property
    def brief(self) -> tuple[Problem, ...]:
        """The same in a few lines, where much else is told."""
        return self._first(_BRIEFLY, ": sidegate config check")

    def _first(self, most: int, see: str) -> tuple[Problem, ...]:
        shown = self.bad[:most]
        more = self.bad_count - len(shown)
        return (*shown, Problem(str(self.path), f"{more} more lines like these{see}")) if more else shown


class ListReader:
    """Remembers what it read, by the stamps of the files."""

    def __init__(self) -> None:
        self._known: dict[Path, ListFile] = {}

    def read(self, path: Path) -> ListFile:
        """Raises Problems: the file cannot be read, is no list at all, or is too large."""
        known = self._known.get(path)
        if known is not None and not changed(known.made_of):
            return known
        self._known[path] = _Reading(path).whole()
        return self._known[path]

    def keep(self, paths: Iterable[Path]) -> None:
        """Forgets all others."""
        wanted = set(paths)
        self._known = {path: known for path, known in self._known.items() if path in wanted}


class _Reading:
    """Of one file and all that it includes."""

    def __init__(self, path: Path) -> None:
        self.stamps: dict[Path, Stamp | None] = {}
        self._path = path
        self._directory = path.parent
        self._gathered = Gathered()
        self._bad: list[Problem] = []
        self._bad_count = 0
        self._open: list[Path] = []
        self._done: set[tuple[Path, Selection]] = set()

    def whole(self) -> ListFile:
        """Raises Problems."""
        self._read(self._path, _WHOLE)
        made_of = tuple(self.stamps.items())
        found = ListFile(self._path, self._gathered.destination(), tuple(self._bad), self._bad_count, made_of)
        if self._bad_count and not self._gathered:
            what = f"not a list: none of its {self._bad_count} lines can be understood"
            remedy = "put the list itself there: a web page or an archive may have been saved instead"
            raise Problems(Problem(str(self._path), what, remedy), self._bad[0])
        return found

    def _read(self, path: Path, selection: Selection) -> None:
        """Raises Problems."""
        text = self._text(path)
        self._open.append(path)
        suffixes = self._gathered.suffixes
        is_whole = selection == _WHOLE
        for number, line in enumerate(text.split("\n"), 1):
            if is_whole and len(line) <= 253 and is_plain_name(line):
                suffixes.add(line)
                continue
            try:
                take_line(line, self._gathered, selection, self._include)
            except BadLine as bad:
                self._note(path, number, bad)
        self._open.pop()
        if len(self._gathered) > MOST_ENTRIES:
            raise Problems(Problem(str(path), f"more than {MOST_ENTRIES} entries", "a list of fewer is needed"))

    def _note(self, path: Path, number: int, bad: BadLine) -> None:
        self._bad_count += 1
        if len(self._bad) < _SHOWN_LINES:
            self._bad.append(Problem(f"{path}:{number}", bad.what, bad.remedy))

    def _include(self, name: str, selection: Selection) -> None:
        """Raises BadLine for what is not to be had, Problems for what is too much."""
        path = self._beside(name)
        if path in self._open:
            raise BadLine(f"includes itself, by {name}")
        if (path, selection) in self._done:
            return
        self._done.add((path, selection))
        if len(self._done) > MOST_FILES:
            raise Problems(Problem(str(self._path), f"includes more than {MOST_FILES} files"))
        try:
            self._read(path, selection)
        except Problems as error:
            if error.problems[0].where != str(path):
                raise
            raise BadLine(f"{name} {error.problems[0].what}") from None

    def _beside(self, name: str) -> Path:
        """Raises BadLine for one that is not in the same directory, or has a name that cannot be told to anybody."""
        path = self._directory / name
        if "/" in name or "\0" in name or name in ("", ".", "..") or path.resolve().parent != self._directory.resolve():
            raise BadLine("includes a file from elsewhere", "only files of the same directory are included")
        if not name.isprintable():
            raise BadLine("includes a file whose name is no plain text", "name it in UTF-8")
        return path

    def _text(self, path: Path) -> str:
        """Raises Problems."""
        self.stamps[path] = stamp_of(path)
        data = _content(path)
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise Problems(Problem(str(path), "is UTF-16 text", "save it as UTF-8"))
        return data.decode("utf-8-sig", "surrogateescape")


def _content(path: Path) -> bytes:
    """Raises Problems."""
    try:
        # Without O_NONBLOCK a FIFO would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise Problems(_unreadable(path, error)) from None
    try:
        data = _all_of(handle, path)
    except OSError as error:
        raise Problems(_unreadable(path, error)) from None
    finally:
        os.close(handle)
    if len(data) > MOST_BYTES:
        raise Problems(Problem(str(path), f"is larger than {MOST_BYTES >> 20} MiB"))
    return data


def _all_of(handle: int, path: Path) -> bytes:
    """At most one byte more than is allowed. Raises Problems, OSError."""
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise Problems(Problem(str(path), "is no file", "name a text file"))
    with open(handle, "rb", closefd=False) as file:
        return file.read(MOST_BYTES + 1)


def _unreadable(path: Path, error: OSError | ValueError) -> Problem:
    why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    remedy = "lists are read as the user that Sidegate runs as"
    if getattr(error, "errno", 0) != errno.EACCES:
        remedy = "put the list there, or take its name out of the configuration"
    return Problem(str(path), f"cannot be read: {why}", remedy)


def changed(made_of: Iterable[tuple[Path, Stamp | None]]) -> tuple[Path, ...]:
    """Those of these files that are not as they were."""
    return tuple(path for path, stamp in made_of if stamp_of(path) != stamp)


def stamp_of(path: Path) -> Stamp | None:
    """None for one that is not there."""
    try:
        it = os.stat(path)
    except (OSError, ValueError):
        return None
    return it.st_dev, it.st_ino, it.st_size, it.st_mtime_ns, it.st_ctime_ns
