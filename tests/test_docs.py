"""What the documents say can be done: commands, settings, links and quoted messages are those there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sidegate.cli.main import sidegate
from sidegate.gateway.config import parse_config
from sidegate.problems import Problems

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
)
document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SHELL = re.compile(r"\s+#\s.*|\s+#$|\s*[>|&;].*")
_BETWEEN_LITERALS = re.compile(r'"\s*\n\s*f?"')


def commands(text: str) -> Iterator[list[str]]:
    """The words after `sidegate`, of every command line in a document."""
    lines = [line for kind, block in _FENCED.findall(text) if kind != "toml" for line in block.splitlines()]
    lines += _SPAN.findall(_FENCED.sub("", text))
    for line in lines:
        if found := re.match(r"\s*(?:sudo )?sidegate((?: .*)?)$", line):
            yield shlex.split(_SHELL.sub("", found[1]))


def misfit(words: list[str]) -> str:
    """Why the command line takes no such words; empty if it does. Words in capitals stand for anything."""
    command: click.Command = sidegate
    context = click.Context(command, **command.context_settings)
    for i, word in enumerate(words):
        if isinstance(command, click.Group) and not word.startswith("-"):
            if "|" in word or not (below := command.get_command(context, word)):
                return "" if "|" in word else f"no command {word}"
            command = below
        elif word.startswith("-") and word != "--" and not _has_option(command, context, word):
            return f"{command.name} has no option {word} ({' '.join(words[: i + 1])})"
    return ""


def _has_option(command: click.Command, context: click.Context, word: str) -> bool:
    names = {name for option in command.get_params(context) for name in (*option.opts, *option.secondary_opts)}
    return word.partition("=")[0] in names | {"-h", "--help"}


def slugs(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@document
def test_commands_are_those_there_are(path: Path) -> None:
    assert [told for words in commands(path.read_text()) if (told := misfit(words))] == []


@document
def test_settings_are_those_there_are(path: Path) -> None:
    """A share link that is cut short is no link; keys and their values must be right."""
    wrong = []
    for kind, block in _FENCED.findall(path.read_text()):
        if kind == "toml":
            try:
                parse_config(block, path.name)
            except Problems as error:
                wrong += [str(it) for it in error.problems if "unknown key" in it.what or "expected" in it.what.lower()]
    assert wrong == []


@document
def test_links_lead_somewhere(path: Path) -> None:
    dead = []
    for link in _LINK.findall(path.read_text()):
        place, _, anchor = link.partition("#")
        if "://" in link:
            continue
        there = path.parent / place if place else path
        if not there.exists() or (anchor and anchor not in slugs(there.read_text())):
            dead.append(link)
    assert dead == []


def test_messages_are_those_that_are_told() -> None:
    """The first column of the tables of troubleshooting.md."""
    sources = (path.read_text() for path in (ROOT / "src").rglob("*.py"))
    told = _BETWEEN_LITERALS.sub("", "\n".join(sources))
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    quoted = [span for row in rows for span in _SPAN.findall(row)]
    assert len(quoted) > 15
    assert [message for message in quoted if message not in told] == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("sidegate lab up split", ""),
        ("sidegate explain phone example.org --proto udp   # why", ""),
        ("sidegate lab pu split", "no command pu"),
        ("sidegate up --confrim 60", "up has no option --confrim"),
    ],
)
def test_a_wrong_command_would_be_found(line: str, told: str) -> None:
    assert misfit(next(commands(f"`{line}`"))).startswith(told)
    assert bool(misfit(next(commands(f"`{line}`")))) == bool(told)
