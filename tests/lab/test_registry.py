"""The records of labs that are up: what is read back, what is thrown away, and whose folder is not trusted."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from sidegate.home import Home, load_home, load_router, shipped_homes
from sidegate.lab import registry
from sidegate.lab.blueprint import blueprint
from sidegate.lab.init import Holder
from sidegate.lab.lab import Lab
from sidegate.problems import Problems
from sidegate.reading import encode_address, restore

Sleeper = Callable[[], int]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "sidegate-labs"


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The pid of a process that stands for PID 1 of a lab."""
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process.pid
        process.kill()


def a_lab(pid: int, name: str = "here", home: str = "velop-mesh") -> Lab:
    """All that the registry looks at."""
    loaded = load_home(home)
    plan = blueprint(loaded, load_router(loaded.router.profile))
    machines = {"router": Holder(outside=pid, inside=2)}
    return cast(
        Lab,
        SimpleNamespace(
            name=name, home=loaded, plan=plan, pid=pid, machines=machines, user_namespace=True, papers=None
        ),
    )


@pytest.mark.parametrize("name", shipped_homes())
def test_a_home_survives_plain_data(name: str) -> None:
    home = load_home(name)
    text = msgspec.json.encode(home, enc_hook=encode_address)
    assert restore(json.loads(text), Home) == home


def test_restore_tells_every_error() -> None:
    with pytest.raises(Problems) as caught:
        restore({"title": 3, "internet": {"server": []}, "rooter": None, "nod": []}, Home)
    assert [p.where for p in caught.value.problems] == ["nod", "title", "router"]


def test_a_lab_is_found_again(folder: Path, sleeper: int) -> None:
    lab = a_lab(sleeper)
    registry.remember(lab)
    found = registry.find("here")
    try:
        assert (found.name, found.home, found.plan, found.pid) == ("here", lab.home, lab.plan, sleeper)
        assert (found.machines, found.user_namespace) == (lab.machines, True)
    finally:
        os.close(cast(int, found._pidfd))
    assert [path.name for path in folder.iterdir()] == ["here.json"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_name_is_taken_while_its_lab_lives(folder: Path, sleeper: int) -> None:
    registry.remember(a_lab(sleeper))
    before = (folder / "here.json").read_bytes()
    with pytest.raises(Problems, match="a lab of this name is up") as caught:
        registry.remember(a_lab(sleeper, home="simple"))
    assert caught.value.problems[0].remedy == "sidegate lab down here, or give --name"
    assert (folder / "here.json").read_bytes() == before
    assert len(list(folder.iterdir())) == 1


def test_a_record_whose_process_id_was_used_again_is_thrown_away(folder: Path, sleeper: int) -> None:
    registry.remember(a_lab(sleeper))
    path = folder / "here.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"started": record["started"] + 1}))
    assert registry.records() == []
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", '{"name": "here"}', "[]", "\x00"])
def test_what_is_no_record_is_thrown_away(folder: Path, text: str) -> None:
    registry.folder()
    (folder / "here.json").write_text(text)
    assert registry.records() == []
    assert not (folder / "here.json").exists()


def test_a_dead_lab_is_not_found_and_its_name_is_free(folder: Path, sleeper: int) -> None:
    with subprocess.Popen(["sleep", "100"]) as process:
        registry.remember(a_lab(process.pid))
        process.kill()
    with pytest.raises(Problems, match="no lab of this name is up"):
        registry.find("here")
    registry.remember(a_lab(sleeper))
    assert [record.ready.pid for record in registry.records()] == [sleeper]


def test_a_zombie_counts_as_dead() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert registry.start_time(process.pid) is None
    process.wait()
    assert registry.start_time(process.pid) is None
    assert registry.start_time(os.getpid()) is not None


def test_a_lab_that_is_dead_already_is_not_remembered(folder: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(Problems, match="ended before"):
        registry.remember(a_lab(process.pid))
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", ".x", "a b", "x" * 51, "a\n"])
def test_what_cannot_be_a_file_is_no_name(folder: Path, sleeper: int, name: str) -> None:
    with pytest.raises(Problems, match="cannot be the name of a lab"):
        registry.remember(a_lab(sleeper, name))
    with pytest.raises(Problems, match="cannot be the name of a lab"):
        registry.forget(name)


@pytest.mark.parametrize("name", ["x", "velop-mesh.2", "家", "x" * 50])
def test_other_names_are_fine(folder: Path, sleeper: int, name: str) -> None:
    registry.remember(a_lab(sleeper, name))
    assert [record.name for record in registry.records()] == [name]
    registry.forget(name)
    assert registry.records() == []


def test_a_folder_of_somebody_else_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(Problems, match="is not a folder of yours"):
        registry.records()


def test_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Problems, match="is not a folder of yours"):
        registry.records()


def test_a_file_in_the_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(Problems, match="cannot be made") as caught:
        registry.records()
    assert caught.value.problems[0].remedy == "set XDG_RUNTIME_DIR"


@pytest.mark.parametrize(("runtime", "uid"), [(None, 0), ("", 1000), ("relative/path", 1000)])
def test_without_a_valid_runtime_folder(runtime: str | None, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(Path, "mkdir", lambda path, **_: made.append(path))
    monkeypatch.setattr(Path, "lstat", lambda _: SimpleNamespace(st_uid=uid, st_mode=0o40700))
    expected = Path("/run/sidegate-labs" if uid == 0 else "/tmp/sidegate-labs-1000")  # noqa: S108 - the owner is checked
    assert registry.folder() == expected
    assert made == [expected]
