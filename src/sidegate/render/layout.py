"""Home -> Picture: where everything stands. Pure; nothing is drawn here.

The internet stands on top, the router below it as a box with its kernel, bridge, switch chip and radios, and under each
of these what hangs on it: the gateway, columns of clients, further boxes, which are laid out in the same way. Every
group is as wide as what hangs below it, so links never cross a place they do not belong to.

Two numbers are free: how many clients stand in one column, and how wide the things below one port may become before
they wrap. `layout` tries some and takes the lowest picture that is not wider than `COMFORTABLE_PX`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import ceil

from msgspec import Struct

from sidegate.home import Behaviour, Box, Client, Gateway, Home, Node, Router, Server
from sidegate.render.picture import (
    FONTS,
    Key,
    Link,
    Mark,
    Medium,
    Part,
    Picture,
    Place,
    Point,
    Rect,
    Style,
    Text,
    measure,
    way,
)
from sidegate.render.words import clean, fit, rate, wrap

COMFORTABLE_PX = 1300.0
CAPTION = (
    "Frames between two ports of a switch chip never reach the router's kernel; "
    "frames from or to a radio cross its kernel bridge."
)
_MARGIN, _PAD, _GAP = 24.0, 12.0, 26.0
_LANE = 24.0
"""Room left of a column of clients, for the line that they hang on."""
_LANE_X = 9.0
_CHIP_HEIGHT, _BAR_HEIGHT = 26.0, 26.0
_MARK_INDENT = 20.0
_CARD_WIDTH = (150.0, 290.0)
_HEADER_WIDTH = (140.0, 430.0)

Marks = Mapping[str, Mark]


class _Row(Struct, frozen=True):
    """A line of a box: text at its left, text at its right."""

    left: str
    style: Style
    right: str = ""
    indent: float = 0.0

    @property
    def width(self) -> float:
        right = measure(clean(self.right), "note") + 14 if self.right else 0.0
        return self.indent + measure(clean(self.left), self.style) + right


class _Task(Struct, frozen=True):
    """What is to be laid out, and the two free numbers. card: width and height of every client's box."""

    home: Home
    marks: Marks
    behaviour: Behaviour | None
    card: tuple[float, float]
    rows: int
    shelf_width: float


class _Tail(Struct, frozen=True):
    """The last part of a link's way, from the top of the item to the place where it ends."""

    end: str
    medium: Medium
    points: tuple[Point, ...]


class _Item(Struct, frozen=True):
    """Something that hangs on a port. drop_x: where its line comes in from above."""

    part: Part
    drop_x: float
    tails: tuple[_Tail, ...]


class _Group(Struct, frozen=True):
    """A port of a box with all that hangs below it. attach_x: where the line leaves the port."""

    port: Place
    part: Part
    attach_x: float


def layout(home: Home, marks: Marks | None = None, behaviour: Behaviour | None = None) -> Picture:
    """The home's picture.

    marks: by the name of a client or the gateway. behaviour: how the router behaves (`home.behaviour`); when given,
    the picture says whether its bridge runs conntrack on frames.
    """
    marks = marks or {}
    card = _card_size(home, marks)
    tasks = [_Task(home, marks, behaviour, card, rows, shelf) for rows, shelf in _choices(len(home.client))]
    pictures = [_picture(task) for task in tasks]
    return min(pictures, key=lambda p: (max(p.width, COMFORTABLE_PX), p.height, p.width))


def _choices(clients: int) -> list[tuple[int, float]]:
    """(clients in a column, widest shelf in px): fewer for the largest homes, where every try costs more."""
    rows = [r for r in (1, 2, 3, 4, 6, 8, 12, 20) if r <= max(clients, 1)]
    shelves = (COMFORTABLE_PX - 90, 760.0, 520.0) if clients <= 60 else (COMFORTABLE_PX - 90,)
    return [(r, s) for r in rows for s in shelves]


# Lines of text in a box


def _rows_height(rows: Sequence[_Row]) -> float:
    return sum(FONTS[row.style].line for row in rows)


