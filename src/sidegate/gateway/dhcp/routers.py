"""Looks for IPv6 routers, again and again, and asks the DNS servers that they tell clients."""

from __future__ import annotations

import select
import time
from ipaddress import IPv6Address

from sidegate.probe.dns_servers import DnsQuestions
from sidegate.probe.ra import RaResult, link_local, solicit
from sidegate.probe.ra_message import Advert
from sidegate.probe.talk import Vantage
from sidegate.probe.wire import Wire

LOOK_S = 60.0
"""From one look to the next: one or two frames."""
_SILENT_AFTER = 3
"""Looks in a row in which a server did not answer, before that is told."""


class Routers:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    adverts: of the last look; None before its end. Raises Problems when made, and from `turn` when the interface is
    gone or down; close it then.
    """

    def __init__(self, at: Vantage) -> None:
        self.at = at
        self.adverts: tuple[Advert, ...] | None = None
        self._misses: dict[IPv6Address, int] = {}
        self._wire: Wire[RaResult] = Wire(at.interface, at.ip)
        self._questions: DnsQuestions | None = None
        self._poll = select.epoll()
        self._poll.register(self._wire, select.EPOLLIN)
        self._look_at_s = time.monotonic()
        self._is_looking = False

    @property
    def silent(self) -> tuple[IPv6Address, ...]:
        """DNS servers that did not answer for a while."""
        return tuple(server for server, misses in self._misses.items() if misses >= _SILENT_AFTER)

    def fileno(self) -> int:
        return self._poll.fileno()

    def next_deadline(self) -> float:
        if self._questions is not None:
            return self._questions.until_s
        wire_s = self._wire.next_deadline()
        return wire_s if self._is_looking and wire_s is not None else self._look_at_s

    def turn(self, now: float) -> None:
        if not self._is_looking and self._questions is None and now >= self._look_at_s:
            self._wire.start(solicit(self.at.mac, link_local(self.at.interface)))
            self._is_looking, self._look_at_s = True, now + LOOK_S
        self._wire.turn(now)
        for _, result in self._wire.finished():
            self._is_looking, self.adverts = False, result.adverts
            self._begin_asking(result.dns)
        if self._questions is not None and self._questions.turn(now):
            self._end_asking(self._questions)

    def close(self) -> None:
        self._hang_up()
        self._poll.unregister(self._wire)
        self._wire.close()
        self._poll.close()

    def _begin_asking(self, servers: tuple[IPv6Address, ...]) -> None:
        self._hang_up()
        self._misses = {server: self._misses.get(server, 0) for server in servers}
        if servers:
            self._questions = DnsQuestions(self.at.interface, servers)
            self._poll.register(self._questions, select.EPOLLIN)

    def _end_asking(self, questions: DnsQuestions) -> None:
        self._misses = {s: 0 if s in questions.answered else n + 1 for s, n in self._misses.items()}
        self._hang_up()

    def _hang_up(self) -> None:
        if self._questions is not None:
            self._poll.unregister(self._questions)
            self._questions.close()
            self._questions = None
