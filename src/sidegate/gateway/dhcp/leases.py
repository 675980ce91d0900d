"""dnsmasq's lease file, which it rewrites in place: one that a crash cut off is recognised and mended from the copy.

A line is: when it ends (seconds since 1970, 0 for never), MAC address, address, name or `*`, client id or `*`
(lease_update_file in dnsmasq's src/lease.c).
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from msgspec import Struct

from sidegate.gateway.files import replace_file
from sidegate.problems import Problem, Problems


class Lease(Struct, frozen=True):
    """ends_s: seconds since 1970, 0 for never. mac: lower case. name, client_id: `*` for none."""

    ends_s: int
    mac: str
    ip: IPv4Address
    name: str = "*"
    client_id: str = "*"

    def lasts(self, now_s: float) -> bool:
        return self.ends_s == 0 or self.ends_s > now_s

    def line(self) -> str:
        return f"{self.ends_s} {self.mac} {self.ip} {self.name} {self.client_id}\n"


def parse_leases(text: str) -> tuple[tuple[Lease, ...], bool]:
    """The leases of a file, and whether it is whole: every line understood, the last one ended."""
    lines = text.splitlines(keepends=True)
    leases = [_lease(line) for line in lines]
    return tuple(lease for lease in leases if lease is not None), None not in leases


def _lease(line: str) -> Lease | None:
    fields = line.split()
    if len(fields) != 5 or not line.endswith("\n") or not fields[0].isdecimal():
        return None
    try:
        return Lease(int(fields[0]), fields[1].lower(), IPv4Address(fields[2]), fields[3], fields[4])
    except (AddressValueError, ValueError):
        return None


def merged(live: str, copy: str, now_s: float) -> tuple[tuple[Lease, ...], int]:
    """All leases to go on with, and how many of them only the copy knew.

    What the live file says of an address or a device counts. A lease that was given back and comes back this way keeps
    its address from others until its end, and no more.
    """
    leases, _ = parse_leases(live)
    macs, ips = {lease.mac for lease in leases}, {lease.ip for lease in leases}
    known = parse_leases(copy)[0]
    lost = [it for it in known if it.lasts(now_s) and it.mac not in macs and it.ip not in ips]
    return (*leases, *lost), len(lost)


def recover(live: Path, copy: Path, now_s: float) -> str:
    """Mends the live file before dnsmasq reads it. What was wrong, in words; empty if nothing was. Raises Problems."""
    before = _text(live)
    leases, from_copy = merged(before, _text(copy), now_s)
    _, is_whole = parse_leases(before)
    if is_whole and not from_copy:
        return ""
    try:
        replace_file(live, "".join(lease.line() for lease in leases).encode(), 0o644)
    except OSError as error:
        raise Problems(Problem(str(live), f"cannot be written: {error.strerror}", "make room, or mend it")) from None
    cut = "whole" if is_whole else "cut off"
    return f"the lease file was {cut}; {from_copy} of {len(leases)} leases came from its copy"


def read_leases(live: Path) -> tuple[Lease, ...]:
    """Those in force by the file; none where it cannot be read."""
    return parse_leases(_text(live))[0]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
