"""The order of the ways: points with reasons. A way with fewer points comes first.

The weights say what matters to a home, in this order: that it can be done, that nobody is offline, that it does what is
wished, that nobody has to tinker, that the gateway's port is not loaded without need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sidegate.plan.data import KIND_NAMES, KINDS, Point, Possibility, Prediction, Wish
from sidegate.plan.ways import Recipe

NOT_POSSIBLE, NOT_KNOWN = 1000, 60
_ALL_OFFLINE, _ALL_MASQUERADED, _ALL_PORT_FORWARDS, _ALL_BREAK_ON_TAKEOVER = 400, 20, 5, 10


def points(recipe: Recipe, possible: Possibility, wish: Wish, predictions: tuple[Prediction, ...]) -> tuple[Point, ...]:
    """Why a way stands where it does, the weightiest reason first."""
    found = (*_possible(possible), *_of_way(recipe, wish), *_of_predictions(recipe, predictions, wish))
    return tuple(sorted(found, key=lambda p: -p.points))


def _possible(possible: Possibility) -> Iterator[Point]:
    if possible == "no":
        yield Point(NOT_POSSIBLE, "not possible with this router")
    elif possible == "unknown":
        yield Point(NOT_KNOWN, "not known whether this router allows it")


def _of_way(recipe: Recipe, wish: Wish) -> Iterator[Point]:
    if recipe.id == "other-router":
        yield Point(80, "costs a router")
        return
    if recipe.id == "router-proxy":
        yield Point(45, "the router's processor does the proxy's work, and a firmware update undoes it")
        return
    if recipe.filter_off:
        yield Point(15, "a change inside the router, which a firmware update undoes")
    yield from _of_delivery(recipe, wish)


def _of_delivery(recipe: Recipe, wish: Wish) -> Iterator[Point]:
    if recipe.delivery == "static":
        hand = Point(0, "only the devices you choose use the box") if wish.proxy == "some" else _BY_HAND
        yield hand
        return
    if recipe.delivery == "coexist":
        yield Point(50, "which of the two DHCP servers a device listens to is a race")
    if recipe.delivery == "own-dhcp":
        yield Point(10, "when the box dies, somebody has to turn the router's DHCP on again")
    if recipe.delivery == "router-dhcp":
        yield Point(0, "one page of the router is all that changes, and all that has to be changed back")
    if wish.proxy == "some":
        yield Point(25, "sends every device through the box, also those that are not to be proxied")
    if recipe.asks_router and wish.proxy != "none":
        yield Point(30, "what is proxied by its name is so only on devices whose DNS server is set by hand")
    if wish.standby and recipe.dhcp != "off":
        yield Point(
            25, "no second box takes over by itself: the box's DHCP names the box, not an address that two share"
        )


_BY_HAND = Point(40, "every device is set by hand, and some cannot be")


def _of_predictions(recipe: Recipe, predictions: tuple[Prediction, ...], wish: Wish) -> Iterator[Point]:
    if not predictions:
        return
    offline = [p for p in predictions if p.path == "none"]
    yield from _share(_ALL_OFFLINE, offline, predictions, "{} lose IPv4")
    masqueraded = [p for p in predictions if p.path == "masqueraded"]
    broken = [p for p in predictions if p.path != "none" and len(p.port_forwards) < 2]
    if masqueraded == broken:
        says = "{} are masqueraded, and port forwards to them break"
        yield from _share(_ALL_MASQUERADED + _ALL_PORT_FORWARDS, masqueraded, predictions, says)
    else:
        yield from _share(_ALL_MASQUERADED, masqueraded, predictions, "{} are masqueraded")
        yield from _share(_ALL_PORT_FORWARDS, broken, predictions, "port forwards to {} break")
    if wish.standby and recipe.dhcp == "off":
        says = "open connections of {} break when the second box takes over"
        yield from _share(_ALL_BREAK_ON_TAKEOVER, masqueraded, predictions, says)
    if not offline and not masqueraded:
        yield Point(0, "everyone is answered directly, without masquerade")


def _share(weight: int, those: list[Prediction], of: tuple[Prediction, ...], says: str) -> Iterator[Point]:
    if those:
        who = told(those, of)
        yield Point(max(1, round(weight * len(those) / len(of))), says.format(who))


def told(those: Iterable[Prediction], of: Iterable[Prediction]) -> str:
    """Who they are, in words: `devices on Wi-Fi and on mesh nodes`, and under which filter where that is unknown."""
    those, of = list(those), list(of)
    filters = {p.bridge_filter for p in of}
    where = {p.bridge_filter for p in those}
    who = who_are(lambda kind: any(p.kind == kind for p in those))
    if len(filters) == 2 and where == {True}:
        return f"{who} (if the router's bridge filters)"
    return who


def who_are(is_one: Callable[[str], bool]) -> str:
    """The kinds of clients for which this holds, in words."""
    kinds = tuple(kind for kind in KINDS if is_one(kind))
    shorter = {
        KINDS: "all devices",
        KINDS[1:]: "devices on Wi-Fi and on mesh nodes",
        ("wired",): "devices by cable on the router",
        (): "no devices",
    }
    return shorter.get(kinds) or "devices " + " and ".join(KIND_NAMES[kind] for kind in kinds)
