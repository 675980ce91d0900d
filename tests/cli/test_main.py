"""The command line where nothing runs yet: help, completion, exit codes, and how problems are told."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec
import pytest

from sidegate.cli import main as cli
from sidegate.cli.output import duration, json_option, size, table
from sidegate.home import shipped_homes
from sidegate.problems import Exit, Problem, Problems
from tests.conftest import GOLDEN_ROOT


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command with the words that lead to it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*words, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


class Said(msgspec.Struct):
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("lab", "list")`: what it said, with no labs of this user about."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def run(*words: str) -> Said:
        with pytest.raises(SystemExit) as caught:
            cli.main(list(words))
        return Said(int(caught.value.code or 0), *capsys.readouterr())

    return run


@pytest.mark.parametrize("words", [(), *commands(cli.sidegate)], ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help_and_says_what_it_does(words: tuple[str, ...], option: str, run: Run) -> None:
    said = run(*words, option)
    assert (said.code, said.err) == (0, "")
    usage, _, about = said.out.partition("\n\n")
    assert usage.startswith("Usage: ")
    assert " ".join(words) in usage
    assert about.strip()


class TestUsage:
    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ("nonsense", "No such command 'nonsense'"),
            ("lab nonsense", "No such command 'nonsense'"),
            ("lab up", "Missing argument 'HOME'"),
            ("lab up a b", "Got unexpected extra argument"),
            ("lab up simple --nonsense", "--nonsense"),
            ("lab up simple --gateway magic", "'magic' is not one of"),
            ("lab exec simple", "Missing argument 'MACHINE'"),
            ("lab exec simple phone", "Missing argument 'COMMAND...'"),
            ("lab capture simple phone --count 0", "0 is not in the range x>=1"),
            ("lab graph simple --format png", "'png' is not one of"),
            ("lab down", "name a lab, or give --all"),
        ],
    )
    def test_a_wrong_command_line_is_2(self, words: str, told: str, run: Run) -> None:
        said = run(*words.split())
        assert (said.code, said.out) == (2, "")
        assert told in said.err
        assert "Traceback" not in said.err

    def test_it_is_json_where_json_is_asked_for(self, run: Run) -> None:
        said = run("lab", "check", "--json")
        assert (said.code, said.err) == (2, "")
        assert json.loads(said.out) == {
            "schema": 1,
            "problems": [
                {"where": "command line", "what": "Missing argument 'HOME'.", "remedy": "", "exit_code": 2},
            ],
        }

    @pytest.mark.parametrize("command", ["up", "check", "graph"])
    def test_an_unknown_home_is_told_with_those_there_are(self, command: str, run: Run) -> None:
        said = run("lab", command, "castle")
        assert (said.code, said.out) == (2, "")
        assert (
            said.err
            == f"castle: no such home\n    shipped: {', '.join(shipped_homes())}; or the path of a .toml file\n"
        )

    @pytest.mark.parametrize("as_json", [False, True])
    def test_a_bad_home_file_is_told_with_all_its_errors(self, as_json: bool, run: Run) -> None:
        path = GOLDEN_ROOT / "homes" / "unknown-references.toml"
        said = run("lab", "check", str(path), *(["--json"] if as_json else []))
        assert said.code == 2
        if as_json:
            wheres = [p["where"] for p in json.loads(said.out)["problems"]]
        else:
            wheres = [line.rpartition(": ")[0] for line in said.err.splitlines() if not line.startswith(" ")]
        assert len(wheres) > 3
        assert all(where.startswith(str(path)) for where in wheres)

    @pytest.mark.parametrize(
        "words", ["exec castle phone true", "shell castle phone", "capture castle phone", "down castle"]
    )
    def test_an_unknown_lab_is_told(self, words: str, run: Run) -> None:
        said = run("lab", *words.split())
        assert (said.code, said.out) == (2, "")
        assert "castle: no lab of this name is up" in said.err
        assert "labs that are up: none" in said.err

    def test_down_of_several_unknown_labs_tells_them_all(self, run: Run) -> None:
        said = run("lab", "down", "a", "b", "--json")
        assert [p["where"] for p in json.loads(said.out)["problems"]] == ["a", "b"]

    def test_down_all_of_none_is_fine(self, run: Run) -> None:
        assert run("lab", "down", "--all") == Said(0, "", "")
        assert json.loads(run("lab", "down", "--all", "--json").out) == {"schema": 1, "ended": []}

    def test_list_of_none(self, run: Run) -> None:
        said = run("lab", "list")
        assert said.out == f"no lab is up\n\nhomes: {', '.join(shipped_homes())}\n"
        assert json.loads(run("lab", "list", "--json").out) == {
            "schema": 1,
            "labs": [],
            "homes": list(shipped_homes()),
        }

    def test_a_home_without_a_gateway_cannot_be_demonstrated(self, run: Run) -> None:
        said = run("demo", "simple")
        assert (said.code, said.out) == (2, "")
        assert said.err == "simple: this home has no gateway to bring up\n    try: sidegate demo velop-mesh\n"

    def test_a_report_that_cannot_be_kept_is_told_before_the_demonstration(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "no" / "report.html"
        said = run("demo", "--report", str(path))
        assert (said.code, said.out) == (2, "")
        assert (
            said.err == f"{path}: cannot be written: No such file or directory\n    give another place with --report\n"
        )


class TestGraph:
    @pytest.mark.parametrize("name", shipped_homes())
    def test_formats(self, name: str, run: Run) -> None:
        assert run("lab", "graph", name).out.startswith("<svg ")
        assert run("lab", "graph", name, "--format", "svg").out.rstrip().endswith("</svg>")
        assert "router" in run("lab", "graph", name, "--format", "mermaid").out
        plan = run("lab", "graph", name, "--format", "plan").out
        assert plan == (GOLDEN_ROOT / "lab" / f"{name}.txt").read_text()

    def test_to_a_file(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "home.svg"
        assert run("lab", "graph", "simple", "-o", str(path)) == Said(0, "", "")
        assert path.read_text() == run("lab", "graph", "simple").out

    def test_the_picture_of_the_docs_shows_what_the_routers_bridge_does(self, run: Run) -> None:
        drawn = run("lab", "graph", "velop-mesh").out
        assert "kernel bridge · conntrack on its frames" in drawn
        assert (GOLDEN_ROOT.parent.parent / "docs/velop-mesh.svg").read_text() == drawn

    def test_to_a_place_that_is_not_there(self, run: Run, tmp_path: Path) -> None:
        said = run("lab", "graph", "simple", "-o", str(tmp_path / "no" / "x.svg"))
        assert said.code == 2
        assert "cannot be written: No such file or directory\n    give another --output" in said.err


def completed(line: str, **env: str) -> list[str]:
    """What bash is told to complete the last word of a command line with."""
    words = line.split(" ")
    surroundings = {"_SIDEGATE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    script = "import sys; sys.argv[0] = 'sidegate'; from sidegate.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | surroundings | env, capture_output=True, text=True, timeout=150
    )
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sidegate lab up by", ["plain,bypass", "plain,bypass-removed"]),
        ("sidegate lab check ve", ["plain,velop-mesh"]),
        ("sidegate lab graph my/ho", ["file,my/ho"]),
        ("sidegate lab ex", ["plain,exec"]),
        ("sidegate lab exec ", []),
        ("sidegate de", ["plain,demo"]),
    ],
)
def test_completion(line: str, words: list[str], tmp_path: Path) -> None:
    assert completed(line, XDG_RUNTIME_DIR=str(tmp_path)) == words


class TestPipes:
    def test_a_reader_that_has_enough_is_no_fault(self) -> None:
        script = f"{shlex.quote(sys.executable)} -m sidegate lab graph velop-mesh --format plan"
        done = subprocess.run(
            ["bash", "-c", f"{script} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, timeout=150
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_connection_that_breaks_is_a_fault(self, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
        @click.command()
        def breaking() -> None:
            raise BrokenPipeError

        monkeypatch.setattr(cli, "_COMMANDS", {"breaking": (__name__, "")})
        monkeypatch.setitem(globals(), "breaking", breaking)
        monkeypatch.setattr(cli, "_is_unread", lambda _: False)
        said = run("breaking")
        assert (said.code, said.out) == (1, "")
        assert "a connection broke" in said.err


@pytest.mark.parametrize("code", list(Exit))
def test_the_highest_exit_code_of_all_problems_counts(code: Exit, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    @click.command()
    def failing() -> None:
        raise Problems(Problem("here", "is wrong", exit_code=Exit.FAULT), Problem("there", "too", "mend it", code))

    monkeypatch.setattr(cli, "_COMMANDS", {"failing": (__name__, "")})
    monkeypatch.setitem(globals(), "failing", failing)
    said = run("failing")
    assert (said.code, said.err) == (max(code, 1), "here: is wrong\nthere: too\n    mend it\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_what_root_keeps_to_itself_is_told(as_json: bool, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    @click.command()
    @json_option
    def looking(as_json: bool) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/var/lib/sidegate/journal.json")

    monkeypatch.setattr(cli, "_COMMANDS", {"looking": (__name__, "")})
    monkeypatch.setitem(globals(), "looking", looking)
    said = run("looking", *(["--json"] if as_json else []))
    where, what, remedy = "/var/lib/sidegate/journal.json", "Permission denied", "run it as root, with sudo"
    assert said.code == 3
    if as_json:
        problem = {"where": where, "what": what, "remedy": remedy, "exit_code": 3}
        assert json.loads(said.out)["problems"] == [problem]
    else:
        assert said.err == f"{where}: {what}\n    {remedy}\n"


def test_help_imports_no_lab_and_no_gateway() -> None:
    """It must answer at once."""
    script = "import sys; from sidegate.cli.main import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=150)
    loaded = {name for name in done.stdout.split() if name.startswith("sidegate")}
    assert loaded == {"sidegate", "sidegate.cli", "sidegate.cli.main", "sidegate.problems"}


def test_table() -> None:
    assert table(("A", "BB"), [("long", "x"), ("y", "z")]) == "A     BB\nlong  x\ny     z"
    assert table(("A", "B"), []) == "A  B"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1500000, "1.5 MB"), (2 * 10**12, "2 TB"), (3 * 10**15, "3e+03 TB")],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99.4, "99 s"), (100, "2 min"), (5999, "100 min"), (6000, "2 h"), (86400, "24 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
