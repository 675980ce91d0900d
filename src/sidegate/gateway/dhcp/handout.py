"""Who hands out addresses: our dnsmasq as a child, other servers under watch, and whose lease a client holds."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from msgspec import Struct

from sidegate.gateway.box.apply import Change
from sidegate.gateway.box.children import Child, Nursery
from sidegate.gateway.box.files import make_directory
from sidegate.gateway.box.places import Places
from sidegate.gateway.config import DhcpMode
from sidegate.gateway.desired import DhcpServer
from sidegate.gateway.dhcp import terms as dhcp
from sidegate.gateway.dhcp.copying import LeaseCopy, WallClock
from sidegate.gateway.dhcp.dnsmasq import NAME, LeasePlaces, dnsmasq_child
from sidegate.gateway.dhcp.leases import (
    Lease,
    after_jump,
    is_clock_kept,
    merged,
    read_leases,
    recover,
    rewrite,
    text_of,
)
from sidegate.gateway.dhcp.lookout import Lookout
from sidegate.gateway.dhcp.user import dnsmasq_user
from sidegate.gateway.ruleset.nft import Client
from sidegate.gateway.view import DhcpView, LeaseView
from sidegate.probe.dhcp import Offer, serves_here
from sidegate.probe.talk import Vantage
from sidegate.problems import Exit, Problem, Problems

NOT_OURS = LeaseView("not ours")


class Jump(Struct, frozen=True):
    """The wall clock was set. leases: those copied last before it."""

    before_s: float
    after_s: float
    leases: tuple[Lease, ...]


class Handout:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`."""

    def __init__(self, at: Places, tell: Callable[[str], None]) -> None:
        self._mode: DhcpMode = "off"
        self._tell = tell
        self._at = LeasePlaces(at.state, at.runtime)
        self._nursery = Nursery(self._at.children, at.state, tell, self._prepare)
        self._server: DhcpServer | None = None
        self._lookout: Lookout | None = None
        self._mac: str | None = None
        self._blind: tuple[Problem, ...] = ()
        self._clock, self._clock_set = WallClock(), 0
        self._jumps: list[Jump] = []
        self._copy = LeaseCopy(self._at.live, self._at.copy)
        self._poll = select.epoll()
        self._poll.register(self._nursery, select.EPOLLIN)
        self._poll.register(self._copy, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although nothing came in; None: never."""
        lookout_s = self._lookout.next_deadline() if self._lookout else None
        times = (self._nursery.next_deadline(), self._copy.next_deadline(), lookout_s)
        return min((t for t in times if t is not None), default=None)

    def stand_at(self, vantage: Vantage | None, mode: DhcpMode) -> None:
        """From where, and how often, other servers are looked for; None while there is no such place."""
        if self._lookout is not None and (self._lookout.at, self._mode) == (vantage, mode):
            return
        self._mode = mode
        self._close_lookout()
        if vantage is None:
            return
        try:
            self._lookout = Lookout(vantage, mode, self._mac)
        except Problems as error:
            self._blind = error.problems
            return
        self._mac = self._lookout.mac
        self._poll.register(self._lookout, select.EPOLLIN)

    def ask_first(self, server: DhcpServer | None) -> None:
        """Before our server starts: is there another one? Up to 3.5 s. Raises Problems with what that hands out."""
        if server is None or self._lookout is None or self._nursery.runs(NAME):
            return
        if serves_here():
            # Both may hold the port (SO_REUSEADDR), and a server on this box does not hear our question.
            what = "another program on this box listens on the DHCP servers' port"
            raise Problems(Problem("dhcp", what, "stop it; `ss -ulpn sport = 67` names it", Exit.FAULT))
        others = dhcp.refusal(server, self._lookout.look())
        if others:
            raise Problems(*others)

    def want(self, server: DhcpServer | None) -> tuple[Change, ...]:
        """From the next `turn` on this is handed out, by the server that runs or by one that is started.

        What that will change: nothing where our server hands out just this.
        """
        self._server = server
        if server is None:
            self._nursery.want(())
            return (Change(f"{NAME} ends", "this box hands out no addresses"),) if self._nursery.runs(NAME) else ()
        child = self._child(server)
        self._nursery.want((child,))
        if self._nursery.runs(NAME, child.digest):
            return ()
        what = f"{NAME} hands out {server.first}-{server.last} for {server.lease_s} s"
        return (Change(what, "clients are told to use this box as their gateway"),)

    def settle(self, within_s: float | None = None) -> None:
        """Waits until our server serves. within_s: no longer than this. Raises Problems."""
        self._nursery.settle(within_s)

    def turn(self, now: float) -> None:
        self._mind_clock()
        self._nursery.turn(now)
        self._copy_leases(now)
        if self._lookout is None:
            return
        before = self._lookout.offers
        try:
            if self._lookout.turn(now):
                self._blind = ()
                self._tell_new(before or (), self._lookout.offers or ())
        except Problems as error:
            self._blind = error.problems
            self._close_lookout()

    def close(self) -> None:
        """Lets go; our server goes on."""
        self._close_lookout()
        self._copy.close()
        self._nursery.close()
        self._poll.close()

    # What is known

    def faults(self) -> tuple[Problem, ...]:
        """What is wrong now."""
        others = dhcp.refusal(self._server, self._offers()) if self._server else ()
        used_up = dhcp.used_up(self._server, (it.ip for it in self._leases())) if self._server else ()
        return (*self._nursery.faults(), *others, *used_up, *self._trouble(), *self._blind)

    def hints(self, ours: Iterable[IPv4Address], silent: Iterable[str], met: Iterable[Client]) -> tuple[str, ...]:
        """What a person should know; see `dhcp.hints`. met: clients that were seen."""
        if self._lookout is None or self._lookout.offers is None:
            return ()
        held = {lease.ip for lease in self._leases()}
        server = self._server
        unleased = [str(c.ip) for c in met if server and server.first <= c.ip <= server.last and c.ip not in held]
        around = dhcp.Surroundings(self._offers(), tuple(ours), tuple(silent), tuple(unleased))
        return dhcp.hints(self._mode, around)

    def view(self) -> DhcpView:
        """For `status`."""
        server = self._server
        return DhcpView(
            mode=self._mode,
            range=f"{server.first}-{server.last}" if server else "",
            lease_s=server.lease_s if server else None,
            pid=self._nursery.pid(NAME),
            leases=len(self._leases()),
            others=None if self._lookout is None else self._lookout.offers,
        )

    def leases(self) -> dict[tuple[str, IPv4Address], LeaseView] | None:
        """Those of ours that last, by device and address; None where we hand out nothing."""
        if self._server is None:
            return None
        return {(it.mac, it.ip): _view(it, time.time()) for it in self._leases()}

    def own_leases(self) -> list[Lease]:
        """Those of ours that last."""
        return self._leases()

    # What is done

    def _child(self, server: DhcpServer) -> Child:
        return dnsmasq_child(server, self._at, dnsmasq_user(), self._clock_set)

    def _copy_leases(self, now: float) -> None:
        if self._server is None:
            self._copy.end()
        else:
            self._copy.begin(now)
        self._copy.turn(now)

    def _mind_clock(self) -> None:
        """Before anything is copied: dnsmasq may have forgotten already what ended by the clock's new time."""
        jump = self._clock.jump()
        if jump is None or self._server is None:
            return
        self._clock_set += 1
        self._jumps.append(Jump(*jump, self._copy.leases))
        self._tell(f"the clock was set by {jump[1] - jump[0]:+.0f} s: {NAME} is started anew, leases last as before")
        self._nursery.want((self._child(self._server),))

    def _prepare(self, name: str) -> None:
        make_directory(self._at.directory)
        if self._server is None:
            return
        while self._jumps:
            self._outlive(self._jumps.pop(0), self._server.lease_s)
        mended = recover(self._at.live, self._at.copy, time.time(), 0.0 if is_clock_kept() else self._server.lease_s)
        if mended:
            self._tell(f"{name}: {mended}")

    def _outlive(self, jump: Jump, lease_s: float) -> None:
        """Leases last for as long as before. Both files: of two that speak of one lease the later end counts."""
        live, known = (
            text_of(after_jump(leases, jump.before_s, jump.after_s, lease_s))
            for leases in (read_leases(self._at.live), jump.leases)
        )
        for path in (self._at.live, self._at.copy):
            rewrite(path, merged(live, known, jump.after_s)[0])

    def _close_lookout(self) -> None:
        if self._lookout is not None:
            self._poll.unregister(self._lookout)
            self._lookout.close()
            self._lookout = None

    def _tell_new(self, before: tuple[Offer, ...], now: tuple[Offer, ...]) -> None:
        known, there = {o.identity for o in before}, {o.identity for o in now}
        for offer in now:
            if offer.identity not in known:
                self._tell(f"DHCP server {offer.server} ({offer.server_mac}) hands out {offer.terms()}")
        for offer in before:
            if offer.identity not in there:
                self._tell(f"DHCP server {offer.server} ({offer.server_mac}) answers no more")

    def _offers(self) -> tuple[Offer, ...]:
        return (self._lookout.offers or ()) if self._lookout else ()

    def _leases(self) -> list[Lease]:
        now_s = time.time()
        return [it for it in read_leases(self._at.live) if it.lasts(now_s)] if self._server else []

    def _trouble(self) -> tuple[Problem, ...]:
        if not self._server or not self._copy.trouble:
            return ()
        remedy = "make room; until then a power cut may lose leases"
        return (Problem(str(self._at.copy), f"leases cannot be copied: {self._copy.trouble}", remedy, Exit.FAULT),)


def _view(lease: Lease, now_s: float) -> LeaseView:
    left_s = round(lease.ends_s - now_s) if lease.ends_s else None
    return LeaseView("ours", left_s, "" if lease.name == "*" else lease.name)
