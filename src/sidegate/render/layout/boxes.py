"""Boxes: the router, mesh nodes, access points, each with its kernel, its ports, and all that hangs below them."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from msgspec import Struct

from sidegate.home import Box, Client, Gateway, Node, Router
from sidegate.render.layout.cards import columns
from sidegate.render.layout.hanging import hang
from sidegate.render.layout.parts import CHIP_HEIGHT, GAP, PAD, Group, Item, Tail, Task
from sidegate.render.layout.rows import Row, centred, rows_height, texts_of
from sidegate.render.picture import Link, Part, Place, Rect, Text, measure
from sidegate.render.words import clean, rate

_BAR_HEIGHT = 26.0
_HEADER_WIDTH = (140.0, 430.0)


def _hung(task: Task, box: Box, radio: str | None) -> list[Item]:
    """Gateway, clients and boxes on this radio of the box, or on its cables."""
    here = [it for it in task.home.attached if it.at == box.name and _radio(it, box) == radio]
    hosts = [it for it in here if not isinstance(it, Node)]
    boxes = [box_item(task, it) for it in here if isinstance(it, Node)]
    widest = max((item.part.width for item in boxes), default=0.0)
    return [*columns(task, hosts, widest), *boxes]


def _radio(it: Gateway | Client | Node, box: Box) -> str | None:
    if it.by == "wire":
        return None
    return it.radio or (box.radios[0] if box.radios else None)


def _ports(box: Box) -> list[tuple[str | None, Place]]:
    """Each radio (None: the cables) with its place, yet without position."""
    cables = f"switch chip · {box.ports} ports" if box.switch_chip else f"LAN ports · {box.ports} in br-lan"
    ports: list[tuple[str | None, Place]] = [(None, _port(f"{box.name}/switch", cables, box.name))]
    return ports + [(r, _port(f"{box.name}/{r}", f"{r} · Wi-Fi", box.name, wireless=True)) for r in box.radios]


def _port(name: str, label: str, box: str, wireless: bool = False) -> Place:
    area = Rect(0, 0, min(measure(clean(label), "heading") + 24, 240), CHIP_HEIGHT)
    return Place(name, "radio" if wireless else "chip", area, centred(label, "heading", area), inside=box)


def _header(box: Box) -> list[Row]:
    if isinstance(box, Node):
        kind = "mesh node" if box.by == "wifi" else "access point"
        speed = f" · {rate(box.rate_mbit)}" if box.rate_mbit else ""
        return [Row(box.name, "name", kind), Row(f"bridge mode{speed}", "note")]
    rows = [Row(box.name, "name", box.profile), Row(f"LAN {box.lan} · WAN {box.wan}", "address")]
    if box.lan6 and box.wan6:
        rows.append(Row(f"LAN {box.lan6} · WAN {box.wan6}", "small"))
    return [*rows, Row(_dhcp(box), "note")]


def _dhcp(router: Router) -> str:
    if router.dhcp.off:
        return "DHCP: off"
    return f"DHCP hands out gateway {router.dhcp.gateway or router.lan.ip}"


def _bridge_label(task: Task, box: Box) -> str:
    filters = box.bridge_filter if isinstance(box, Node) else task.behaviour and task.behaviour.bridge_filter
    if filters is None:
        return "br-lan · kernel bridge"
    return "br-lan · kernel bridge · " + ("conntrack on its frames" if filters else "no conntrack on its frames")


def _nat_label(task: Task) -> str:
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


def box_item(task: Task, box: Box) -> Item:
    groups = [hang(port, _hung(task, box, radio), task.shelf_width) for radio, port in _ports(box)]
    frame = _frame(task, box, groups)
    inner = [_outline(box, frame), *_inside(task, box, frame)]
    places, links = _place_groups(box, frame, groups)
    below = max(group.part.height for group in groups)
    links = [*_uplink_inside(box, frame), *links]
    part = Part(frame.width, frame.height + below, (*inner, *places), tuple(links))
    return Item(part, frame.up_x, (_up_tail(box, frame, places),))


def _up_label(task: Task, box: Box) -> str:
    if isinstance(box, Router):
        return _nat_label(task)
    return "backhaul · Wi-Fi" if box.by == "wifi" else ""


def _frame(task: Task, box: Box, groups: Sequence[Group]) -> _Frame:
    rows, low, high = _header(box), *_HEADER_WIDTH
    header_width = min(max(low, *(ceil(row.width) for row in rows)), high)
    up_width = measure(_up_label(task, box), "heading") + 24 if _up_label(task, box) else 0.0
    indent = 0.0 if up_width else 18.0
    inner = sum(g.part.width for g in groups) + GAP * (len(groups) - 1)
    bar = measure(_bridge_label(task, box), "heading") + 24 + 4 * PAD + indent
    width = max(inner + 2 * PAD + indent, header_width + (24 + up_width if up_width else indent) + 2 * PAD, bar)
    header_bottom = 8 + rows_height(rows) + 6
    kernel_height = _BAR_HEIGHT + 16 + (CHIP_HEIGHT + 12 if isinstance(box, Router) else 0)
    kernel = Rect(PAD + indent, header_bottom, width - 2 * PAD - indent, kernel_height)
    up_x = max(width / 2, PAD + header_width + 24 + up_width / 2) if up_width else PAD + 4
    groups_x = indent + (width - indent - inner) / 2
    chips_y = kernel.bottom + 24
    return _Frame(width, header_width, kernel, chips_y, chips_y + CHIP_HEIGHT + PAD, up_x, up_width, groups_x)


def _outline(box: Box, frame: _Frame) -> Place:
    x = frame.kernel.x
    texts = texts_of(_header(box), x, 8, frame.header_width)
    kind = "router" if isinstance(box, Router) else "node"
    return Place(box.name, kind, Rect(0, 0, frame.width, frame.height), texts)  # type: ignore[arg-type]


def _inside(task: Task, box: Box, frame: _Frame) -> list[Place]:
    """The kernel with its bridge; in the router also routing and NAT, in a mesh node the backhaul radio."""
    kernel, up_x = frame.kernel, frame.up_x
    bar = Rect(kernel.x + 8, kernel.bottom - 8 - _BAR_HEIGHT, kernel.width - 16, _BAR_HEIGHT)
    up = Rect(up_x - frame.up_width / 2, kernel.y + 8, frame.up_width, CHIP_HEIGHT)
    bridge = Place(f"{box.name}/br-lan", "bridge", bar, centred(_bridge_label(task, box), "heading", bar), box.name)
    if isinstance(box, Router):
        label = centred(_up_label(task, box), "heading", up)
        heading = texts_of([Row("Linux kernel", "note")], kernel.x + 10, kernel.y + 12, up.x - kernel.x - 20)
        outline = Place(f"{box.name}/kernel", "kernel", kernel, heading, box.name)
        inside = f"{box.name}/kernel"
        nat = Place(f"{box.name}/nat", "nat", up, label, inside)
        return [outline, nat, _within(bridge, inside)]
    outline = Place(f"{box.name}/kernel", "kernel", kernel, (), box.name)
    places = [outline, _within(bridge, outline.name)]
    if box.by == "wifi":
        area = Rect(up.x, 10, up.width, CHIP_HEIGHT)
        places.append(
            Place(f"{box.name}/backhaul", "radio", area, centred(_up_label(task, box), "heading", area), box.name)
        )
    return places


def _within(place: Place, inside: str) -> Place:
    return Place(place.name, place.kind, place.area, place.texts, inside)


def _place_groups(box: Box, frame: _Frame, groups: Sequence[Group]) -> tuple[list[Place], list[Link]]:
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
        x += group.part.width + GAP
    return places, links


def _to_bridge(box: Box, port: Place, frame: _Frame) -> Link:
    """The chip's one port to the CPU, or a radio as a port of the bridge."""
    x, bar_bottom = port.area.middle[0], frame.kernel.bottom - 8
    label = None
    if port.kind == "chip" and box.switch_chip:
        label = Text(x + 16, frame.kernel.bottom + 16, "CPU port", "note")
    return Link(port.name, f"{box.name}/br-lan", "inside", ((x, port.area.y), (x, bar_bottom)), label)


