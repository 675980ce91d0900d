"""The address that this box had until lately: devices that have it as their gateway are offline, and do not know why.

Kept on disk, for a box often comes up with another address: its lease ended while it was switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from sidegate.gateway.box.facts import Facts
from sidegate.gateway.box.files import replace_file
from sidegate.problems import Exit, Problem

_NAME = "address.json"
_TOLD_FOR = timedelta(days=1)


class Known(msgspec.Struct, frozen=True):
    """address: which devices have as their gateway. former: which they had until `until` (RFC 3339); empty: none."""

    address: str
    former: str = ""
    until: str = ""


class FormerAddress:
    """state: the state directory. tell: an event."""

    def __init__(self, state: Path, tell: Callable[[str], None]) -> None:
        self._path, self._tell = state / _NAME, tell
        self._known = _load(self._path)
        self._facts: Facts | None = None

    def stand_at(self, facts: Facts) -> None:
        """What this box is now. A disk that is full keeps nobody from hearing of it while this process lives."""
        self._facts = facts
        now = datetime.now().astimezone()
        fresh = after(self._known, [str(it.ip) for it in facts.interface.addresses], now)
        if fresh is None or fresh == self._known:
            return
        self._keep(fresh)
        for fault in self.faults():
            self._tell(f"fault: {fault.where}: {fault.what}")

    def accept(self) -> None:
        """A person says that devices have the new one."""
        if self._known is not None and self._known.former:
            self._tell(f"over: address: devices have {self._known.address} instead of {self._known.former}")
            self._keep(Known(self._known.address))

    def faults(self) -> tuple[Problem, ...]:
        """That it is another one now, where the former was one of this LAN."""
        known, facts = self._known, self._facts
        if known is None or facts is None or not known.former:
            return ()
        is_near = any(IPv4Address(known.former) in network for network in facts.lan)
        is_late = datetime.now().astimezone() - datetime.fromisoformat(known.until) > _TOLD_FOR
        return (_fault(known, facts),) if is_near and not is_late else ()

    def _keep(self, known: Known) -> None:
        self._known = known
        try:
            replace_file(self._path, msgspec.json.encode(known))
        except OSError as error:
            self._tell(f"fault: {self._path}: cannot be written: {error.strerror}")


def after(known: Known | None, addresses: Sequence[str], now: datetime) -> Known | None:
    """What is known once the box has these addresses; the first one is what devices are told.

    Of several changes the oldest address counts until it is back: devices were set up with it.
    """
    if not addresses:
        return known
    if known is None:
        return Known(addresses[0])
    address = known.address if known.address in addresses else addresses[0]
    if known.former and known.former not in addresses:
        return Known(address, known.former, known.until)
    if address == known.address or known.former:
        return Known(address)
    return Known(address, known.address, now.isoformat(timespec="seconds"))


def _fault(known: Known, facts: Facts) -> Problem:
    is_lease = IPv4Address(known.address) in facts.interface.borrowed
    where = f"on the router: a reservation for MAC {facts.interface.mac}" if is_lease else "in its own settings"
    what = (
        f"this box was {known.former} until {known.until}, and is {known.address} now: devices that have {known.former}"
        f" as their gateway or DNS server are offline; give the box that address for good ({where}), or the devices"
        f" {known.address} (once they have it: sidegate up)"
    )
    return Problem("address", what, "give the box a fixed address", Exit.FAULT)


def _load(path: Path) -> Known | None:
    """What cannot be read, or is no address and no time, is none."""
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Known)
        IPv4Address(known.address)
        if known.former:
            IPv4Address(known.former)
            datetime.fromisoformat(known.until).astimezone()
    except (OSError, ValueError):
        return None
    return known
