"""Printing, for all commands alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from sidegate.reading import encode_address

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def print_json(data: Any) -> None:
    """One JSON document, indented."""
    click.echo(msgspec.json.format(msgspec.json.encode(data, enc_hook=encode_address), indent=2))


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns wide enough for their longest cell; the last one is not padded."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return "\n".join(line.rstrip() for line in lines)


def size(count: int) -> str:
    """Bytes for people: 1.5 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds for people: 12 s, 3 min, 5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
