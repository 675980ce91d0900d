"""The ways to deploy, as a table, and what each needs of the router.

What a way leads to is not said here: `predict` asks the walk. `steps` says what to do, `breaks` what it costs.
"""

from __future__ import annotations

from msgspec import Struct, structs

from sidegate.gateway.config import DhcpMode, Masquerade
from sidegate.home import RouterProfile
from sidegate.plan.data import Delivery, Ground, Possibility, WayId, Wish
from sidegate.plan.questions import ground, value_of


class Recipe(Struct, frozen=True):
    """A way before anything is asked about it. delivery: how devices learn of the gateway; None: no gateway.

    filter_off: the router's bridge filter is turned off by other means than its DHCP page. dns_elsewhere: its DHCP is
    made to name a foreign DNS server, only because that keeps the filter off (`unless-dhcp-points-away`).
    asks_router: its DHCP names the gateway, but can name no DNS server, so that devices go on asking it for names.
    """

    id: WayId
    title: str
    delivery: Delivery | None = None
    nat: Masquerade | None = None
    filter_off: bool = False
    dns_elsewhere: bool = False
    asks_router: bool = False

    @property
    def dhcp(self) -> DhcpMode:
        """What our own DHCP does."""
        modes: dict[Delivery | None, DhcpMode] = {"own-dhcp": "server", "coexist": "coexist"}
        return modes.get(self.delivery, "off")


DELIVERIES: tuple[Delivery, ...] = ("router-dhcp", "own-dhcp", "coexist", "static")
DELIVERY_TITLES: dict[Delivery, str] = {
    "router-dhcp": "The router's DHCP names the box as gateway (option 3; option 6 for DNS)",
    "own-dhcp": "DHCP on the box, the router's DHCP turned off",
    "coexist": "DHCP on the box beside the router's DHCP",
    "static": "The gateway set by hand on each device",
}
NAT_TITLES: dict[Masquerade, str] = {
    "auto": "masquerade only where no probe proves a direct answer",
    "always": "masquerade for everyone",
    "never": "masquerade for nobody",
}
NAT_WAYS: dict[Masquerade, WayId] = {
    "auto": "masquerade-proved",
    "always": "masquerade-all",
    "never": "masquerade-none",
}


def recipes(profile: RouterProfile, wish: Wish) -> tuple[Recipe, ...]:
    """Every way there is for this wish, in no order."""
    found = [_delivery(delivery, profile) for delivery in DELIVERIES]
    best = next(r for r in found if r.delivery == best_delivery(profile, wish))
    found.append(_mended(best))
    if wish.proxy != "none":
        found.append(Recipe("router-proxy", "The proxy on the router itself, no box"))
    found.append(Recipe("other-router", "Another router", "router-dhcp", "auto", True))
    return tuple(found)


def _delivery(delivery: Delivery, profile: RouterProfile) -> Recipe:
    elsewhere = value_of(profile.bridge_filter) == "unless-dhcp-points-away" and bool(value_of(profile.dhcp_dns))
    return Recipe(
        delivery,
        DELIVERY_TITLES[delivery],
        delivery,
        "auto",
        dns_elsewhere=elsewhere and delivery in ("coexist", "static"),
        asks_router=delivery == "router-dhcp" and value_of(profile.dhcp_dns) is False,
    )


def _mended(best: Recipe) -> Recipe:
    title = "The router's bridge filter turned off over SSH, and a reboot"
    return structs.replace(best, id="filter-off", title=title, filter_off=True, dns_elsewhere=False)


def nat_recipes(best: Recipe) -> tuple[Recipe, ...]:
    """The same way once for each setting of `nat.masquerade`; none where our box is not in it."""
    if best.delivery is None:
        return ()
    return tuple(
        structs.replace(best, id=NAT_WAYS[nat], title=NAT_TITLES[nat].capitalize(), nat=nat) for nat in NAT_TITLES
    )


def best_delivery(profile: RouterProfile, wish: Wish) -> Delivery:
    """How devices are best told, where a way leaves that open."""
    if wish.proxy == "some":
        return "static"
    names_too = wish.proxy == "none" or value_of(profile.dhcp_dns) is not False
    if value_of(profile.dhcp_gateway) and (names_too or not value_of(profile.dhcp_off)):
        return "router-dhcp"
    return "own-dhcp" if value_of(profile.dhcp_off) else "static"


# Whether it can be done


def possible(recipe: Recipe, profile: RouterProfile) -> tuple[Possibility, tuple[Ground, ...]]:
    """Whether this router allows it, and what that rests on."""
    if recipe.id == "filter-off":
        return _filter_off(profile)
    if recipe.id == "router-proxy":
        return _router_proxy(profile)
    if recipe.id == "other-router":
        return "yes", (Ground("", "it costs a router, and asks nothing of this one"),)
    return _delivers(recipe.delivery, profile)


def decided_by(recipe: Recipe, profile: RouterProfile) -> str:
    """The one unknown field whose answer decides whether this way is possible; empty where none alone does."""
    fields: dict[WayId, str] = {"router-dhcp": "dhcp_gateway", "own-dhcp": "dhcp_off"}
    if value_of(profile.bridge_filter) not in (None, "off"):
        fields["filter-off"] = "ssh"
    field = fields.get(recipe.id, "")
    return field if field and value_of(getattr(profile, field)) is None else ""


def _delivers(delivery: Delivery | None, profile: RouterProfile) -> tuple[Possibility, tuple[Ground, ...]]:
    if delivery == "router-dhcp":
        fields = ("dhcp_gateway", "dhcp_dns") if value_of(profile.dhcp_gateway) else ("dhcp_gateway",)
        return _answer(value_of(profile.dhcp_gateway)), tuple(ground(profile, field) for field in fields)
    if delivery == "own-dhcp":
        return _answer(value_of(profile.dhcp_off)), (ground(profile, "dhcp_off"),)
    return "yes", (Ground("", "it asks nothing of the router"),)


def _answer(value: bool | None) -> Possibility:
    return "unknown" if value is None else "yes" if value else "no"


def _filter_off(profile: RouterProfile) -> tuple[Possibility, tuple[Ground, ...]]:
    ssh, bridge = value_of(profile.ssh), value_of(profile.bridge_filter)
    if bridge == "off":
        return "no", (ground(profile, "bridge_filter"), Ground("", "so there is nothing to turn off"))
    if ssh is False:
        return "no", (ground(profile, "ssh"),)
    return ("yes" if ssh and bridge is not None else "unknown"), tuple(ground(profile, f) for f in _FILTER_FIELDS)


_FILTER_FIELDS = ("ssh", "bridge_filter")


def _router_proxy(profile: RouterProfile) -> tuple[Possibility, tuple[Ground, ...]]:
    room = Ground("", "whether a proxy program runs on it, in its memory, the catalogue does not know")
    grounds = ground(profile, "ssh")
    return ("no", (grounds,)) if value_of(profile.ssh) is False else ("unknown", (grounds, room))
