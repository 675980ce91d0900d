"""A verdict in a page of HTML: its sign and its words."""

from __future__ import annotations

from sidegate.render.picture import Tone
from sidegate.render.svg import SIGNS
from sidegate.render.words import escape


def tone_html(tone: Tone, words: str) -> str:
    """A sign and its words; the sign is decoration, the words say it all."""
    sign = f'<circle r="7.5"/><path d="{SIGNS[tone]}"/>'
    sign = f'<svg viewBox="-8 -8 16 16" width="16" height="16" aria-hidden="true">{sign}</svg>'
    return f'<span class="tone {tone}">{sign} {escape(words)}</span>'