def _uplink_inside(box: Box, frame: _Frame) -> list[Link]:
    """From what the uplink meets down to the bridge."""
    bar_y, x = frame.kernel.bottom - 8 - _BAR_HEIGHT, frame.up_x
    if isinstance(box, Router):
        points = ((x, frame.kernel.y + 8 + CHIP_HEIGHT), (x, bar_y))
        return [Link(f"{box.name}/nat", f"{box.name}/br-lan", "inside", points)]
    if box.by == "wifi":
        return [Link(f"{box.name}/backhaul", f"{box.name}/br-lan", "inside", ((x, 10 + CHIP_HEIGHT), (x, bar_y)))]
    return []


def _up_tail(box: Box, frame: _Frame, places: Sequence[Place]) -> Tail:
    """Where the link from above ends: at NAT, at the backhaul radio, or at the switch chip."""
    x = frame.up_x
    if isinstance(box, Router):
        return Tail(f"{box.name}/nat", "wire", ((x, 0), (x, frame.kernel.y + 8)))
    if box.by == "wifi":
        return Tail(f"{box.name}/backhaul", "wifi", ((x, 0), (x, 10)))
    chip = places[0].area
    return Tail(f"{box.name}/switch", "wire", ((x, 0), (x, chip.middle[1]), (chip.x, chip.middle[1])))
