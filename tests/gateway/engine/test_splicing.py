"""What one connection says, moved to another: every octet in order, no more than is taken, and both kinds of ends."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest

from sidegate.gateway.engine.splicing import PIPE_OCTETS, Pipe, Pipes, Way, break_off

WORDS = b"".join(number.to_bytes(4, "big") for number in range(2 * PIPE_OCTETS))


class Ends:
    """A way from one who speaks to one who hears, with both of their connections."""

    def __init__(self) -> None:
        self.speaker, self.source = connected()
        self.hearer, self.to = connected()
        for it in (self.source, self.to):
            it.setblocking(False)
        self.pipes = Pipes()
        self.way = Way(self.source.fileno(), self.to)

    def turn(self) -> bool:
        """Once something came."""
        assert select.select([self.source], [], [], 30)[0]
        return self.way.turn(self.pipes)

    def open_pipes(self) -> int:
        names = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return sum(os.path.islink(name) and os.readlink(name).startswith("pipe:") for name in names)


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname(), 30)
        return one, server.accept()[0]


@pytest.fixture
def ends() -> Iterator[Ends]:
    it = Ends()
    yield it
    it.way.drop()
    for one in (it.speaker, it.source, it.hearer, it.to):
        one.close()


def test_words_and_their_end(ends: Ends) -> None:
    ends.speaker.sendall(b"words")
    assert not ends.turn()
    assert ends.hearer.recv(100) == b"words"
    ends.speaker.shutdown(socket.SHUT_WR)
    assert not ends.turn()
    assert ends.way.is_over
    assert ends.hearer.recv(100) == b""


def test_an_idle_connection_holds_no_pipe(ends: Ends) -> None:
    before = ends.open_pipes()
    assert not ends.way.turn(ends.pipes)
    assert ends.way.pipe is None
    for _ in range(3):
        ends.speaker.sendall(b"words")
        ends.turn()
        assert ends.way.pipe is None
    assert ends.open_pipes() == before, "one is lent, and given back"


def test_who_does_not_take_what_is_his_is_not_sent_more(ends: Ends) -> None:
    """All that is on its way is in both sockets and one pipe: who speaks has to wait."""
    ends.speaker.setblocking(False)
    sent = 0
    while sent < 1000 * len(WORDS):
        if not select.select([], [ends.speaker], [], 0)[1] and not select.select([ends.source], [], [], 0.2)[0]:
            break
        if ends.way.pipe is not None and not select.select([], [ends.speaker], [], 0.2)[1]:
            break
        if select.select([], [ends.speaker], [], 0)[1]:
            sent += ends.speaker.send(WORDS[sent % len(WORDS) :])
        ends.way.turn(ends.pipes)
    assert 0 < ends.way.held <= PIPE_OCTETS
    assert sent < 1000 * len(WORDS)
    ends.speaker.shutdown(socket.SHUT_WR)
    heard = bytearray()
    while more := ends.hearer.recv(1 << 20):
        heard += more
        while ends.way.turn(ends.pipes):
            pass
    assert bytes(heard) == (WORDS * (sent // len(WORDS) + 1))[:sent]
    assert ends.way.pipe is None


def test_a_break_is_told_after_the_words_before_it(ends: Ends) -> None:
    ends.speaker.sendall(b"words")
    ends.turn()
    break_off(ends.speaker)
    with pytest.raises(ConnectionResetError):
        ends.turn()
    assert ends.hearer.recv(100) == b"words"
    break_off(ends.to)
    with pytest.raises(ConnectionResetError):
        ends.hearer.recv(100)


def test_a_small_pipe_is_not_kept(ends: Ends) -> None:
    """While a user's share is used up, as long as it is (pipe(7)), all that are made are small."""
    pipe = Pipe()
    before = ends.open_pipes()
    pipe.is_large = False
    ends.pipes.give(pipe)
    assert ends.open_pipes() == before - 2


@pytest.mark.parametrize("words", [b"", b"words"])
def test_an_urgent_octet_is_one_of_the_others(ends: Ends, words: bytes) -> None:
    """splice(2) stops before it for good (net/ipv4/tcp.c, tcp_read_sock)."""
    ends.source.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    for _ in range(3):
        ends.speaker.sendall(words)
        ends.speaker.send(b"!", socket.MSG_OOB)
        ends.speaker.sendall(b"more")
        ends.way.may_be_marked = True
        heard = b""
        while not heard.endswith(b"more"):
            ends.turn()
            heard += ends.hearer.recv(100)
        assert heard == words + b"!more"
    ends.speaker.shutdown(socket.SHUT_WR)
    ends.turn()
    assert ends.way.is_over


def test_who_is_gone_is_sent_nothing(ends: Ends) -> None:
    break_off(ends.hearer)
    ends.speaker.sendall(b"words")
    assert select.select([ends.to], [], [], 30)[0]
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        ends.turn()
