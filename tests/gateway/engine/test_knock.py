"""What a connection to an upstream's server tells."""

from __future__ import annotations

import errno
import select
import socket
import time
from datetime import UTC, datetime

import pytest

from sidegate.gateway.engine.knock import Knocks, words
from sidegate.gateway.engine.upstream import Upstream

NOW = datetime(2026, 11, 22, 19, 17, tzinfo=UTC)


def upstream(name: str, host: str, port: int, kind: str = "socks") -> Upstream:
    return Upstream(name, kind, host, port, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answered", "said"),
    [
        (0, "its server answers, and lets nothing through: look at its id and this box's clock, which says 2026-11-22"),
        (0, "may be off by 120 s at most; or at whether it gets out itself, names too"),
        (errno.ECONNREFUSED, "its server x:1 refuses connections"),
        (errno.ENETUNREACH, "its server x:1 is not to be reached: Network is unreachable"),
        (None, "its server x:1 is not to be reached: it does not answer"),
    ],
)
def test_words(answered: int | None, said: str) -> None:
    assert said in words(answered, upstream("one", "x", 1, "vmess"), NOW)


def test_servers() -> None:
    knocks = Knocks()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as deaf:
        # It is bound and does not listen: so nobody else does at its port.
        deaf.bind(("127.0.0.1", 0))
        there, nobody = server.getsockname()[1], deaf.getsockname()[1]
        knocks.start(upstream("there", "127.0.0.1", there), time.monotonic())
        knocks.start(upstream("nobody", "127.0.0.1", nobody), time.monotonic())
        knocks.start(upstream("named", "proxy.example", 1), time.monotonic())
        knocks.start(upstream("tunnel", "127.0.0.1", there, "wireguard"), time.monotonic())
        found: dict[str, str] = {}
        while knocks.next_deadline() is not None:
            select.select([knocks], [], [], 0.05)
            found.update(knocks.turn(time.monotonic()))
    knocks.close()
    assert sorted(found) == ["nobody", "there"]
    assert "refuses" in found["nobody"]
    assert "answers" in found["there"]


def test_where_there_is_no_way_to_the_server_nobody_is_said_to_answer() -> None:
    """No route leads to this address by TCP, on any machine (`tcp_ipv4.c` tcp_v4_connect)."""
    knocks = Knocks()
    knocks.start(upstream("nowhere", "255.255.255.255", 1), time.monotonic())
    ((name, said),) = knocks.turn(time.monotonic())
    knocks.close()
    assert (name, "is not to be reached" in said) == ("nowhere", True), said


def test_silence_ends() -> None:
    """A server whose queue of connections is full says nothing (listen(2))."""
    knocks = Knocks()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        with socket.create_connection(server.getsockname(), 30):
            assert select.select([server], [], [], 30)[0], "one waits there, and there is room for no more"
            knocks.start(upstream("silent", *server.getsockname()), time.monotonic())
            assert dict(knocks.turn(time.monotonic() + 60))["silent"].endswith("it does not answer")
    knocks.close()
