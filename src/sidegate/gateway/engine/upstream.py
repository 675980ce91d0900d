"""An upstream, as links, files and the engine's configuration know it: pure data."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Kind = Literal["socks", "http", "shadowsocks", "vmess", "vless", "trojan", "wireguard", "other"]
Json = dict[str, Any]


class Upstream(Struct, frozen=True, repr_omit_defaults=True):
    """A way out.

    name: unique among all; rules and `status` use it. host, port: the server's, for display and to look its name up;
    empty and 0 where a user's own outbound does not show them. outbound: Xray's, without tag and marks; with secrets.
    udp: whether it carries UDP at all. full_cone: whether whatever a client's UDP port talks to sees the same port of
    the server's (RFC 3489 section 5), if the server does its part.
    """

    name: str
    kind: Kind
    host: str
    port: int
    outbound: Json
    udp: bool = True
    full_cone: bool = True

    def __repr__(self) -> str:
        """Without what it must not show."""
        return f"Upstream({self.name!r}, {self.kind}, {self.where})"

    @property
    def where(self) -> str:
        """Its server, for people."""
        if not self.host:
            return "a server of its own file"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
