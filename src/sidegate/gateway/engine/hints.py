"""What is likely wrong with an upstream that gives no answers. Pure.

Proxies are silent on purpose: whoever does not know the secret is to learn nothing. So Xray sees a connection that
ends, or one on which nothing comes, and cannot tell the causes apart; but they are few, and each kind has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sidegate.gateway.engine.upstream import Kind, Upstream

_SECRETS: Mapping[Kind, str] = {
    "socks": "its user name and password",
    "http": "its user name and password",
    "shadowsocks": "its password and cipher",
    "vmess": "its id",
    "vless": "its id and flow",
    "trojan": "its password",
    "wireguard": "its keys and the address inside the tunnel",
    "other": "its secrets",
}
_VMESS_CLOCK_S, _SS2022_CLOCK_S = 120, 30
"""proxy/vmess/aead/authid.go; SIP022 section 3.1.3."""


def hint(it: Upstream, now: datetime, *, is_there: bool = False) -> str:
    """What to look at, in the order in which it is most often wrong.

    now: by this box's clock. is_there: whether its server takes connections.
    """
    looks = [] if is_there else [f"whether {it.where} is reachable"]
    looks += [_SECRETS[it.kind], *_security(it)]
    clock_s = _clock_s(it)
    if clock_s is not None:
        looks.append(f"this box's clock, which says {now:%Y-%m-%d %H:%M} UTC and may be off by {clock_s} s at most")
    return f"look at {' and '.join(part for part in (', '.join(looks[:-1]), looks[-1]) if part)}"


def _security(it: Upstream) -> list[str]:
    security = (it.outbound.get("streamSettings") or {}).get("security")
    return {"tls": ["the name in its certificate"], "reality": ["its public key, short id and server name"]}.get(
        str(security), []
    )


def _clock_s(it: Upstream) -> int | None:
    """How far the two clocks may be apart; None where they do not matter."""
    if it.kind == "vmess":
        return _VMESS_CLOCK_S
    method = str((it.outbound.get("settings") or {}).get("method", ""))
    return _SS2022_CLOCK_S if method.startswith("2022-") else None
