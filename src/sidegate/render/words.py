"""Texts that come from files, made safe and measured: cleaning, escaping, estimated widths, fitting, wrapping.

Nothing here knows the fonts of the person who will look. Widths are upper estimates: the advances of Verdana and DejaVu
Sans, the widest of the usual system fonts, per class of characters. Text outside these classes is marked `unusual`, and
the drawing forces its width.
"""

from __future__ import annotations

import unicodedata
from html import escape as _escape_html

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ELLIPSIS = "…"
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"

_MONO_EM = 0.61
_WIDE_EM = 1.05
_UNUSUAL_EM = 1.4
_BOLD = 1.12
_CLASSES_EM = (
    ("ijlI!.,:;'`·", 0.40),
    ("ftr- ", 0.46),
    ('/\\"()[]{}|', 0.62),
    ("mMwW@%…→—", 1.08),
)
_ADVANCE_EM = {character: em for characters, em in _CLASSES_EM for character in characters}


def clean(text: str) -> str:
    """The text on one line, without what XML forbids or what could reorder or hide its neighbours.

    White space becomes single spaces; control, format (bidirectional overrides!), surrogate and unassigned characters
    become U+FFFD. XML 1.0 section 2.2 names the characters that a document may hold.
    """
    return "".join(_safe(c) for c in " ".join(text.split()))


def _safe(character: str) -> str:
    if character in _JOINERS:
        return character
    return REPLACEMENT if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn", "Co") else character


def escape(text: str) -> str:
    """The cleaned text, for XML or HTML, inside an element or a quoted attribute."""
    return _escape_html(clean(text), quote=True)


def unusual(text: str) -> bool:
    """Whether the estimate of this text's width cannot be trusted."""
    return any(_is_unusual(c) for c in text)


def _is_unusual(character: str) -> bool:
    if character in _ADVANCE_EM or ord(character) < 0x250:
        return False
    if unicodedata.east_asian_width(character) in ("W", "F"):
        return ord(character) >= 0x1F000
    return not 0x370 <= ord(character) < 0x530


def text_width(text: str, size: float, mono: bool = False, bold: bool = False) -> float:
    """An upper estimate of the text's width, in the unit of `size` (the font size)."""
    ems = sum(_advance_em(c, mono) for c in text)
    return ems * size * (_BOLD if bold and not mono else 1.0)


def _advance_em(character: str, mono: bool) -> float:
    if _is_unusual(character):
        return _UNUSUAL_EM
    if unicodedata.east_asian_width(character) in ("W", "F"):
        return _WIDE_EM
    if mono:
        return _MONO_EM
    if character in _ADVANCE_EM:
        return _ADVANCE_EM[character]
    if ord(character) >= 0x370:
        return 1.1
    if character.islower() or character.isdigit():
        return 0.64
    return 0.83


def fit(text: str, width: float, size: float, mono: bool = False, bold: bool = False) -> str:
    """The cleaned text, shortened with an ellipsis so that its estimated width is at most `width`; may be empty."""
    text = clean(text)
    if text_width(text, size, mono, bold) <= width:
        return text
    end = min(len(text), int(width / (0.39 * size)) + 1)
    while end > 0 and text_width(text[:end].rstrip() + ELLIPSIS, size, mono, bold) > width:
        end -= 1
    return text[:end].rstrip() + ELLIPSIS if end > 0 else ""


def wrap(text: str, width: float, size: float, lines: int, bold: bool = False) -> tuple[str, ...]:
    """The cleaned text in at most `lines` lines; what does not fit in the last one is cut with an ellipsis."""
    words = clean(text).split(" ")
    done: list[str] = []
    while words and len(done) < lines - 1:
        count = 1
        while count < len(words) and text_width(" ".join(words[: count + 1]), size, bold=bold) <= width:
            count += 1
        done.append(fit(" ".join(words[:count]), width, size, bold=bold))
        words = words[count:]
    last = fit(" ".join(words), width, size, bold=bold) if words else ""
    return tuple(line for line in (*done, last) if line)


def rate(mbit: float) -> str:
    """A rate as people write it: `100 Mbit/s`, `2.5 Gbit/s`."""
    return f"{mbit / 1000:.3g} Gbit/s" if mbit >= 1000 else f"{mbit:.3g} Mbit/s"


def duration(ms: float) -> str:
    """A duration as people write it: `42 ms`, `1.84 s`."""
    return f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.0f} ms"


def unbroken(text: str) -> str:
    """The same, which no browser breaks into lines."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")
