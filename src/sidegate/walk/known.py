"""The home around a running gateway, as far as the gateway can know it: pure.

What it knows: its own address, the router's, the client's, and what the probe found about the client's frames. What it
cannot know stands for itself only where the verdict does not hang on it: the public address (a documentation address,
RFC 5737), and whether the frames that cross the router's kernel come by radio or by mesh. What the verdict does hang on
is not guessed: without a probe's verdict there is no home.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from typing import Literal

from msgspec import Struct

from sidegate.home import Assumed, Client, Gateway, Home, Internet, Router, Server

STAND_IN = IPv4Interface("192.0.2.2/24")
"""For the router's public address."""
CLIENT, DESTINATION = "client", "destination"

Tracked = Literal["direct", "masquerade", "unknown"]


class Known(Struct, frozen=True):
    """own, router: the gateway's address with its prefix, and the router's. tracked: the bridge probe's verdict."""

    own: IPv4Interface
    router: IPv4Address
    client: IPv4Address
    destination: IPv4Address
    tracked: Tracked


def known_home(known: Known) -> Home | None:
    """None where the probe's verdict is unknown: what would become of a packet then hangs on it."""
    if known.tracked == "unknown":
        return None
    crosses = known.tracked == "masquerade"
    lan = IPv4Interface(f"{known.router}/{known.own.network.prefixlen}")
    return Home(
        title="This home, as far as the gateway knows it",
        name="this-home",
        internet=Internet(server=(Server(name=DESTINATION, v4=known.destination),)),
        router=Router(wan=STAND_IN, lan=lan, assume=Assumed(bridge_filter="on" if crosses else "off")),
        gateway=Gateway(v4=known.own.ip),
        client=(Client(name=CLIENT, v4=known.client, by="wifi" if crosses else "wire"),),
    )
