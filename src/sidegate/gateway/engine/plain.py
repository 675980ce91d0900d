"""Which upstreams are plain proxies: those whose TCP the engine's process leads there itself (`relay`). Pure."""

from __future__ import annotations

from ipaddress import ip_address

from sidegate.gateway.engine.upstream import Json, Upstream

_SETTINGS = {"address", "port", "user", "pass"}
_LONGEST = 255
"""Octets of a name or a password (RFC 1929 section 2)."""


def plain_proxy(it: Upstream) -> Json | None:
    """The fields of `handshakes.Proxy`, with its secrets; None: Xray alone speaks with it.

    A name is Xray's to look up, and what it may be told beside address and login is Xray's to know.
    """
    settings = it.outbound.get("settings")
    if it.kind not in ("socks", "http") or it.outbound != {"protocol": it.kind, "settings": settings}:
        return None
    if not isinstance(settings, dict) or not settings.keys() <= _SETTINGS or not _is_address(it.host):
        return None
    login = [settings.get("user", ""), settings.get("pass", "")]
    if not _is_login(*login) or (settings.get("address"), settings.get("port")) != (it.host, it.port):
        return None
    return {"kind": it.kind, "host": it.host, "port": it.port, "user": login[0], "password": login[1]}


def _is_address(host: str) -> bool:
    """Without a scope."""
    try:
        return "%" not in host and bool(ip_address(host))
    except ValueError:
        return False


def _is_login(user: object, password: object) -> bool:
    """Whether there is one, or none at all."""
    if not isinstance(user, str) or not isinstance(password, str):
        return False
    fits = max(len(user.encode()), len(password.encode())) <= _LONGEST
    return fits and bool(user or not password)
