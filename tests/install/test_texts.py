"""The files that an installation brings: the unit, the example configuration, man pages, shell completion."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any, get_args

import click
import msgspec
import pytest

from sidegate import __version__
from sidegate.cli.main import sidegate
from sidegate.gateway.box.places import RUNTIME_DIR, Places
from sidegate.gateway.config import DEFAULT_PATH, Config, parse_config
from sidegate.gateway.daemon.control import GROUP
from sidegate.install import layout
from sidegate.install.completion import completion
from sidegate.install.manual import manual_pages
from sidegate.install.plan import shipped
from tests.conftest import Golden

UNIT = shipped("sidegate.service")
EXAMPLE = shipped("sidegate.toml")
HIGHEST_EXPOSURE = 3.0


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "LC_ALL": "C.UTF-8", **env}
    return subprocess.run(command, capture_output=True, text=True, timeout=150, env=surroundings)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(which(program) is None, reason=f"{program} is not installed")


class TestUnit:
    @pytest.fixture
    def unit(self, tmp_path: Path) -> Path:
        """The unit, with a program and a manual that are there."""
        file = tmp_path / layout.UNIT_NAME
        text = re.sub(r"(?m)^Documentation=.*\n", "", UNIT)
        file.write_text(text.replace(f"{layout.CURRENT}/bin/sidegate", "/bin/true"))
        return file

    @needs("systemd-analyze")
    def test_systemd_understands_it(self, unit: Path) -> None:
        result = run("systemd-analyze", "verify", str(unit))
        assert (result.returncode, result.stdout + result.stderr) == (0, "")

    @needs("systemd-analyze")
    def test_exposure(self, unit: Path) -> None:
        limit = f"--threshold={HIGHEST_EXPOSURE * 10:.0f}"
        result = run("systemd-analyze", "security", "--offline=true", limit, "--no-pager", str(unit))
        assert result.returncode == 0, result.stdout
        assert "Overall exposure level" in result.stdout

    def test_it_agrees_with_the_gateway(self) -> None:
        lines = UNIT.splitlines()
        assert f"ExecStart={layout.CURRENT}/bin/sidegate up --foreground" in lines
        assert f"StateDirectory={Places().state.relative_to('/var/lib')}" in lines
        assert f"RuntimeDirectory={RUNTIME_DIR.relative_to('/run')}" in lines
        assert f"SupplementaryGroups={GROUP}" in lines
        assert f"g {GROUP} - -" in shipped("sysusers.conf").splitlines()
        assert str(DEFAULT_PATH) == layout.CONFIG
        assert layout.GROUP == GROUP

    def test_the_network_settings_can_be_written_and_no_others(self) -> None:
        """ReadWritePaths nests in what ProtectKernelTunables makes read-only (systemd.exec(5))."""
        assert "ProtectKernelTunables=yes" in UNIT
        assert "ReadWritePaths=/proc/sys/net\n" in UNIT

    def test_the_lock_of_iptables_is_made_and_writable(self) -> None:
        assert "ReadWritePaths=-/run/xtables.lock" in UNIT
        assert "f /run/xtables.lock 0600 root root -" in shipped("tmpfiles.conf").splitlines()


def uncommented(text: str) -> str:
    """The example with every setting turned on: a setting has no space after its #."""
    return re.sub(r"(?m)^#(?=[^\s#])", "", text)


def struct_of(kind: Any) -> Any:
    """The struct in `X`, `X | None`, `tuple[X, ...]`; None if there is none."""
    candidates = [kind, *get_args(kind), *(inner for a in get_args(kind) for inner in get_args(a))]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, msgspec.Struct)), None)


def leaves(kind: Any, path: str = "") -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    """Every key of the configuration, with its path."""
    for field in msgspec.structs.fields(kind):
        inner = struct_of(field.type)
        if inner is None:
            yield f"{path}{field.encode_name}", field
        else:
            yield from leaves(inner, f"{path}{field.encode_name}.")


def at(data: Any, path: str) -> Any:
    """A value of parsed TOML; of a list of tables, the first that has it. None if it is not there."""
    for key in path.split("."):
        tables = data if isinstance(data, list) else [data]
        data = next((t[key] for t in tables if key in t), None)
        if data is None:
            return None
    return data


