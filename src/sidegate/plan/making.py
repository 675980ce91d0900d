"""Joins it all to a Plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sidegate.home import RouterProfile
from sidegate.plan.breaks import breaks
from sidegate.plan.data import Device, DevicePrediction, Path, Plan, Prediction, Way, Wish
from sidegate.plan.predict import predict
from sidegate.plan.questions import QUESTIONS, ground, open_questions, relevant, value_of, with_probes
from sidegate.plan.rank import NOT_KNOWN, points, told
from sidegate.plan.steps import Surroundings, steps, steps_back
from sidegate.plan.ways import Recipe, decided_by, nat_recipes, possible, recipes


def make_plan(
    profile: RouterProfile,
    wish: Wish,
    catalogue: Iterable[RouterProfile],
    devices: Sequence[Device] = (),
    command: str = "sidegate plan",
) -> Plan:
    """The plan for a router and a wish.

    catalogue: all profiles, to tell of better routers. devices: what a running gateway's probes found. command: the
    command line that asks for this plan.
    """
    profile, notes = with_probes(profile, devices) if devices else (profile, ())
    around = Surroundings(command, _better(catalogue), bool(devices))
    found = {r.id: r for r in recipes(profile, wish)}
    ways = sorted((_way(r, profile, wish, around, devices) for r in found.values()), key=_place)
    choices = (_way(r, profile, wish, around, devices) for r in nat_recipes(found[ways[0].id]))
    return Plan(
        command=command,
        title=profile.title,
        wish=wish,
        conclusion=tuple(_conclusion(ways, profile)),
        ways=tuple(ways),
        nat_choices=tuple(sorted(choices, key=_place)),
        known=tuple(ground(profile, f) for f in relevant(wish) if value_of(getattr(profile, f)) is not None),
        questions=open_questions(profile, wish),
        ask_first=tuple(w.decided_by for w in _if_yes(ways)),
        remedies=profile.remedies,
        notes=(*notes, *_notes(wish, profile, ways[0])),
        devices=tuple(devices),
    )


def _place(way: Way) -> int:
    return way.cost


def _better(catalogue: Iterable[RouterProfile]) -> tuple[str, ...]:
    """Routers that are known to hand out another gateway, and not to filter once they do."""
    return tuple(
        profile.title
        for profile in catalogue
        if value_of(profile.dhcp_gateway) and value_of(profile.bridge_filter) in ("off", "unless-dhcp-points-away")
    )


def _way(recipe: Recipe, profile: RouterProfile, wish: Wish, around: Surroundings, devices: Sequence[Device]) -> Way:
    can, grounds = possible(recipe, profile)
    predictions = predict(recipe, profile)
    return Way(
        id=recipe.id,
        title=recipe.title,
        possible=can,
        grounds=grounds,
        decided_by=decided_by(recipe, profile),
        nat=recipe.nat,
        dhcp=recipe.dhcp,
        steps=steps(recipe, profile, wish, around),
        back=steps_back(recipe, wish),
        breaks=tuple(breaks(recipe, wish, predictions)),
        predictions=predictions,
        devices=tuple(_device(device, recipe, predictions) for device in devices if recipe.delivery),
        points=points(recipe, can, wish, predictions),
    )


# A gateway that runs already


def _device(device: Device, recipe: Recipe, predictions: tuple[Prediction, ...]) -> DevicePrediction:
    """Where the way treats all kinds alike that is the answer; else the device's own probe is."""
    paths = {p.path for p in predictions}
    if len(paths) == 1:
        return DevicePrediction(device.ip, device.name, predictions[0].path, "so for every kind of device in this way")
    measured: dict[str, Path] = {"direct": "direct", "masquerade": "masqueraded", "unknown": "unknown"}
    path = measured[device.verdict]
    if recipe.nat == "never" and path == "masqueraded":
        path = "none"
    return DevicePrediction(device.ip, device.name, path, device.why or "not probed yet")


# In short


def _conclusion(ways: Sequence[Way], profile: RouterProfile) -> Iterator[str]:
    best = ways[0]
    better = _if_yes(ways)
    opening = "What works with any router:" if better and best.id == "static" else "Best:"
    yield f"{opening} {best.title} ({best.id})."
    yield from _why_not(ways, profile)
    yield from _about_nat(best)
    mended = next((w for w in ways if w.id == "filter-off"), None)
    if mended and mended.possible == "no" and any(p.path == "masqueraded" for p in best.predictions):
        yield "The router itself cannot be mended: " + mended.grounds[-1].says + "."
    for way in better:
        yield f"Better, if your router can do it: {way.title} ({way.id}). {QUESTIONS[way.decided_by].ask}"


def _why_not(ways: Sequence[Way], profile: RouterProfile) -> Iterator[str]:
    """Why the simplest way of all is not the best one."""
    simplest = next(w for w in ways if w.id == "router-dhcp")
    if ways[0] is not simplest and simplest.possible == "no":
        yield f"The simplest way is closed. {capital(ground(profile, 'dhcp_gateway').says)}."


def _about_nat(best: Way) -> Iterator[str]:
    if best.nat is None:
        return
    masqueraded = [p for p in best.predictions if p.path == "masqueraded"]
    if not masqueraded:
        yield "Nobody needs masquerade: the router answers every kind of device directly."
        return
    if len({p.bridge_filter for p in best.predictions}) == 2:
        yield (
            "Whether devices on Wi-Fi and on mesh nodes need masquerade (the box puts its own address on their "
            "packets) is not known of this router. You need not know: Sidegate probes each device, and masquerades it "
            "until the probe proves a direct answer."
        )
        return
    yield (
        f"{capital(told(masqueraded, best.predictions))} need masquerade: the box puts its own address on their "
        "packets, and what they download passes its port twice. The others do not; Sidegate masquerades only where no "
        "probe proves a direct answer."
    )


def capital(text: str) -> str:
    """With a capital first letter; the rest as it is."""
    return text[:1].upper() + text[1:]


def _if_yes(ways: Sequence[Way]) -> list[Way]:
    """Ways that would come before the best one if the router turned out to allow them."""
    best = ways[0]
    return [w for w in ways if w.decided_by and w is not best and w.cost - NOT_KNOWN < best.cost]


def _notes(wish: Wish, profile: RouterProfile, best: Way) -> Iterator[str]:
    if wish.proxy == "none":
        yield (
            "Without a proxy nobody needs a gateway beside the router: it only adds a hop. Go on only if the box is to "
            "block or to count."
        )
    if best.nat is not None:
        yield from _of_the_box(wish)
    if wish.ipv6:
        yield (
            "The box advertises itself as an IPv6 router beside the main router, with high preference. Leave the main "
            "router's advertisements on: the box has its own address and its way out from them. Where they are off, "
            "give the box both by hand, and devices have no IPv6 while the box is off. Of this router: "
            f"{ground(profile, 'ra_off').says}."
        )
    guessed = [f for f in relevant(wish) if getattr(profile, f).evidence == "guess"]
    for field in guessed:
        yield f"{capital(ground(profile, field).says)}; a guess is not relied on."


def _of_the_box(wish: Wish) -> Iterator[str]:
    yield (
        "Before you unplug the box on purpose: `sudo sidegate down`. Devices then go on by the router without a gap, "
        "while the box stays on, for a day at most; do meanwhile what is to be done if the box dies."
    )
    if wish.proxy != "none":
        yield (
            "If only the proxy fails, nobody is offline: what is proxied goes straight until it works again, or, with "
            '`on_failure = "block"`, is refused.'
        )
