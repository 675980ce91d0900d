"""The configuration file for a chosen way: TOML that `sidegate.gateway.config` accepts, every line explained."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sidegate.gateway.config import DEFAULT_PATH, DhcpMode, Masquerade
from sidegate.plan.data import Device, Plan, Way
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
        f"# Router: {_one_line(plan.title)}. Save as {DEFAULT_PATH}, then: sidegate up",
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
        *([] if way.dhcp == "off" else ['# range = "192.168.1.100-192.168.1.199"    # default: a part of the LAN']),
        "",
        *_clients(plan.devices),
    ]
    return "\n".join(lines) + "\n"


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
        ]
    lines = []
    for device in named:
        lines += ["[[client]]", f"mac = {_quoted(device.mac)}", f"name = {_quoted(device.name)}", ""]
    return lines[:-1]


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes, and DEL (toml.io, "String")."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
