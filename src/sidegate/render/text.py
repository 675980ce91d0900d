"""Tables and bars for the terminal.

rich is imported where it is used: `sidegate --help` must not pay for it. Everything returns text; who prints decides
about colour, usually with `wants_colour(sys.stdout)`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from msgspec import Struct

from sidegate.render.picture import Tone
from sidegate.render.words import clean, rate

if TYPE_CHECKING:
    from rich.console import RenderableType

SIGNS: dict[Tone, str] = {"good": "✓", "costly": "⇄", "bad": "✗", "unknown": "?"}
_COLOURS: dict[Tone, str] = {"good": "green", "costly": "yellow", "bad": "red", "unknown": "bright_black"}


class CheckRow(Struct, frozen=True):
    """One line of a table of checks. who asked what, how it ended (tone and words), and why."""

    who: str
    what: str
    tone: Tone
    outcome: str
    detail: str = ""


class BarRow(Struct, frozen=True):
    label: str
    mbit: float
    note: str = ""


def wants_colour(stream: TextIO) -> bool:
    """Whether colour belongs there: a terminal, and no NO_COLOR in the environment (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def checks_table(rows: Sequence[CheckRow], colour: bool = False, width: int = 110) -> str:
    """The checks as a table, at most `width` columns wide; long texts go on below."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("", "client", "check", "outcome", "detail"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        style = _COLOURS[row.tone]
        cells = [Text(SIGNS[row.tone], style), *(Text(clean(t)) for t in (row.who, row.what))]
        table.add_row(*cells, Text(clean(row.outcome), style), Text(clean(row.detail)))
    return _rendered(table, colour, width)


def bars(rows: Sequence[BarRow], colour: bool = False, width: int = 40) -> str:
    """Throughputs as bars, the longest `width` columns long, all to one scale."""
    from rich.table import Table
    from rich.text import Text

    highest = max((row.mbit for row in rows), default=0.0) or 1.0
    table = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        bar = "█" * max(round(max(row.mbit, 0.0) / highest * width), 1 if row.mbit > 0 else 0)
        table.add_row(Text(clean(row.label)), Text(bar, "cyan"), Text(rate(row.mbit)), Text(clean(row.note)))
    return _rendered(table, colour, width + 90)


def _rendered(what: RenderableType, colour: bool, width: int) -> str:
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    console = Console(
        file=out, width=width, force_terminal=colour, color_system="standard" if colour else None, no_color=not colour
    )
    console.print(what)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
