"""The ways to deploy, as a table: what each needs of the router, the steps to take and the steps back.

What a way leads to is not said here: `predict` asks the walk. Addresses in texts are examples, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from sidegate.gateway.config import DEFAULT_PATH, DhcpMode, Masquerade
from sidegate.home import RouterProfile
from sidegate.plan.data import Delivery, Ground, Possibility, WayId, Wish
from sidegate.plan.questions import ground, value_of

GATEWAY, ROUTER = "192.168.1.2", "192.168.1.1"
"""Examples for texts."""


class Recipe(Struct, frozen=True):
    """A way before anything is asked about it. delivery: how devices learn of the gateway; None: no gateway.

    filter_off: the router's bridge filter is turned off by other means than its DHCP page. dns_elsewhere: its DHCP is
    made to name a foreign DNS server, only because that keeps the filter off (`unless-dhcp-points-away`).
    """

    id: WayId
    title: str
    delivery: Delivery | None = None
    nat: Masquerade | None = None
    filter_off: bool = False
    dns_elsewhere: bool = False

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
    best = best_delivery(profile, wish)
    found = [_delivery(delivery, profile) for delivery in DELIVERIES]
    found.append(
        Recipe("filter-off", "The router's bridge filter turned off over SSH, and a reboot", best, "auto", True)
    )
    if wish.proxy != "none":
        found.append(Recipe("router-proxy", "The proxy on the router itself, no box"))
    found.append(Recipe("other-router", "Another router", "router-dhcp", "auto", True))
    return tuple(found)


def _delivery(delivery: Delivery, profile: RouterProfile) -> Recipe:
    elsewhere = value_of(profile.bridge_filter) == "unless-dhcp-points-away" and bool(value_of(profile.dhcp_dns))
    dns_elsewhere = elsewhere and delivery in ("coexist", "static")
    return Recipe(delivery, DELIVERY_TITLES[delivery], delivery, "auto", dns_elsewhere=dns_elsewhere)


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
    if value_of(profile.dhcp_gateway):
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


# What to do


class Surroundings(Struct, frozen=True):
    """What the texts of the steps need to know. command: asks for this plan. better: titles of better routers.
    is_up: the box stands and runs already.
    """

    command: str = "sidegate plan"
    better: tuple[str, ...] = ()
    is_up: bool = False


def steps(recipe: Recipe, profile: RouterProfile, wish: Wish, around: Surroundings) -> tuple[str, ...]:
    """What to do, first things first."""
    if recipe.id == "router-proxy":
        return _PROXY_STEPS
    before = _filter_steps(profile) if recipe.filter_off else _DNS_STEPS if recipe.dns_elsewhere else ()
    if recipe.id == "other-router":
        before, profile = (_other_router(around.better),), RouterProfile("another router")
    save = f"On the box, save what `{around.command} --config-for {recipe.id}` prints as {DEFAULT_PATH}."
    delivering = _deliver(recipe, profile, wish, save)
    return (*before, *_box_steps(recipe, save, around.is_up), *_for_wish(recipe, wish), *delivering, _LOOK)


def _box_steps(recipe: Recipe, save: str, is_up: bool) -> tuple[str, ...]:
    """The file of a box that hands out addresses is saved later, when the router is about to stop."""
    own_file = (save,) if recipe.nat != "auto" and recipe.dhcp == "off" else ()
    if is_up:
        return (*own_file, *([_RELOAD] if own_file else []))
    return (_PLUG, *own_file, _UP, _TRY)


_PLUG = (
    "Plug the box into a LAN port of the main router by cable: not into a mesh node, not by Wi-Fi. Give it a fixed "
    f"address outside the router's DHCP range, for example {GATEWAY}, with the router ({ROUTER}) as its gateway."
)
_UP = "On the box: `sidegate up`. Nothing changes for anybody yet."
_RELOAD = "On the box: `sidegate reload`."
_TRY = (
    f"Try it with one device on Wi-Fi: set its gateway to {GATEWAY} by hand and open a web page. If that fails, set it "
    "back and stop here: nobody else has noticed."
)
_LOOK = (
    "After some minutes, on the box: `sidegate clients` shows who is answered directly, who is masqueraded, and why."
)
_PROXY_STEPS = (
    "Log in to the router over SSH and see whether its system has your proxy program, and memory for it.",
    "Set it up there as its makers say. Sidegate has no part in it.",
)


def _other_router(better: Sequence[str]) -> str:
    known = f" In the catalogue: {', '.join(better)}." if better else ""
    return f"Get a router whose DHCP can name another gateway and whose bridge does not filter.{known}"


def _for_wish(recipe: Recipe, wish: Wish) -> tuple[str, ...]:
    found = []
    if wish.proxy != "none":
        found.append(
            "Set up your proxy program on the box with its transparent mode (TPROXY). This version of Sidegate routes "
            "and masquerades; it does not steer traffic into a proxy."
        )
    if wish.standby:
        found.append(_SPARE if recipe.dhcp != "off" else _SHARED)
    return tuple(found)


_SHARED = (
    "Set up the second box the same way, and keepalived (VRRP) on both with one shared address, for example "
    f"{GATEWAY}; give the boxes .3 and .4 as their own. Devices use the shared one. Sidegate has no part "
    "in this, and it was not tried in the lab."
)
_SPARE = (
    "Set up the second box the same way, but leave it down (`sidegate down`): the box's DHCP names the box itself as "
    "the gateway, not an address that two could share."
)


def _deliver(recipe: Recipe, profile: RouterProfile, wish: Wish, save: str) -> tuple[str, ...]:
    if recipe.delivery == "router-dhcp":
        return _by_router(profile)
    if recipe.delivery == "own-dhcp":
        off = "Write down the router's DHCP settings, then turn its DHCP server off."
        return (_INSTALL, save, off, f"{_RELOAD} {_HANDS_OUT}", _RECONNECT)
    if recipe.delivery == "coexist":
        shrink = "Shrink the router's DHCP range, for example to .100-.199, so that no address is given out twice."
        return (_INSTALL, save, shrink, f"{_RELOAD} {_HANDS_OUT}", f"{_RECONNECT} {_WHOSE}")
    if recipe.delivery is None:
        return ()
    which = "each device that is to be proxied" if wish.proxy == "some" else "each device"
    return (f"On {which}, set by hand: an address outside the router's DHCP range, gateway {GATEWAY}, DNS {ROUTER}.",)


_INSTALL = "On the box, install dnsmasq, which Sidegate runs for DHCP: `sudo apt install dnsmasq-base`."
_HANDS_OUT = "From now on the box hands out addresses, and itself as the gateway."
_WHOSE = "`sidegate clients` shows who got its address elsewhere, and so may go round the box."
_RECONNECT = "Reconnect the devices (Wi-Fi off and on, cable out and in), so that they ask anew."


def _by_router(profile: RouterProfile) -> tuple[str, ...]:
    dns = value_of(profile.dhcp_dns)
    also = "" if dns is False else " Leave its DNS field alone, unless a DNS server runs on the box."
    found = [f"On the router's DHCP page, set the gateway to the box's address ({GATEWAY}).{also}"]
    if value_of(profile.bridge_filter) == "unless-dhcp-points-away":
        found.append(
            "Reboot the router. Only at its start does it decide about its bridge filter, and it leaves it off when "
            "its DHCP names another gateway or DNS."
        )
    return (*found, _RECONNECT)


_DNS_STEPS = (
    "On the router's DHCP page, set the DNS server to another one than the router, for example 1.1.1.1. This is for "
    "the bridge filter only: the firmware leaves it off when its DHCP names another gateway or DNS.",
    "Reboot the router: only at its start does it decide about the filter.",
)


def _filter_steps(profile: RouterProfile) -> tuple[str, ...]:
    by_dhcp = value_of(profile.bridge_filter) == "unless-dhcp-points-away"
    script = (
        "change the start script that sets it (a sysctl alone was seen to revert)"
        if by_dhcp
        else "set net.bridge.bridge-nf-call-iptables=0 where it outlives a reboot (/etc/sysctl.conf or a start script)"
    )
    return (
        f"Log in to the router over SSH and {script}.",
        "Reboot the router, log in again and check: `sysctl net.bridge.bridge-nf-call-iptables` must say 0.",
    )


# When the gateway dies


def steps_back(recipe: Recipe, wish: Wish) -> tuple[str, ...]:
    """How to get the home online again without the box."""
    if recipe.id == "router-proxy":
        return ("Stop the proxy program over SSH, or reset the router to its factory settings.",)
    found = _BACK[recipe.delivery] if recipe.delivery else ()
    if not wish.standby:
        return found
    first = _SPARE_BACK if recipe.dhcp != "off" else _TAKEN_OVER
    return (first, *(f"If both boxes are dead: {step}" if i == 0 else step for i, step in enumerate(found)))


_SPARE_BACK = "Unplug the dead box, give the second one its address, and `sidegate up` there."
_TAKEN_OVER = (
    "The second box takes over by itself within about 4 seconds (VRRP, adverts each second). Connections that were "
    "answered directly go on; masqueraded ones break and have to be opened anew."
)
_BACK: Mapping[Delivery, tuple[str, ...]] = {
    "router-dhcp": (
        "On the router's DHCP page, clear the gateway field (and DNS): devices then get the router again.",
        _RECONNECT,
    ),
    "own-dhcp": (
        "Unplug the box, so that it cannot come back as a second DHCP server.",
        "Give your computer an address by hand (for example 192.168.1.50, mask 255.255.255.0, gateway 192.168.1.1), "
        "open the router's web page and turn its DHCP on again.",
        _RECONNECT + " Set your computer back to automatic.",
    ),
    "coexist": (
        "Unplug the box. Devices come back by themselves from the router's DHCP when their lease ends (5 minutes), or "
        "at once when they are reconnected.",
    ),
    "static": ("On each device, set the address back to automatic.",),
}
