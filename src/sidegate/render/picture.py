"""A home's picture as data: where everything stands and how every link runs, before anything is drawn.

Lengths are in CSS pixels, y grows downwards. Places and links have names, so that something else (a packet's way, for
one) can be drawn over the picture. The names: `internet`, `modem`, a server's, client's or box's own name, and for what
is inside of a box `router/kernel`, `router/nat`, `router/br-lan`, `router/switch`, `router/radio0`, `study/backhaul`.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from sidegate.render.words import text_width

Point = tuple[float, float]
Tone = Literal["good", "costly", "bad", "unknown"]
Kind = Literal[
    "internet", "server", "modem", "router", "node", "kernel", "nat", "bridge", "chip", "radio", "gateway", "client"
]
Medium = Literal["wire", "wifi", "inside", "unplugged"]
Style = Literal["title", "name", "heading", "address", "small", "note", "mark"]
Anchor = Literal["start", "middle", "end"]


class Font(Struct, frozen=True):
    """size: in px. line: the height of one line, in px."""

    size: float
    line: float
    mono: bool = False
    bold: bool = False


FONTS: dict[Style, Font] = {
    "title": Font(19, 26, bold=True),
    "name": Font(14, 20, bold=True),
    "heading": Font(12, 17, bold=True),
    "address": Font(12, 17, mono=True),
    "small": Font(11, 16, mono=True),
    "note": Font(11, 16),
    "mark": Font(12, 19, bold=True),
}


def measure(text: str, style: Style) -> float:
    """An upper estimate of the text's width in this style, in px."""
    font = FONTS[style]
    return text_width(text, font.size, font.mono, font.bold)


class Mark(Struct, frozen=True):
    """What is to be said of a client or the gateway: a tone for the eye and the same in words, as `online, direct`."""

    tone: Tone
    text: str


OUTCOMES: dict[str, tuple[Tone, str]] = {
    "direct": ("good", "online, direct"),
    "masqueraded": ("costly", "online, masqueraded"),
    "dead": ("bad", "offline"),
}
"""How each outcome of `home.Outcome` is told."""
VISITS: dict[str, tuple[Tone, str]] = {
    "proxied": ("good", "by the proxy"),
    "straight": ("good", "straight"),
    "lie": ("bad", "the provider's lie"),
    "dead": ("bad", "nothing"),
}
"""How each outcome of `demo.result.Visit` is told."""


class Rect(Struct, frozen=True):
    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> Point:
        return self.x + self.width / 2, self.y + self.height / 2

    def moved(self, dx: float, dy: float) -> Rect:
        return Rect(self.x + dx, self.y + dy, self.width, self.height)


class Text(Struct, frozen=True):
    """One line of text.

    x: its start, middle or end, see `anchor`. y: its baseline. full: the whole of it, where `text` is cut.
    """

    x: float
    y: float
    text: str
    style: Style
    anchor: Anchor = "start"
    full: str = ""

    @property
    def area(self) -> Rect:
        """The space that the text may take, by the upper estimate."""
        width, size = measure(self.text, self.style), FONTS[self.style].size
        before = {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return Rect(self.x - before, self.y - size * 0.95, width, size * 1.2)

    def moved(self, dx: float, dy: float) -> Text:
        return replace(self, x=self.x + dx, y=self.y + dy)


class Place(Struct, frozen=True):
    """A box of the picture. inside: the name of the place that it stands in. away: it is not connected."""

    name: str
    kind: Kind
    area: Rect
    texts: tuple[Text, ...] = ()
    inside: str = ""
    mark: Mark | None = None
    away: bool = False

    def moved(self, dx: float, dy: float) -> Place:
        return replace(self, area=self.area.moved(dx, dy), texts=tuple(t.moved(dx, dy) for t in self.texts))


class Link(Struct, frozen=True):
    """A link and its way: a polyline from the place `start` to the place `end`. `inside`: a link within a box."""

    start: str
    end: str
    medium: Medium
    points: tuple[Point, ...]
    label: Text | None = None

    def moved(self, dx: float, dy: float) -> Link:
        points = tuple((x + dx, y + dy) for x, y in self.points)
        return replace(self, points=points, label=self.label and self.label.moved(dx, dy))


class Key(Struct, frozen=True):
    """One entry of the legend: a sample line of this medium from x to x + 28, with its text."""

    medium: Medium
    at: Point
    text: Text


class Picture(Struct, frozen=True):
    """All of it. Places stand before what is inside of them."""

    width: float
    height: float
    title: str
    headline: tuple[Text, ...]
    places: tuple[Place, ...]
    links: tuple[Link, ...]
    legend: tuple[Key, ...]
    caption: tuple[Text, ...]

    def place(self, name: str) -> Place:
        """Raises KeyError for a name that is not in the picture."""
        for place in self.places:
            if place.name == name:
                return place
        raise KeyError(name)

    def link(self, a: str, b: str) -> Link:
        """The link between two places, whichever way round. Raises KeyError where there is none."""
        for link in self.links:
            if {link.start, link.end} == {a, b}:
                return link
        raise KeyError(f"{a} - {b}")


class Part(Struct, frozen=True):
    """A piece of a picture, its upper left corner at 0, 0."""

    width: float
    height: float
    places: tuple[Place, ...] = ()
    links: tuple[Link, ...] = ()

    def moved(self, dx: float, dy: float) -> Part:
        """The same piece elsewhere; width and height stay."""
        places = tuple(p.moved(dx, dy) for p in self.places)
        return Part(self.width, self.height, places, tuple(k.moved(dx, dy) for k in self.links))


def way(*points: Point) -> tuple[Point, ...]:
    """The polyline without doubled points and without points in the middle of a straight line."""
    kept: list[Point] = []
    for point in points:
        if kept and kept[-1] == point:
            continue
        if len(kept) > 1 and (kept[-2][0] == kept[-1][0] == point[0] or kept[-2][1] == kept[-1][1] == point[1]):
            kept.pop()
        kept.append(point)
    return tuple(kept)
