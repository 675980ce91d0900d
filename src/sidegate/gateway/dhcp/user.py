"""Whom dnsmasq becomes once it has its sockets."""

from __future__ import annotations

import contextlib
import pwd
from pathlib import Path

_USER = "dnsmasq"


def dnsmasq_user() -> str:
    """Its own user, where there is one and this user namespace knows it (user_namespaces(7)); else root."""
    with contextlib.suppress(KeyError, OSError):
        uid = pwd.getpwnam(_USER).pw_uid
        ranges = [map(int, line.split()) for line in Path("/proc/self/uid_map").read_text("ascii").splitlines()]
        if any(first <= uid < first + count for first, _, count in ranges):
            return _USER
    return "root"
