"""What hangs on one port, in shelves below it."""

from __future__ import annotations

from collections.abc import Sequence

from sidegate.render.layout.parts import GAP, PAD, Group, Item
from sidegate.render.picture import Link, Part, Place, Point, way


def _shelves(items: Sequence[Item], width: float) -> list[list[Item]]:
    """The items in rows not wider than `width`, if they can be."""
    shelves: list[list[Item]] = []
    room = 0.0
    for item in items:
        if not shelves or item.part.width + GAP > room:
            shelves.append([])
            room = width
        shelves[-1].append(item)
        room -= item.part.width + GAP
    return shelves


def hang(port: Place, items: Sequence[Item], shelf_width: float) -> Group:
    """The items in shelves below the port; a trunk at the left leads to the lower shelves."""
    shelves = _shelves(items, shelf_width)
    margin = 16.0 if len(shelves) > 1 else 0.0
    attach_x = _attach_x(shelves, margin)
    parts: list[Part] = []
    top = 0.0
    for number, shelf in enumerate(shelves):
        trunk = way((attach_x, -PAD), (attach_x, 18.0), *(((4.0, 18.0), (4.0, top + 18.0)) if number else ()))
        parts.append(_shelf(port.name, shelf, trunk, margin, top))
        top += parts[-1].height + 10
    width = max([port.area.width, *(p.width for p in parts)])
    places, links = [p for part in parts for p in part.places], [k for part in parts for k in part.links]
    return Group(port, Part(width, max(top - 10, 0.0), tuple(places), tuple(links)), attach_x)


def _attach_x(shelves: Sequence[Sequence[Item]], margin: float) -> float:
    """In the middle of the lines that it feeds."""
    if not shelves:
        return 40.0
    *others, last = shelves[0]
    first_x = margin + shelves[0][0].drop_x
    last_x = margin + sum(item.part.width + GAP for item in others) + last.drop_x
    return (first_x + last_x) / 2


def _shelf(port: str, shelf: Sequence[Item], trunk: tuple[Point, ...], x: float, top: float) -> Part:
    """One row of items; each link runs along the trunk and the bus to its item."""
    bus_y, item_y = trunk[-1][1], top + 32.0
    places: list[Place] = []
    links: list[Link] = []
    for item in shelf:
        moved = item.part.moved(x, item_y)
        places += moved.places
        links += moved.links
        for tail in item.tails:
            points = [(x + px, item_y + py) for px, py in tail.points]
            links.append(Link(port, tail.end, tail.medium, way(*trunk, (points[0][0], bus_y), *points)))
        x += item.part.width + GAP
    return Part(x - GAP, 32.0 + max(item.part.height for item in shelf), tuple(places), tuple(links))
