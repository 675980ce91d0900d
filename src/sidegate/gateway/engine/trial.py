"""One real HTTP request through an upstream, by the engine's local port, timed: what shows that it works.

The conversation is a generator without I/O; `Trials` holds many of them for the daemon's loop. Whatever comes back is a
stranger's word: it is bounded in size and time, and nothing of it is repeated to anybody but the status.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

import h11
from msgspec import Struct

from sidegate.problems import Problem, Problems

if TYPE_CHECKING:
    import ssl

WITHIN_S = 5.0
"""For a whole trial. A page that takes longer through an upstream is one that people give up on."""
FIRST_WITHIN_S = 2.0
"""For one that never answered: few take longer, and those are tried again with more time."""
_LATE_S = 0.5
"""A turn that comes so much later than it was wanted was kept waiting by something else."""
_MOST_BYTES = 1 << 16
_HEAD_MOST = 1 << 14
_RECEIVE = 1 << 14
_CLOSED = "closed without an answer: the upstream is not there, or refuses us"

Talk = Generator[bytes, bytes, int]
"""Yields what to send, maybe nothing, and is resumed with what came; b"": the other end has closed. Returns the status
of the answer. Raises Failed."""


class Failed(Exception):
    """The words say why, for a person."""


class Question(Struct, frozen=True):
    """What is asked of whom. host: a name or an address, without brackets. target: path and query."""

    host: str
    port: int
    target: str
    is_tls: bool

    @property
    def authority(self) -> str:
        """As in a Host header (RFC 9110 section 7.2); always with its port, as CONNECT wants it (section 9.3.6)."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Outcome(Struct, frozen=True):
    """latency_ms: from the first packet to the answer's head; None where it failed. why: in words."""

    is_good: bool
    why: str
    latency_ms: float | None = None


def question(url: str) -> Question:
    """Raises Problems for what cannot be asked."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and not parts.username and _is_plain(url):
            return _question(parts, parts.hostname)
        raise ValueError("not an address of the form http://HOST/PATH or https://HOST/PATH")
    except ValueError as error:
        remedy = "leave it out, or take a small page that is always there"
        raise Problems(Problem("proxy.check", f'"{url}": {error}', remedy)) from None


def _is_plain(url: str) -> bool:
    """Nothing in it can end a line, or a header, of what is sent."""
    return url.isascii() and url.isprintable() and " " not in url


def _question(parts: SplitResult, host: str) -> Question:
    is_tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Question(host, parts.port or (443 if is_tls else 80), target, is_tls)


def asking(it: Question, context: ssl.SSLContext | None = None) -> Talk:
    """The conversation with an HTTP proxy. context: whom to trust, for a question over TLS; default: this system's."""
    status = yield from _exchange("CONNECT", it.authority, it.authority)
    if not 200 <= status < 300:
        raise Failed(f"the engine answers {status}")
    inner = _exchange("GET", it.target, it.authority)
    return (yield from (_through_tls(inner, it.host, context or _trust()) if it.is_tls else inner))


