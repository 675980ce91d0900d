"""Many talks side by side, without I/O: who is resumed when, and what goes out next.

The owner hands in the time, incoming frames and a way to reserve UDP ports; it takes outgoing frames and results.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from msgspec import Struct

from sidegate.packet import Frame
from sidegate.probe.talk import (
    Clock,
    Command,
    Flow,
    FreshDhcpXid,
    FreshIcmpId,
    Heard,
    ListenArp,
    ListenRa,
    Send,
    Talk,
    Wait,
    flow_of,
)

R = TypeVar("R")

REUSE_AFTER_S = 60.0
"""An ICMP conntrack entry lives 30 s (net/netfilter/nf_conntrack_proto_icmp.c, nf_ct_icmp_timeout): twice that."""

AT_ONCE = 0.0
"""A deadline that has passed already, on any monotonic clock."""


class Ids:
    """ICMP ids, random and never given twice within REUSE_AFTER_S."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._given: deque[tuple[float, int]] = deque()
        self._recent: set[int] = set()

    def fresh(self, now: float) -> int:
        """An id of 1 to 65535. Raises RuntimeError if all were given within the last minute."""
        while self._given and self._given[0][0] <= now - REUSE_AFTER_S:
            self._recent.discard(self._given.popleft()[1])
        if len(self._recent) >= 65535:
            raise RuntimeError("every ICMP id was used within the last minute")
        while (number := self._rng.randint(1, 65535)) in self._recent:
            pass
        self._given.append((now, number))
        self._recent.add(number)
        return number


class _Line(Struct, Generic[R]):
    """One talk and where it stands. waiting_s: the time until which it waits, None while it does not wait."""

    talk: Talk[R]
    inbox: deque[Heard]
    flows: list[Flow]
    waiting_s: float | None = None


