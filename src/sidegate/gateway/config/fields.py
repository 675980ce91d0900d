"""The types of single settings: each says in words what it takes, for messages."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta

Masquerade = Literal["auto", "always", "never"]
Mac = Annotated[
    str,
    Meta(
        pattern=r"\A([0-9A-Fa-f]?[02468ACEace]([:-])[0-9A-Fa-f]{1,2}(\2[0-9A-Fa-f]{1,2}){4}"
        r"|[0-9A-Fa-f][02468ACEace]([0-9A-Fa-f]{2}(\.[0-9A-Fa-f]{4}){2}|[0-9A-Fa-f]{10}))\Z",
        description="the MAC address of one device such as aa:bb:cc:dd:ee:ff",
    ),
]
"""In any spelling that `mac_of` reads, but no group address."""
_SPELLED = re.compile(
    r"[0-9A-Fa-f]{1,2}([:-])[0-9A-Fa-f]{1,2}(\1[0-9A-Fa-f]{1,2}){4}|[0-9A-Fa-f]{4}(\.[0-9A-Fa-f]{4}){2}|[0-9A-Fa-f]{12}"
)
InterfaceName = Annotated[
    str, Meta(pattern=r'^[^\s/"*:]{1,15}$', description="the name of a network interface such as eth0")
]
DhcpMode = Literal["off", "server", "coexist"]
AddressRange = Annotated[
    str,
    Meta(
        pattern=r"^\s*[0-9.]{7,15}\s*-\s*[0-9.]{7,15}\s*$",
        description="two IPv4 addresses such as 192.168.1.100-192.168.1.199",
    ),
]
DomainName = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.|$))*$",
        max_length=253,
        description="a domain name such as home.arpa",
    ),
]
LeaseTime = Annotated[
    int, Meta(ge=120, le=30 * 86400, description="seconds from 120 (the least dnsmasq hands out) to 2592000 (30 days)")
]

Ipv6Mode = Literal["off", "router", "gateway"]
OnFailure = Literal["direct", "block"]
Quic = Literal["proxy", "direct", "block"]
Protocol = Literal["tcp", "udp"]
Port = Annotated[int, Meta(ge=1, le=65535, description="a port from 1 to 65535")]
PortRange = Annotated[
    str, Meta(pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$", description="a range of ports such as 8000-8999")
]
ForwardedPort = Annotated[
    str,
    Meta(pattern="^(tcp|udp)/[0-9]{1,5}$", description="a port of one protocol such as udp/27015"),
]
Country = Annotated[str, Meta(pattern="^[A-Za-z]{2}$", description="a country's two letters such as CN (ISO 3166-1)")]
UpstreamName = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$",
        description="a name of letters, digits, dots, hyphens and underscores, 32 at the most",
    ),
]
Domain = Annotated[
    str,
    Meta(
        pattern=r"^(full:)?[^\s./:*\x22]{1,63}(\.[^\s./:*\x22]{1,63})*$",
        max_length=260,
        description="a domain such as example.org, with all below it, or full:www.example.org for that name alone",
    ),
]
TimeSpan = Annotated[
    str,
    Meta(
        pattern=r"^((Mon|Tue|Wed|Thu|Fri|Sat|Sun)(-(Mon|Tue|Wed|Thu|Fri|Sat|Sun))? )?"
        r"([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$",
        description='a time of day, local, such as "22:00-06:00" or "Mon-Fri 08:00-15:30"',
    ),
]


def mac_of(text: str) -> str | None:
    """A MAC address as we write it, aa:bb:cc:dd:ee:ff; None for what is none.

    Read as Linux and Windows write it (AA-BB-CC-DD-EE-FF), macOS (`arp -a` leaves out zeros: 0:1b:2c:3:4:5), switches
    (aabb.ccdd.eeff) and labels (AABBCCDDEEFF).
    """
    if not _SPELLED.fullmatch(text):
        return None
    digits = "".join(part.zfill(2) for part in re.split("[:-]", text)).replace(".", "").lower()
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))
