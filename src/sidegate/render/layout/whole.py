"""Home -> Picture: where everything stands. Pure; nothing is drawn here.

The internet stands on top, the router below it as a box with its kernel, bridge, switch chip and radios, and under each
of these what hangs on it: the gateway, columns of clients, further boxes, which are laid out in the same way. Every
group is as wide as what hangs below it, so links never cross a place they do not belong to.

Two numbers are free: how many clients stand in one column, and how wide the things below one port may become before
they wrap. `layout` tries some and takes the lowest picture that is not wider than `COMFORTABLE_PX`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from sidegate.home import Behaviour, Home
from sidegate.render.layout.boxes import box_item
from sidegate.render.layout.cards import card_size, medium_of
from sidegate.render.layout.internet import internet_part, modem_part
from sidegate.render.layout.parts import Marks, Tail, Task
from sidegate.render.layout.rows import Row, texts_of
from sidegate.render.picture import FONTS, Key, Link, Medium, Part, Picture, Text, measure
from sidegate.render.words import clean, rate, wrap

COMFORTABLE_PX = 1300.0
CAPTION = (
    "Frames between two ports of a switch chip never reach the router's kernel; "
    "frames from or to a radio cross its kernel bridge."
)
_MARGIN = 24.0


def layout(home: Home, marks: Marks | None = None, behaviour: Behaviour | None = None) -> Picture:
    """The home's picture.

    marks: by the name of a client or the gateway. behaviour: how the router behaves (`home.behaviour`); when given,
    the picture says whether its bridge runs conntrack on frames.
    """
    marks = marks or {}
    card = card_size(home, marks)
    tasks = [Task(home, marks, behaviour, card, rows, shelf) for rows, shelf in _choices(len(home.client))]
    pictures = [_picture(task) for task in tasks]
    return min(pictures, key=lambda p: (max(p.width, COMFORTABLE_PX), p.height, p.width))


def _choices(clients: int) -> list[tuple[int, float]]:
    """(clients in a column, widest shelf in px): fewer for the largest homes, where every try costs more."""
    rows = [r for r in (1, 2, 3, 4, 6, 8, 12, 20) if r <= max(clients, 1)]
    shelves = (COMFORTABLE_PX - 90, 760.0, 520.0) if clients <= 60 else (COMFORTABLE_PX - 90,)
    return [(r, s) for r in rows for s in shelves]


def _picture(task: Task) -> Picture:
    home, router, above = task.home, box_item(task, task.home.router), _above(task.home)
    content = max(router.part.width, *(part.width for _, part in above), 430.0)
    wan_x = _MARGIN + (content - router.part.width) / 2 + router.drop_x
    title = wrap(home.title or home.name or "A home", content, FONTS["title"].size, 3, bold=True)
    y = _MARGIN + len(title) * FONTS["title"].line + 14
    headline = texts_of([Row(line, "title") for line in title], _MARGIN, _MARGIN, content)
    stacked, y = _stack(above, wan_x, content, y)
    lower = router.part.moved(_MARGIN + (content - router.part.width) / 2, y)
    wan = _wan_links(stacked, router.tails[0], wan_x, y, home)
    places = [p for part in stacked for p in part.places]
    y += router.part.height + 26
    legend, y = _legend(home, y)
    caption = wrap(CAPTION, content, FONTS["note"].size, 4)
    texts = texts_of([Row(line, "note") for line in caption], _MARGIN, y, content)
    height = y + len(caption) * FONTS["note"].line + _MARGIN
    links = (*wan, *lower.links)
    all_places = (*places, *lower.places)
    width = content + 2 * _MARGIN
    return Picture(width, height, clean(home.title or home.name), headline, all_places, links, legend, texts)


def _above(home: Home) -> list[tuple[str, Part]]:
    modem = modem_part(home)
    return [("internet", internet_part(home)), *([("modem", modem)] if modem else [])]


def _stack(above: Iterable[tuple[str, Part]], x: float, content: float, y: float) -> tuple[list[Part], float]:
    """The parts below each other, as well as possible centred at x; and the y below them."""
    stacked: list[Part] = []
    for _, part in above:
        left = min(max(x - part.width / 2, _MARGIN), _MARGIN + content - part.width)
        stacked.append(part.moved(left, y))
        y += part.height + 40
    return stacked, y


def _wan_links(stacked: Sequence[Part], tail: Tail, x: float, router_y: float, home: Home) -> list[Link]:
    """From the internet down to the router; the access line's rate stands beside the last one."""
    tops = [part.places[0] for part in stacked]
    links = [Link(a.name, b.name, "wire", ((x, a.area.bottom), (x, b.area.y))) for a, b in pairwise(tops)]
    last, end_y = tops[-1], router_y + tail.points[-1][1]
    speed = home.router.wan_rate_mbit
    label = Text(x + 8, router_y - 16, rate(speed), "note") if speed else None
    return [*links, Link(last.name, tail.end, "wire", ((x, last.area.bottom), (x, end_y)), label)]


_KEYS: dict[Medium, str] = {"wire": "cable", "wifi": "radio", "unplugged": "cable pulled out"}


def _legend(home: Home, y: float) -> tuple[tuple[Key, ...], float]:
    used = {"wire", *(medium_of(it) for it in home.attached)}
    keys: list[Key] = []
    x = _MARGIN
    for medium, text in _KEYS.items():
        if medium in used:
            keys.append(Key(medium, (x, y + 8), Text(x + 36, y + 12, text, "note")))
            x += 36 + measure(text, "note") + 24
    return tuple(keys), y + 22
