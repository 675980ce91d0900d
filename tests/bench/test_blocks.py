"""Blocks of bytes, as measurements of throughput send them: straight, and to the proxy that serves them."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator

import pytest

from bench.blocks import Way, serve, transfer_s

_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    """Of the server, and of the proxy; held here, so that nobody else is given one before it listens there."""
    with socket.socket() as one, socket.socket() as two:
        for it in (one, two):
            it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            it.bind(("127.0.0.1", 0))
        plain, proxy = one.getsockname()[1], two.getsockname()[1]
        serving = multiprocessing.get_context("fork").Process(target=serve, args=("127.0.0.1", plain, 1, proxy))
        serving.start()
        yield plain, proxy
        serving.terminate()
        serving.join()


def _connected(port: int) -> socket.socket:
    end = time.monotonic() + _WITHIN_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), _WITHIN_S)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


@pytest.mark.parametrize("way", ["up", "down"])
def test_blocks_pass_one_after_the_other_over_the_same_connections(ports: tuple[int, int], way: Way) -> None:
    connections = [_connected(ports[0]) for _ in range(3)]
    for size in (3, 300_000, 3_000_000):
        transfer_s(connections, way, size)
    for it in connections:
        it.settimeout(_WITHIN_S)
        it.close()


@pytest.mark.parametrize(
    "target",
    [b"\1\1\2\3\4", b"\3\x0fserver.example.", b"\4" + bytes(16)],
    ids=["an IPv4 address", "a name", "an IPv6 address"],
)
def test_the_proxy_is_every_target_itself(ports: tuple[int, int], target: bytes) -> None:
    with _connected(ports[1]) as it:
        it.sendall(b"\5\2\0\2")
        assert it.recv(2) == b"\5\0"
        it.sendall(b"\5\1\0" + target + b"\0\x50")
        assert it.recv(10, socket.MSG_WAITALL) == b"\5\0\0\1" + bytes(6)
        transfer_s([it], "up", 1_000_000)
        transfer_s([it], "down", 1_000_000)


def test_who_breaks_off_in_the_middle_disturbs_nobody(ports: tuple[int, int]) -> None:
    with _connected(ports[1]) as it:
        it.sendall(b"\5")
    with _connected(ports[0]) as it:
        transfer_s([it], "down", 1_000_000)