def _texts(rows: Sequence[_Row], x: float, y: float, width: float) -> tuple[Text, ...]:
    """The rows from x, y downwards, each cut to the width."""
    texts: list[Text] = []
    for row in rows:
        font = FONTS[row.style]
        baseline = y + font.line * 0.5 + font.size * 0.36
        right = _cut(row.right, "note", width * 0.6)
        taken = measure(right, "note") + 14 if right else 0.0
        left = _cut(row.left, row.style, width - taken - row.indent)
        texts.append(Text(x + row.indent, baseline, left, row.style, full=clean(row.left)))
        if right:
            texts.append(Text(x + width, baseline, right, "note", "end", clean(row.right)))
        y += font.line
    return tuple(text for text in texts if text.text)


def _cut(text: str, style: Style, width: float) -> str:
    font = FONTS[style]
    return fit(text, width, font.size, font.mono, font.bold)


def _label(text: str, style: Style, area: Rect) -> tuple[Text, ...]:
    """One line in the middle of an area."""
    cut = _cut(text, style, area.width - 12)
    x, y = area.middle
    return (Text(x, y + FONTS[style].size * 0.36, cut, style, "middle", clean(text)),) if cut else ()


# Clients and the gateway


def _card_size(home: Home, marks: Marks) -> tuple[float, float]:
    """One size for all, so that columns are even."""
    cards = [_card_rows(home, host, marks) for host in home.lan_hosts]
    low, high = _CARD_WIDTH
    width = max((row.width for rows in cards for row in rows), default=low)
    height = max((_rows_height(rows) for rows in cards), default=0.0)
    return min(max(ceil(width) + 2 * _PAD, low), high), height + 14


def _card_rows(home: Home, host: Gateway | Client, marks: Marks) -> list[_Row]:
    rows = [
        _Row(host.name, "name", _role(home, host)),
        _Row(str(host.v4), "address", rate(host.rate_mbit) if host.rate_mbit else ""),
    ]
    if host.v6:
        rows.append(_Row(str(host.v6), "small"))
    if host.name in marks:
        rows.append(_Row(marks[host.name].text, "mark", indent=_MARK_INDENT))
    return rows


def _role(home: Home, host: Gateway | Client) -> str:
    if isinstance(host, Gateway):
        return "bypass gateway" if host.plugged else "unplugged"
    if home.gateway is None:
        return ""
    return "no gateway" if host.gateway == "none" else f"via {host.gateway}"


def _card(task: _Task, host: Gateway | Client, x: float, y: float) -> Place:
    width, height = task.card
    texts = _texts(_card_rows(task.home, host, task.marks), x + _PAD, y + 7, width - 2 * _PAD)
    kind, away = ("gateway", not host.plugged) if isinstance(host, Gateway) else ("client", False)
    mark = task.marks.get(host.name)
    return Place(host.name, kind, Rect(x, y, width, height), texts, mark=mark, away=away)  # type: ignore[arg-type]


def _column(task: _Task, hosts: Sequence[Gateway | Client]) -> _Item:
    width, height = task.card
    cards = [_card(task, host, _LANE, i * (height + 12)) for i, host in enumerate(hosts)]
    tails = tuple(_stub(card, host) for card, host in zip(cards, hosts, strict=True))
    return _Item(Part(_LANE + width, cards[-1].area.bottom, tuple(cards)), _LANE_X, tails)


def _stub(card: Place, host: Gateway | Client) -> _Tail:
    y = card.area.middle[1]
    return _Tail(card.name, _medium(host), ((_LANE_X, 0), (_LANE_X, y), (card.area.x, y)))


def _medium(it: Gateway | Client | Node) -> Medium:
    if isinstance(it, Gateway) and not it.plugged:
        return "unplugged"
    return it.by


