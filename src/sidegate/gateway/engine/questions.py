"""DNS questions that come one by one as datagrams, led over few connections to whoever answers TCP at the same port.

That is one of Xray's inbounds for DNS. By itself Xray makes a connection of every datagram's sender, and keeps each for
minutes: a server that allows twenty falls silent after twenty names. Here they share one, as RFC 7766 section 6.2.1
wants it: sent without waiting, answered in any order, told apart by numbers of our own. Where an answer is late the
question is asked once more, on another connection. Xray tells late, or never, that a server has closed its end: one
that seems to do so after each answer gets, for a while, a connection for each question, ended with the answer.

It runs as a thread of the engine's process (`program`), and so imports little.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Never

At = tuple[str, int]

IDLE_S = 5.0
"""How long a connection is kept on which nobody waits: servers end it themselves soon (RFC 7766 section 6.2.3)."""
LATE_S = 1.0
"""Without an answer, after which a question is asked on another connection."""
GIVEN_S = 2.0
"""To a connection for what another one has answered meanwhile."""
WITHIN_S = 6.0
"""Who asks has given up by then, or asked again."""
MOST_STREAMS = 4
FEW = 16
"""Answers after which a server that ends its connection is no longer taken for one that does so with each answer:
dnsmasq does after 100 (its config.h, TCP_MAX_QUERIES)."""
MOST_SINGLE = 16
"""Connections for one question each."""
ALONE_S = 1.0
"""How long the first question has alone."""
PAUSE_S = 10.0
"""Without an answer, after which the connection over HTTPS may have ended: servers keep one longer than that."""
SINGLE_S = 120.0
"""For how long a server that closes its connections has one for each question."""
MOST_WAITING = 1000
"""Of one port; more are dropped, as by a full queue of datagrams."""
_TICK_S = 0.25
_RECEIVE = 1 << 16
_HEADER = 12
_ROOM, _OPT, _TRUNCATED = 512, 41, 0x02


class Question:
    """One that waits for its answer. asked_s: when last. left: on so many more connections it may be asked."""

    def __init__(self, data: bytes, peer: At, now: float) -> None:
        self.data, self.peer, self.ends_s = data, peer, now + WITHIN_S
        self.asked_s, self.left, self.is_answered = now, 2, False


class Stream:
    """One connection. waiting: by our number, the question and when it was asked here. used_s: when it last was."""

    def __init__(self, at: At, now: float) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.socket.connect_ex(at)
        self.waiting: dict[int, tuple[Question, float]] = {}
        self.used_s, self.heard_s = now, 0.0
        self.answers = 0
        self._out, self._come = bytearray(), bytearray()
        self._number = 0

    def ask(self, it: Question, now: float) -> None:
        self._number = next(n for i in range(1, 1 << 16) if (n := self._number + i & 0xFFFF) not in self.waiting)
        self.waiting[self._number] = it, now
        it.asked_s = self.used_s = now
        self._out += len(it.data).to_bytes(2, "big") + self._number.to_bytes(2, "big") + it.data[2:]
        # What is wrong is told when its turn comes.
        with contextlib.suppress(OSError):
            self._send()

    def _send(self) -> None:
        """Raises OSError, BlockingIOError too."""
        while self._out:
            del self._out[: self.socket.send(self._out)]

    def is_late(self, now: float) -> bool:
        return any(now - asked_s >= LATE_S for _, asked_s in self.waiting.values())

    def turn(self, now: float) -> Iterator[tuple[Question, bytes]]:
        """Goes on as far as it goes without waiting; what was answered. Raises OSError once it has ended."""
        with contextlib.suppress(BlockingIOError):
            self._send()
        has_ended = self._receive()
        while len(self._come) > 2 and len(self._come) >= 2 + (length := int.from_bytes(self._come[:2], "big")):
            message = bytes(self._come[2 : 2 + length])
            del self._come[: 2 + length]
            question, _ = self.waiting.pop(int.from_bytes(message[:2], "big"), (None, 0.0))
            if question is not None and length >= _HEADER:
                self.used_s = self.heard_s = now
                self.answers += 1
                yield question, message
        if has_ended:
            raise ConnectionResetError

    def _receive(self) -> bool:
        """All that came; whether the other end has closed. Raises OSError."""
        with contextlib.suppress(BlockingIOError):
            while data := self.socket.recv(_RECEIVE):
                self._come += data
            return True
        return False

    def expire(self, now: float) -> list[Question]:
        """Questions that came to their end here while nothing at all was heard."""
        ended = [
            (n, it)
            for n, (it, asked_s) in self.waiting.items()
            if now >= (asked_s + GIVEN_S if it.is_answered else it.ends_s)
        ]
        for number, _ in ended:
            del self.waiting[number]
        return [it for _, it in ended] if now - self.heard_s >= LATE_S else []

    @property
    def has_few(self) -> bool:
        """Answers, but so few that each of them may have been its last."""
        return 0 < self.answers < FEW

    def is_idle(self, now: float) -> bool:
        return not self.waiting and now - self.used_s >= IDLE_S


class Port:
    """Where datagrams come in, and the connections to the same port. Raises OSError if another program has it.

    is_alone: whether, after a pause, the first question goes alone.
    """

    def __init__(self, at: At, *, is_alone: bool = False) -> None:
        self._at, self._is_alone = at, is_alone
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.socket.bind(at)
        self.streams: list[Stream] = []
        self._later: deque[Question] = deque()
        self._held: list[Question] = []
        self._single_until_s = self._heard_s = self._began_s = 0.0

    def receive(self, now: float) -> None:
        # That one who asked is gone is told here too (ip(7), ECONNREFUSED).
        with contextlib.suppress(OSError):
            data, peer = self.socket.recvfrom(_RECEIVE)
            waiting = len(self._later) + len(self._held) + sum(len(it.waiting) for it in self.streams)
            if len(data) > _HEADER and waiting < MOST_WAITING:
                self._take(Question(data, peer, now), now)

    def _take(self, it: Question, now: float) -> None:
        if self._is_alone and now - self._heard_s >= PAUSE_S:
            if now - self._began_s < ALONE_S:
                self._held.append(it)
                return
            self._began_s = now
        self._ask(it, self.streams, now)

    def _release(self, now: float) -> None:
        held, self._held = self._held, []
        for it in held:
            self._ask(it, self.streams, now)

    def turn(self, stream: Stream, now: float) -> None:
        """Takes what came."""
        try:
            for question, message in stream.turn(now):
                self._heard_s = now
                self._answer(question, message)
            if self._held and self._heard_s == now:
                self._release(now)
            if now < self._single_until_s and not stream.waiting:
                self._close(stream)
        except OSError:
            if stream.has_few and stream.waiting:
                self._single_until_s = now + SINGLE_S
            self._end(stream, now)
        self._ask_later(now)

    def mind(self, now: float) -> None:
        if self._held and now - self._began_s >= ALONE_S:
            self._release(now)
        for stream in list(self.streams):
            for it, _ in list(stream.waiting.values()):
                if now - it.asked_s >= LATE_S and it.left and not it.is_answered:
                    it.left -= 1
                    self._ask(it, [other for other in self.streams if other is not stream], now)
            unheard = stream.expire(now)
            if stream.has_few and any(it.is_answered for it in unheard):
                self._single_until_s = now + SINGLE_S
                for it, _ in stream.waiting.values():
                    it.left = max(it.left, 1)
            if unheard or stream.is_idle(now):
                self._end(stream, now)
        self._ask_later(now)

    def _ask_later(self, now: float) -> None:
        """Those for which there was no connection."""
        while self._later and len(self.streams) < MOST_SINGLE:
            it = self._later.popleft()
            if now < it.ends_s and not it.is_answered:
                self._open(now).ask(it, now)

    def _ask(self, it: Question, streams: Iterable[Stream], now: float) -> None:
        """On one of these that is not late, or a new one; for want of both on the one where fewest wait."""
        if now < self._single_until_s:
            self._later.append(it)
            self._ask_later(now)
            return
        stream = next((s for s in streams if not s.is_late(now)), None)
        if stream is None and len(self.streams) < MOST_STREAMS:
            stream = self._open(now)
        (stream or min(self.streams, key=lambda s: len(s.waiting))).ask(it, now)

    def _open(self, now: float) -> Stream:
        stream = Stream(self._at, now)
        self.streams.append(stream)
        return stream

    def _answer(self, it: Question, message: bytes) -> None:
        if not it.is_answered:
            it.is_answered = True
            # Who asked may be gone.
            with contextlib.suppress(OSError):
                self.socket.sendto(fitting(it.data[:2] + message[2:], it.data), it.peer)

    def _end(self, stream: Stream, now: float) -> None:
        """What waits there is asked on another, unless it was already; once, where this one never answered."""
        self._close(stream)
        for it, _ in stream.waiting.values():
            if it.left and not it.is_answered:
                it.left -= stream.heard_s == 0
                self._ask(it, self.streams, now)

    def _close(self, stream: Stream) -> None:
        stream.socket.close()
        self.streams.remove(stream)


def lead(ports: Iterable[Port]) -> Never:
    """For ever. Connections are closed where they end, and with that no longer waited for (epoll(7))."""
    poll = select.epoll()
    by_fd = {port.socket.fileno(): port for port in ports}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    streams: dict[int, tuple[Port, Stream]] = {}
    minded_s = 0.0
    while True:
        ready = poll.poll(_TICK_S if streams else None)
        now = time.monotonic()
        for fd, _ in ready:
            if fd in by_fd:
                by_fd[fd].receive(now)
            elif fd in streams:
                port, stream = streams[fd]
                port.turn(stream, now)
        if now - minded_s >= _TICK_S:
            minded_s = now
            for port in {id(port): port for port, _ in streams.values()}.values():
                port.mind(now)
        streams = _followed(by_fd.values(), streams, poll)


def _followed(
    ports: Iterable[Port], before: Mapping[int, tuple[Port, Stream]], poll: select.epoll
) -> dict[int, tuple[Port, Stream]]:
    """All connections; new ones are waited for. Each event is told once (EPOLLET), and taken to its end by `turn`."""
    streams = {stream.socket.fileno(): (port, stream) for port in ports for stream in port.streams}
    for fd, (_, stream) in streams.items():
        if fd not in before or before[fd][1] is not stream:
            poll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    return streams


def fitting(answer: bytes, question: bytes) -> bytes:
    """The answer; or, where it is longer than who asked can take, that it is to be asked for over TCP."""
    if len(answer) <= _room(question):
        return answer
    end = _end_of_name(question) + 4
    counts = b"\0\1" + bytes(6)
    return answer[:2] + bytes([answer[2] | _TRUNCATED, answer[3]]) + counts + question[_HEADER:end]


def _room(question: bytes) -> int:
    """What its OPT record says (RFC 6891 section 6.2.3), which follows the name that is asked for; else 512 octets."""
    at = _end_of_name(question) + 4
    is_opt = question[at : at + 1] == b"\0" and int.from_bytes(question[at + 1 : at + 3], "big") == _OPT
    return max(_ROOM, int.from_bytes(question[at + 3 : at + 5], "big")) if is_opt else _ROOM


def _end_of_name(message: bytes) -> int:
    """Of the first one (RFC 1035 section 4.1.2); the end of the message where it has none."""
    at = _HEADER
    while at < len(message) and message[at]:
        at += 1 + message[at]
    return min(at + 1, len(message))
