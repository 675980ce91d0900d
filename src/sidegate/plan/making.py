"""Joins it all to a Plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sidegate.home import RouterProfile
from sidegate.plan.data import Device, DevicePrediction, Path, Plan, Prediction, Way, Wish
from sidegate.plan.predict import predict
from sidegate.plan.questions import QUESTIONS, ground, open_questions, relevant, value_of, with_probes
from sidegate.plan.rank import NOT_KNOWN, points, told
from sidegate.plan.ways import Recipe, Surroundings, decided_by, nat_recipes, possible, recipes, steps, steps_back


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
        notes=(*notes, *_notes(wish, profile)),
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
        breaks=tuple(_breaks(recipe, wish, predictions)),
        predictions=predictions,
        devices=tuple(_device(device, recipe, predictions) for device in devices if recipe.delivery),
        points=points(recipe, can, wish, predictions),
    )


# What breaks


def _breaks(recipe: Recipe, wish: Wish, predictions: tuple[Prediction, ...]) -> Iterator[str]:
    """What will not work as before, each with what to do about it."""
    offline = [p for p in predictions if p.path == "none"]
    if offline:
        yield f"IPv4 of {told(offline, predictions)}: {offline[0].says}."
    yield from _broken_forwards(recipe, predictions)
    masqueraded = [p for p in predictions if p.path == "masqueraded"]
    if masqueraded:
        who = told(masqueraded, predictions)
        yield (
            f"The router's logs, traffic counters and parental controls show the box's address for {who}. Servers on "
            "your own network still see the real addresses."
        )
        yield (
            f"Games and calls may report a stricter NAT type for {who}: two translations in a row, and ports opened by "
            "UPnP do not fit."
        )
    yield from _of_delivery(recipe)
    if recipe.delivery and wish.proxy != "none" and any(p.ipv6 == "direct" for p in predictions):
        yield (
            "IPv6 goes to the router, round the box: what is to be proxied leaks there. Turn IPv6 off on the router if "
            "that matters."
        )


def _broken_forwards(recipe: Recipe, predictions: tuple[Prediction, ...]) -> Iterator[str]:
    both = [p for p in predictions if p.path != "none" and not p.port_forwards]
    half = [p for p in predictions if p.path != "none" and p.port_forwards == ("tcp",)]
    how = "by hand" if recipe.dhcp == "off" else 'with `gateway = "router"` in the configuration'
    remedy = f"Give such a device the router as its gateway, {how}."
    if both:
        yield f"Port forwards to {told(both, predictions)}. {remedy}"
    if half:
        yield f"UDP port forwards to {told(half, predictions)} (TCP ones work). {remedy}"


def _of_delivery(recipe: Recipe) -> Iterator[str]:
    if recipe.delivery == "own-dhcp":
        yield "While the box is off no new device gets an address; those with one have no IPv4 internet."
    if recipe.delivery == "coexist":
        yield "A device that the router's DHCP answered first goes round the box: online, but not proxied."
    if recipe.delivery == "router-dhcp":
        yield "While the box is off nobody has IPv4 internet, until the router's gateway field is cleared."
    if recipe.delivery == "static":
        yield "Devices without such a setting (many TVs and gadgets) stay with the router."


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


def _notes(wish: Wish, profile: RouterProfile) -> Iterator[str]:
    if wish.proxy == "none":
        yield (
            "Without a proxy nobody needs a gateway beside the router: it only adds a hop. Go on only if the box is to "
            "filter or to count."
        )
    if wish.ipv6:
        yield (
            "This version of Sidegate leaves IPv6 to the router. To take it through the box, the box must advertise "
            "itself (router advertisements with high preference, by dnsmasq or radvd), and the router had better stop: "
            f"{ground(profile, 'ra_off').says}."
        )
    guessed = [f for f in relevant(wish) if getattr(profile, f).evidence == "guess"]
    for field in guessed:
        yield f"{capital(ground(profile, field).says)}; a guess is not relied on."
