"""What a client is told when it asks: on the loopback, without a lab."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sidegate.lab.asking import http_get, udp_echo, why
from sidegate.lab.resolving import resolve

NO_ROUTE = "No route to host"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError("timed out"), "no answer"),
        (OSError(errno.EHOSTUNREACH, NO_ROUTE), NO_ROUTE),
        (ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)), "Connection refused"),
        (http.client.RemoteDisconnected("closed without response"), "closed without response"),
        (OSError(), "OSError"),
    ],
)
def testwhy(error: Exception, words: str) -> None:
    assert why(error) == words


@contextmanager
def server(kind: int, answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server on the loopback that acts once; gives its port."""
    with socket.socket(socket.AF_INET, kind) as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def replying(reply: bytes) -> Callable[[socket.socket], None]:
    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(reply)

    return answer


@pytest.mark.parametrize(
    ("reply", "ok", "detail"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnas\n", True, "nas"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", False, "status 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnas\n", False, "IncompleteRead(4 bytes read, 5 more expected)"),
        (b"", False, "Remote end closed connection without response"),
    ],
    ids=["answered", "not found", "cut off", "hung up"],
)
def test_http_get(reply: bytes, ok: bool, detail: str) -> None:
    with server(socket.SOCK_STREAM, replying(reply)) as port:
        answer = http_get("127.0.0.1", port)
    assert (answer.ok, answer.detail, answer.address) == (ok, detail, "127.0.0.1")
    assert answer.port not in (0, port)


def test_http_get_where_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        answer = http_get("127.0.0.1", unused.getsockname()[1])
    assert (answer.ok, answer.detail) == (False, "Connection refused")


def test_http_get_asks_from_the_address_given() -> None:
    asker: list[str] = []

    def answer(listener: socket.socket) -> None:
        connection, (address, _) = listener.accept()
        asker.append(address)
        connection.close()

    with server(socket.SOCK_STREAM, answer) as port:
        answered = http_get("127.0.0.1", port, source="127.0.0.9")
    assert (asker, answered.address) == (["127.0.0.9"], "127.0.0.9")


@pytest.mark.parametrize(("back", "ok"), [(b"hello", True), (b"other", False)])
def test_udp_echo_is_right_only_if_the_same_comes_back(back: bytes, ok: bool) -> None:
    def answer(listener: socket.socket) -> None:
        _, asker = listener.recvfrom(100)
        listener.sendto(back, asker)

    with server(socket.SOCK_DGRAM, answer) as port:
        answered = udp_echo("127.0.0.1", port)
    assert (answered.ok, answered.detail, answered.address) == (ok, back.decode(), "127.0.0.1")


@pytest.mark.parametrize(("taken_by_another", "detail"), [(False, "no answer"), (True, "Connection refused")])
def test_resolve_without_a_resolver(taken_by_another: bool, detail: str) -> None:
    """A datagram socket that is connected takes nothing from others: to them its port is closed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        if taken_by_another:
            silent.connect(("127.0.0.9", 9))
        answer = resolve("server.example", "127.0.0.1", timeout_s=0.05, port=silent.getsockname()[1])
    assert (answer.ok, answer.detail) == (False, detail)
