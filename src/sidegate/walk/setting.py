"""What runs on the gateway, and the few sysctls of the home's hosts that decide a walk."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from sidegate.home import GatewayRuns


class Forwarded(Struct, frozen=True):
    """A port of a client that the router forwards to it, as the gateway's configuration names it."""

    client: str
    protocol: Literal["tcp", "udp"]
    port: int


class Setting(Struct, frozen=True):
    """runs: as in a home's expectations. proved: clients whose direct return path a probe has proved (`sidegate`).

    proxied: the gateway's engine takes all TCP to the internet. redirects_sent: the gateway sends ICMP redirects, which
    `sidegate up` and people who know turn off. redirects_accepted: the clients act on them. strict: boxes that check
    the reverse path (rp_filter = 1). forwarded: what the gateway was told of the router's port forwards (`sidegate`).
    """

    runs: GatewayRuns = "forwarding"
    proved: tuple[str, ...] = ()
    proxied: bool = False
    redirects_sent: bool = False
    redirects_accepted: bool = True
    strict: tuple[str, ...] = ()
    instant: bool = False
    unheard: tuple[str, ...] = ()
    forwarded: tuple[Forwarded, ...] = ()

    @property
    def forwards(self) -> bool:
        return self.runs != "nothing"
