"""What to do for each way, and how to go back when the box has died. Addresses in texts are examples, and say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from sidegate.gateway.config import DEFAULT_PATH
from sidegate.home import RouterProfile
from sidegate.plan.data import Delivery, Wish
from sidegate.plan.questions import value_of
from sidegate.plan.ways import Recipe

GATEWAY, ROUTER = "192.168.1.2", "192.168.1.1"
"""Examples for texts."""


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
    file = _file_steps(recipe, wish, around)
    standby = (_SPARE if recipe.dhcp != "off" else _SHARED,) if wish.standby else ()
    delivering = _deliver(recipe, profile, wish, file)
    return (*before, *_box_steps(recipe, wish, file, around.is_up), *standby, *delivering, *_look(wish))


# The box


def _box_steps(recipe: Recipe, wish: Wish, file: tuple[str, ...], is_up: bool) -> tuple[str, ...]:
    """The file of a box that hands out addresses is saved later, when the router is about to stop."""
    now = file if recipe.dhcp == "off" else ()
    dnsmasq = recipe.dhcp != "off" or _asks_box(wish) or wish.ipv6
    if is_up:
        return (*((_DNSMASQ,) if dnsmasq else ()), *now, *((_RELOAD,) if now else ()))
    return (_PLUG, _install(dnsmasq), *now, _UP, _try(_asks_box(wish) and bool(now)))


def _asks_box(wish: Wish) -> bool:
    """Whether devices are to ask the box for names: what is proxied by its name is known by that."""
    return wish.proxy != "none"


_PLUG = (
    "Plug the box into a LAN port of the main router by cable: not into a mesh node, not by Wi-Fi. Give it a fixed "
    f"address outside the router's DHCP range, for example {GATEWAY}, with the router ({ROUTER}) as its gateway."
)
_UP = "On the box: `sudo systemctl enable --now sidegate`. Nothing changes for anybody yet."
_RELOAD = "On the box: `sudo sidegate reload`."
_DNSMASQ = "On the box, have the package dnsmasq-base, which answers DNS and DHCP: `sudo apt install dnsmasq-base`."


def _install(dnsmasq: bool) -> str:
    packages = " ".join(["nftables", "iproute2", *(["dnsmasq-base"] if dnsmasq else [])])
    return f"On the box: `sudo apt install {packages}`, then `make install` in a checkout of Sidegate."


def _try(asks_box: bool) -> str:
    settings = "gateway and its DNS server" if asks_box else "gateway"
    return (
        f"Try it with one device on Wi-Fi: set its {settings} to {GATEWAY} by hand and open a web page. If that fails, "
        "set it back and stop here: nobody else has noticed."
    )


def _look(wish: Wish) -> tuple[str, ...]:
    proxied = (
        "On the box: `sudo sidegate status` shows whether the proxy works, `sudo sidegate explain DEVICE NAME` where "
        "that device is sent for that name, and why."
    )
    clients = "After some minutes: `sudo sidegate clients` shows who is answered directly, who is masqueraded, and why."
    return (*((proxied,) if wish.proxy != "none" else ()), clients)


# Its configuration


def _file_steps(recipe: Recipe, wish: Wish, around: Surroundings) -> tuple[str, ...]:
    """Empty where the box needs no configuration: all defaults."""
    if recipe.nat == "auto" and recipe.dhcp == "off" and wish.proxy == "none" and not wish.ipv6:
        return ()
    printed = f"`{around.command} --config-for {recipe.id}` prints"
    save = f"On the box, save what {printed} as {DEFAULT_PATH}."
    add = f"On the box, compare {DEFAULT_PATH} with what {printed}, and add what it lacks."
    chosen = () if wish.proxy == "none" else (_SPLIT, *((_NOT_ALL,) if _is_for_all(recipe, wish) else ()))
    return (add if around.is_up else save, *chosen)


def _is_for_all(recipe: Recipe, wish: Wish) -> bool:
    """Every device comes to the box, although only some are to be proxied."""
    return wish.proxy == "some" and recipe.delivery != "static"


_SPLIT = (
    "In that file, give the share link of your proxy server, and say what is proxied: what lists name, all but a "
    "country, or everything. `sidegate config check` names every error; docs/split.md tells where to get lists. A "
    'proxy program of your own that listens for TPROXY will do as well (`engine = "tproxy"`).'
)
_NOT_ALL = (
    "Every device comes to the box in this way. Name those that are not to be proxied in [[client]] sections, and in a "
    'rule before all others: [[rule]], `client = ["tv"]`, `send = "direct"`.'
)


# How devices learn of it


def _deliver(recipe: Recipe, profile: RouterProfile, wish: Wish, file: tuple[str, ...]) -> tuple[str, ...]:
    if recipe.delivery == "router-dhcp":
        return _by_router(recipe, profile, wish)
    if recipe.delivery == "own-dhcp":
        off = "Write down the router's DHCP settings, then turn its DHCP server off."
        return (*file, off, f"{_RELOAD} {_hands_out(wish)}", _RECONNECT)
    if recipe.delivery == "coexist":
        shrink = "Shrink the router's DHCP range, for example to .100-.199, so that no address is given out twice."
        return (*file, shrink, f"{_RELOAD} {_hands_out(wish)}", f"{_RECONNECT} {_WHOSE}")
    if recipe.delivery is None:
        return ()
    which = "each device that is to be proxied" if wish.proxy == "some" else "each device"
    dns = GATEWAY if _asks_box(wish) else ROUTER
    return (f"On {which}, set by hand: an address outside the router's DHCP range, gateway {GATEWAY}, DNS {dns}.",)


def _hands_out(wish: Wish) -> str:
    told = " as the gateway and the DNS server" if _asks_box(wish) else " as the gateway"
    return f"From now on the box hands out addresses, and itself{told}."


_WHOSE = "`sudo sidegate clients` shows who got its address elsewhere, and so may go round the box."
_RECONNECT = "Reconnect the devices (Wi-Fi off and on, cable out and in), so that they ask anew."


def _by_router(recipe: Recipe, profile: RouterProfile, wish: Wish) -> tuple[str, ...]:
    field = f"On the router's DHCP page, set the gateway to the box's address ({GATEWAY})."
    found = [f"{field} {_dns_field(recipe, profile, wish)}"]
    if value_of(profile.bridge_filter) == "unless-dhcp-points-away":
        found.append(
            "Reboot the router. Only at its start does it decide about its bridge filter, and it leaves it off when "
            "its DHCP names another gateway or DNS."
        )
    return (*found, _RECONNECT)


def _dns_field(recipe: Recipe, profile: RouterProfile, wish: Wish) -> str:
    by_hand = f"set the DNS server to {GATEWAY} by hand on each device that can be set"
    if not _asks_box(wish):
        return "Leave its DNS server as it is: the box answers no DNS."
    if recipe.asks_router:
        return f"It can name no DNS server: {by_hand}."
    alone = "and no second one: devices would ask that one past the box"
    if value_of(profile.dhcp_dns):
        return f"Set the DNS server to the same address, {alone}."
    return f"If there is a field for the DNS server, set it to the same address, {alone}. If there is none, {by_hand}."


_DNS_STEPS = (
    "On the router's DHCP page, set the DNS server to another one than the router, for example 1.1.1.1. This is for "
    "the bridge filter only: the firmware leaves it off when its DHCP names another gateway or DNS.",
    "Reboot the router: only at its start does it decide about the filter.",
)


# The router, and a second box


def _other_router(better: Sequence[str]) -> str:
    known = f" In the catalogue: {', '.join(better)}." if better else ""
    return f"Get a router whose DHCP can name another gateway and whose bridge does not filter.{known}"


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


_PROXY_STEPS = (
    "Log in to the router over SSH and see whether its system has your proxy program, and memory for it.",
    "Set it up there as its makers say. Sidegate has no part in it.",
)
_SHARED = (
    "Set up the second box the same way, and keepalived (VRRP) on both with one shared address, for example "
    f"{GATEWAY}; give the boxes .3 and .4 as their own. Devices use the shared one. Sidegate has no part "
    "in this, and it was not tried in the lab."
)
_SPARE = (
    "Set up the second box the same way, but leave it down (`sudo systemctl disable --now sidegate`): the box's DHCP "
    "names the box itself as the gateway, not an address that two could share."
)


# When the gateway dies


def steps_back(recipe: Recipe, wish: Wish) -> tuple[str, ...]:
    """How to get the home online again without the box."""
    if recipe.id == "router-proxy":
        return ("Stop the proxy program over SSH, or reset the router to its factory settings.",)
    found = _back(recipe, wish)
    if not wish.standby:
        return found
    first = _SPARE_BACK if recipe.dhcp != "off" else _TAKEN_OVER
    return (first, *(f"If both boxes are dead: {step}" if i == 0 else step for i, step in enumerate(found)))


def _back(recipe: Recipe, wish: Wish) -> tuple[str, ...]:
    if recipe.delivery is None:
        return ()
    found = _router_back(recipe, wish) if recipe.delivery == "router-dhcp" else _BACK[recipe.delivery]
    return (*found, *((_IPV6_BACK,) if wish.ipv6 else ()))


def _router_back(recipe: Recipe, wish: Wish) -> tuple[str, ...]:
    by_hand = _asks_box(wish) and recipe.asks_router
    fields = "gateway field" if by_hand or not _asks_box(wish) else "gateway and the DNS field"
    clear = f"On the router's DHCP page, clear the {fields}: devices then get the router again."
    return (clear, _RECONNECT, *((_OWN_DNS,) if by_hand else ()))


_OWN_DNS = "On each device whose DNS server was set by hand, set it back to automatic."
_IPV6_BACK = (
    "IPv6 comes back by itself: devices forget the box as an IPv6 router after 3 minutes at the most, and as a DNS "
    "server after 10. If the router's own advertisements were turned off, turn them on again."
)
_SPARE_BACK = "Unplug the dead box, give the second one its address, and `sudo systemctl enable --now sidegate` there."
_TAKEN_OVER = (
    "The second box takes over by itself within about 4 seconds (VRRP, adverts each second). Connections that were "
    "answered directly go on; masqueraded and proxied ones break and have to be opened anew."
)
_BACK: Mapping[Delivery, tuple[str, ...]] = {
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
