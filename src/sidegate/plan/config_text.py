"""The configuration file for a chosen way: TOML that `sidegate.gateway.config` accepts, every line explained."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sidegate.gateway.config import DEFAULT_PATH, DhcpMode, Masquerade
from sidegate.plan.data import Device, Plan, Way, Wish
from sidegate.problems import Problem, Problems

_NAT: dict[Masquerade, str] = {
    "auto": "each client until a probe proves that the router answers it directly",
    "always": "every client, without asking",
    "never": "nobody, without asking",
}


_DHCP: dict[DhcpMode, str] = {
    "off": "the router hands out addresses, or they are set by hand",
    "server": "this box alone hands out addresses: the router's DHCP must be off",
    "coexist": "this box beside the router's DHCP",
}
_RANGES: dict[DhcpMode, str] = {
    "server": "192.168.1.100-192.168.1.199",
    "coexist": "192.168.1.201-192.168.1.250",
}
"""Examples; beside the router's one apart from what is its own by default."""
_PROXY = (
    "[proxy]",
    "# Where proxied traffic goes: the share link of your server. Until there is one, everything goes straight.",
    '# upstream = "socks5://192.0.2.10:1080#first"',
    '# What is proxied: "listed", what `list` and `country` name; "all-but", all else; "all", everything.',
    '# mode = "listed"',
    '# list = ["/etc/sidegate/lists/home.txt"]    # files of names and networks',
    '# on_failure = "direct"    # proxied traffic goes straight while no upstream works; or "block": it is refused',
    '# country = ["CN"]    # a country needs a database or a file of its networks:',
    "",
    "# [lists]",
    '# country_files = { CN = "/etc/sidegate/lists/cn.txt" }',
    "",
    "[dns]",
    'mode = "on"    # this box answers DNS, also while there is no upstream yet: devices are told to ask it',
    "",
)
_IPV6 = {
    False: 'mode = "off"    # who asks this box for names is told no IPv6 address: nothing goes round the box by IPv6',
    True: 'mode = "gateway"    # this box is an IPv6 router too, beside the main router: IPv6 is treated as IPv4 is',
}


def config_for(plan: Plan, name: str) -> str:
    """The file for the way of this name. Raises Problems for one that has none or cannot be taken."""
    way = plan.way(name)
    where = f"--config-for {name}"
    if way is None:
        known = ", ".join(w.id for w in (*plan.ways, *plan.nat_choices))
        raise Problems(Problem(where, "no such way in this plan", f"ways: {known}"))
    if way.nat is None:
        raise Problems(Problem(where, "in this way there is no box, and so nothing to configure"))
    if way.possible == "no":
        raise Problems(Problem(where, "not possible with this router: " + _because(way), _if_it_is(way)))
    return _text(plan, way, way.nat)


def _because(way: Way) -> str:
    return "; ".join(g.says for g in way.grounds)


def _if_it_is(way: Way) -> str:
    fields = [g.field for g in way.grounds if g.value == "no"]
    return f"if yours is different, say so: --answer {fields[0]}=yes" if fields else "take another way"


def _text(plan: Plan, way: Way, nat: Masquerade) -> str:
    lines = [
        f"# {way.title}.",
        f"# Router: {_one_line(plan.title)}. To be saved as {DEFAULT_PATH}; every step:",
        f"# {_one_line(plan.command)} --way {way.id}",
        "",
        "[network]",
        '# interface = "eth0"        # default: where the default route points',
        '# router = "192.168.1.1"    # default: the current default gateway',
        "",
        "[nat]",
        f'masquerade = "{nat}"       # {_NAT[nat]}',
        "",
        "[dhcp]",
        f'mode = "{way.dhcp}"             # {_DHCP[way.dhcp]}',
        *([] if way.dhcp == "off" else [f'# range = "{_RANGES[way.dhcp]}"    # default: a part of the LAN']),
        "",
        *_split(plan.wish),
        *_clients(plan.devices),
    ]
    return "\n".join(lines) + "\n"


def _split(wish: Wish) -> list[str]:
    """Without a proxy and without IPv6 there is nothing to tell apart: all defaults."""
    found = [] if wish.proxy == "none" else [*_PROXY]
    return [*found, "[ipv6]", _IPV6[wish.ipv6], ""] if found or wish.ipv6 else []


def _one_line(text: str) -> str:
    """What may stand in a comment: no line ends, no control characters (toml.io, "Comment")."""
    return "".join(c if c.isprintable() else " " for c in text)


def _clients(devices: Sequence[Device]) -> list[str]:
    named = [d for d in devices if d.name]
    if not named:
        return [
            "# One device by its MAC address, with a name and a setting of its own:",
            "# [[client]]",
            '# mac = "aa:bb:cc:dd:ee:ff"',
            '# name = "tv"',
            '# masquerade = "always"',
            '# gateway = "router"       # our DHCP tells this device the router, as for a port forward',
            '# forwarded = [25565, "udp/27015"]    # or: these ports the router forwards to it',
        ]
    lines = []
    for device in named:
        lines += ["[[client]]", f"mac = {_quoted(device.mac)}", f"name = {_quoted(device.name)}", ""]
    return lines[:-1]


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes, and DEL (toml.io, "String")."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
