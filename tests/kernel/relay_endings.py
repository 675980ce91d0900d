"""Connections of the relay's that end in all ways: `unshare -Urn python -m tests.kernel.relay_endings every_ending`."""

from __future__ import annotations

import json
import os
import random
import select
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from sidegate.gateway.engine.handshakes import Proxy
from sidegate.gateway.engine.splicing import break_off
from tests.kernel.engine_stage.clients import exactly
from tests.kernel.engine_stage.programs import sh, wait_until
from tests.kernel.relay_stage import WITHIN_S, begin, client

_BATCHES, _AT_A_TIME = 30, 50
_CHANCE = random.Random(2026)  # noqa: S311 (the same each time)
_WORDS, _LAST = b"words", b"I am the last"
_ANSWER = b"\5\0" + b"\5\0\0\1" + bytes(6)
"""All that a proxy says before its target does; it may say it at once."""
_ASKED = 3 + 10
"""Octets of what it is asked meanwhile (RFC 1928 sections 3 and 4)."""


def _say_all(it: socket.socket) -> None:
    it.shutdown(socket.SHUT_WR)


def _say_more_than_is_taken(it: socket.socket) -> None:
    it.setblocking(False)
    while True:
        it.send(bytes(1 << 16))


def _do_nothing(_: socket.socket) -> None:
    pass


_ACTS: tuple[Callable[[socket.socket], None], ...] = (
    break_off,
    socket.socket.close,  # by a reset, where it leaves words unread (RFC 9293 section 3.10.4)
    _say_all,
    _say_more_than_is_taken,
    _do_nothing,
)


def every_ending() -> dict[str, int]:
    """How many of them passed words on before they ended; and the relay's files that are open afterwards."""
    pipes = _open("pipe:")
    sh("for it in rmem wmem; do echo 4096 16384 16384 > /proc/sys/net/ipv4/tcp_$it; done")
    server = socket.create_server(("127.0.0.1", 0), backlog=4 * _AT_A_TIME)
    server.settimeout(WITHIN_S)
    begin(Proxy("socks", *server.getsockname()))
    sockets = _open("socket:")
    joined = sum(_batch(server, is_patient=number % 2 == 0) for number in range(_BATCHES))
    _let_all_in(server)
    with suppress(TimeoutError):
        wait_until(lambda: _open_after_all(server) == sockets)
    return {"joined": joined, "sockets": _open("socket:") - sockets, "pipes": _open("pipe:") - pipes}


def _open(kind: str) -> int:
    return sum(_kind(name).startswith(kind) for name in os.listdir("/proc/self/fd"))


def _open_after_all(server: socket.socket) -> int:
    """Sockets. What came late is ended as well."""
    for it in _at_hand(server):
        it.close()
    return _open("socket:")


def _kind(name: str) -> str:
    """Empty where it was closed meanwhile."""
    with suppress(FileNotFoundError):
        return os.readlink(f"/proc/self/fd/{name}")
    return ""


def _batch(server: socket.socket, *, is_patient: bool) -> int:
    """is_patient: whether those that can pass words on have done so, before they end as well."""
    clients = [client(words=_WORDS) for _ in range(_AT_A_TIME)]
    _act(_CHANCE.sample(clients, _AT_A_TIME // 4))
    proxies = _accepted(server, sum(it.fileno() >= 0 for it in clients))
    joined = 0
    for it in proxies:
        it.settimeout(WITHIN_S)
        answer = _ANSWER[: _CHANCE.randint(0, 3 * len(_ANSWER))]
        with suppress(OSError):
            it.sendall(answer)
            joined += answer == _ANSWER and is_patient and _hears(it, _WORDS)
    for _ in range(3):
        _act([*clients, *proxies])
    for it in (*clients, *proxies):
        it.close()
    return joined


def _accepted(server: socket.socket, at_least: int) -> list[socket.socket]:
    """The relay's connections. at_least: for so many clients one will come. For one that has ended none may, or so late
    that the next batch has it, or another one in its place.
    """
    return [*(server.accept()[0] for _ in range(at_least)), *_at_hand(server)]


def _at_hand(server: socket.socket) -> Iterator[socket.socket]:
    while select.select([server], [], [], 0)[0]:
        yield server.accept()[0]


def _let_all_in(server: socket.socket) -> None:
    """One more client is heard, as the last: by then the relay has taken in all that came before."""
    with client(words=_LAST):
        is_heard = False
        while not is_heard:
            with server.accept()[0] as it, suppress(OSError):
                it.settimeout(WITHIN_S)
                it.sendall(_ANSWER)
                is_heard = _hears(it, _LAST)


def _hears(it: socket.socket, words: bytes) -> bool:
    return exactly(it, _ASKED + len(words))[_ASKED:] == words


def _act(sockets: Iterable[socket.socket]) -> None:
    """Each in one of the ways, in any order; many of them are broken by then, or closed."""
    for it in sorted(sockets, key=lambda _: _CHANCE.random()):
        with suppress(OSError):
            _CHANCE.choice(_ACTS)(it)


if __name__ == "__main__":
    print(json.dumps({it.__name__: it for it in (every_ending,)}[sys.argv[1]]()))
