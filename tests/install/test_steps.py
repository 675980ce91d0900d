"""Installing, upgrading and uninstalling on trees: what is there afterwards, wherever the power went."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sidegate.install import layout
from sidegate.install.disk import Disk
from sidegate.install.plan import File, Plan
from sidegate.install.steps import (
    EndGateway,
    Flush,
    MakeLink,
    Remove,
    RemoveTree,
    RestartDaemon,
    Run,
    Save,
    Step,
    Surroundings,
    conflicts,
    uninstall_steps,
)
from sidegate.problems import Problems
from tests.install.trees import bare_tree, install, perform, picture, small_plan, to_install, uninstall

EXTRA = File("/usr/local/share/fish/vendor_completions.d/sidegate.fish", b"complete\n")
OLD = small_plan("1", extra=[EXTRA])
NEW = small_plan("2", config="#b")


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of installs would flush the whole machine's disks hundreds of times."""
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return bare_tree(tmp_path / "root")


def fresh_picture(plan: Plan, place: Path) -> dict[str, tuple[int, bytes]]:
    disk = bare_tree(place)
    install(plan, disk)
    return picture(place)


def without_manifest(tree: dict[str, tuple[int, bytes]]) -> dict[str, tuple[int, bytes]]:
    return {path: it for path, it in tree.items() if path != layout.MANIFEST.lstrip("/")}


class TestTree:
    def test_uninstall_leaves_the_tree_as_it_was(self, disk: Disk) -> None:
        before = picture(disk.root)
        install(OLD, disk)
        assert picture(disk.root) != before
        uninstall(disk)
        assert picture(disk.root) == before

    def test_what_the_gateway_and_the_person_made_meanwhile_goes_too(self, disk: Disk) -> None:
        before = picture(disk.root)
        install(OLD, disk)
        for path in (layout.STATE_DIR, layout.RUNTIME_DIR, layout.DROP_INS, layout.CONFIG_DIR):
            disk.at(path).mkdir(parents=True, exist_ok=True)
            (disk.at(path) / "something").write_text("x")
        disk.at(layout.ENABLED).parent.mkdir()
        disk.at(layout.ENABLED).symlink_to(layout.UNIT)
        uninstall(disk)
        after = picture(disk.root)
        # systemd made the .wants directory, and others may be using it.
        after.pop("etc/systemd/system/multi-user.target.wants")
        assert after == before

    def test_a_second_install_does_nothing(self, disk: Disk) -> None:
        install(OLD, disk)
        assert to_install(OLD, disk) == ()

    def test_uninstall_of_nothing_does_nothing(self, disk: Disk) -> None:
        assert uninstall_steps(disk.look(), None) == ()

    def test_a_damaged_installation_is_mended(self, disk: Disk) -> None:
        install(OLD, disk)
        whole = picture(disk.root)
        disk.at(layout.UNIT).chmod(0o600)
        disk.at(layout.COMMAND).unlink()
        disk.at(f"{OLD.directory}/lib/module.py").write_text("broken")
        install(OLD, disk)
        assert picture(disk.root) == whole

    def test_an_upgrade_is_like_a_fresh_install(self, disk: Disk, tmp_path: Path) -> None:
        install(OLD, disk)
        install(NEW, disk)
        assert without_manifest(picture(disk.root)) == without_manifest(fresh_picture(NEW, tmp_path / "fresh"))

    def test_uninstall_after_an_upgrade_leaves_the_tree_as_it_was(self, disk: Disk) -> None:
        before = picture(disk.root)
        install(OLD, disk)
        install(NEW, disk)
        uninstall(disk)
        assert picture(disk.root) == before

    def test_a_directory_of_ours_that_others_use_stays(self, disk: Disk) -> None:
        install(OLD, disk)
        other = disk.at(EXTRA.path).with_name("other.fish")
        other.write_text("complete other")
        uninstall(disk)
        assert other.read_text() == "complete other"
        assert not disk.at(EXTRA.path).exists()

    def test_the_manifest_says_what_was_done(self, disk: Disk) -> None:
        install(OLD, disk)
        manifest = disk.look().manifest
        assert manifest is not None
        assert manifest.is_finished
        assert EXTRA.path in manifest.paths
        assert "/usr/local/share/fish" in manifest.directories
        assert "/usr/local" not in manifest.directories