def _columns(task: _Task, hosts: Sequence[Gateway | Client], beside_width: float) -> list[_Item]:
    """Even columns of at most `task.rows` clients; more columns where something as wide hangs there anyway."""
    if not hosts:
        return []
    column_width = _LANE + task.card[0] + _GAP
    count = max(-(-len(hosts) // task.rows), min(len(hosts), int((beside_width + _GAP) // column_width)))
    cuts = [round(i * len(hosts) / count) for i in range(count + 1)]
    return [_column(task, hosts[a:b]) for a, b in pairwise(cuts)]


# What hangs on one port


def _hung(task: _Task, box: Box, radio: str | None) -> list[_Item]:
    """Gateway, clients and boxes on this radio of the box, or on its cables."""
    here = [it for it in task.home.attached if it.at == box.name and _radio(it, box) == radio]
    hosts = [it for it in here if not isinstance(it, Node)]
    boxes = [_box(task, it) for it in here if isinstance(it, Node)]
    widest = max((item.part.width for item in boxes), default=0.0)
    return [*_columns(task, hosts, widest), *boxes]


def _radio(it: Gateway | Client | Node, box: Box) -> str | None:
    if it.by == "wire":
        return None
    return it.radio or (box.radios[0] if box.radios else None)


def _shelves(items: Sequence[_Item], width: float) -> list[list[_Item]]:
    """The items in rows not wider than `width`, if they can be."""
    shelves: list[list[_Item]] = []
    room = 0.0
    for item in items:
        if not shelves or item.part.width + _GAP > room:
            shelves.append([])
            room = width
        shelves[-1].append(item)
        room -= item.part.width + _GAP
    return shelves


def _hang(port: Place, items: Sequence[_Item], shelf_width: float) -> _Group:
    """The items in shelves below the port; a trunk at the left leads to the lower shelves."""
    shelves = _shelves(items, shelf_width)
    margin = 16.0 if len(shelves) > 1 else 0.0
    attach_x = _attach_x(shelves, margin)
    parts: list[Part] = []
    top = 0.0
    for number, shelf in enumerate(shelves):
        trunk = way((attach_x, -_PAD), (attach_x, 18.0), *(((4.0, 18.0), (4.0, top + 18.0)) if number else ()))
        parts.append(_shelf(port.name, shelf, trunk, margin, top))
        top += parts[-1].height + 10
    width = max([port.area.width, *(p.width for p in parts)])
    places, links = [p for part in parts for p in part.places], [k for part in parts for k in part.links]
    return _Group(port, Part(width, max(top - 10, 0.0), tuple(places), tuple(links)), attach_x)


def _attach_x(shelves: Sequence[Sequence[_Item]], margin: float) -> float:
    """In the middle of the lines that it feeds."""
    if not shelves:
        return 40.0
    *others, last = shelves[0]
    first_x = margin + shelves[0][0].drop_x
    last_x = margin + sum(item.part.width + _GAP for item in others) + last.drop_x
    return (first_x + last_x) / 2


def _shelf(port: str, shelf: Sequence[_Item], trunk: tuple[Point, ...], x: float, top: float) -> Part:
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
        x += item.part.width + _GAP
    return Part(x - _GAP, 32.0 + max(item.part.height for item in shelf), tuple(places), tuple(links))


# Boxes: the router, mesh nodes, access points


def _ports(box: Box) -> list[tuple[str | None, Place]]:
    """Each radio (None: the cables) with its place, yet without position."""
    cables = f"switch chip · {box.ports} ports" if box.switch_chip else f"LAN ports · {box.ports} in br-lan"
    ports: list[tuple[str | None, Place]] = [(None, _port(f"{box.name}/switch", cables, box.name))]
    return ports + [(r, _port(f"{box.name}/{r}", f"{r} · Wi-Fi", box.name, wireless=True)) for r in box.radios]


def _port(name: str, label: str, box: str, wireless: bool = False) -> Place:
    area = Rect(0, 0, min(measure(clean(label), "heading") + 24, 240), _CHIP_HEIGHT)
    return Place(name, "radio" if wireless else "chip", area, _label(label, "heading", area), inside=box)


def _header(box: Box) -> list[_Row]:
    if isinstance(box, Node):
        kind = "mesh node" if box.by == "wifi" else "access point"
        speed = f" · {rate(box.rate_mbit)}" if box.rate_mbit else ""
        return [_Row(box.name, "name", kind), _Row(f"bridge mode{speed}", "note")]
    rows = [_Row(box.name, "name", box.profile), _Row(f"LAN {box.lan} · WAN {box.wan}", "address")]
    if box.lan6 and box.wan6:
        rows.append(_Row(f"LAN {box.lan6} · WAN {box.wan6}", "small"))
    return [*rows, _Row(_dhcp(box), "note")]


def _dhcp(router: Router) -> str:
    if router.dhcp.off:
        return "DHCP: off"
    return f"DHCP hands out gateway {router.dhcp.gateway or router.lan.ip}"


def _bridge_label(task: _Task, box: Box) -> str:
    filters = box.bridge_filter if isinstance(box, Node) else task.behaviour and task.behaviour.bridge_filter
    if filters is None:
        return "br-lan · kernel bridge"
    return "br-lan · kernel bridge · " + ("conntrack on its frames" if filters else "no conntrack on its frames")


def _nat_label(task: _Task) -> str:
    nat = task.behaviour.nat if task.behaviour else None
    return {None: "routing · NAT", "none": "routing · no NAT"}.get(nat, f"routing · NAT ({nat})")


class _Frame(Struct, frozen=True):
    """A box's measures. up_x, up_width: where its link upwards comes in, and the width of what it meets there."""

    width: float
    header_width: float
    kernel: Rect
    chips_y: float
    height: float
    up_x: float
    up_width: float
    groups_x: float


def _box(task: _Task, box: Box) -> _Item:
    groups = [_hang(port, _hung(task, box, radio), task.shelf_width) for radio, port in _ports(box)]
    frame = _frame(task, box, groups)
    inner = [_outline(box, frame), *_inside(task, box, frame)]
    places, links = _place_groups(box, frame, groups)
    below = max(group.part.height for group in groups)
    links = [*_uplink_inside(box, frame), *links]
    part = Part(frame.width, frame.height + below, (*inner, *places), tuple(links))
    return _Item(part, frame.up_x, (_up_tail(box, frame, places),))


def _up_label(task: _Task, box: Box) -> str:
    if isinstance(box, Router):
        return _nat_label(task)
    return "backhaul · Wi-Fi" if box.by == "wifi" else ""


def _frame(task: _Task, box: Box, groups: Sequence[_Group]) -> _Frame:
    rows, low, high = _header(box), *_HEADER_WIDTH
    header_width = min(max(low, *(ceil(row.width) for row in rows)), high)
    up_width = measure(_up_label(task, box), "heading") + 24 if _up_label(task, box) else 0.0
    indent = 0.0 if up_width else 18.0
    inner = sum(g.part.width for g in groups) + _GAP * (len(groups) - 1)
    bar = measure(_bridge_label(task, box), "heading") + 24 + 4 * _PAD + indent
    width = max(inner + 2 * _PAD + indent, header_width + (24 + up_width if up_width else indent) + 2 * _PAD, bar)
    header_bottom = 8 + _rows_height(rows) + 6
    kernel_height = _BAR_HEIGHT + 16 + (_CHIP_HEIGHT + 12 if isinstance(box, Router) else 0)
    kernel = Rect(_PAD + indent, header_bottom, width - 2 * _PAD - indent, kernel_height)
    up_x = max(width / 2, _PAD + header_width + 24 + up_width / 2) if up_width else _PAD + 4
    groups_x = indent + (width - indent - inner) / 2
    chips_y = kernel.bottom + 24
    return _Frame(width, header_width, kernel, chips_y, chips_y + _CHIP_HEIGHT + _PAD, up_x, up_width, groups_x)


def _outline(box: Box, frame: _Frame) -> Place:
    x = frame.kernel.x
    texts = _texts(_header(box), x, 8, frame.header_width)
    kind = "router" if isinstance(box, Router) else "node"
    return Place(box.name, kind, Rect(0, 0, frame.width, frame.height), texts)  # type: ignore[arg-type]


def _inside(task: _Task, box: Box, frame: _Frame) -> list[Place]:
    """The kernel with its bridge; in the router also routing and NAT, in a mesh node the backhaul radio."""
    kernel, up_x = frame.kernel, frame.up_x
    bar = Rect(kernel.x + 8, kernel.bottom - 8 - _BAR_HEIGHT, kernel.width - 16, _BAR_HEIGHT)
    up = Rect(up_x - frame.up_width / 2, kernel.y + 8, frame.up_width, _CHIP_HEIGHT)
    bridge = Place(f"{box.name}/br-lan", "bridge", bar, _label(_bridge_label(task, box), "heading", bar), box.name)
    if isinstance(box, Router):
        label = _label(_up_label(task, box), "heading", up)
        heading = _texts([_Row("Linux kernel", "note")], kernel.x + 10, kernel.y + 12, up.x - kernel.x - 20)
        outline = Place(f"{box.name}/kernel", "kernel", kernel, heading, box.name)
        inside = f"{box.name}/kernel"
        nat = Place(f"{box.name}/nat", "nat", up, label, inside)
        return [outline, nat, _within(bridge, inside)]
    outline = Place(f"{box.name}/kernel", "kernel", kernel, (), box.name)
    places = [outline, _within(bridge, outline.name)]
    if box.by == "wifi":
        area = Rect(up.x, 10, up.width, _CHIP_HEIGHT)
        places.append(
            Place(f"{box.name}/backhaul", "radio", area, _label(_up_label(task, box), "heading", area), box.name)
        )
    return places


def _within(place: Place, inside: str) -> Place:
    return Place(place.name, place.kind, place.area, place.texts, inside)


def _place_groups(box: Box, frame: _Frame, groups: Sequence[_Group]) -> tuple[list[Place], list[Link]]:
    places: list[Place] = []
    links: list[Link] = []
    x = frame.groups_x
    for group in groups:
        attach_x = x + group.attach_x
        left = min(max(attach_x - group.port.area.width / 2, x), x + group.part.width - group.port.area.width)
        port = group.port.moved(left, frame.chips_y)
        moved = group.part.moved(x, frame.height)
        places += [port, *moved.places]
        links += [_to_bridge(box, port, frame), *moved.links]
        x += group.part.width + _GAP
    return places, links


def _to_bridge(box: Box, port: Place, frame: _Frame) -> Link:
    """The chip's one port to the CPU, or a radio as a port of the bridge."""
    x, bar_bottom = port.area.middle[0], frame.kernel.bottom - 8
    label = None
    if port.kind == "chip" and box.switch_chip:
        label = Text(x + 6, frame.kernel.bottom + 16, "CPU port", "note")
    return Link(port.name, f"{box.name}/br-lan", "inside", ((x, port.area.y), (x, bar_bottom)), label)


def _uplink_inside(box: Box, frame: _Frame) -> list[Link]:
    """From what the uplink meets down to the bridge."""
    bar_y, x = frame.kernel.bottom - 8 - _BAR_HEIGHT, frame.up_x
    if isinstance(box, Router):
        points = ((x, frame.kernel.y + 8 + _CHIP_HEIGHT), (x, bar_y))
        return [Link(f"{box.name}/nat", f"{box.name}/br-lan", "inside", points)]
    if box.by == "wifi":
        return [Link(f"{box.name}/backhaul", f"{box.name}/br-lan", "inside", ((x, 10 + _CHIP_HEIGHT), (x, bar_y)))]
    return []


def _up_tail(box: Box, frame: _Frame, places: Sequence[Place]) -> _Tail:
    """Where the link from above ends: at NAT, at the backhaul radio, or at the switch chip."""
    x = frame.up_x
    if isinstance(box, Router):
        return _Tail(f"{box.name}/nat", "wire", ((x, 0), (x, frame.kernel.y + 8)))
    if box.by == "wifi":
        return _Tail(f"{box.name}/backhaul", "wifi", ((x, 0), (x, 10)))
    chip = places[0].area
    return _Tail(f"{box.name}/switch", "wire", ((x, 0), (x, chip.middle[1]), (chip.x, chip.middle[1])))


# The internet and the modem


def _internet(home: Home) -> Part:
    servers = [_server_rows(home, server) for server in home.internet.server]
    low, high = _CARD_WIDTH
    width = min(max([low, *(ceil(row.width) + 2 * _PAD for rows in servers for row in rows)]), high)
    height = max((_rows_height(rows) for rows in servers), default=0.0) + 12
    per_row = min(max(len(servers), 1), 4)
    width = max(width, (320.0 - _PAD) / per_row - _PAD)
    cards = []
    for i, (server, rows) in enumerate(zip(home.internet.server, servers, strict=True)):
        area = Rect(_PAD + i % per_row * (width + _PAD), 34 + i // per_row * (height + _PAD), width, height)
        cards.append(
            Place(server.name, "server", area, _texts(rows, area.x + _PAD, area.y + 6, width - 24), "internet")
        )
    total = per_row * (width + _PAD) + _PAD
    note = _blocked(home)
    bottom = max((card.area.bottom for card in cards), default=28.0)
    area = Rect(0, 0, total, bottom + (6 + FONTS["note"].line if note else 0) + _PAD)
    texts = _texts([_Row("Internet", "name")], _PAD, 8, total - 24)
    texts += _texts([_Row(note, "note")], _PAD, bottom + 6, total - 24) if note else ()
    return Part(total, area.height, (Place("internet", "internet", area, texts), *cards))


def _server_rows(home: Home, server: Server) -> list[_Row]:
    blocked = server.v4 in home.internet.blocked or (server.v6 is not None and server.v6 in home.internet.blocked)
    rows = [_Row(server.name, "name", "blocked by ISP" if blocked else "")]
    rows += [_Row(server.domain, "note")] if server.domain else []
    rows.append(_Row(str(server.v4), "address"))
    return [*rows, _Row(str(server.v6), "small")] if server.v6 else rows


def _blocked(home: Home) -> str:
    shown = {a for server in home.internet.server for a in (server.v4, server.v6)}
    others = [str(a) for a in home.internet.blocked if a not in shown]
    return "Blocked by the ISP: " + ", ".join(others) if others else ""


def _modem(home: Home) -> Part | None:
    if home.modem is None:
        return None
    rows = [_Row("modem", "name", "router function"), _Row(f"LAN {home.modem.lan} · WAN {home.modem.wan}", "address")]
    rows.append(_Row("routing · NAT: the first of two", "note"))
    width, height = ceil(max(row.width for row in rows)) + 2 * _PAD, _rows_height(rows) + 14
    place = Place("modem", "modem", Rect(0, 0, width, height), _texts(rows, _PAD, 7, width - 2 * _PAD))
    return Part(width, height, (place,))


# All together


def _picture(task: _Task) -> Picture:
    home, router, above = task.home, _box(task, task.home.router), _above(task.home)
    content = max(router.part.width, *(part.width for _, part in above), 430.0)
    wan_x = _MARGIN + (content - router.part.width) / 2 + router.drop_x
    title = wrap(home.title or home.name or "A home", content, FONTS["title"].size, 3, bold=True)
    y = _MARGIN + len(title) * FONTS["title"].line + 14
    headline = _texts([_Row(line, "title") for line in title], _MARGIN, _MARGIN, content)
    stacked, y = _stack(above, wan_x, content, y)
    lower = router.part.moved(_MARGIN + (content - router.part.width) / 2, y)
    wan = _wan_links(stacked, router.tails[0], wan_x, y, home)
    places = [p for part in stacked for p in part.places]
    y += router.part.height + 26
    legend, y = _legend(home, y)
    caption = wrap(CAPTION, content, FONTS["note"].size, 4)
    texts = _texts([_Row(line, "note") for line in caption], _MARGIN, y, content)
    height = y + len(caption) * FONTS["note"].line + _MARGIN
    links = (*wan, *lower.links)
    all_places = (*places, *lower.places)
    width = content + 2 * _MARGIN
    return Picture(width, height, clean(home.title or home.name), headline, all_places, links, legend, texts)


def _above(home: Home) -> list[tuple[str, Part]]:
    modem = _modem(home)
    return [("internet", _internet(home)), *([("modem", modem)] if modem else [])]


def _stack(above: Iterable[tuple[str, Part]], x: float, content: float, y: float) -> tuple[list[Part], float]:
    """The parts below each other, as well as possible centred at x; and the y below them."""
    stacked: list[Part] = []
    for _, part in above:
        left = min(max(x - part.width / 2, _MARGIN), _MARGIN + content - part.width)
        stacked.append(part.moved(left, y))
        y += part.height + 40
    return stacked, y


def _wan_links(stacked: Sequence[Part], tail: _Tail, x: float, router_y: float, home: Home) -> list[Link]:
    """From the internet down to the router; the access line's rate stands beside the last one."""
    tops = [part.places[0] for part in stacked]
    links = [Link(a.name, b.name, "wire", ((x, a.area.bottom), (x, b.area.y))) for a, b in pairwise(tops)]
    last, end_y = tops[-1], router_y + tail.points[-1][1]
    speed = home.router.wan_rate_mbit
    label = Text(x + 8, router_y - 16, rate(speed), "note") if speed else None
    return [*links, Link(last.name, tail.end, "wire", ((x, last.area.bottom), (x, end_y)), label)]


_KEYS: dict[Medium, str] = {"wire": "cable", "wifi": "radio", "unplugged": "cable pulled out"}


def _legend(home: Home, y: float) -> tuple[tuple[Key, ...], float]:
    used = {"wire", *(_medium(it) for it in home.attached)}
    keys: list[Key] = []
    x = _MARGIN
    for medium, text in _KEYS.items():
        if medium in used:
            keys.append(Key(medium, (x, y + 8), Text(x + 36, y + 12, text, "note")))
            x += 36 + measure(text, "note") + 24
    return tuple(keys), y + 22
