"""What will not work as before in a way, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator

from sidegate.plan.data import Prediction, Wish
from sidegate.plan.rank import told
from sidegate.plan.ways import Recipe


def breaks(recipe: Recipe, wish: Wish, predictions: tuple[Prediction, ...]) -> Iterator[str]:
    offline = [p for p in predictions if p.path == "none"]
    if offline:
        yield f"IPv4 of {told(offline, predictions)}: {offline[0].says}."
    yield from _broken_forwards(recipe, wish, predictions)
    yield from _of_masquerade(predictions)
    if recipe.delivery is None:
        return
    yield from _while_off(recipe, wish)
    if wish.proxy != "none":
        yield from _of_names(recipe)
    yield from _of_ipv6(wish)


def _broken_forwards(recipe: Recipe, wish: Wish, predictions: tuple[Prediction, ...]) -> Iterator[str]:
    both = [p for p in predictions if p.path != "none" and not p.port_forwards]
    half = [p for p in predictions if p.path != "none" and p.port_forwards == ("tcp",)]
    how = "by hand" if recipe.dhcp == "off" else 'with `gateway = "router"` in the configuration'
    named = "Name the ports in a [[client]] section: `forwarded = [27015]`."
    if both:
        yield f"Port forwards to {told(both, predictions)}. Give such a device the router as its gateway, {how}."
    if half:
        yield f"UDP port forwards to {told(half, predictions)} (TCP ones work). {named}"
    elif recipe.delivery and wish.proxy != "none" and any("udp" in p.port_forwards for p in predictions):
        yield f"Answers of a UDP service that the router forwards to a device may be proxied. {named}"


def _of_masquerade(predictions: tuple[Prediction, ...]) -> Iterator[str]:
    masqueraded = [p for p in predictions if p.path == "masqueraded"]
    if not masqueraded:
        return
    who = told(masqueraded, predictions)
    yield (
        f"The router's logs, traffic counters and parental controls show the box's address for {who}. Servers on "
        "your own network still see the real addresses."
    )
    yield (
        f"Games and calls may report a stricter NAT type for {who}: two translations in a row, and ports opened by "
        "UPnP do not fit."
    )


def _while_off(recipe: Recipe, wish: Wish) -> Iterator[str]:
    """A device that has the box for names too is offline by IPv6 as well."""
    lost = "IPv4 internet" if wish.proxy == "none" or recipe.asks_router else "internet"
    if recipe.delivery == "own-dhcp":
        yield f"While the box is off no new device gets an address; those with one have no {lost}."
    if recipe.delivery == "coexist":
        yield "A device that the router's DHCP answered first goes round the box: online, as if the box were not there."
    if recipe.delivery == "router-dhcp":
        fields = "gateway and DNS fields are" if lost == "internet" else "gateway field is"
        yield f"While the box is off nobody has {lost}, until the router's {fields} cleared."
    if recipe.delivery == "static":
        yield (
            "Devices without such a setting (many TVs and gadgets) stay with the router. Those with it have no "
            f"{lost} while the box is off."
        )


def _of_names(recipe: Recipe) -> Iterator[str]:
    if recipe.asks_router:
        yield (
            "Devices whose DNS server is not set by hand ask the router for names, past the box: what is to be proxied "
            "by its name goes straight, and the provider's answers are believed."
        )
    yield (
        "A device that asks elsewhere for names (DNS over HTTPS or TLS; an IPv6 DNS server that the router advertises, "
        "see `sudo sidegate probe ra`) is not known by them: what is to be proxied by its name goes straight. Turn "
        "that off on the device, or at the router."
    )


def _of_ipv6(wish: Wish) -> Iterator[str]:
    if wish.ipv6:
        yield (
            "A device that heeds no preference between IPv6 routers may send its IPv6 by the router, round the box: "
            "there nothing is proxied."
        )
        if wish.proxy == "some":
            yield (
                "IPv6 of every device passes the box, also of those that are not to be proxied: router advertisements "
                "reach them all. A rule with `client` sends them direct."
            )
    elif wish.proxy != "none":
        yield (
            "Devices that ask the box for names use no IPv6: they are told IPv4 addresses only, so that nothing that "
            "is to be proxied goes round the box. What goes to an IPv6 address all the same goes by the router, not "
            "proxied: turn IPv6 off on the router if that matters."
        )
