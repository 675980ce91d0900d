"""What stands above the router: the internet with its servers, and the modem."""

from __future__ import annotations

from math import ceil

from sidegate.home import Home, Server
from sidegate.render.layout.parts import CARD_WIDTH, PAD
from sidegate.render.layout.rows import Row, rows_height, texts_of
from sidegate.render.picture import FONTS, Part, Place, Rect


def internet_part(home: Home) -> Part:
    servers = [_server_rows(home, server) for server in home.internet.server]
    low, high = CARD_WIDTH
    width = min(max([low, *(ceil(row.width) + 2 * PAD for rows in servers for row in rows)]), high)
    height = max((rows_height(rows) for rows in servers), default=0.0) + 12
    per_row = min(max(len(servers), 1), 4)
    width = max(width, (320.0 - PAD) / per_row - PAD)
    cards = []
    for i, (server, rows) in enumerate(zip(home.internet.server, servers, strict=True)):
        area = Rect(PAD + i % per_row * (width + PAD), 34 + i // per_row * (height + PAD), width, height)
        cards.append(
            Place(server.name, "server", area, texts_of(rows, area.x + PAD, area.y + 6, width - 24), "internet")
        )
    total = per_row * (width + PAD) + PAD
    note = _blocked(home)
    bottom = max((card.area.bottom for card in cards), default=28.0)
    area = Rect(0, 0, total, bottom + (6 + FONTS["note"].line if note else 0) + PAD)
    texts = texts_of([Row("Internet", "name")], PAD, 8, total - 24)
    texts += texts_of([Row(note, "note")], PAD, bottom + 6, total - 24) if note else ()
    return Part(total, area.height, (Place("internet", "internet", area, texts), *cards))


def _server_rows(home: Home, server: Server) -> list[Row]:
    blocked = server.v4 in home.internet.blocked or (server.v6 is not None and server.v6 in home.internet.blocked)
    rows = [Row(server.name, "name", "blocked by ISP" if blocked else "")]
    rows += [Row(server.domain, "note")] if server.domain else []
    rows.append(Row(str(server.v4), "address"))
    return [*rows, Row(str(server.v6), "small")] if server.v6 else rows


def _blocked(home: Home) -> str:
    shown = {a for server in home.internet.server for a in (server.v4, server.v6)}
    others = [str(a) for a in home.internet.blocked if a not in shown]
    return "Blocked by the ISP: " + ", ".join(others) if others else ""


def modem_part(home: Home) -> Part | None:
    if home.modem is None:
        return None
    rows = [Row("modem", "name", "router function"), Row(f"LAN {home.modem.lan} · WAN {home.modem.wan}", "address")]
    rows.append(Row("routing · NAT: the first of two", "note"))
    width, height = ceil(max(row.width for row in rows)) + 2 * PAD, rows_height(rows) + 14
    place = Place("modem", "modem", Rect(0, 0, width, height), texts_of(rows, PAD, 7, width - 2 * PAD))
    return Part(width, height, (place,))