class TestExample:
    def test_as_it_is_it_changes_nothing(self) -> None:
        assert parse_config(EXAMPLE, "example") == Config()

    def test_with_every_line_turned_on_it_is_right(self) -> None:
        assert parse_config(uncommented(EXAMPLE), "example") != Config()

    def test_every_key_is_in_it(self) -> None:
        data = tomllib.loads(uncommented(EXAMPLE))
        assert [path for path, _ in leaves(Config) if at(data, path) is None] == []

    def test_what_is_not_called_an_example_is_the_default(self) -> None:
        wrong = []
        for path, field in leaves(Config):
            if field.default is not msgspec.NODEFAULT and not is_example(path):
                shown = at(tomllib.loads(uncommented(EXAMPLE)), path)
                default = msgspec.to_builtins(field.default, enc_hook=str)
                if shown != (list(default) if isinstance(default, tuple) else default):
                    wrong.append(f"{path}: {shown!r}, the default is {default!r}")
        assert wrong == []

    def test_every_setting_has_its_own_words(self) -> None:
        lines = EXAMPLE.splitlines()
        silent = [b for a, b in itertools.pairwise(lines) if re.match(r"#\w", b) and not re.match("# ", a)]
        assert silent == []


def is_example(path: str) -> bool:
    """Whether the text says so: right above the setting, or of its whole section."""
    section, _, key = path.rpartition(".")
    before, _, inside = EXAMPLE.partition(
        f"\n#[[{section}]]\n" if f"#[[{section}]]" in EXAMPLE else f"\n#[{section}]\n"
    )
    if before.rstrip().endswith("is an example."):
        return True
    above = re.split(rf"(?m)^#{key} =", inside)[0].splitlines()
    return bool(above) and above[-1] == "# Example:"


@click.group()
@click.option("--loud", is_flag=True, help="Say 'it' ^loudly^; not ~softly~.")
def tool() -> None:
    """A tool. It has more to say.

    \b
    .starts with a dot
      keeps - its \\ lines

    Last words.
    """


@tool.command()
@click.argument("what")
@click.option("--how", default="well", show_default=True, help="In which way.")
def act(what: str, how: str) -> None:
    """Do something."""


@tool.command(hidden=True)
def secret() -> None:
    """Not to be shown."""


def plain(shown: str) -> str:
    """What man printed, without its bold and underlined letters."""
    return re.sub(r".\x08|\x1b\[[0-9;]*m", "", shown)


class TestManual:
    def test_pages_of_a_small_tool(self, golden: Golden) -> None:
        pages = manual_pages(tool, "1.2", "# Words.\n#[section]\n#key = 'a'\n")
        assert list(pages) == ["sidegate.1", "sidegate-act.1", "sidegate.toml.5"]
        for name, text in pages.items():
            golden(f"install/{name}", text)

    def test_every_command_has_its_page(self) -> None:
        pages = manual_pages(sidegate, __version__, EXAMPLE)
        assert {"sidegate.1", "sidegate-up.1", "sidegate-lab-check.1", "sidegate-install.1"} <= set(pages)

    @needs("man")
    def test_groff_has_nothing_to_say_against_them(self, tmp_path: Path) -> None:
        for name, text in manual_pages(sidegate, __version__, EXAMPLE).items():
            (tmp_path / name).write_text(text)
        pages = sorted(map(str, tmp_path.iterdir()))
        result = run("man", "--warnings=w", "--local-file", "-Tutf8", *pages, MANPAGER="cat", MANROFFOPT="")
        assert (result.returncode, result.stderr) == (0, "")
        assert "sidegate lab check [OPTIONS] HOME" in plain(result.stdout)

    @needs("man")
    def test_the_example_is_shown_letter_by_letter(self, tmp_path: Path) -> None:
        page = tmp_path / "sidegate.toml.5"
        page.write_text(manual_pages(tool, "1", EXAMPLE)["sidegate.toml.5"])
        shown = run("man", "-l", "-Tutf8", str(page), MANPAGER="cat", MANWIDTH="200").stdout
        missing = [line for line in EXAMPLE.splitlines() if line.strip() not in plain(shown)]
        assert missing == []


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_shell_takes_it(self, shell: str, tmp_path: Path) -> None:
        script = completion(sidegate, shell)
        assert "_SIDEGATE_COMPLETE" in script
        if which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        (tmp_path / "script").write_text(script)
        result = run(shell, "-n", str(tmp_path / "script"))
        assert (result.returncode, result.stderr) == (0, "")

    def test_bash_is_told_the_homes(self) -> None:
        """What the script asks; it comes before any command is run."""
        program = "import sys; sys.argv[0] = 'sidegate'; from sidegate.cli.main import main; main()"
        asked = {"_SIDEGATE_COMPLETE": "bash_complete", "COMP_WORDS": "sidegate lab check velop", "COMP_CWORD": "3"}
        result = run(sys.executable, "-c", program, **asked)
        assert result.stdout == "plain,velop-mesh\n"

    def test_another_shell_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="tcsh"):
            completion(sidegate, "tcsh")
