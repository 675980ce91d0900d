"""Tables and bars for the terminal.

rich is imported where it is used: `sidegate --help` must not pay for it. Everything returns text; who prints decides
about colour, usually with `wants_colour(sys.stdout)`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from msgspec import Struct

from sidegate.render.picture import OUTCOMES, VISITS, Tone
from sidegate.render.words import clean, rate

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text as RichText

    from sidegate.demo.result import Reach, Split, Stage, Visit

SIGNS: dict[Tone, str] = {"good": "✓", "costly": "⇄", "bad": "✗", "unknown": "?"}
_COLOURS: dict[Tone, str] = {"good": "green", "costly": "yellow", "bad": "red", "unknown": "bright_black"}


class BarRow(Struct, frozen=True):
    label: str
    mbit: float
    note: str = ""


def wants_colour(stream: TextIO) -> bool:
    """Whether colour belongs there: a terminal, and no NO_COLOR in the environment (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def reach_table(stage: Stage, colour: bool = False, width: int = 110) -> str:
    """Who reached the internet in a stage, a line a client, at most `width` columns wide."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in ("client", "IPv4", "IPv6"):
        table.add_column(heading, overflow="fold")
    for client in stage.clients:
        table.add_row(clean(client.client), _outcome(client.v4), _outcome(client.v6))
    return _rendered(table, colour, width)


def _outcome(reach: Reach | None) -> RichText:
    from rich.text import Text

    if reach is None:
        return Text("not asked", _COLOURS["unknown"])
    tone, words = OUTCOMES[reach.outcome]
    detail = f" ({clean(reach.detail)})" if reach.detail and not reach.ok else ""
    return Text(f"{SIGNS[tone]} {words}{detail}", _COLOURS[tone])


def split_table(split: Split, colour: bool = False, width: int = 110) -> str:
    """What one device found, a line a site, a column a scene, at most `width` columns wide."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in ("site", *(scene.name for scene in split.scenes)):
        table.add_column(heading, overflow="fold")
    for site in split.sites:
        table.add_row(clean(site), *(_visit(scene.visit(site)) for scene in split.scenes))
    return _rendered(table, colour, width)


def _visit(visit: Visit | None) -> RichText:
    from rich.text import Text

    if visit is None:
        return Text("not asked", _COLOURS["unknown"])
    tone, words = VISITS[visit.outcome]
    detail = f" ({clean(visit.detail)})" if visit.detail and visit.outcome == "dead" else ""
    return Text(f"{SIGNS[tone]} {words}{detail}", _COLOURS[tone])


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