def _exchange(method: str, target: str, authority: str) -> Talk:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_MOST)
    headers = [("Host", authority), ("User-Agent", "sidegate"), ("Accept", "*/*")]
    request = h11.Request(method=method, target=target, headers=headers)
    out = (http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b"")
    left = _MOST_BYTES
    try:
        while True:
            data = yield out
            out, left = b"", left - len(data)
            if not data:
                raise Failed(_CLOSED)
            if left < 0:
                raise Failed("what comes back has no end")
            http.receive_data(data)
            while (event := http.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    return event.status_code
    except h11.RemoteProtocolError:
        raise Failed("what comes back is not HTTP") from None


@cache
def _trust() -> ssl.SSLContext:
    """Imported when it is needed: it costs memory that most never need."""
    import ssl

    return ssl.create_default_context()


def _through_tls(inner: Talk, host: str, context: ssl.SSLContext) -> Talk:
    """Another talk's bytes, wrapped (RFC 8446). Raises Failed, also for a certificate that is not the host's."""
    import ssl

    come, go = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(come, go, server_hostname=host)
    left = _MOST_BYTES
    try:
        while not _shakes_hands(tls):
            data = yield go.read()
            left -= len(data)
            if not data or left < 0:
                raise Failed("closed during the TLS handshake: the upstream is not there, or refuses us")
            come.write(data)
        tls.write(next(inner))
        while True:
            data = yield go.read()
            come.write(data)
            for plain in _decrypted(tls):
                inner.send(plain)
            if not data:
                inner.send(b"")
    except StopIteration as end:
        return int(end.value)
    except ssl.SSLCertVerificationError as error:
        raise Failed(f"the certificate of {host} is not valid: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise Failed(f"TLS: {error.reason or 'the connection was closed'}") from None


def _shakes_hands(tls: ssl.SSLObject) -> bool:
    """Whether the handshake is done."""
    import ssl

    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _decrypted(tls: ssl.SSLObject) -> list[bytes]:
    import ssl

    found = []
    with contextlib.suppress(ssl.SSLWantReadError):
        while plain := tls.read(_RECEIVE):
            found.append(plain)
    return found


class _Call:
    """One talk on its socket."""

    def __init__(self, port: int, talk: Talk, now_s: float, within_s: float) -> None:
        """Raises OSError where nobody listens, unless that is told later."""
        self.began_s, self.within_s, self.ends_s = now_s, within_s, now_s + within_s
        self._talk = talk
        self._out = next(talk)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.socket.connect_ex(("127.0.0.1", port))

    @property
    def wants(self) -> int:
        return select.EPOLLOUT if self._out else select.EPOLLIN

    def turn(self) -> int | None:
        """Goes on as far as it goes without waiting; the answer's status once it is there. Raises Failed."""
        try:
            if self._out:
                self._out = self._out[self.socket.send(self._out) :]
            return None if self._out else self._receive()
        except BlockingIOError:
            return None
        except ConnectionRefusedError:
            raise Failed("the engine does not listen") from None
        except ConnectionResetError:
            raise Failed(_CLOSED) from None
        except OSError as error:
            raise Failed(f"the connection broke: {error.strerror}") from None

    def _receive(self) -> int | None:
        try:
            self._out = self._talk.send(self.socket.recv(_RECEIVE))
        except StopIteration as end:
            return int(end.value)
        return None


class Trials:
    """Trials under way, for a selectors loop: wait for `fileno` until `next_deadline`, then `turn`.

    Times are `time.monotonic()`.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[str, _Call]] = []
        self._poll = select.epoll()
        self._turned_s = 0.0

    def fileno(self) -> int:
        return self._poll.fileno()

    def next_deadline(self) -> float | None:
        """When a trial has lasted long enough; None: none is under way."""
        return min((call.ends_s for _, call in self._calls), default=None)

    def start(self, name: str, port: int, it: Question, now_s: float, within_s: float = WITHIN_S) -> None:
        """A trial by the HTTP proxy at 127.0.0.1:port, beside others of the same name that are under way."""
        call = _Call(port, asking(it), now_s, within_s)
        self._calls.append((name, call))
        self._poll.register(call.socket, call.wants)

    def turn(self, now_s: float) -> list[tuple[str, Outcome]]:
        """What came of those that are done. With an answer all trials of that name are: it works."""
        self._forgive(now_s)
        self._turned_s = now_s
        ready = {fd for fd, _ in self._poll.poll(0)}
        turned = [
            (it, _turn(it[1], now_s)) for it in self._calls if it[1].socket.fileno() in ready or now_s >= it[1].ends_s
        ]
        done = [(it, outcome) for it, outcome in turned if outcome is not None]
        for it, _ in done:
            self._end(it)
        answered = {name for (name, _), outcome in done if outcome.is_good}
        self.give_up(*answered)
        for _, call in self._calls:
            self._poll.modify(call.socket, call.wants)
        return [(name, outcome) for (name, _), outcome in done if outcome.is_good or name not in answered]

    def _forgive(self, now_s: float) -> None:
        """Time in which nobody listened is no upstream's silence."""
        wanted_s = self.next_deadline()
        if wanted_s is not None and now_s > wanted_s + _LATE_S:
            for _, call in self._calls:
                call.ends_s += now_s - max(call.began_s, self._turned_s)

    def give_up(self, *names: str) -> None:
        for it in [it for it in self._calls if it[0] in names]:
            self._end(it)

    def give_up_all(self) -> None:
        self.give_up(*(name for name, _ in self._calls))

    def _end(self, it: tuple[str, _Call]) -> None:
        self._calls.remove(it)
        self._poll.unregister(it[1].socket)
        it[1].socket.close()

    def close(self) -> None:
        self.give_up_all()
        self._poll.close()


def _turn(call: _Call, now_s: float) -> Outcome | None:
    try:
        status = call.turn()
    except Failed as error:
        return Outcome(False, str(error))
    if status is not None:
        latency_ms = (time.monotonic() - call.began_s) * 1000
        is_good = 200 <= status < 400
        return Outcome(is_good, f"answered {status} in {latency_ms:.0f} ms", latency_ms if is_good else None)
    return Outcome(False, f"no answer within {call.within_s:g} s") if now_s >= call.ends_s else None
