"""A TCP connection as a sign of life: only one that stands counts."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address

import pytest

from sidegate.probe.tcp_knock import TcpKnock

HERE, THERE = IPv4Address("127.0.0.1"), IPv4Address("127.0.0.2")


@pytest.fixture
def port() -> Iterator[int]:
    """Somebody listens at the first address only."""
    with socket.create_server((str(HERE), 0)) as listening:
        yield listening.getsockname()[1]


def found(*targets: IPv4Address, port: int, interface: str = "lo") -> IPv4Address | None:
    with closing(TcpKnock(interface, targets, port)) as knock:
        while not knock.turn(time.monotonic()):
            select.select([knock], [], [], 1)
        return knock.answered


def test_who_takes_it_has_answered(port: int) -> None:
    assert found(HERE, port=port) == found(THERE, HERE, port=port) == HERE


def test_a_refusal_is_no_answer(port: int) -> None:
    assert found(THERE, port=port) is None


def test_nobody_is_asked_by_an_interface_that_is_gone(port: int) -> None:
    assert found(HERE, port=port, interface="none") is None
    assert found(port=port) is None
