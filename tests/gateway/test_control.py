"""The control socket: conversations with whoever may come, and that nobody can hold the daemon up."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.gateway.daemon import control
from sidegate.gateway.daemon.control import ControlSocket, Conversation, Later, NotListening, Reply, Request, ask
from sidegate.problems import Problem, Problems

GET = b"GET /v1/status?a=1&b=x%20y HTTP/1.1\r\nHost: sidegate\r\n\r\n"


def echo(request: Request) -> Reply:
    """What was asked; `/broken` cannot be answered now, `/no-text` not at all, `/large` is more than a socket takes."""
    if request.path == "/broken":
        raise Problems(Problem("nft", "no end after 10 s"))
    if request.path == "/no-text":
        return Reply(200, "/etc/\udcff.toml")
    if request.path == "/large":
        return Reply(200, "x" * 2_000_000)
    return Reply(200, request)


class Asker:
    """The other end of a conversation."""

    def __init__(self) -> None:
        self.end, ours = socket.socketpair()
        self.end.setblocking(False)
        self.talk = Conversation(ours, echo)

    def says(self, data: bytes) -> Asker:
        self.end.sendall(data)
        self.talk.turn()
        return self

    def hears(self) -> bytes:
        try:
            return self.end.recv(1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.end.close()
        self.talk.close()


@pytest.fixture
def asker() -> Generator[Asker]:
    made = Asker()
    yield made
    made.close()


def test_request_is_answered_and_the_conversation_is_over(asker: Asker) -> None:
    head, body = asker.says(GET).hears().split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in head
    uid = b'"uid":%d' % os.getuid()
    assert body == b'{"method":"GET","path":"/v1/status","query":{"a":"1","b":"x y"},' + uid + b"}"
    assert asker.talk.is_over


def test_half_a_request_waits_for_the_other_half(asker: Asker) -> None:
    assert asker.says(GET[:20]).hears() == b""
    assert not asker.talk.is_over
    assert asker.says(GET[20:]).hears().startswith(b"HTTP/1.1 200 ")


def test_request_byte_by_byte(asker: Asker) -> None:
    for byte in GET:
        asker.says(bytes([byte]))
    assert asker.hears().startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 40000, b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 9000, b"431"),
        (b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n", b"503"),
        (b"GET /no-text HTTP/1.1\r\nHost: x\r\n\r\n", b"500"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\nabc", b"200"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (GET * 3, b"200"),
    ],
)
def test_hostile_requests(asker: Asker, data: bytes, status: bytes) -> None:
    asker.says(data)
    for _ in range(4):
        if not asker.talk.is_over:
            asker.talk.turn()
    assert asker.hears()[9:12] == status


def test_head_is_answered_without_content(asker: Asker) -> None:
    answer = asker.says(GET.replace(b"GET", b"HEAD")).hears()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n")
    assert asker.talk.is_over


def test_asker_that_goes_away(asker: Asker) -> None:
    asker.says(GET[:20])
    asker.end.close()
    asker.talk.turn()
    assert asker.talk.is_over


def test_asker_that_goes_away_before_the_answer(asker: Asker) -> None:
    asker.end.sendall(GET)
    asker.end.close()
    asker.talk.turn()
    assert asker.talk.is_over


def test_slow_reader_gets_everything(asker: Asker) -> None:
    asker.says(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    assert asker.talk.wants_to_write
    heard = 0
    while data := asker.hears():
        heard += len(data)
        asker.talk.turn()
    assert asker.talk.is_over
    assert heard > 2_000_000


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([GET, b"GET ", b"/", b" HTTP/1.1\r\n", b"\r\n"]))))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_survived(parts: list[bytes]) -> None:
    asker = Asker()
    for part in parts:
        if not asker.talk.is_over and part:
            asker.says(part)
    asker.close()


Serve = Callable[[], ControlSocket]


@pytest.fixture
def server(tmp_path: Path) -> Generator[ControlSocket]:
    made = ControlSocket(tmp_path / "s", echo)
    yield made
    made.close()


def connect(server: ControlSocket) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.connect(str(server._path))
    made.settimeout(30)
    return made


def answer_to(asker: socket.socket, server: ControlSocket, now: float) -> bytes:
    asker.sendall(GET)
    server.turn(now)
    server.turn(now)
    return asker.recv(4096)


def test_silent_askers_are_sent_away_in_time(server: ControlSocket) -> None:
    with connect(server) as silent:
        server.turn(100.0)
        assert server.next_deadline() == 100.0 + control._CONVERSATION_S
        server.turn(104.9)
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.recv(1)
        server.turn(105.0)
        assert (silent.recv(1), server.next_deadline()) == (b"", None)


def test_many_silent_askers_keep_nobody_from_an_answer(server: ControlSocket) -> None:
    silent = []
    for number in range(3 * control._MOST_CONVERSATIONS):
        silent.append(connect(server))
        server.turn(100.0 + number / 1000)
        assert len(server._ends_s) <= control._MOST_CONVERSATIONS
    with connect(server) as asker:
        server.turn(101.0)
        assert answer_to(asker, server, 101.0).startswith(b"HTTP/1.1 200 ")
    for one in silent:
        one.close()
    for _ in range(3):
        server.turn(102.0)
    assert server.next_deadline() is None


def test_what_takes_longer_is_answered_when_it_is_done_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    later = Later()
    server = ControlSocket(tmp_path / "s", lambda asked: later if asked.method == "POST" else echo(asked))
    with connect(server) as patient, connect(server) as other:
        server.turn(100.0)
        patient.sendall(GET.replace(b"GET", b"POST"))
        server.turn(100.0)
        assert answer_to(other, server, 120.0).startswith(b"HTTP/1.1 200 ")
        for number in range(3 * control._MOST_CONVERSATIONS):
            connect(server).close()
            server.turn(120.0 + number / 1000)
        for _ in range(3):
            server.turn(121.0)
        assert server.next_deadline() == 100.0 + control._DONE_WITHIN_S
        later.reply = Reply(200, "done")
        assert server.next_deadline() == 0.0
        server.turn(121.0)
        assert patient.recv(4096).endswith(b'"done"')
        server.turn(121.0)
        assert server.next_deadline() is None
    server.close()


def test_who_asked_for_what_takes_longer_and_went_is_forgotten(tmp_path: Path) -> None:
    later = Later()
    server = ControlSocket(tmp_path / "s", lambda _: later)
    with connect(server) as asker:
        server.turn(100.0)
        asker.sendall(GET)
        server.turn(100.0)
    server.turn(101.0)
    assert server.next_deadline() is None
    server.close()


def test_many_at_once_are_all_answered(server: ControlSocket) -> None:
    askers = [connect(server) for _ in range(20)]
    for asker in askers:
        asker.sendall(GET)
    for _ in range(40):
        server.turn(100.0)
    assert all(asker.recv(20).startswith(b"HTTP/1.1 200 ") for asker in askers)
    for asker in askers:
        asker.close()


def test_socket_is_for_its_owner_alone_without_the_group(server: ControlSocket) -> None:
    assert server._path.stat().st_mode & 0o777 in (0o600, 0o660)


def test_left_over_socket_is_replaced(tmp_path: Path) -> None:
    """Of a daemon that was killed."""
    ControlSocket(tmp_path / "s", echo)._listener.close()
    made = ControlSocket(tmp_path / "s", echo)
    with connect(made):
        made.close()
    assert not (tmp_path / "s").exists()


def test_place_that_cannot_be_listened_at(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "s", tmp_path / ("long" * 50)):
        with pytest.raises(Problems, match="cannot listen there"):
            ControlSocket(path, echo)


def test_asking_where_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NotListening):
        ask(tmp_path / "s", "GET", "/")
