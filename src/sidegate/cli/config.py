"""`config`: check, compare, list and restore the configuration."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click

from sidegate.cli.on_the_box import OnTheBox
from sidegate.cli.output import json_option, print_json, table
from sidegate.gateway import lifecycle
from sidegate.gateway.box.files import make_directory, replace_file
from sidegate.gateway.box.places import places
from sidegate.gateway.change import history
from sidegate.gateway.change.diff import settings
from sidegate.gateway.change.history import History, Version
from sidegate.gateway.config import DEFAULT_PATH, load_config
from sidegate.gateway.split.review import review
from sidegate.problems import Exit, Problem, Problems, in_file

_file = click.argument("file", type=click.Path(path_type=Path), required=False)


_MODE = 0o600
"""Of a configuration that is written anew: share links hold passwords."""


@click.group()
def config() -> None:
    """Check, compare and restore the configuration."""


@config.command(short_help="Name every error in a file and its lists; changes nothing.")
@_file
@json_option
def check(file: Path | None, as_json: bool) -> None:
    """Read FILE (default: the configuration file) and name every error in it and in the lists that it names.

    Changes nothing, and needs no privilege but to read those files.
    """
    chosen = history.read(file)
    with in_file(chosen.source):
        hints = review(chosen.config)
    if as_json:
        print_json({"schema": 1, "problems": [], "hints": hints})
        return
    click.echo(f"{file or DEFAULT_PATH}: fine." if file or DEFAULT_PATH.exists() else "No file: all defaults.")
    if hints:
        click.echo("\n".join(["to know:", *(textwrap.indent(str(hint), "    ") for hint in hints)]))


@config.command(cls=OnTheBox, short_help="What a file would change, in the settings and on this box.")
@_file
@json_option
def diff(file: Path | None, as_json: bool) -> None:
    """What FILE (default: the configuration file) would change: in the settings in force, and on this box, and why."""
    at = places()
    wanted = load_config(file)
    changed = settings(history.in_force(at.state), wanted)
    changes = lifecycle.rehearsed(at, file).changes
    if as_json:
        print_json({"schema": 1, "settings": changed, "changes": changes})
        return
    click.echo("\n".join(["settings:", *(f"    {s}" for s in changed)]) if changed else "settings: as in force")
    click.echo("this box:" if changes else "this box: nothing to change")
    for change in changes:
        click.echo(f"    {change.what}\n        {change.why}")


@config.command("history", cls=OnTheBox, short_help="The versions that were in force; the text of one.")
@click.argument("number", type=int, required=False)
@json_option
def show_history(number: int | None, as_json: bool) -> None:
    """The versions that were in force, oldest first; with NUMBER: the text of that one."""
    kept = history.load(places().state)
    if number is not None:
        version = _version(kept, number)
        print_json(version) if as_json else click.echo(version.text, nl=False)
    elif as_json:
        print_json({"schema": 1, "in_force": kept.in_force, "versions": kept.versions})
    else:
        click.echo(_table(kept))


def _table(kept: History) -> str:
    rows = [
        (str(v.number), v.at, v.source or "none, all defaults", "in force" if v.number == kept.in_force else "")
        for v in kept.versions
    ]
    return table(("NUMBER", "SINCE", "FILE", ""), rows) if rows else "no version yet: nothing was in force so far"


def _version(kept: History, number: int) -> Version:
    version = kept.version(number)
    if version is None:
        raise Problems(Problem("sidegate", f"no version {number} is kept", "sidegate config history lists them"))
    return version


@config.command(cls=OnTheBox, short_help="Write an earlier version back into the file.")
@click.argument("number", type=int)
@click.option("--to", type=click.Path(path_type=Path), help="The file to write. [default: the one it came from]")
def restore(number: int, to: Path | None) -> None:
    """Write version NUMBER back into the configuration file. `sidegate reload` then takes it."""
    version = _version(history.load(places().state), number)
    path = to or Path(version.source or DEFAULT_PATH)
    try:
        make_directory(path.parent, 0o755)
        mode = path.stat().st_mode & 0o777 if path.exists() else _MODE
        replace_file(path, version.text.encode(), mode)
    except OSError as error:
        raise Problems(
            Problem(str(path), f"cannot be written: {error.strerror}", "run it as root, with sudo", Exit.MISSING)
        ) from None
    click.echo(f"{path} is as it was in version {number}. To take it: sidegate reload")
