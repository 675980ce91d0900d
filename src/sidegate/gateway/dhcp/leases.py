"""dnsmasq's lease file, which it rewrites in place: one that a crash cut off is recognised and mended from the copy.

A line is: when it ends (seconds since 1970, 0 for never), MAC address, address, name or `*`, client id or `*`
(lease_update_file in dnsmasq's src/lease.c). dnsmasq goes by the wall clock, and forgets what has ended by it
(lease_prune): so a clock that is wrong, or is set, would give addresses away that somebody uses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from msgspec import Struct, structs

from sidegate.gateway.box.files import replace_file
from sidegate.problems import Problem, Problems

_TIME_ERROR = 5
"""What adjtimex(2) returns for a clock that nobody keeps right, as before NTP has answered."""
_DAY_S = 86400.0


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

    @property
    def rank(self) -> float:
        """Of two that speak of one address or one device, the one that ends later was given later."""
        return self.ends_s or float("inf")


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


def text_of(leases: Iterable[Lease]) -> str:
    """The file that holds them."""
    return "".join(lease.line() for lease in leases)


def merged(live: str, copy: str, now_s: float) -> tuple[tuple[Lease, ...], int]:
    """All leases to go on with, and how many of them are the copy's.

    Where both speak of an address or a device, the later lease counts: after a power cut the live file may be an old
    one. A lease that was given back and comes back this way keeps its address from others until its end, and no more.
    """
    mine, theirs = parse_leases(live)[0], parse_leases(copy)[0]
    known = [*mine, *(it for it in theirs if it.lasts(now_s))]
    macs: set[str] = set()
    ips: set[IPv4Address] = set()
    kept: set[int] = set()
    # Stable: of two that end together the live file's comes first.
    for i in sorted(range(len(known)), key=lambda i: -known[i].rank):
        if known[i].mac not in macs and known[i].ip not in ips:
            macs.add(known[i].mac)
            ips.add(known[i].ip)
            kept.add(i)
    return tuple(known[i] for i in sorted(kept)), sum(i >= len(mine) for i in kept)


def kept_alive(leases: Iterable[Lease], now_s: float, lease_s: float) -> tuple[Lease, ...]:
    """Under a clock that may be wrong: none ends before one lease's time has passed from now."""
    until_s = int(now_s + lease_s)
    return tuple(structs.replace(it, ends_s=max(it.ends_s, until_s)) if it.ends_s else it for it in leases)


def after_jump(leases: Iterable[Lease], before_s: float, after_s: float, lease_s: float) -> tuple[Lease, ...]:
    """As much of each is left as before the clock was set from before_s to after_s. lease_s: what we give.

    One with more left than anybody is given was given under another clock, and its end is left alone.
    """
    most_s = max(lease_s, _DAY_S)
    moved_s = int(after_s - before_s)
    return tuple(
        structs.replace(it, ends_s=it.ends_s + moved_s) if 0 <= it.ends_s - before_s <= most_s else it for it in leases
    )


def is_clock_kept() -> bool:
    """Whether somebody keeps this box's clock right, as NTP does (adjtimex(2), STA_UNSYNC)."""
    # struct timex, all zero: nothing is set. It has 208 bytes on 64 bit machines.
    answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(256))
    # -1: it may not be asked, as where a service has ProtectClock=yes; then the clock is not believed.
    return answer not in (_TIME_ERROR, -1)


def recover(live: Path, copy: Path, now_s: float, keep_s: float = 0.0) -> str:
    """Mends the live file before dnsmasq reads it. What was wrong, in words; empty if nothing was. Raises Problems.

    keep_s: no lease ends earlier than so many seconds from now, as the clock may be wrong; 0: the clock is believed.
    """
    before, now_believed_s = text_in(live), 0.0 if keep_s else now_s
    leases, from_copy = merged(before, text_in(copy), now_believed_s)
    _, is_whole = parse_leases(before)
    wanted = kept_alive(leases, now_s, keep_s) if keep_s else leases
    if is_whole and text_of(wanted) == before:
        return ""
    rewrite(live, wanted)
    if is_whole and not from_copy:
        return ""
    cut = "whole" if is_whole else "cut off"
    return f"the lease file was {cut}; {from_copy} of {len(leases)} leases came from its copy"


def rewrite(live: Path, leases: Iterable[Lease]) -> None:
    """For while dnsmasq does not run. Raises Problems."""
    try:
        replace_file(live, text_of(leases).encode(), 0o644)
    except OSError as error:
        raise Problems(Problem(str(live), f"cannot be written: {error.strerror}", "make room, or mend it")) from None


def read_leases(live: Path) -> tuple[Lease, ...]:
    """Those in force by the file; none where it cannot be read."""
    return parse_leases(text_in(live))[0]


def text_in(path: Path) -> str:
    """Empty where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
