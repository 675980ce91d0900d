"""The LAN's IPv6 routers: this box as one, a dnsmasq as a child, and what the others tell clients."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from sidegate.gateway.box.apply import Change
from sidegate.gateway.box.children import Nursery
from sidegate.gateway.box.places import Places
from sidegate.gateway.config.fields import Ipv6Mode
from sidegate.gateway.desired import Advertiser
from sidegate.gateway.dhcp.advert import NAME, advertiser_child, withdraw
from sidegate.gateway.dhcp.routers import Routers
from sidegate.gateway.dhcp.user import dnsmasq_user
from sidegate.gateway.view import Ipv6View
from sidegate.probe.ra import Opinion, addresses6, opinions
from sidegate.probe.talk import Vantage
from sidegate.problems import Problem, Problems

_TAKEN_BACK_WITHIN_S, _LOOK_AGAIN_S = 2.0, 0.01


class Advertising:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`."""

    def __init__(self, at: Places, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._directory = at.runtime / "advertising"
        self._nursery = Nursery(self._directory, at.state, tell)
        self._advertiser: Advertiser | None = None
        self._told_by: str | None = None
        self._mode: Ipv6Mode = "off"
        self._resolves = False
        self._routers: Routers | None = None
        self._blind: tuple[Problem, ...] = ()
        self._poll = select.epoll()
        self._poll.register(self._nursery, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although nothing came in; None: never."""
        routers_s = self._routers.next_deadline() if self._routers else None
        return min((t for t in (self._nursery.next_deadline(), routers_s) if t is not None), default=None)

    def stand_at(self, vantage: Vantage | None, mode: Ipv6Mode, *, resolves: bool) -> None:
        """From where other routers are looked for. resolves: clients are to ask this box for names."""
        self._mode, self._resolves = mode, resolves
        if self._routers is not None and self._routers.at == vantage:
            return
        self._close_routers()
        if vantage is None:
            return
        try:
            self._routers = Routers(vantage)
        except Problems as error:
            self._blind = error.problems
            return
        self._blind = ()
        self._poll.register(self._routers, select.EPOLLIN)

    def want(self, advertiser: Advertiser | None) -> tuple[Change, ...]:
        """From the next `turn` on this is advertised; None: nothing, and what was is taken back. What that changes."""
        runs = self._nursery.runs(NAME)
        self._advertiser = advertiser
        if advertiser is None:
            self._nursery.want(())
            return (Change(f"{NAME} ends", "this box is no IPv6 gateway"),) if runs else ()
        self._told_by = advertiser.interface
        child = advertiser_child(advertiser, self._directory, dnsmasq_user())
        self._nursery.want((child,))
        if self._nursery.runs(NAME, child.digest):
            return ()
        what = f"{NAME} tells {advertiser.interface} that this box is an IPv6 router of high preference"
        return (Change(what, "clients are to use this box as their IPv6 gateway beside the main router"),)

    def settle(self, within_s: float | None = None) -> None:
        """Waits until it is advertised, no longer than within_s, or taken back, which is 2 s at the most.

        Raises Problems where it is not advertised.
        """
        self._nursery.settle(within_s)
        end_s = time.monotonic() + _TAKEN_BACK_WITHIN_S
        while self._is_to_be_taken_back and time.monotonic() < end_s:
            time.sleep(_LOOK_AGAIN_S)
            self.turn(time.monotonic())

    def turn(self, now: float) -> None:
        self._nursery.turn(now)
        if self._is_to_be_taken_back and not self._nursery.runs(NAME):
            if withdraw(self._told_by or ""):
                self._tell("clients were told that this box is no IPv6 router")
            self._told_by = None
        self._look(now)

    @property
    def _is_to_be_taken_back(self) -> bool:
        return self._advertiser is None and self._told_by is not None

    def close(self) -> None:
        """Lets go; what is advertised goes on."""
        self._close_routers()
        self._nursery.close()
        self._poll.close()

    def faults(self) -> tuple[Problem, ...]:
        """What is wrong now."""
        return (*self._nursery.faults(), *self._blind)

    def hints(self) -> tuple[str, ...]:
        """What a person should know of the other routers."""
        if self._routers is None or self._routers.adverts is None:
            return ()
        ours = addresses6(self._routers.at.interface)
        opinion = Opinion(ours, self._resolves, self._advertiser is not None, self._routers.silent)
        told = opinions(self._routers.adverts, opinion)
        has_prefix = any(not a.is_link_local for a in ours)
        if self._mode == "gateway" and not has_prefix:
            told = (*told, 'ipv6.mode is "gateway", but this box has no IPv6 address in the LAN: nothing is advertised')
        return told

    def view(self) -> Ipv6View:
        """For `status`."""
        adverts = self._routers.adverts if self._routers else None
        return Ipv6View(self._mode, self._nursery.pid(NAME), adverts, self._routers.silent if self._routers else ())

    def _look(self, now: float) -> None:
        if self._routers is None:
            return
        before = self._routers.adverts
        try:
            self._routers.turn(now)
        except Problems as error:
            self._blind = error.problems
            self._close_routers()
            return
        known = {(a.router, a.mac) for a in before or ()}
        for advert in self._routers.adverts or ():
            if (advert.router, advert.mac) not in known:
                self._tell(f"IPv6 router {advert.router} ({advert.mac}): {advert.terms()}")

    def _close_routers(self) -> None:
        if self._routers is not None:
            self._poll.unregister(self._routers)
            self._routers.close()
            self._routers = None
