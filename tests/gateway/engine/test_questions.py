"""Questions as datagrams, led over few connections: with a server of our own at the other end."""

from __future__ import annotations

import errno
import select
import socket
import struct

import pytest

from sidegate.gateway.engine.questions import ALONE_S, FEW, LATE_S, MOST_STREAMS, PAUSE_S, WITHIN_S, Port, fitting

NAME = b"\1a\7example\0\0\1\0\1"
PLAIN = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + NAME
WITH_OPT = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 1) + NAME + b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)
LONG = PLAIN + bytes(600)


@pytest.mark.parametrize(("question", "length"), [(PLAIN, len(PLAIN)), (WITH_OPT, len(LONG)), (PLAIN[:15], 15)])
def test_an_answer_that_is_too_long_is_to_be_asked_for_over_tcp(question: bytes, length: int) -> None:
    found = fitting(LONG, question)
    assert len(found) == length
    assert bool(found[2] & 0x02) == (length < len(LONG))


def both_kinds(*, is_alone: bool) -> tuple[socket.socket, Port]:
    """A server of TCP, and a port of the same number, which another program may have for UDP: then other ones."""
    while True:
        server = socket.create_server(("127.0.0.1", 0))
        try:
            return server, Port(server.getsockname(), is_alone=is_alone)
        except OSError as error:
            server.close()
            if error.errno != errno.EADDRINUSE:
                raise


class Both:
    """A port, a client, and the server behind it."""

    def __init__(self, *, is_alone: bool = False) -> None:
        self.server, self.port = both_kinds(is_alone=is_alone)
        self.at = self.server.getsockname()
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect(self.at)
        self.now = 1000.0

    def ask(self, number: int) -> None:
        self.client.send(struct.pack("!H", number) + PLAIN[2:])
        assert select.select([self.port.socket], [], [], 30)[0]
        self.port.receive(self.now)

    def accept(self) -> socket.socket:
        self.server.settimeout(30)
        connection = self.server.accept()[0]
        connection.settimeout(30)
        for stream in self.port.streams:
            self.port.turn(stream, self.now)
        return connection

    def hear(self, at: socket.socket) -> bytes:
        """The next question there."""
        length = struct.unpack("!H", at.recv(2))[0]
        return at.recv(length, socket.MSG_WAITALL)

    def answer(self, at: socket.socket, question: bytes) -> None:
        at.sendall(struct.pack("!H", len(question)) + question)
        assert select.select([stream.socket for stream in self.port.streams], [], [], 30)[0]
        for stream in list(self.port.streams):
            self.port.turn(stream, self.now)

    def answered(self, count: int) -> socket.socket:
        """So many questions, one after the other; the connection that took them all."""
        self.ask(0)
        connection = self.accept()
        for number in range(count):
            if number:
                self.ask(number)
            self.answer(connection, self.hear(connection))
            assert self.told() == number
        return connection

    def answered_elsewhere(self, number: int, silent: socket.socket) -> socket.socket:
        """A question that waits in vain on the one connection; the other one, which is made for it."""
        self.ask(number)
        self.wait(LATE_S)
        connection = self.accept()
        self.answer(connection, self.hear(connection))
        assert self.told() == number
        self.wait(2 * LATE_S)
        assert silent.recv(2048)
        return connection

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.port.mind(self.now)

    def waiting(self) -> int:
        return sum(len(stream.waiting) for stream in self.port.streams)

    def told(self) -> int:
        self.client.settimeout(30)
        return int.from_bytes(self.client.recv(2048)[:2], "big")


@pytest.fixture
def both() -> Both:
    return Both()


def test_one_connection_and_any_order(both: Both) -> None:
    both.ask(5)
    connection = both.accept()
    both.ask(5)
    both.ask(9)
    first, second, third = (both.hear(connection) for _ in range(3))
    assert len({first[:2], second[:2], third[:2]}) == 3, "numbers of our own"
    both.answer(connection, third)
    assert both.told() == 9
    both.answer(connection, first)
    assert both.told() == 5
    assert len(both.port.streams) == 1


def test_what_is_late_is_asked_on_another_connection_and_answered_once(both: Both) -> None:
    both.ask(5)
    first = both.accept()
    question = both.hear(first)
    both.wait(LATE_S)
    second = both.accept()
    both.answer(second, both.hear(second))
    assert both.told() == 5
    both.answer(first, question)
    both.ask(6)
    assert len(both.port.streams) == 2
    both.answer(first, both.hear(first))
    assert both.told() == 6, "and not 5 again"


def test_after_a_pause_the_first_question_goes_alone_and_the_others_with_its_answer() -> None:
    both = Both(is_alone=True)
    both.ask(1)
    connection = both.accept()
    both.answer(connection, both.hear(connection))
    assert both.told() == 1
    for _ in range(2):
        both.now += PAUSE_S
        for number in (5, 6, 7):
            both.ask(number)
        assert both.waiting() == 1
        both.answer(connection, both.hear(connection))
        assert both.told() == 5
        assert both.waiting() == 2
        for number in (6, 7):
            both.answer(connection, both.hear(connection))
            assert both.told() == number


def test_where_that_one_is_late_nobody_waits_for_it() -> None:
    both = Both(is_alone=True)
    both.ask(5)
    both.ask(6)
    both.wait(ALONE_S)
    assert both.waiting() >= 2


def test_a_connection_that_ends_loses_no_question(both: Both) -> None:
    both.ask(5)
    first = both.accept()
    both.hear(first)
    first.close()
    assert select.select([both.port.streams[0].socket], [], [], 30)[0]
    both.port.turn(both.port.streams[0], both.now)
    second = both.accept()
    both.answer(second, both.hear(second))
    assert both.told() == 5


def test_who_never_answers_is_left(both: Both) -> None:
    both.ask(5)
    for _ in range(20):
        both.wait(WITHIN_S / 10)
        assert len(both.port.streams) <= MOST_STREAMS
    assert both.port.streams == []
    both.ask(6)
    assert len(both.port.streams) == 1


def test_a_server_that_closes_gets_a_connection_for_each(both: Both) -> None:
    """Of which nothing is seen here but that it falls silent after its first answer."""
    both.answered_elsewhere(1, both.answered(1))
    both.ask(3)
    third = both.accept()
    both.ask(4)
    fourth = both.accept()
    both.answer(fourth, both.hear(fourth))
    both.answer(third, both.hear(third))
    assert [both.told() for _ in range(2)] == [4, 3]
    assert third.recv(2048) == fourth.recv(2048) == b""


def test_a_server_that_closes_after_many_answers_keeps_one_connection_for_all(both: Both) -> None:
    second = both.answered_elsewhere(FEW, both.answered(FEW))
    for number in (1, 2):
        both.ask(number)
    both.answer(second, both.hear(second))
    both.answer(second, both.hear(second))
    assert [both.told() for _ in range(2)] == [1, 2]
