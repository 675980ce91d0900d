"""Laws of the layout, for any home: nothing overlaps, nothing sticks out, every link ends where it says."""

from __future__ import annotations

import string
from ipaddress import IPv4Address, IPv6Address
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sidegate.home import Assumed, Behaviour, Client, Gateway, Home, Internet, Medium, Node, Server
from sidegate.render.layout import COMFORTABLE_PX, layout
from sidegate.render.picture import Link, Mark, Picture, Place, Rect, way
from tests.render import made

SLACK = 0.01
NAMES = st.text(string.ascii_lowercase + "WM<&\"' \u202e网🏠﷽", min_size=1, max_size=24)
MEDIA: st.SearchStrategy[Medium] = st.sampled_from(["wire", "wifi"])
RATES = st.none() | st.sampled_from([0.001, 100, 2500, 1e9])


@st.composite
def homes(draw: st.DrawFn) -> tuple[Home, dict[str, Mark]]:
    """Homes of any shape, with names that no file could carry, and marks for some of the clients."""
    base = made.article_home() if draw(st.booleans()) else replace(made.odd_home(), node=(), client=())
    nodes: list[Node] = []
    boxes = [base.router.name]
    for i in range(draw(st.integers(0, 4))):
        radios = tuple(f"r{n}" for n in range(draw(st.integers(0, 2))))
        at = draw(st.sampled_from(boxes))
        by = draw(MEDIA)
        nodes.append(Node(f"node-{i}", by, at, rate_mbit=draw(RATES), radios=radios, switch_chip=draw(st.booleans())))
        boxes.append(nodes[-1].name)
    with_radio = {base.router.name, *(n.name for n in nodes if n.radios)}
    nodes = [n if n.at in with_radio else replace(n, by="wire") for n in nodes]
    clients = []
    for i, name in enumerate(draw(st.lists(NAMES, max_size=14, unique=True))):
        at = draw(st.sampled_from(boxes))
        medium = draw(MEDIA) if at in with_radio else "wire"
        v6 = draw(st.none() | st.just(IPv6Address("2001:db8:1111:2222:3333:4444:5555:6666")))
        clients.append(
            Client(f"c{i} {name}", IPv4Address(f"192.168.1.{i + 10}"), v6, at, medium, rate_mbit=draw(RATES))
        )
    gateway = draw(st.none() | st.just(Gateway(IPv4Address("192.168.1.2"), at=boxes[-1], plugged=draw(st.booleans()))))
    servers = tuple(Server(f"s{i} {draw(NAMES)}", IPv4Address("1.2.3.4") + i) for i in range(draw(st.integers(0, 6))))
    home = replace(
        base,
        title=draw(st.text(max_size=200)),
        node=tuple(nodes),
        client=tuple(clients),
        gateway=gateway,
        internet=Internet(servers, base.internet.blocked),
    )
    marks = {c.name: Mark("good", draw(st.text(max_size=40))) for c in clients if draw(st.booleans())}
    return home, marks


def within(inner: Rect, outer: Rect) -> bool:
    return (
        inner.x >= outer.x - SLACK
        and inner.y >= outer.y - SLACK
        and inner.right <= outer.right + SLACK
        and inner.bottom <= outer.bottom + SLACK
    )


def overlap(a: Rect, b: Rect) -> bool:
    return a.x < b.right - SLACK and b.x < a.right - SLACK and a.y < b.bottom - SLACK and b.y < a.bottom - SLACK


def around(picture: Picture, place: Place) -> set[str]:
    """The names of the places that it stands in."""
    names: set[str] = set()
    while place.inside:
        names.add(place.inside)
        place = picture.place(place.inside)
    return names


def touches(point: tuple[float, float], area: Rect) -> bool:
    return within(Rect(point[0], point[1], 0, 0), area)


def check_places(picture: Picture) -> None:
    canvas = Rect(0, 0, picture.width, picture.height)
    assert len({p.name for p in picture.places}) == len(picture.places)
    for place in picture.places:
        assert within(place.area, canvas), place.name
        if place.inside:
            assert within(place.area, picture.place(place.inside).area), place.name
    for a, b in combinations(picture.places, 2):
        if a.name not in around(picture, b) and b.name not in around(picture, a):
            assert not overlap(a.area, b.area), (a.name, b.name)


