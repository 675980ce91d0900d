"""Picture -> SVG: one self-contained drawing, for light and dark surroundings, readable aloud.

Colours are written out in two style sheets instead of CSS variables: several viewers of SVG files know no variables.
Where the dark one is not understood, the light one with its own background stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sidegate.home import Behaviour, Home
from sidegate.render.layout import Marks, layout
from sidegate.render.palette import DARK, LIGHT, MONO, SANS, Palette
from sidegate.render.picture import FONTS, Key, Link, Mark, Picture, Place, Point, Text, Tone
from sidegate.render.words import clean, escape, unusual

SIGNS: dict[Tone, str] = {
    "good": "M-3.2 0.2L-1 2.6L3.4 -2.4",
    "costly": "M-3.6 -1.6H3.2L1.2 -3.6M3.6 1.6H-3.2L-1.2 3.6",
    "bad": "M-2.6 -2.6L2.6 2.6M2.6 -2.6L-2.6 2.6",
    "unknown": "M-1.9 -1.5C-1.9 -4.2 2 -4 2 -1.6C2 0 0 -0.2 0 1.4M0 3.4V3.6",
}
"""A sign for each tone, around 0, 0: a tick, two arrows (there and back), a cross, a question mark."""

_RADIUS = {"server": 8, "modem": 10, "router": 14, "node": 14, "internet": 22, "kernel": 8, "bridge": 5, "chip": 5}


def svg(
    home: Home, marks: Marks | None = None, behaviour: Behaviour | None = None, title: str = "", ident: str = "home"
) -> str:
    """The home as an SVG document.

    marks: what is to be said of a client or the gateway, by name. title: instead of the home's. behaviour: as for
    `layout`. ident: the start of every id, so that two drawings can stand in one page.
    """
    picture = layout(home, marks, behaviour)
    return draw(picture, clean(title) or picture.title or "A home", describe(home, marks or {}), ident)


def describe(home: Home, marks: Marks) -> str:
    """The picture in words, for those who do not see it."""
    parts = [f"Router {home.router.name}"]
    parts += [f"{n.name} ({'mesh' if n.by == 'wifi' else 'cable'}) at {n.at}" for n in home.node]
    if home.gateway:
        plugged = "" if home.gateway.plugged else ", unplugged"
        parts.append(f"bypass gateway {home.gateway.name} at {home.gateway.at}{plugged}")
    for client in home.client:
        said = f": {marks[client.name].text}" if client.name in marks else ""
        parts.append(f"{client.name} ({'Wi-Fi' if client.by == 'wifi' else 'cable'} at {client.at}){said}")
    return "; ".join(parts) + "."


def draw(picture: Picture, title: str, description: str, ident: str) -> str:
    """The SVG document of a picture. Raises nothing: all text is escaped."""
    width, height = _number(picture.width), _number(picture.height)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sidegate-home" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img" aria-labelledby="{escape(ident)}-title {escape(ident)}-desc">',
        f'<title id="{escape(ident)}-title">{escape(title)}</title>',
        f'<desc id="{escape(ident)}-desc">{escape(description)}</desc>',
        f"<style>{style_sheet()}</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="12"/>',
        *(_text(t) for t in picture.headline),
        *_body(picture),
        *(line for key in picture.legend for line in _key(key)),
        *(_text(t) for t in picture.caption),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _body(picture: Picture) -> Iterator[str]:
    """Boxes first, the links over them, then what the links end at."""
    outer = ("internet", "router", "node", "kernel")
    yield from (line for p in picture.places if p.kind in outer for line in _place(p))
    yield '<g class="links">'
    for link in sorted(picture.links, key=lambda k: k.medium != "unplugged"):
        yield from _link(link)
    yield "</g>"
    yield from (line for p in picture.places if p.kind not in outer for line in _place(p))


def _place(place: Place) -> Iterator[str]:
    area, classes = place.area, f"{place.kind}{' away' if place.away else ''}"
    tone = f' data-tone="{place.mark.tone}"' if place.mark else ""
    yield f'<g class="{classes}" data-place="{escape(place.name)}"{tone}>'
    yield (
        f'<rect x="{_number(area.x)}" y="{_number(area.y)}" width="{_number(area.width)}"'
        f' height="{_number(area.height)}" rx="{_RADIUS.get(place.kind, 8)}"/>'
    )
    for text in place.texts:
        yield from _marked(text, place.mark) if place.mark and text.style == "mark" else [_text(text)]
    if place.kind == "gateway":
        yield f'<path class="band" d="{_path(((area.x + 3, area.y + 9), (area.x + 3, area.bottom - 9)))}"/>'
    yield "</g>"


def _marked(text: Text, mark: Mark) -> Iterator[str]:
    x, y = _number(text.x - 12), _number(text.y - 4.3)
    yield f'<g class="tone-{mark.tone}"><circle cx="{x}" cy="{y}" r="7"/>'
    yield f'<path class="sign" transform="translate({x} {y})" d="{SIGNS[mark.tone]}"/>'
    yield _text(text) + "</g>"


def _text(text: Text) -> str:
    anchor = f' text-anchor="{text.anchor}"' if text.anchor != "start" else ""
    forced = f' textLength="{_number(text.area.width)}" lengthAdjust="spacingAndGlyphs"' if unusual(text.text) else ""
    cut = f"<title>{escape(text.full)}</title>" if text.full not in ("", text.text) else ""
    place = f'x="{_number(text.x)}" y="{_number(text.y)}"'
    return f'<text class="{text.style}" {place}{anchor}{forced}>{escape(text.text)}{cut}</text>'


def _link(link: Link) -> Iterator[str]:
    names = f'data-start="{escape(link.start)}" data-end="{escape(link.end)}"'
    yield f'<path class="{link.medium}" {names} d="{_path(link.points)}"/>'
    if link.label:
        yield _text(link.label)


def _key(key: Key) -> Iterator[str]:
    x, y = key.at
    yield f'<path class="{key.medium}" d="{_path(((x, y), (x + 28, y)))}"/>'
    yield _text(key.text)


def _path(points: Iterable[Point]) -> str:
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)


def _number(value: float) -> str:
    """With at most one decimal: a tenth of a pixel is not seen."""
    return f"{value:.1f}".removesuffix(".0")


# The style sheet


def style_sheet() -> str:
    """All rules below `.sidegate-home`, so that a page with several drawings keeps its own style."""
    dark = "".join(_scoped(_colours(DARK)))
    return "".join(_scoped([*_shapes(), *_colours(LIGHT)])) + "@media (prefers-color-scheme:dark){" + dark + "}"


def _scoped(rules: Iterable[tuple[str, str]]) -> Iterator[str]:
    for selectors, body in rules:
        yield ",".join(f".sidegate-home {s}" for s in selectors.split(",")) + "{" + body + "}"


def _shapes() -> Iterator[tuple[str, str]]:
    yield "text", f"font-family:{SANS}"
    for style, font in FONTS.items():
        family = f";font-family:{MONO}" if font.mono else ""
        yield f".{style}", f"font-size:{font.size:g}px;font-weight:{600 if font.bold else 400}{family}"
    yield "path", "fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:butt"
    yield ".wifi", "stroke-dasharray:7 5"
    yield ".unplugged", "stroke-dasharray:2 5"
    yield ".links path", "shape-rendering:crispEdges"  # links share parts of their way: no darker edges there
    yield ".sign", "stroke-width:1.7;stroke-linecap:round"
    yield ".gateway>rect", "stroke-width:2"
    yield ".band", "stroke-width:5;stroke-linecap:round"
    yield ".away>rect", "stroke-dasharray:5 4"


def _colours(p: Palette) -> Iterator[tuple[str, str]]:
    yield ".page", f"fill:{p.page}"
    yield "text", f"fill:{p.text}"
    yield ".note,.small", f"fill:{p.muted}"
    yield ".server>rect,.client>rect,.modem>rect", f"fill:{p.card};stroke:{p.card_line}"
    yield ".router>rect,.node>rect,.internet>rect", f"fill:{p.box};stroke:{p.box_line}"
    yield ".kernel>rect,.nat>rect", f"fill:{p.kernel};stroke:{p.kernel_line}"
    yield ".nat>rect", f"fill:{p.card};stroke:{p.bridge}"
    yield from _filled("bridge", p.bridge, p.bridge_text)
    yield from _filled("chip", p.chip, p.chip_text)
    yield from _filled("radio", p.radio, p.radio_text)
    yield ".gateway>rect", f"fill:{p.gateway};stroke:{p.gateway_line}"
    yield ".band", f"stroke:{p.gateway_line}"
    yield "path.wire,path.inside,path.unplugged", f"stroke:{p.wire_line}"
    yield "path.wifi", f"stroke:{p.wifi_line}"
    for tone in SIGNS:
        yield f".tone-{tone} circle,.tone-{tone} text", f"fill:{p.tone(tone)}"
        yield f'.client[data-tone="{tone}"]>rect', f"stroke:{p.tone(tone)}"
    yield ".sign", f"stroke:{p.sign}"


def _filled(name: str, ground: str, text: str) -> Iterator[tuple[str, str]]:
    yield f".{name}>rect", f"fill:{ground}"
    yield f".{name}>text", f"fill:{text}"
