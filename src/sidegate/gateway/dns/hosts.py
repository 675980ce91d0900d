"""Pure: the LAN's own names as a hosts file (hosts(5)). What devices call themselves in DHCP may be hostile."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address

from sidegate.gateway.config import ClientConfig
from sidegate.gateway.dhcp.leases import Lease

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NOT_TO_BE_TAKEN = frozenset(("localhost", "wpad", "isatap", "router", "gateway", "sidegate"))
"""Who goes by one of these could lead others: browsers fetch a proxy's settings from `wpad` (CERT VU#598349)."""


def hosts_file(clients: Iterable[ClientConfig], leases: Iterable[Lease], domain: str = "") -> str:
    """A line for each name: those of the configuration, then what devices call themselves, if that is free.

    Of two devices that claim one name none has it, unless the configuration says which. domain: each name goes by it
    too; may be empty.
    """
    leases = list(leases)
    lent = {lease.mac: lease.ip for lease in leases}
    own = {_name(c.name): c.ip or lent.get(c.mac) for c in clients}
    named: dict[str, IPv4Address | None] = {}
    for lease in sorted(leases, key=lambda it: it.ip):
        name = _name(lease.name)
        named[name] = None if named.get(name, lease.ip) != lease.ip else lease.ip
    for name in _NOT_TO_BE_TAKEN:
        named.pop(name, None)
    named |= own
    lines = [_line(ip, name, domain) for name, ip in sorted(named.items()) if name and ip]
    return "".join(lines)


def _line(ip: IPv4Address, name: str, domain: str) -> str:
    return f"{ip} {name} {name}.{domain}\n" if domain else f"{ip} {name}\n"


def _name(text: str) -> str:
    """As it is asked for; empty for what cannot be a name, `*` among it."""
    return text.lower() if _NAME.fullmatch(text.lower()) else ""
