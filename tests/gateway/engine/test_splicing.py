"""What one connection says, moved to another: every octet in order, no more than is taken, and both kinds of ends."""

from __future__ import annotations

import gc
import os
import select
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sidegate.gateway.engine.splicing import PIPE_OCTETS, Pipe, Pipes, Way, break_off

WORDS = b"".join(number.to_bytes(4, "big") for number in range(2 * PIPE_OCTETS))
TOO_MANY = 1000 * len(WORDS)


class Ends:
    """A way from one who speaks to one who hears, with both of their connections."""

    def __init__(self) -> None:
        self.speaker, self.source = connected()
        self.hearer, self.to = connected()
        for it in (self.source, self.to):
            it.setblocking(False)
        self.pipes = Pipes(1)
        self.way = Way(self.source.fileno(), self.to)

    def turn(self) -> bool:
        """Once something came."""
        assert select.select([self.source], [], [], 30)[0]
        return self.way.turn(self.pipes)

    def fill(self) -> int:
        """Speaks until nobody on the way takes any more; how many octets that were, or too many."""
        self.speaker.setblocking(False)
        sent = 0
        while sent < TOO_MANY and (self.way.pipe is None or select.select([], [self.speaker], [], 0.2)[1]):
            with suppress(BlockingIOError):
                sent += self.speaker.send(WORDS[sent % len(WORDS) :])
            self.way.turn(self.pipes)
        return sent

    def drained(self) -> bytes:
        """All that is heard until its end, with a turn whenever anything may go on."""
        heard = bytearray()
        while True:
            ready, free, _ = select.select([self.source, self.hearer], [self.to] if self.way.pipe else [], [], 30)
            assert ready or free
            while self.way.turn(self.pipes):
                pass
            if self.hearer in ready:
                more = self.hearer.recv(1 << 20)
                if not more:
                    return bytes(heard)
                heard += more

    def open_pipes(self) -> int:
        names = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return sum(os.path.islink(name) and os.readlink(name).startswith("pipe:") for name in names)


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname(), 30)
        return one, server.accept()[0]


@pytest.fixture
def ends() -> Iterator[Ends]:
    # Pipes that others left would be closed at any moment, while ours are counted.
    gc.collect()
    it = Ends()
    yield it
    it.way.drop(it.pipes)
    it.pipes.take().close()
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
    sent = ends.fill()
    assert 0 < ends.way.held <= PIPE_OCTETS
    assert sent < TOO_MANY
    ends.speaker.shutdown(socket.SHUT_WR)
    assert ends.drained() == (WORDS * (sent // len(WORDS) + 1))[:sent]
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


def test_a_pipe_that_ends_with_its_connection_has_an_empty_one_after_it(ends: Ends) -> None:
    before = ends.open_pipes()
    ends.fill()
    ends.way.drop(ends.pipes)
    assert ends.open_pipes() == before
    pipe = ends.pipes.take()
    ends.pipes.give(pipe)
    assert not select.select([pipe.out], [], [], 0)[0]


@pytest.mark.parametrize("words", [b"", b"words"])
@pytest.mark.parametrize("is_all", [False, True])
def test_an_urgent_octet_is_one_of_the_others(ends: Ends, words: bytes, is_all: bool) -> None:
    """Wherever it is: splice(2) stops before it for good. is_all: it is not told of either, as where all is said."""
    ends.source.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    ends.way.turn(ends.pipes)
    assert not ends.way.may_be_marked
    ends.speaker.sendall(words)
    ends.speaker.send(b"!", socket.MSG_OOB)
    ends.speaker.sendall(b"more")
    if is_all:
        ends.speaker.shutdown(socket.SHUT_WR)
    ends.way.may_be_marked = not is_all
    heard = b""
    while not heard.endswith(b"more"):
        ready, _, marked = select.select([ends.source, ends.hearer], [], [ends.source], 30)
        assert ready
        ends.way.may_be_marked |= bool(marked) and not is_all
        ends.way.turn(ends.pipes)
        if ends.hearer in ready:
            heard += ends.hearer.recv(100)
    assert heard == words + b"!more"
    if is_all:
        ends.turn()
    assert ends.way.is_over == is_all


def test_who_is_gone_is_sent_nothing(ends: Ends) -> None:
    break_off(ends.hearer)
    ends.speaker.sendall(b"words")
    assert select.select([ends.to], [], [], 30)[0]
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        ends.turn()
