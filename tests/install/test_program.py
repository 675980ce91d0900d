"""The real program: installed below a directory by the command line, run from there, and removed by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidegate import __version__
from sidegate.install import layout, machine, release
from sidegate.install.disk import Disk
from sidegate.problems import Problems
from tests.install.trees import bare_tree, picture

BASE_PYTHON = Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    # An install waits until the disk has everything, of other programs too (sync(2)).
    return subprocess.run(arguments, capture_output=True, text=True, timeout=150, cwd="/")


def from_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    return command(sys.executable, "-m", "sidegate", *arguments)


def installed(disk: Disk, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed program; its first line names a Python that is there only where /opt is this tree's."""
    current = disk.at(layout.CURRENT)
    return command(str(current / "bin/python"), "-I", str(current / "bin/sidegate"), *arguments)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    disk = bare_tree(tmp_path_factory.mktemp("root"))
    done = from_here("install", "--root", str(disk.root), "--python", str(BASE_PYTHON))
    assert (done.returncode, done.stderr) == (0, "")
    return disk


class TestInstalled:
    def test_it_runs_by_itself(self, tree: Disk) -> None:
        assert installed(tree, "--version").stdout == f"sidegate, version {__version__}\n"

    def test_it_needs_nothing_of_the_checkout(self, tree: Disk) -> None:
        program = "import sidegate, msgspec, click, rich, h11; print(sidegate.__file__)"
        python = str(tree.at(layout.CURRENT) / "bin/python")
        assert command(python, "-I", "-c", program).stdout.startswith(str(tree.at(layout.OPT)))

    def test_all_commands_and_homes_came_with_it(self, tree: Disk) -> None:
        homes = json.loads(installed(tree, "lab", "list", "--json").stdout)["homes"]
        assert "velop-mesh" in homes
        assert "uninstall" in installed(tree, "--help").stdout

    def test_licences_came_with_it(self, tree: Disk) -> None:
        names = {p.parent.name for p in tree.at(layout.RELEASES).rglob("LICENSE*")}
        assert "sidegate" in names
        assert len(names) > 1

    def test_nothing_names_the_checkout(self, tree: Disk) -> None:
        """A copy that still pointed to where it came from would die with it."""
        checkout = str(Path(__file__).parents[2]).encode()
        files = (p for p in tree.root.rglob("*") if p.is_file() and not p.is_symlink())
        assert [str(p) for p in files if checkout in p.read_bytes()] == []

    def test_everything_is_readable_by_all_and_writable_by_the_owner_only(self, tree: Disk) -> None:
        ours = [tree.at(layout.OPT), *tree.at(layout.OPT).rglob("*"), tree.at(layout.UNIT)]
        modes = {p.stat().st_mode & 0o777 for p in ours if not p.is_symlink()}
        assert modes == {0o755, 0o644}

    def test_the_configuration_is_its_owners_alone(self, tree: Disk) -> None:
        """Share links hold passwords."""
        assert tree.at(layout.CONFIG).stat().st_mode & 0o777 == 0o600

    def test_a_second_install_says_so_and_changes_nothing(self, tree: Disk) -> None:
        """The copy of the copy is the same."""
        before = picture(tree.root)
        done = installed(tree, "install", "--root", str(tree.root), "--python", str(BASE_PYTHON))
        assert (done.stdout, done.stderr) == ("Installed already, as it is here.\n", "")
        assert picture(tree.root) == before

    def test_running_it_writes_nothing_into_its_directory(self, tree: Disk) -> None:
        before = picture(tree.root)
        assert installed(tree, "lab", "check", "--help").returncode == 0
        assert picture(tree.root) == before


class TestCommandLine:
    def test_dry_run_changes_nothing(self, tmp_path: Path) -> None:
        disk = bare_tree(tmp_path)
        before = picture(tmp_path)
        done = from_here("install", "--root", str(tmp_path), "--python", str(BASE_PYTHON), "--dry-run", "--json")
        steps = json.loads(done.stdout)["steps"]
        assert {"do": "link", "what": f"{layout.COMMAND} -> {layout.CURRENT}/bin/sidegate"} in steps
        assert picture(disk.root) == before

    def test_another_program_is_no_python(self, tmp_path: Path) -> None:
        disk = bare_tree(tmp_path)
        before = picture(tmp_path)
        done = from_here("install", "--root", str(tmp_path), "--python", "/bin/true")
        assert (done.returncode, done.stdout) == (2, "")
        assert "true: is no Python 3." in done.stderr
        assert picture(disk.root) == before

    def test_it_uninstalls_itself_without_a_trace(self, tmp_path: Path) -> None:
        disk = bare_tree(tmp_path)
        before = picture(tmp_path)
        from_here("install", "--root", str(tmp_path), "--python", str(BASE_PYTHON))
        done = installed(disk, "uninstall", "--root", str(tmp_path))
        assert (done.returncode, done.stderr) == (0, "")
        assert f"remove: {layout.COMMAND}" in done.stdout
        assert picture(tmp_path) == before

    def test_a_file_in_the_way_is_told_and_nothing_is_done(self, tmp_path: Path) -> None:
        disk = bare_tree(tmp_path)
        disk.at(layout.COMMAND).write_text("theirs")
        before = picture(tmp_path)
        done = from_here("install", "--root", str(tmp_path), "--python", str(BASE_PYTHON))
        assert done.returncode == 2
        assert done.stderr.splitlines()[0] == f"{layout.COMMAND}: is there already, and no install of Sidegate made it"
        assert picture(tmp_path) == before

    def test_two_at_once(self, tmp_path: Path) -> None:
        disk = bare_tree(tmp_path)
        with disk.alone():
            done = from_here("uninstall", "--root", str(tmp_path))
        assert done.returncode == 1
        assert "another install or uninstall is at work" in done.stderr

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
    def test_the_machine_itself_is_roots(self) -> None:
        done = from_here("uninstall")
        assert done.returncode == 3
        assert "sudo" in done.stderr


class TestPrivilege:
    def test_what_would_be_done_is_told_to_anybody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        machine.look(dry=True)
        with pytest.raises(Problems, match="only root may change"):
            machine.look()


class TestPython:
    @pytest.mark.parametrize("place", ["/root/bin/python3", "/home/me/.pyenv/bin/python3"])
    def test_one_that_was_named_must_be_seen_by_the_service_too(self, place: str) -> None:
        with pytest.raises(Problems, match="where a service cannot see it"):
            release.check_visible(Path(place))
        release.check_visible(Path("/usr/bin/python3"))

    def test_one_that_a_service_cannot_see_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "_base_executable", "/root/.pyenv/bin/python3", raising=False)
        monkeypatch.setattr(release, "_version", lambda: "3.0")
        with pytest.raises(Problems, match="where a service cannot see it") as caught:
            release.find_python()
        assert "make install PYTHON=" in caught.value.problems[0].remedy

    def test_the_identity_of_a_release_is_its_content(self) -> None:
        python = release.Python("/usr/bin/python3", "3.11")
        one = release._identify({"a": b"1", "b": b"2"}, python)
        assert one == release._identify({"b": b"2", "a": b"1"}, python)
        assert one != release._identify({"a": b"12", "b": b""}, python)
        assert one != release._identify({"a": b"1", "b": b"2"}, release.Python("/usr/bin/python3.12", "3.12"))
