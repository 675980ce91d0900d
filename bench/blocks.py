"""Blocks of bytes over TCP connections that stay open: many short turns, in which nothing but the data is measured.

The asking side names a way and a size on each of its connections; `u`: it sends so much, and is told of the last byte
by one of the other side's; `d`: it is sent so much. One thread on each side, and 128 KiB a call, as in iperf3.

The served side can be a SOCKS5 proxy as well, whose every target is itself: then no proxy's own work is in the way of
what is measured before it.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Generator, Sequence
from typing import Any, Literal

Way = Literal["up", "down"]

_HEADER = struct.Struct("!cQ")
_CODES: dict[Way, bytes] = {"up": b"u", "down": b"d"}
_CHUNK = 128 * 1024
_TIMEOUT_S = 20.0
_GREETED = b"\5\0"
"""No authentication (RFC 1928, section 3)."""
_CONNECTED = b"\5\0\0\1" + bytes(6)
"""Section 6; what address the proxy has does not matter."""
_ADDRESS_LEFT = {1: 4 + 2 - 1, 4: 16 + 2 - 1}
"""By type, what follows a request's first five bytes: its address but for a byte, and the port (sections 4 and 5)."""


class _Served:
    """What is left of the block on one connection, and which way. socks: who reads what the client begins with."""

    def __init__(self, socks: Generator[int, bytes] | None) -> None:
        self.left = 0
        self.is_up = True
        self.socks = socks
        self.wanted = next(socks) if socks else 0


def serve(address: str, first_port: int, ports: int, socks_port: int | None = None) -> None:
    """At so many ports, for ever. Runs on the server's machine. socks_port: where it is a proxy; None: nowhere."""
    buffer = bytearray(_CHUNK)
    with selectors.DefaultSelector() as selector:
        for port in (*range(first_port, first_port + ports), *([socks_port] if socks_port else [])):
            listener = socket.create_server((address, port), backlog=64)
            selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    _accept(key, selector, socks_port)
                else:
                    _go_on(selector, key, buffer)


def _accept(key: selectors.SelectorKey, selector: selectors.BaseSelector, socks_port: int | None) -> None:
    assert isinstance(key.fileobj, socket.socket)
    connection, _ = key.fileobj.accept()
    connection.setblocking(False)
    is_proxy = connection.getsockname()[1] == socks_port
    selector.register(connection, selectors.EVENT_READ, _Served(_beginning(connection) if is_proxy else None))


def _beginning(it: socket.socket) -> Generator[int, bytes]:
    """Of a client of the proxy: yields how much it wants to read, and is sent that (RFC 1928, sections 3 and 4)."""
    greeting = yield 2
    yield greeting[1]
    it.send(_GREETED)
    request = yield 5
    yield _ADDRESS_LEFT.get(request[3], request[4] + 2)
    it.send(_CONNECTED)


def _go_on(selector: selectors.BaseSelector, key: selectors.SelectorKey, buffer: bytearray) -> None:
    it, served = key.fileobj, key.data
    assert isinstance(it, socket.socket)
    if served.socks:
        _greet(selector, it, served)
    elif served.left and served.is_up:
        served.left -= it.recv_into(buffer)
        if not served.left:
            it.send(b".")
    elif served.left:
        served.left -= it.send(memoryview(buffer)[: min(_CHUNK, served.left)])
        if not served.left:
            selector.modify(it, selectors.EVENT_READ, served)
    else:
        _begin(selector, it, served)


def _greet(selector: selectors.BaseSelector, it: socket.socket, served: _Served) -> None:
    """Its parts are so short that each comes as a whole."""
    assert served.socks
    part = it.recv(served.wanted)
    if len(part) < served.wanted:
        selector.unregister(it)
        it.close()
        return
    try:
        served.wanted = served.socks.send(part)
    except StopIteration:
        served.socks = None


def _begin(selector: selectors.BaseSelector, it: socket.socket, served: _Served) -> None:
    header = it.recv(_HEADER.size)
    if not header:
        selector.unregister(it)
        it.close()
        return
    code, served.left = _HEADER.unpack(header)
    served.is_up = code == _CODES["up"]
    if not served.is_up:
        selector.modify(it, selectors.EVENT_WRITE, served)


def transfer_s(connections: Sequence[socket.socket], way: Way, size: int) -> float:
    """Seconds for a block of that many bytes, the same part of it on each connection. Raises OSError, TimeoutError."""
    part = size // len(connections)
    header = _HEADER.pack(_CODES[way], part)
    start = time.perf_counter()
    for it in connections:
        it.sendall(header)
    (_send if way == "up" else _receive)(connections, part)
    return time.perf_counter() - start


def _send(connections: Sequence[socket.socket], part: int) -> None:
    data = memoryview(bytes(_CHUNK))
    with _watched(connections, selectors.EVENT_WRITE, part) as selector:
        while selector.get_map():
            for it, left in _ready(selector):
                if not left[0]:
                    _end(selector, it, it.recv(1))
                    continue
                left[0] -= it.send(data[: min(_CHUNK, left[0])])
                if not left[0]:
                    selector.modify(it, selectors.EVENT_READ, left)


def _receive(connections: Sequence[socket.socket], part: int) -> None:
    buffer = bytearray(_CHUNK)
    with _watched(connections, selectors.EVENT_READ, part) as selector:
        while selector.get_map():
            for it, left in _ready(selector):
                received = it.recv_into(buffer)
                left[0] -= received
                if not left[0] or not received:
                    _end(selector, it, received)


def _watched(connections: Sequence[socket.socket], event: int, part: int) -> selectors.BaseSelector:
    selector = selectors.DefaultSelector()
    for it in connections:
        it.setblocking(False)
        selector.register(it, event, [part])
    return selector


def _ready(selector: selectors.BaseSelector) -> list[tuple[Any, list[int]]]:
    """Connections, and what is left of the block on each."""
    ready = selector.select(_TIMEOUT_S)
    if not ready:
        raise TimeoutError("a block does not go on")
    return [(key.fileobj, key.data) for key, _ in ready]


def _end(selector: selectors.BaseSelector, it: socket.socket, said: object) -> None:
    if not said:
        raise ConnectionError("a block was broken off")
    selector.unregister(it)
    it.setblocking(True)
