"""Lines of text in a box of a picture."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from sidegate.render.picture import FONTS, Rect, Style, Text, measure
from sidegate.render.words import clean, fit


class Row(Struct, frozen=True):
    """A line of a box: text at its left, text at its right."""

    left: str
    style: Style
    right: str = ""
    indent: float = 0.0

    @property
    def width(self) -> float:
        right = measure(clean(self.right), "note") + 14 if self.right else 0.0
        return self.indent + measure(clean(self.left), self.style) + right


def rows_height(rows: Sequence[Row]) -> float:
    return sum(FONTS[row.style].line for row in rows)


def texts_of(rows: Sequence[Row], x: float, y: float, width: float) -> tuple[Text, ...]:
    """The rows from x, y downwards, each cut to the width."""
    texts: list[Text] = []
    for row in rows:
        font = FONTS[row.style]
        baseline = y + font.line * 0.5 + font.size * 0.36
        right = _cut(row.right, "note", width * 0.6)
        taken = measure(right, "note") + 14 if right else 0.0
        left = _cut(row.left, row.style, width - taken - row.indent)
        texts.append(Text(x + row.indent, baseline, left, row.style, full=clean(row.left)))
        if right:
            texts.append(Text(x + width, baseline, right, "note", "end", clean(row.right)))
        y += font.line
    return tuple(text for text in texts if text.text)


def _cut(text: str, style: Style, width: float) -> str:
    font = FONTS[style]
    return fit(text, width, font.size, font.mono, font.bold)


def centred(text: str, style: Style, area: Rect) -> tuple[Text, ...]:
    """One line in the middle of an area."""
    cut = _cut(text, style, area.width - 12)
    x, y = area.middle
    return (Text(x, y + FONTS[style].size * 0.36, cut, style, "middle", clean(text)),) if cut else ()
