"""Clients and the gateway: boxes of one size, in even columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

from sidegate.home import Client, Gateway, Home, Node
from sidegate.render.layout.parts import CARD_WIDTH, GAP, PAD, Item, Marks, Tail, Task
from sidegate.render.layout.rows import Row, rows_height, texts_of
from sidegate.render.picture import Medium, Part, Place, Rect
from sidegate.render.words import rate

_LANE = 24.0
"""Room left of a column of clients, for the line that they hang on."""
_LANE_X = 9.0
_MARK_INDENT = 20.0


def card_size(home: Home, marks: Marks) -> tuple[float, float]:
    """One size for all, so that columns are even."""
    cards = [_card_rows(home, host, marks) for host in home.lan_hosts]
    low, high = CARD_WIDTH
    width = max((row.width for rows in cards for row in rows), default=low)
    height = max((rows_height(rows) for rows in cards), default=0.0)
    return min(max(ceil(width) + 2 * PAD, low), high), height + 14


def _card_rows(home: Home, host: Gateway | Client, marks: Marks) -> list[Row]:
    rows = [
        Row(host.name, "name", _role(home, host)),
        Row(str(host.v4), "address", rate(host.rate_mbit) if host.rate_mbit else ""),
    ]
    if host.v6:
        rows.append(Row(str(host.v6), "small"))
    if host.name in marks:
        rows.append(Row(marks[host.name].text, "mark", indent=_MARK_INDENT))
    return rows


def _role(home: Home, host: Gateway | Client) -> str:
    if isinstance(host, Gateway):
        return "bypass gateway" if host.plugged else "unplugged"
    if home.gateway is None:
        return ""
    return "no gateway" if host.gateway == "none" else f"via {host.gateway}"


def _card(task: Task, host: Gateway | Client, x: float, y: float) -> Place:
    width, height = task.card
    texts = texts_of(_card_rows(task.home, host, task.marks), x + PAD, y + 7, width - 2 * PAD)
    kind, away = ("gateway", not host.plugged) if isinstance(host, Gateway) else ("client", False)
    mark = task.marks.get(host.name)
    return Place(host.name, kind, Rect(x, y, width, height), texts, mark=mark, away=away)  # type: ignore[arg-type]


def _column(task: Task, hosts: Sequence[Gateway | Client]) -> Item:
    width, height = task.card
    cards = [_card(task, host, _LANE, i * (height + 12)) for i, host in enumerate(hosts)]
    tails = tuple(_stub(card, host) for card, host in zip(cards, hosts, strict=True))
    return Item(Part(_LANE + width, cards[-1].area.bottom, tuple(cards)), _LANE_X, tails)


def _stub(card: Place, host: Gateway | Client) -> Tail:
    y = card.area.middle[1]
    return Tail(card.name, medium_of(host), ((_LANE_X, 0), (_LANE_X, y), (card.area.x, y)))


def medium_of(it: Gateway | Client | Node) -> Medium:
    if isinstance(it, Gateway) and not it.plugged:
        return "unplugged"
    return it.by


def columns(task: Task, hosts: Sequence[Gateway | Client], beside_width: float) -> list[Item]:
    """Even columns of at most `task.rows` clients; more columns where something as wide hangs there anyway."""
    if not hosts:
        return []
    column_width = _LANE + task.card[0] + GAP
    count = max(-(-len(hosts) // task.rows), min(len(hosts), int((beside_width + GAP) // column_width)))
    cuts = [round(i * len(hosts) / count) for i in range(count + 1)]
    return [_column(task, hosts[a:b]) for a, b in pairwise(cuts)]
