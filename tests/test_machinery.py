"""The repository's own machinery: what `tools/setup` says and does, and that no kernel test is skipped unseen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASIC_PROGRAMS = ["bash", "dirname", "cut", "paste", "sort", "head", "sed", "flock", "cat", "sha256sum"]


def write_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def run(command: list[str], cwd: Path, path: str, **env: str) -> subprocess.CompletedProcess[str]:
    surroundings = os.environ | {"PATH": path, "PYTHON": sys.executable} | env
    return subprocess.run(command, cwd=cwd, env=surroundings, capture_output=True, text=True, timeout=150)


def third_time(word: str, log: Path) -> str:
    """A shell's command that succeeds once the log has three lines with this word."""
    return f'test "$(grep -c -e {word} "{log}")" -ge 3'


class TestSetup:
    """A copy of the tree that needs a program that no machine has, with an apt-get that only notes how it is called."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        tree = tmp_path / "a tree"
        shutil.copytree(ROOT / "tools", tree / "tools")
        with (tree / "tools/packages.txt").open("a") as packages:
            packages.write("no-such-program  no-such-package  run  # a test\n")
            packages.write("no-such-wire  no-such-wires  demo  # a test\n")
            packages.write("no-such-judge  no-such-judges  test  # a test\n")
        return tree

    @pytest.fixture
    def fakes(self, tmp_path: Path) -> Path:
        folder = tmp_path / "fakes"
        write_program(folder, "id", "echo 1000")
        write_program(folder, "dpkg-query", "exit 0")
        write_program(folder, "apt-get", f'echo "$@" >>"{tmp_path}/apt-get.log"')
        return folder

    def test_without_privilege_prints_the_exact_command_and_installs_nothing(self, tree: Path, fakes: Path) -> None:
        write_program(fakes, "sudo", "exit 1")
        result = run(["tools/setup"], tree, f"{fakes}:{os.environ['PATH']}")
        assert result.returncode == 3
        assert "sudo apt-get install --no-install-recommends" in result.stderr
        assert "no-such-package" in result.stderr
        log = (tree.parent / "apt-get.log").read_text()
        assert [line for line in log.splitlines() if "--simulate" not in line] == []

    def test_with_passwordless_sudo_installs_and_looks_again(self, tree: Path, fakes: Path) -> None:
        write_program(fakes, "sudo", 'shift; exec "$@"')
        result = run(["tools/setup"], tree, f"{fakes}:{os.environ['PATH']}")
        assert result.returncode == 3
        assert "not found on PATH" in result.stderr
        assert "no-such-program" in result.stderr
        installs = [line for line in (tree.parent / "apt-get.log").read_text().splitlines() if " -y " in line]
        assert len(installs) == 1
        assert "--no-install-recommends" in installs[0]
        assert "no-such-package" in installs[0]

    @pytest.mark.parametrize(
        ("purpose", "wanted"),
        [
            (["run"], {"no-such-package"}),
            (["demo"], {"no-such-package", "no-such-wires"}),
            (["test"], {"no-such-package", "no-such-wires", "no-such-judges"}),
            ([], {"no-such-package", "no-such-wires", "no-such-judges"}),
        ],
    )
    def test_each_purpose_wants_its_own_packages(
        self, tree: Path, fakes: Path, purpose: list[str], wanted: set[str]
    ) -> None:
        write_program(fakes, "sudo", "exit 1")
        result = run(["tools/setup", *purpose], tree, f"{fakes}:{os.environ['PATH']}")
        assert result.returncode == 3
        assert {word for word in result.stderr.split() if word.startswith("no-such-")} == wanted

    def test_python_packages_are_installed_once_for_all_that_need_no_more(self, tree: Path, fakes: Path) -> None:
        (tree / "tools/packages.txt").write_text("")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, tree)
        for name in ("modprobe", "sysctl"):
            write_program(fakes, name, "exit 0")
        log = tree.parent / "pip.log"
        log.touch()
        (tree / ".venv").mkdir()
        pip = f'case "$*" in *" -e "*) echo "$@" >>"{log}" ;; *pip*) ;; *) echo 3.11 ;; esac'
        write_program(tree / ".venv/bin", "python", pip)
        write_program(tree / ".venv/bin", "sidegate", "exit 0")
        installed = []
        for purpose in ("run", "run", "test", "demo", "run"):
            result = run(["tools/setup", purpose], tree, f"{fakes}:{os.environ['PATH']}")
            assert result.returncode == 0, result.stderr
            installed.append([line.split()[-1] for line in log.read_text().splitlines()])
        assert installed == [["."], ["."], [".", ".[dev]"], [".", ".[dev]"], [".", ".[dev]"]]

    def test_what_the_network_does_not_bring_is_asked_for_again(self, tree: Path, fakes: Path) -> None:
        log = tree.parent / "apt-get.log"
        write_program(fakes, "sudo", 'shift; exec "$@"')
        write_program(fakes, "sleep", "exit 0")
        write_program(fakes, "apt-get", f'echo "$@" >>"{log}"; case "$*" in *" -y "*) {third_time("-y", log)} ;; esac')
        assert "not found on PATH" in run(["tools/setup"], tree, f"{fakes}:{os.environ['PATH']}").stderr
        words = [line.split()[0] for line in log.read_text().splitlines() if "--simulate" not in line]
        assert words == ["install", "update", "install", "update", "install"]

    def test_python_packages_are_asked_for_again(self, tree: Path, fakes: Path) -> None:
        (tree / "tools/packages.txt").write_text("")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, tree)
        log = tree.parent / "pip.log"
        for name in ("modprobe", "sysctl", "sleep"):
            write_program(fakes, name, "exit 0")
        (tree / ".venv").mkdir()
        pip = f'case "$*" in *" -e "*) echo "$@" >>"{log}"; {third_time("-e", log)} ;; *pip*) ;; *) echo 3.11 ;; esac'
        write_program(tree / ".venv/bin", "python", pip)
        result = run(["tools/setup"], tree, f"{fakes}:{os.environ['PATH']}")
        assert (result.returncode, len(log.read_text().splitlines())) == (0, 3), result.stderr

    def test_programs_that_are_only_unpacked_are_asked_for_again(self, tree: Path, fakes: Path) -> None:
        """Without them tests are skipped, which is a failure where kernel tests are required."""
        (tree / "tools/unpacked.txt").write_text("no-such-program no-such-package a test\n")
        log = tree.parent / "apt-get.log"
        for name in ("sudo", "sleep"):
            write_program(fakes, name, "exit 0")
        bring = f"{third_time('download', log)} && touch it.deb"
        apt = f'echo "$@" >>"{log}"; case "$1" in download) {bring} ;; install) echo "Inst no-such-package (1)" ;; esac'
        write_program(fakes, "apt-get", apt)
        write_program(fakes, "dpkg-deb", 'mkdir -p "$3/usr/bin"; touch "$3/usr/bin/no-such-program"')
        result = run(["tools/unpack"], tree, f"{fakes}:{os.environ['PATH']}")
        assert result.stderr == "unpack: unpacking no-such-package\n"
        assert (tree / ".venv/unpacked/usr/bin/no-such-program").exists()

    def test_package_lists_that_the_network_does_not_bring_are_asked_for_again(self, tree: Path, fakes: Path) -> None:
        """What is not in them once they are there is asked for no more, and takes nothing from the others."""
        (tree / "tools/unpacked.txt").write_text(
            "no-such-program no-such-package a test\nsecond-program second a test\n"
        )
        log = tree.parent / "apt-get.log"
        write_program(fakes, "sudo", 'shift; exec "$@"')
        write_program(fakes, "sleep", "exit 0")
        update = f"update*) {third_time('update', log)} ;;"
        download = f"download*) {third_time('download', log)} && touch it.deb ;;"
        apt = f'*no-such-package) ;; {update} {download} *) echo "Inst second (1)" ;;'
        write_program(fakes, "apt-get", f'echo "$@" >>"{log}"; case "$*" in {apt} esac')
        write_program(fakes, "dpkg-deb", 'mkdir -p "$3/usr/bin"; touch "$3/usr/bin/second-program"')
        result = run(["tools/unpack"], tree, f"{fakes}:{os.environ['PATH']}")
        assert result.stderr == (
            "unpack: unpacking no-such-package\n"
            "unpack: no-such-package cannot be had: its tests will be skipped\n"
            "unpack: unpacking second\n"
        )
        words = [line.split()[0] for line in log.read_text().splitlines() if "--simulate" not in line]
        assert words == ["update"] * 3 + ["download"] * 3

    def test_an_unknown_purpose_is_refused(self, tree: Path) -> None:
        result = run(["tools/setup", "fun"], tree, os.environ["PATH"])
        assert result.returncode == 3
        assert '"fun" is none of: run, demo, test' in result.stderr

    def test_elsewhere_than_on_debian_names_the_programs(self, tree: Path, tmp_path: Path) -> None:
        basics = tmp_path / "basics"
        basics.mkdir()
        for name in BASIC_PROGRAMS:
            (basics / name).symlink_to(str(shutil.which(name)))
        result = run([str(shutil.which("bash")), "tools/setup"], tree, str(basics))
        assert result.returncode == 3
        assert "package manager" in result.stderr
        assert "no-such-program" in result.stderr

    def test_an_unusable_python_is_refused(self, tree: Path) -> None:
        result = run(["tools/setup"], tree, os.environ["PATH"], PYTHON="/bin/false")
        assert result.returncode == 3
        assert "PYTHON=/bin/false is not a Python" in result.stderr

    def test_every_package_has_a_reason(self) -> None:
        lines = (ROOT / "tools/packages.txt").read_text().splitlines()
        entries = [line for line in lines if line and not line.startswith("#")]
        assert entries
        for line in entries:
            listed, _, reason = line.partition("#")
            assert len(listed.split()) == 3, line
            assert listed.split()[2] in ("run", "demo", "test"), line
            assert reason.strip(), line


PASSING = "def test_it(): pass"
SKIPPING = "import pytest\ndef test_it(): pytest.skip('for no reason')"
SKIPPED_FILE = "import pytest\npytest.skip('for no reason', allow_module_level=True)"
ALL_WORKS = "exit 0"
NO_NAMESPACES = "echo 'unshare failed: Operation not permitted' >&2; exit 1"
NO_BR_NETFILTER = 'test "$4" = "ip link set lo up" || { echo 2; exit 1; }'


class TestKernelGate:
    """pytest, with this tree's conftest files, on one kernel test and an `unshare` that tells what the machine can."""

    @pytest.fixture
    def tests(self, tmp_path: Path) -> Path:
        (tmp_path / "tests/kernel").mkdir(parents=True)
        for name in ("tests/conftest.py", "tests/kernel/conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / name, tmp_path / name)
        return tmp_path

    def outcome(self, tree: Path, unshare: str, test: str, required: bool, *options: str) -> tuple[int, str]:
        write_program(tree / "fakes", "unshare", unshare)
        (tree / "tests/kernel/test_it.py").write_text(test)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
        path = f"{tree / 'fakes'}:{os.environ['PATH']}"
        result = run(command, tree, path, SIDEGATE_REQUIRE_KERNEL="1" if required else "0", COLUMNS="400")
        return result.returncode, result.stdout

    @pytest.mark.parametrize(
        ("unshare", "named"), [(NO_NAMESPACES, "lacks user namespaces"), (NO_BR_NETFILTER, "lacks br_netfilter")]
    )
    def test_a_lacking_machine_skips_with_the_name_or_fails(self, tests: Path, unshare: str, named: str) -> None:
        code, output = self.outcome(tests, unshare, PASSING, False)
        assert (code, named in output, "1 skipped in" in output) == (0, True, True), output
        code, output = self.outcome(tests, unshare, PASSING, True)
        assert (code, named in output, "1 error in" in output) == (1, True, True), output

    @pytest.mark.parametrize("test", [SKIPPING, SKIPPED_FILE])
    def test_any_other_skip_fails_where_kernel_tests_are_required(self, tests: Path, test: str) -> None:
        code, output = self.outcome(tests, ALL_WORKS, test, True, "-n", "1")
        assert (code != 0, "for no reason" in output) == (True, True), output

    def test_an_able_machine_passes_and_counts(self, tests: Path) -> None:
        code, output = self.outcome(tests, ALL_WORKS, PASSING, True, "-n", "1")
        assert (code, "kernel tests: 1, of which skipped: 0" in output) == (0, True), output

    def test_a_selection_without_kernel_tests_fails_where_they_are_required(self, tests: Path) -> None:
        (tests / "tests/test_other.py").write_text(PASSING)
        code, output = self.outcome(tests, ALL_WORKS, PASSING, True, "--ignore=tests/kernel")
        assert (code, "1 passed" in output) == (1, True), output


DRAWING = """
import sys, tests.conftest
from hypothesis import given, strategies as st
if sys.argv[1:]:
    import constants
drawn = []
given(st.lists(st.integers(0, 1 << 30), min_size=20))(lambda n: drawn.append(n))()
print(drawn)
"""


def test_examples_where_kernel_tests_are_required_do_not_depend_on_what_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "constants.py").write_text(f"ALL = {list(range(1000, 1100))}")

    def drawn(*loaded: str) -> str:
        command = [sys.executable, "-c", DRAWING, *loaded]
        path = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "SIDEGATE_REQUIRE_KERNEL": "1"}
        return run(command, tmp_path, os.environ["PATH"], **path).stdout

    assert drawn("constants") == drawn() != ""