class Switchboard(Generic[R]):
    """Runs talks.

    reserve_port: reserves a fresh UDP port; release_port: gives it back. rate: frames per second over all talks;
    burst: frames that may go out together after a pause. at_once: talks that run at the same time; the others wait,
    so that each one is finished quickly instead of all slowly. The last to come is the first to begin: thousands that
    somebody made up would else keep a newcomer waiting, and let proofs lapse that are to be renewed.
    """

    def __init__(
        self,
        rng: random.Random,
        reserve_port: Callable[[], int],
        release_port: Callable[[int], None],
        *,
        rate: float = 200,
        burst: int = 20,
        at_once: int = 16,
    ) -> None:
        self._rng, self._ids = rng, Ids(rng)
        self._reserve_port, self._release_port = reserve_port, release_port
        self._gap_s, self._burst, self._at_once = 1 / rate, burst, at_once
        self._full_again_s = 0.0
        self._waiting: deque[tuple[int, Talk[R]]] = deque()
        self._lines: dict[int, _Line[R]] = {}
        self._owners: dict[Flow, list[int]] = {}
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._timers: list[tuple[float, int]] = []
        self._finished: list[tuple[int, R]] = []
        self._last_key = 0

    def start(self, talk: Talk[R]) -> int:
        """Queue a talk; it begins at the next `advance`. Returns its key."""
        self._last_key += 1
        self._waiting.append((self._last_key, talk))
        return self._last_key

    def heard(self, frame: Frame, now: float) -> None:
        """A frame came in; it goes to the talks that asked, and strangers' frames go nowhere."""
        flow = flow_of(frame)
        for key in tuple(self._owners.get(flow, ())) if flow else ():
            line = self._lines[key]
            line.inbox.append(Heard(frame, now))
            if line.waiting_s is not None:
                line.waiting_s = None
                self._resume(key, line.inbox.popleft(), now)

    def advance(self, now: float) -> None:
        """Resume every talk whose time has come, and begin waiting ones."""
        while self._timers and self._timers[0][0] <= now:
            due_s, key = heapq.heappop(self._timers)
            line = self._lines.get(key)
            if line is not None and line.waiting_s == due_s:
                line.waiting_s = None
                self._resume(key, None, now)
        while self._waiting and len(self._lines) < self._at_once:
            key, talk = self._waiting.pop()
            self._lines[key] = _Line(talk, deque(), [])
            self._resume(key, None, now)

    def to_send(self, now: float) -> bytes | None:
        """The frame that may go out now; None if there is none or the rate is used up. Call `sent` after sending."""
        if not self._outbox or self._next_send_s() > now:
            return None
        return self._outbox[0][1]

    def sent(self, now: float) -> None:
        """The frame of `to_send` went out."""
        key, _ = self._outbox.popleft()
        self._full_again_s = max(self._full_again_s, now) + self._gap_s
        self._resume(key, now, now)

    def hold_back(self, until_s: float) -> None:
        """Send nothing before this time."""
        self._full_again_s = max(self._full_again_s, until_s + (self._burst - 1) * self._gap_s)

    def next_deadline(self) -> float | None:
        """When `advance` or `to_send` has something to do next; None if only a frame or a new talk can bring it."""
        while self._timers and not self._is_live(*self._timers[0]):
            heapq.heappop(self._timers)
        times = [self._timers[0][0]] if self._timers else []
        if self._outbox:
            times.append(self._next_send_s())
        if self._waiting and len(self._lines) < self._at_once:
            times.append(AT_ONCE)
        return min(times, default=None)

    def finished(self) -> list[tuple[int, R]]:
        """Results since the last call, with their keys."""
        done, self._finished = self._finished, []
        return done

    def close(self) -> None:
        """End every talk without a result and release its ports."""
        self._waiting.clear()
        self._outbox.clear()
        for key in list(self._lines):
            self._hang_up(key).talk.close()

    def _next_send_s(self) -> float:
        """A leaky bucket: `burst` frames are free after a pause of their gaps' length."""
        return self._full_again_s - (self._burst - 1) * self._gap_s

    def _is_live(self, due_s: float, key: int) -> bool:
        line = self._lines.get(key)
        return line is not None and line.waiting_s == due_s

    def _resume(self, key: int, answer: Any, now: float) -> None:
        """Run a talk until it has to wait for the wire or the clock, or is over."""
        line = self._lines[key]
        try:
            command = line.talk.send(answer)
            while not self._parked(key, line, command):
                command = line.talk.send(self._answer(key, line, command, now))
        except StopIteration as end:
            self._hang_up(key)
            self._finished.append((key, end.value))

    def _parked(self, key: int, line: _Line[R], command: Command) -> bool:
        if isinstance(command, Send):
            self._outbox.append((key, command.frame))
            return True
        if isinstance(command, Wait) and not line.inbox:
            line.waiting_s = command.until_s
            heapq.heappush(self._timers, (command.until_s, key))
            return True
        return False

    def _answer(self, key: int, line: _Line[R], command: Command, now: float) -> Any:
        if isinstance(command, Clock):
            return now
        if isinstance(command, Wait):
            return line.inbox.popleft()
        if isinstance(command, ListenArp):
            return self._own(key, line, ("arp", int(command.ip)))
        if isinstance(command, ListenRa):
            return self._own(key, line, ("ra", 0))
        if isinstance(command, FreshIcmpId):
            return self._own(key, line, ("icmp", self._ids.fresh(now)))
        if isinstance(command, FreshDhcpXid):
            return self._own(key, line, ("dhcp", self._rng.getrandbits(32)))
        return self._own(key, line, ("udp", self._reserve_port()))

    def _own(self, key: int, line: _Line[R], flow: Flow) -> int:
        line.flows.append(flow)
        self._owners.setdefault(flow, []).append(key)
        return flow[1]

    def _hang_up(self, key: int) -> _Line[R]:
        line = self._lines.pop(key)
        for flow in line.flows:
            self._owners[flow].remove(key)
            if not self._owners[flow]:
                del self._owners[flow]
            if flow[0] == "udp":
                self._release_port(flow[1])
        return line
