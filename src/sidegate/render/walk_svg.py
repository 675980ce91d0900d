"""The picture of a home with a packet's way drawn on it: there in one colour, back in another, lost in red."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from math import dist

from msgspec.structs import replace

from sidegate.home import Behaviour, Home
from sidegate.render.layout import layout
from sidegate.render.palette import DARK, LIGHT, SANS, Palette
from sidegate.render.picture import Picture, Point, measure
from sidegate.render.svg import draw
from sidegate.render.walk_legs import Journey, Leg
from sidegate.render.walk_mermaid import first_exchange, is_forth
from sidegate.render.walk_text import packet_text
from sidegate.render.words import escape

_APART_PX = 5.0
"""Between two legs on one link."""
_KINDS = {"forth": "there", "back": "back", "lost": "the last that is seen of it"}


def walk_svg(it: Journey, home: Home, behaviour: Behaviour | None = None, ident: str = "walk") -> str:
    """The home as an SVG document with the first request and its answer on it; above them question and verdict."""
    asked = f"{it.walk.title}: {it.walk.verdict.says}"
    picture = layout(replace(home, title=asked), None, behaviour)
    legs = [part for part in first_exchange(it) if isinstance(part, Leg)]
    words = "; ".join(f"{leg.number}: {leg.start} to {leg.end}, {packet_text(leg.packet)}" for leg in legs)
    verdict = it.walk.verdict
    drawn = draw(picture, it.walk.title, f"{words}. {verdict.code}: {verdict.says}.", ident)
    ways = list(_ways(picture, legs, it))
    lines = [f"<style>{_style()}</style>", '<g class="walk">', *ways, *_legend(picture, ways), "</g>", "</svg>"]
    return drawn.removesuffix("</svg>\n") + "\n".join(lines) + "\n"


def _ways(picture: Picture, legs: list[Leg], it: Journey) -> Iterator[str]:
    used: Counter[frozenset[str]] = Counter()
    ends: dict[frozenset[str], list[tuple[Leg, str, list[Point]]]] = {}
    failed = it.walk.verdict.code != "delivered"
    for i, leg in enumerate(legs):
        kind = "lost" if failed and i == len(legs) - 1 else "forth" if is_forth(leg.packet, legs[0].packet) else "back"
        for a, b in pairwise(leg.places):
            if a != b:
                shift = _shift(used[frozenset((a, b))])
                used[frozenset((a, b))] += 1
                link = [(x + shift, y + shift) for x, y in _link(picture, a, b)]
                yield f'<path class="{kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in link)}"/>'
        if len(leg.places) > 1:
            ends.setdefault(frozenset(leg.places[-2:]), []).append((leg, kind, link))
    for on_link in ends.values():
        yield from _numbers(on_link)


def _legend(picture: Picture, ways: list[str]) -> Iterator[str]:
    """Beside the picture's own: what the colours mean that are there."""
    last = picture.legend[-1]
    x, y = last.text.area.right + 24, last.at[1]
    for kind, words in _KINDS.items():
        if any(f'class="{kind}"' in line for line in ways):
            yield f'<path class="{kind}" d="M{x:.1f} {y:.1f}h28"/>'
            yield f'<text class="note key" x="{x + 36:.1f}" y="{y + 4:.1f}">{words}</text>'
            x += 36 + measure(words, "note") + 24


def _numbers(on_link: list[tuple[Leg, str, list[Point]]]) -> Iterator[str]:
    """The legs' numbers, evenly along the link that they share, all counted from the same end."""
    first = on_link[0][0].places[-1]
    for i, (leg, kind, link) in enumerate(on_link):
        part = (i + 1) / (len(on_link) + 1)
        x, y = _along(link, part if leg.places[-1] == first else 1 - part)
        yield f'<g class="{kind}"><title>{escape(packet_text(leg.packet))}</title>'
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9"/><text x="{x:.1f}" y="{y + 4:.1f}">{leg.number}</text></g>'


def _shift(times: int) -> float:
    """0, then alternately to both sides."""
    return _APART_PX * ((times + 1) // 2) * (1 if times % 2 else -1)


def _link(picture: Picture, a: str, b: str) -> list[Point]:
    """The way between two places, from a to b; a straight line where the picture has no link."""
    try:
        link = picture.link(a, b)
    except KeyError:
        return [picture.place(a).area.middle, picture.place(b).area.middle]
    return list(link.points if link.start == a else reversed(link.points))


def _along(points: list[Point], part: float) -> Point:
    """The point after this part of a polyline's length."""
    left = part * sum(dist(a, b) for a, b in pairwise(points))
    for a, b in pairwise(points):
        length = dist(a, b)
        if left <= length and length > 0:
            share = left / length
            return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share
        left -= length
    return points[-1]


def _style() -> str:
    fixed = (
        ".sidegate-home .walk path{stroke-width:3}.sidegate-home .walk text{"
        f"font:600 11px {SANS};text-anchor:middle;stroke:none"
        "}.sidegate-home .walk .key{font-weight:400;text-anchor:start}"
    )
    return f"{fixed}{_colours(LIGHT)}@media (prefers-color-scheme:dark){{{_colours(DARK)}}}"


def _colours(p: Palette) -> str:
    kinds = (("forth", p.good), ("back", p.gateway_line), ("lost", p.bad))
    lines = [f".sidegate-home path.{kind}{{stroke:{colour}}}.sidegate-home .{kind} circle{{fill:{colour}}}"
             for kind, colour in kinds]  # fmt: skip
    return "".join(lines) + f".sidegate-home .walk text{{fill:{p.sign}}}.sidegate-home .walk .key{{fill:{p.muted}}}"