def check_texts(picture: Picture) -> None:
    canvas = Rect(0, 0, picture.width, picture.height)
    for place in picture.places:
        inner = [p.area for p in picture.places if place.name in around(picture, p)]
        for text in place.texts:
            assert within(text.area, place.area), (place.name, text)
            assert not any(overlap(text.area, area) for area in inner), (place.name, text)
        for a, b in combinations(place.texts, 2):
            assert not overlap(a.area, b.area), (a, b)
    loose = [*picture.headline, *picture.caption, *(k.text for k in picture.legend)]
    loose += [k.label for k in picture.links if k.label]
    for text in loose:
        assert within(text.area, canvas), text
    for a, b in combinations(loose, 2):
        assert not overlap(a.area, b.area), (a, b)


def check_link(picture: Picture, link: Link) -> None:
    """It ends at its places, runs straight across or down, and crosses no place that it does not belong to."""
    start, end = picture.place(link.start), picture.place(link.end)
    assert touches(link.points[0], start.area), link
    assert touches(link.points[-1], end.area), link
    at_home = {start.name, end.name} | around(picture, start) | around(picture, end)
    for (ax, ay), (bx, by) in pairwise(link.points):
        assert ax == bx or ay == by, link
        stroke = Rect(min(ax, bx), min(ay, by), abs(ax - bx) + SLACK * 3, abs(ay - by) + SLACK * 3)
        for place in picture.places:
            if place.name not in at_home:
                assert not overlap(stroke, place.area), (link, place.name)
            for text in place.texts:
                assert not overlap(stroke, text.area), (link, text)


def check(picture: Picture) -> None:
    check_places(picture)
    check_texts(picture)
    for link in picture.links:
        check_link(picture, link)


@settings(max_examples=60, deadline=None)
@given(homes(), st.booleans())
def test_laws_hold_for_any_home(drawn: tuple[Home, dict[str, Mark]], known: bool) -> None:
    home, marks = drawn
    behaviour = Behaviour(True, "masquerade", "nft", False, False) if known else None
    picture = layout(home, marks, behaviour)
    check(picture)
    assert {p.name for p in picture.places} >= {it.name for it in home.attached}


@pytest.mark.parametrize(
    ("clients", "nodes", "v6"), [(1, 0, False), (8, 1, True), (24, 5, False), (60, 3, True), (250, 8, False)]
)
def test_laws_hold_from_one_client_to_an_office(clients: int, nodes: int, v6: bool) -> None:
    check(layout(made.big_home(clients, nodes, v6)))


@pytest.mark.parametrize("clients", [1, 10, 60])
def test_a_home_with_a_node_keeps_a_comfortable_width(clients: int) -> None:
    picture = layout(made.big_home(clients, 1), {f"device-{i}": Mark("good", "online, direct") for i in range(clients)})
    assert picture.width <= COMFORTABLE_PX


def test_the_odd_home_obeys_too() -> None:
    check(layout(made.odd_home(), made.odd_marks()))


def test_wired_clients_hang_on_the_switch_chip_and_radios_on_the_bridge() -> None:
    picture = layout(made.article_home())
    assert picture.link("my-computer", "router/switch").medium == "wire"
    assert picture.link("tablet", "router/radio0").medium == "wifi"
    assert picture.link("router/radio0", "router/br-lan").medium == "inside"
    assert picture.link("study/backhaul", "router/radio0").medium == "wifi"
    assert picture.link("router/nat", "internet").medium == "wire"


def test_a_pulled_out_gateway_is_not_linked_by_cable() -> None:
    picture = layout(made.odd_home())
    assert picture.link("gateway", "attic/switch").medium == "unplugged"
    assert picture.place("gateway").away


def test_the_bridge_says_whether_it_tracks() -> None:
    home = replace(made.article_home(), router=replace(made.article_home().router, assume=Assumed()))
    for tracks, words in ((True, "· conntrack on its frames"), (False, "no conntrack")):
        picture = layout(home, behaviour=Behaviour(tracks, "snat", "nft", False, False))
        assert words in picture.place("router/br-lan").texts[0].text


def test_unknown_names_are_errors() -> None:
    picture = layout(made.article_home())
    with pytest.raises(KeyError, match="nobody"):
        picture.place("nobody")
    with pytest.raises(KeyError, match="phone - nobody"):
        picture.link("phone", "nobody")


def test_a_way_has_no_superfluous_points() -> None:
    assert way((0, 0), (0, 0), (0, 5), (0, 9), (4, 9), (8, 9)) == ((0, 0), (0, 9), (8, 9))
