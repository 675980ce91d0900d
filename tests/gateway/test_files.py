"""Files that are there whole or not at all: at every moment, after every cut."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.box.files import discard_file, make_directory, remove_file, replace_file
from sidegate.problems import Problems
from tests.powercut.disk import Op, Tree, cuts
from tests.powercut.recording import install, restore


class Recorder:
    def __init__(self, root: Path) -> None:
        self.root, self.ops = root, list[Op]()
        install(str(root), self.ops.append)

    def phase(self, name: str) -> None:
        self.ops.append({"do": "phase", "path": name})

    def contents(self, path: Path) -> Iterator[tuple[str, bytes | None]]:
        """What may be in a file after a cut, with the phase of the cut."""
        for _, phase, tree in cuts(self.ops, str(self.root)):
            yield phase, tree.get(str(path))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Recorder]:
    yield Recorder(tmp_path)
    restore()


def test_old_or_new_at_every_cut(disk: Recorder) -> None:
    path = disk.root / "a" / "b" / "file.json"
    for phase in ("one", "two", "three"):
        disk.phase(phase)
        replace_file(path, phase.encode())
        disk.phase(f"after {phase}")
        replace_file(path.with_name("other"), b"x")
    found = set(disk.contents(path))
    assert {c for p, c in found if p == "one"} == {None, b"one"}
    assert {c for p, c in found if p == "after one"} == {b"one"}, "what was said to be done is there"
    assert {c for p, c in found if p == "two"} == {b"one", b"two"}
    assert {c for p, c in found if p == "after two"} == {b"two"}
    assert {c for p, c in found if p == "three"} == {b"two", b"three"}


def test_what_somebody_else_removes_at_the_same_moment_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: True)
    discard_file(tmp_path / "file.json")


def test_removed_means_gone(disk: Recorder) -> None:
    path = disk.root / "file.json"
    replace_file(path, b"it")
    disk.phase("removing")
    remove_file(path)
    disk.phase("after")
    replace_file(path.with_name("other"), b"x")
    found = set(disk.contents(path))
    assert {c for p, c in found if p == "removing"} == {b"it", None}
    assert {c for p, c in found if p == "after"} == {None}


def test_a_directory_stays_once_it_is_made(disk: Recorder) -> None:
    make_directory(disk.root / "a" / "b")
    *_, (_, _, last) = cuts(disk.ops, str(disk.root))
    assert last == {str(disk.root / "a"): None, str(disk.root / "a" / "b"): None}


def test_who_does_not_sync_is_caught(disk: Recorder) -> None:
    """The same, as people write it who trust their disk."""
    path = disk.root / "file"
    for text in (b"one!", b"two!"):
        fd = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, text)
        os.close(fd)
        os.replace(path.with_suffix(".new"), path)
    assert b"" in {content for _, content in disk.contents(path)}


@given(st.lists(st.binary(min_size=1, max_size=8), max_size=6))
def test_a_disk_that_syncs_everything_loses_nothing(contents: list[bytes]) -> None:
    import base64

    ops: list[Op] = []
    for i, content in enumerate(contents):
        data = base64.b64encode(content).decode()
        ops += [{"do": "create", "path": f"/r/{i}"}, {"do": "sync", "path": f"/r/{i}", "data": data}]
        ops += [{"do": "sync directory", "path": "/r"}]
    wanted: Tree = {f"/r/{i}": content for i, content in enumerate(contents)}
    assert [tree for _, _, tree in cuts(ops, "/r")][-1:] == ([wanted] if contents else [])


def test_what_cannot_be_removed_is_said(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    with pytest.raises(Problems, match=r"/it: cannot be removed: "):
        discard_file(tmp_path / "it")
    discard_file(tmp_path / "other")


def test_the_state_is_as_readable_as_the_service_has_it_and_files_guard_themselves(tmp_path: Path) -> None:
    state = tmp_path / "state"
    replace_file(state / "journal.json", b"secret")
    make_directory(tmp_path / "other" / "dhcp")
    modes = [path.stat().st_mode & 0o777 for path in (state, state / "journal.json")]
    modes += [path.stat().st_mode & 0o777 for path in (tmp_path / "other", tmp_path / "other" / "dhcp")]
    assert modes == [0o755, 0o600, 0o755, 0o700]
