"""Watches whether somebody else uses this box's address, for the daemon's loop; what follows is `probe.conflict`'s."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address

from sidegate.gateway.health.othergateways import Caller, Callers
from sidegate.gateway.ruleset.nft import Client
from sidegate.packet import build, parse
from sidegate.probe.conflict import Rival, Rivals, asked_for, senders_of
from sidegate.probe.talk import Vantage
from sidegate.probe.wire import assemble, attach_filter
from sidegate.problems import Exit, Problem

_LARGEST_FRAME = 2048
_FRAMES_PER_TURN = 64
_ALL = 0x0003
"""ETH_P_ALL: the filter chooses."""


class OwnAddress:
    """Wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    is_speaking: whether this box is to be found at its address now; while the router stands in for it, it is not.
    met: hears of devices that ask whether an address is free, as another gateway does.
    """

    def __init__(
        self, tell: Callable[[str], None], is_speaking: Callable[[], bool], met: Callable[[Client, float], None]
    ) -> None:
        self._tell, self._is_speaking, self._met = tell, is_speaking, met
        self._at: Vantage | None = None
        self._rivals: Rivals | None = None
        self._callers = Callers()
        self._wire: socket.socket | None = None
        self._trouble = ""
        self._poll = select.epoll()

    def fileno(self) -> int:
        return self._poll.fileno()

    def next_deadline(self) -> float | None:
        return self._rivals.next_s() if self._rivals is not None and self._is_speaking() else None

    def stand_at(self, vantage: Vantage | None) -> None:
        """Where our address is; None: nowhere. An interface that cannot be used is tried at the next call."""
        if vantage == self._at and (self._wire is not None or vantage is None):
            return
        self._hang_up()
        self._at = vantage
        if vantage is None:
            return
        try:
            self._wire = _packet_socket(vantage)
        except OSError as error:
            self._trouble = error.strerror or str(error)
            return
        self._trouble, self._rivals = "", Rivals(vantage.ip, vantage.mac)
        self._poll.register(self._wire, select.EPOLLIN)

    def turn(self, now: float) -> None:
        if self._wire is None or self._rivals is None:
            return
        try:
            self._take_in(self._wire, self._rivals, now)
            for it in self._rivals.gone(now):
                self._tell(f"{it.mac} uses this box's address {self._rivals.ip} no more")
            for frame in self._rivals.to_say(now) if self._is_speaking() else ():
                self._wire.send(build(frame))
        except OSError as error:
            self._hang_up()
            self._trouble = error.strerror or str(error)

    def faults(self) -> tuple[Problem, ...]:
        """Who uses our address too; or that this cannot be seen."""
        if self._at is not None and self._trouble:
            what = f"whether another device uses {self._at.ip} cannot be seen: {self._trouble}"
            return (Problem(self._at.interface, what, "is the interface up?", Exit.FAULT),)
        rivals, now = self._rivals, time.monotonic()
        steady = self.callers()
        return tuple(_conflict(it, rivals.ip, (it.mac, rivals.ip) in steady, now) for it in rivals) if rivals else ()

    def callers(self) -> frozenset[Caller]:
        """Who asks for an address steadily."""
        return self._callers.steady(time.monotonic())

    def close(self) -> None:
        self._hang_up()
        self._poll.close()

    def _take_in(self, wire: socket.socket, rivals: Rivals, now: float) -> None:
        for _ in range(_FRAMES_PER_TURN):
            try:
                frame = parse(wire.recv(_LARGEST_FRAME))
            except BlockingIOError:
                return
            asked = asked_for(frame)
            if asked is not None:
                self._met(Client(*asked), now)
                self._callers.heard(asked, now)
            rival = rivals.heard(frame, now)
            if rival is not None:
                what = f"another device, {rival.mac}, uses this box's own address {rivals.ip}"
                self._tell(f"fault: {what}; announced once that it is ours")

    def _hang_up(self) -> None:
        if self._wire is not None:
            self._poll.unregister(self._wire)
            self._wire.close()
        self._wire = self._rivals = None


def _conflict(rival: Rival, ip: IPv4Address, is_steady: bool, now: float) -> Problem:
    what = f"{rival.mac} uses this box's own address {ip} too, since {now - rival.since_s:.0f} s"
    also = "; it asks for it steadily, as a second Sidegate does" if is_steady else ""
    remedy = "give one of the two another address; until then clients reach either"
    return Problem("address conflict", what + also, remedy, Exit.FAULT)


def _packet_socket(at: Vantage) -> socket.socket:
    """Raises OSError. Bound only once it has its filter, or it would hear everything."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        attach_filter(wire, assemble(senders_of(at.ip)))
        wire.setblocking(False)
        wire.bind((at.interface, _ALL))
    except OSError:
        wire.close()
        raise
    return wire