class TestConfiguration:
    def test_unchanged_it_follows_the_release(self, disk: Disk) -> None:
        install(OLD, disk)
        install(NEW, disk)
        assert disk.at(layout.CONFIG).read_text() == "#b"

    def test_changed_it_stays(self, disk: Disk) -> None:
        install(OLD, disk)
        disk.at(layout.CONFIG).write_text("a = 1")
        install(NEW, disk)
        install(small_plan("3", config="#c"), disk)
        assert disk.at(layout.CONFIG).read_text() == "a = 1"

    def test_removed_it_stays_away(self, disk: Disk) -> None:
        install(OLD, disk)
        disk.at(layout.CONFIG).unlink()
        install(NEW, disk)
        assert not disk.at(layout.CONFIG).exists()

    def test_written_before_the_first_install_it_stays(self, disk: Disk) -> None:
        disk.at(layout.CONFIG_DIR).mkdir()
        disk.at(layout.CONFIG).write_text("a = 1")
        assert conflicts(OLD, disk.look(OLD)) == []
        install(OLD, disk)
        install(NEW, disk)
        assert disk.at(layout.CONFIG).read_text() == "a = 1"

    @pytest.mark.parametrize(("keep", "stays"), [("config", layout.CONFIG), ("state", f"{layout.STATE_DIR}/history")])
    def test_keep(self, disk: Disk, keep: str, stays: str) -> None:
        install(OLD, disk)
        disk.at(layout.STATE_DIR).mkdir()
        (disk.at(layout.STATE_DIR) / "history").write_text("x")
        uninstall(disk, keep)  # type: ignore[arg-type]
        mine = [layout.CONFIG, f"{layout.STATE_DIR}/history", layout.OPT, layout.UNIT]
        assert [path for path in mine if disk.at(path).exists()] == [stays]
        assert to_install(OLD, disk) != ()


class TestStrangers:
    @pytest.mark.parametrize("path", [layout.COMMAND, layout.UNIT, f"{layout.OPT}/theirs", "/usr/local/share/fish"])
    def test_a_file_in_the_way_is_a_problem_and_stays(self, disk: Disk, path: str) -> None:
        disk.at(path).parent.mkdir(parents=True, exist_ok=True)
        disk.at(path).write_text("theirs")
        problems = conflicts(OLD, disk.look(OLD))
        assert [p.where for p in problems] == [layout.OPT if path.startswith(layout.OPT) else path]
        assert "move it away" in problems[0].remedy

    def test_all_of_them_at_once(self, disk: Disk) -> None:
        disk.at(layout.COMMAND).mkdir()
        disk.at(layout.UNIT).parent.mkdir(parents=True)
        disk.at(layout.UNIT).symlink_to("/dev/null")
        assert {p.where for p in conflicts(OLD, disk.look(OLD))} == {layout.COMMAND, layout.UNIT}

    def test_a_damaged_manifest_is_a_problem(self, disk: Disk) -> None:
        install(OLD, disk)
        disk.at(layout.MANIFEST).write_text("{")
        with pytest.raises(Problems, match=r"manifest\.json: damaged"):
            disk.look()


class PowerCut(Exception):
    pass


