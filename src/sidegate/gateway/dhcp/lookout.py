"""Looks for DHCP servers other than ours, again and again, at a small cost: one or two frames a look.

All looks of one daemon are made in one name, or they would use up the other server's addresses: it keeps each offered
one back for a while.
"""

from __future__ import annotations

import random
import time

from sidegate.gateway.config import DhcpMode
from sidegate.packet import Mac
from sidegate.probe.dhcp import DhcpResult, Offer, Plan, discover, throwaway_mac
from sidegate.probe.talk import Vantage
from sidegate.probe.wire import Wire, run

WHOLE = Plan(asks_at_s=(0.0,), until_s=3.5)
"""Long enough for a server that first looks whether the address is free: dnsmasq for 3 s, ISC dhcpd for 1 s."""
QUICK = Plan(asks_at_s=(0.0,), until_s=3.5, settle_s=0.5)
"""Where one offer is news enough."""
REFUSING = Plan(asks_at_s=(0.0,), until_s=3.5, settle_s=1.5)
"""Where one offer is reason enough, and a person who waits would like to hear of the others as well."""
ALONE_S, KNOWN_S, WATCH_S = 4.0, 15.0, 60.0
"""From one look to the next: while we are alone, while somebody else is there, and where somebody else may be."""


def look_every_s(mode: DhcpMode, has_others: bool) -> float:
    """Alone nobody hears the question, so it may be put often: a new server is noticed within 4 + 3.5 + 0.5 s."""
    if mode != "server":
        return WATCH_S
    return KNOWN_S if has_others else ALONE_S


class Lookout:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    offers: of the last look; None before its end.
    """

    def __init__(self, at: Vantage, mode: DhcpMode, mac: Mac | None = None) -> None:
        """mac: in whose name it is asked. Raises Problems."""
        self.at = at
        self.mac = mac or throwaway_mac(random.SystemRandom())
        self.offers: tuple[Offer, ...] | None = None
        self._mode: DhcpMode = mode
        self._wire: Wire[DhcpResult] = Wire(at.interface, at.ip)
        self._look_at_s = time.monotonic()
        self._is_looking = False

    def fileno(self) -> int:
        return self._wire.fileno()

    def next_deadline(self) -> float:
        wire_s = self._wire.next_deadline()
        if self._is_looking and wire_s is not None:
            return wire_s
        return self._look_at_s

    def turn(self, now: float) -> bool:
        """Whether a look ended. Raises Problems when the interface is gone or down; close it then."""
        if not self._is_looking and now >= self._look_at_s:
            # A quick server must not hide a slow one for good: only the first look at it is short.
            self._wire.start(discover(self.at.mac, self.mac, WHOLE if self.offers else QUICK))
            self._is_looking, self._look_at_s = True, now
        self._wire.turn(now)
        ended = self._wire.finished()
        for _, result in ended:
            self.offers, self._is_looking = result.offers, False
            self._look_at_s += look_every_s(self._mode, bool(result.offers))
        return bool(ended)

    def look(self) -> tuple[Offer, ...]:
        """Looks now and waits for the end: up to 3.5 s. Raises Problems."""
        plan = REFUSING if self._mode == "server" else WHOLE
        with Wire[DhcpResult](self.at.interface, self.at.ip) as wire:
            (result,) = run(wire, discover(self.at.mac, self.mac, plan))
        self.offers = result.offers
        if not self._is_looking:
            self._look_at_s = time.monotonic() + look_every_s(self._mode, bool(result.offers))
        return result.offers

    def close(self) -> None:
        self._wire.close()
