"""Man pages from the command line's own definitions: one per command, as git(1) does it, and one for the configuration.

The text is roff with the `man` macros (groff_man(7)).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator

import click

from sidegate.install import layout
from sidegate.install.completion import PROGRAM
from sidegate.problems import Exit

_EXITS = {
    Exit.FINE: "Fine.",
    Exit.FAULT: "A fault was found: a check failed, something does not work.",
    Exit.USAGE: "The command line, a configuration or the surroundings are not as they must be. Nothing was changed.",
    Exit.MISSING: "A privilege or a program is missing. Nothing was changed.",
    Exit.SETTINGS: "up --foreground: no configuration can be used; the service is not tried again.",
}
_FILES = {
    layout.CONFIG: "The configuration, all of it optional; see sidegate.toml(5).",
    layout.STATE_DIR: "What was there before, so that `sidegate down` puts it back.",
    f"{layout.RUNTIME_DIR}/control.sock": f"By it the commands ask the daemon; open to the group {layout.GROUP}.",
    layout.UNIT: "The service: systemctl enable --now sidegate.",
}


def manual_pages(command: click.Command, version: str, example: str) -> dict[str, str]:
    """File name (`sidegate-up.1`) -> roff text, for a command and all below it, and sidegate.toml(5).

    version: for the page's foot. example: the commented configuration file.
    """
    root = _context(command, PROGRAM, None)
    pages = {f"{_page_name(ctx)}.1": _page(ctx, version) for ctx in _contexts(root)}
    return {**pages, "sidegate.toml.5": _config_page(version, example)}


def _contexts(ctx: click.Context) -> Iterator[click.Context]:
    yield ctx
    for child in _children(ctx):
        yield from _contexts(child)


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def _children(ctx: click.Context) -> list[click.Context]:
    """The commands below, in the order of `--help`; hidden ones have no page."""
    if not isinstance(ctx.command, click.Group):
        return []
    commands = [(name, ctx.command.get_command(ctx, name)) for name in ctx.command.list_commands(ctx)]
    return [_context(c, name, ctx) for name, c in commands if c is not None and not c.hidden]


def _page_name(ctx: click.Context) -> str:
    return ctx.command_path.replace(" ", "-")


def _page(ctx: click.Context, version: str) -> str:
    parts = [
        _title(_page_name(ctx), "1", version),
        _section("NAME", f"{_text(_page_name(ctx))} \\- {_text(_about(ctx.command))}"),
        _section("SYNOPSIS", _synopsis(ctx)),
        _section("DESCRIPTION", _paragraphs(ctx.command.help or _about(ctx.command))),
        _section("COMMANDS", _list((_page_name(c) + "(1)", _about(c.command)) for c in _children(ctx))),
        _section("OPTIONS", _list(_options(ctx))),
        _section("EXIT STATUS", _list((str(int(code)), text) for code, text in _EXITS.items())),
        _section("FILES", _list(_FILES.items()) if ctx.parent is None else ""),
        _section("SEE ALSO", _text(", ".join(_related(ctx)))),
    ]
    return "".join(parts)


def _related(ctx: click.Context) -> list[str]:
    if ctx.parent is None:
        return ["sidegate.toml(5)", "nft(8)", "systemctl(1)"]
    siblings = [_page_name(c) for c in _children(ctx.parent) if c.info_name != ctx.info_name]
    return [f"{name}(1)" for name in (_page_name(ctx.parent), *siblings)]


def _config_page(version: str, example: str) -> str:
    about = (
        f"The file {layout.CONFIG} says how Sidegate works on this box. All of it is optional, and so is the file. "
        "Every fault in it is named at once, with its place, and nothing is changed then. This is the file as it is "
        "installed, each setting a comment:"
    )
    parts = [
        _title("sidegate.toml", "5", version),
        _section("NAME", "sidegate.toml \\- the configuration of Sidegate"),
        _section("DESCRIPTION", _paragraphs(about)),
        _section("EXAMPLE", _verbatim(example)),
        _section("SEE ALSO", _text("sidegate(1), sidegate-up(1)")),
    ]
    return "".join(parts)


def _about(command: click.Command) -> str:
    """The first sentence of the help, without its full stop: what whatis(1) shows."""
    return command.get_short_help_str(limit=200).rstrip(".")


def _synopsis(ctx: click.Context) -> str:
    pieces = " ".join(_text(piece) for piece in ctx.command.collect_usage_pieces(ctx))
    return f".B {_text(ctx.command_path)}\n{pieces}"


def _options(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Arguments without a word of their own are in the synopsis already."""
    for parameter in ctx.command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None and record[1]:
            yield record


def _title(name: str, section: str, version: str) -> str:
    return f'.TH "{_text(name).upper()}" "{section}" "" "Sidegate {_text(version)}" "Sidegate"\n'


def _section(heading: str, body: str) -> str:
    return f".SH {heading}\n{body}\n" if body else ""


def _list(items: Iterable[tuple[str, str]]) -> str:
    """Each term in bold, what it means below it."""
    return "\n".join(f".TP\n.B {_text(term)}\n{_text(meaning)}" for term, meaning in items)


def _paragraphs(text: str) -> str:
    """click's help: paragraphs apart by blank lines; one that begins with \\b keeps its lines."""
    return "\n.PP\n".join(_paragraph(p) for p in re.split(r"\n\s*\n", inspect.cleandoc(text.split("\f")[0])))


def _paragraph(text: str) -> str:
    if text.startswith("\b"):
        return _verbatim(text.removeprefix("\b").strip("\n"))
    return _text(" ".join(text.split()))


def _verbatim(text: str) -> str:
    return ".nf\n" + "\n".join(_text(line) for line in text.splitlines()) + "\n.fi"


def _text(text: str) -> str:
    r"""Roff that prints exactly this text. Groff would make typographic signs of - ' ` ^ ~ (groff_char(7)); a line
    that begins with . or ' would be a request."""
    signs = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}
    escaped = "".join(signs.get(sign, sign) for sign in text)
    return re.sub(r"(?m)^\.", r"\\&.", escaped)