def cut_at(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes before the count-th time that a new file takes an old one's place."""
    real, done = os.replace, 0

    def replace(source: str, target: str) -> None:
        nonlocal done
        done += 1
        if done == count:
            raise PowerCut
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


def interrupted(steps: tuple[Step, ...], disk: Disk, count: int) -> None:
    perform(steps[:count], disk)


Prepare = Callable[[Disk], None]


def nothing(disk: Disk) -> None:
    """A bare machine."""


def with_old(disk: Disk) -> None:
    install(OLD, disk)


class TestPowerCuts:
    """Every place where the steps can break off, for a first install (OLD) and an upgrade to it (from NEW)."""

    COUNT = 40

    @pytest.mark.parametrize("prepare", [nothing, with_old])
    def test_install_breaks_off_and_uninstall_restores(self, tmp_path: Path, prepare: Prepare) -> None:
        for count in range(self.COUNT):
            disk = bare_tree(tmp_path / str(count))
            before = picture(disk.root)
            prepare(disk)
            interrupted(to_install(NEW, disk), disk, count)
            uninstall(disk)
            assert picture(disk.root) == before, f"after {count} steps"

    @pytest.mark.parametrize("prepare", [nothing, with_old])
    def test_install_breaks_off_and_a_second_completes(self, tmp_path: Path, prepare: Prepare) -> None:
        expected = without_manifest(fresh_picture(NEW, tmp_path / "fresh"))
        for count in range(self.COUNT):
            disk = bare_tree(tmp_path / str(count))
            prepare(disk)
            interrupted(to_install(NEW, disk), disk, count)
            assert conflicts(NEW, disk.look(NEW)) == []
            install(NEW, disk)
            assert without_manifest(picture(disk.root)) == expected, f"after {count} steps"
            assert to_install(NEW, disk) == ()

    @pytest.mark.parametrize("prepare", [nothing, with_old])
    def test_a_half_written_file_is_found_and_replaced(
        self, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for count in range(1, 12):
            disk = bare_tree(tmp_path / str(count))
            before = picture(disk.root)
            prepare(disk)
            plan = small_plan("3", config="#c", extra=[File("/usr/local/bin/new", b"")])
            with monkeypatch.context() as patched:
                cut_at(count, patched)
                with contextlib.suppress(PowerCut):
                    install(plan, disk)
            uninstall(disk)
            assert picture(disk.root) == before, f"at the replacement {count}"

    def test_uninstall_breaks_off_and_a_second_completes(self, tmp_path: Path) -> None:
        for count in range(self.COUNT):
            disk = bare_tree(tmp_path / str(count))
            before = picture(disk.root)
            install(OLD, disk)
            interrupted(uninstall_steps(disk.look(), None), disk, count)
            uninstall(disk)
            assert picture(disk.root) == before, f"after {count} steps"

    def test_that_all_places_were_tried(self, tmp_path: Path) -> None:
        disk = bare_tree(tmp_path / "root")
        assert len(install(OLD, disk)) < self.COUNT
        assert len(to_install(NEW, disk)) < self.COUNT

    def test_the_new_release_is_on_the_disk_before_it_is_current(self, disk: Disk) -> None:
        steps = to_install(OLD, disk)
        assert isinstance(steps[steps.index(MakeLink(OLD.current)) - 1], Flush)

    def test_until_the_new_release_is_whole_the_old_one_is_current(self, disk: Disk) -> None:
        install(OLD, disk)
        for step in to_install(NEW, disk):
            disk.perform(step)  # type: ignore[arg-type]
            current = disk.at(layout.CURRENT).readlink().name
            parts = [disk.at(item.path) for item in small_plan(current).program]
            assert all(os.path.lexists(part) for part in parts)


class TestMachine:
    """What happens beyond the files, and when."""

    RUNNING = Surroundings(has_systemd=True, is_active=True, has_group=True)
    FRESH = Surroundings(has_systemd=True, is_active=False, has_group=False)

    def test_a_first_install_makes_the_group_and_starts_nothing(self, disk: Disk) -> None:
        steps = to_install(OLD, disk, self.FRESH)
        runs = [s.arguments[0] for s in steps if isinstance(s, Run)]
        assert runs == ["systemd-sysusers", "systemd-tmpfiles", "systemctl"]
        assert not any(isinstance(s, RestartDaemon) for s in steps)

    def test_start_enables_the_service_even_if_all_else_is_done(self, disk: Disk) -> None:
        install(OLD, disk)
        perform(to_install(OLD, disk, self.FRESH), disk)
        steps = to_install(OLD, disk, self.RUNNING, start=True)
        assert steps == (Run(("systemctl", "enable", "--now", "sidegate.service")),)

    def test_an_upgrade_restarts_between_the_new_and_the_end_of_the_old(self, disk: Disk) -> None:
        install(OLD, disk)
        steps = to_install(NEW, disk, self.RUNNING)
        switched = steps.index(MakeLink(NEW.current))
        removed = steps.index(RemoveTree(OLD.directory))
        assert switched < steps.index(RestartDaemon()) < removed

    def test_uninstall_ends_the_gateway_before_anything_is_removed(self, disk: Disk) -> None:
        install(OLD, disk)
        steps = uninstall_steps(disk.look(), self.RUNNING)
        assert steps[:2] == (Run(("systemctl", "disable", "--now", "sidegate.service")), EndGateway())
        assert all(not isinstance(s, Remove | RemoveTree) for s in steps[:2])

    def test_without_systemd_the_gateway_is_ended_all_the_same(self, disk: Disk) -> None:
        install(OLD, disk)
        steps = uninstall_steps(disk.look(), Surroundings(has_systemd=False, is_active=False, has_group=False))
        assert steps[0] == EndGateway()
        assert not any(isinstance(s, Run) for s in steps)

    @pytest.mark.parametrize("had_group", [True, False])
    def test_the_group_goes_only_if_we_made_it(self, disk: Disk, had_group: bool) -> None:
        perform(to_install(OLD, disk, Surroundings(has_systemd=True, is_active=False, has_group=had_group)), disk)
        perform(to_install(NEW, disk, self.RUNNING), disk)
        steps = uninstall_steps(disk.look(), self.RUNNING)
        assert (Run(("groupdel", "sidegate"), is_needed=False) in steps) is not had_group

    def test_below_root_nothing_of_the_machine_is_touched(self, disk: Disk) -> None:
        steps = (*install(OLD, disk), *uninstall_steps(disk.look(), None))
        assert not any(isinstance(s, Run | RestartDaemon | EndGateway) for s in steps)

    def test_the_manifest_is_noted_before_the_first_file(self, disk: Disk) -> None:
        steps = to_install(OLD, disk)
        first = next(i for i, s in enumerate(steps) if isinstance(s, Save))
        assert all(type(s).__name__ == "MakeDirectory" for s in steps[:first])
