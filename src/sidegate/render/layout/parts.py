"""What a layout is put together from: the task, and things that hang on ports, with the ways of their lines."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from sidegate.home import Behaviour, Home
from sidegate.render.picture import Mark, Medium, Part, Place, Point

Marks = Mapping[str, Mark]
GAP = 26.0
"""Between two things that hang on one port."""
PAD = 12.0
"""Between a box's edge and what is in it."""
CHIP_HEIGHT = 26.0
CARD_WIDTH = (150.0, 290.0)


class Task(Struct, frozen=True):
    """What is to be laid out, and the two free numbers. card: width and height of every client's box."""

    home: Home
    marks: Marks
    behaviour: Behaviour | None
    card: tuple[float, float]
    rows: int
    shelf_width: float


class Tail(Struct, frozen=True):
    """The last part of a link's way, from the top of the item to the place where it ends."""

    end: str
    medium: Medium
    points: tuple[Point, ...]


class Item(Struct, frozen=True):
    """Something that hangs on a port. drop_x: where its line comes in from above."""

    part: Part
    drop_x: float
    tails: tuple[Tail, ...]


class Group(Struct, frozen=True):
    """A port of a box with all that hangs below it. attach_x: where the line leaves the port."""

    port: Place
    part: Part
    attach_x: float
