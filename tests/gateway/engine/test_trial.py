"""The request that shows whether an upstream works: as conversations, and on real sockets."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.engine.trial import Failed, Outcome, Question, Talk, Trials, asking, question
from sidegate.problems import Problems

PLAIN = Question("www.example.org", 80, "/generate_204", is_tls=False)
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
LONG_S = 60.0
"""For what answers: how soon that is, on a machine that has much else to do, is not what is asked here."""


def converse(talk: Talk, *comes: bytes) -> tuple[list[bytes], int | str | None]:
    """What was sent, and how it ended: a status, the words of a failure, or None while it goes on."""
    said = [next(talk)]
    try:
        for data in comes:
            said += [talk.send(data)]
    except StopIteration as end:
        return said, end.value
    except Failed as error:
        return said, str(error)
    return said, None


def test_a_request_through_the_proxy() -> None:
    said, end = converse(asking(PLAIN), CONNECTED, NO_CONTENT)
    assert end == 204
    assert said[0].startswith(b"CONNECT www.example.org:80 HTTP/1.1\r\n")
    assert said[1].startswith(b"GET /generate_204 HTTP/1.1\r\nhost: www.example.org:80\r\n".replace(b"host", b"Host"))


@pytest.mark.parametrize(
    ("comes", "end"),
    [
        ([CONNECTED, b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 30", b"2 Found\r\nLocation: /\r\n\r\n"], 302),
        ([CONNECTED, b"HTTP/1.0 200 OK\r\n\r\n"], 200),
        ([CONNECTED, b"HTTP/1.1 200 OK\r\n"], None),
        ([b"HTTP/1.1 503 Service Unavailable\r\n\r\n"], "the engine answers 503"),
        ([b""], "closed without an answer: the upstream is not there, or refuses us"),
        ([CONNECTED, b""], "closed without an answer: the upstream is not there, or refuses us"),
        ([CONNECTED, b"\x16\x03\x01 what?\r\n\r\n"], "what comes back is not HTTP"),
        ([CONNECTED, b"HTTP/1.1 204 Fine\r\nA: " + b"a" * 20000], "what comes back is not HTTP"),
        ([CONNECTED, *([b"HTTP/1.1 100 Continue\r\n\r\n" * 600] * 5)], "what comes back has no end"),
    ],
)
def test_what_may_come_back(comes: list[bytes], end: int | str | None) -> None:
    assert converse(asking(PLAIN), *comes)[1] == end


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.booleans())
def test_whatever_comes_back_ends_as_an_answer_or_in_words(comes: list[bytes], is_connected: bool) -> None:
    head = [CONNECTED] if is_connected else []
    end = converse(asking(PLAIN), *head, *comes, b"")[1]
    assert isinstance(end, int | str)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://www.gstatic.com/generate_204", Question("www.gstatic.com", 80, "/generate_204", False)),
        ("https://example.org", Question("example.org", 443, "/", True)),
        ("http://192.0.2.1:8080/a?b=c", Question("192.0.2.1", 8080, "/a?b=c", False)),
        ("http://[2001:db8::1]/", Question("2001:db8::1", 80, "/", False)),
    ],
)
def test_addresses(url: str, asked: Question) -> None:
    assert question(url) == asked


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a/",
        "http://",
        "example.org",
        "http://a/b c",
        "http://a/\r\nX: y",
        "http://u@a/",
        "http://a:b/",
        "http://ä/",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(Problems) as caught:
        question(url)
    assert [p.where for p in caught.value.problems] == ["proxy.check"]


# On sockets

Script = Callable[[socket.socket], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Script], int]]:
    """Runs a script for one connection; the port."""
    began = []

    def begin(script: Script) -> int:
        listener = socket.create_server(("127.0.0.1", 0))

        def run() -> None:
            with suppress(OSError), listener, listener.accept()[0] as connection:
                script(connection)

        began.append((threading.Thread(target=run), listener))
        began[-1][0].start()
        return int(listener.getsockname()[1])

    yield begin
    for thread, listener in began:
        # Whose trial was over before it was connected does not come: it is waited for no longer.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)
        assert not thread.is_alive()


def outcomes(trials: Trials) -> dict[str, Outcome]:
    """Of all that are under way."""
    found: dict[str, Outcome] = {}
    while trials.next_deadline() is not None:
        select.select([trials], [], [], 0.05)
        found.update(trials.turn(time.monotonic()))
    return found


def silences(trials: Trials) -> list[str]:
    """What is said of each at its deadline."""
    found: list[str] = []
    while (deadline_s := trials.next_deadline()) is not None:
        found += [it.why for _, it in trials.turn(deadline_s)]
    return found


def proxied(answer: bytes, *, by: ssl.SSLContext | None = None) -> Script:
    """A proxy, and the server behind it."""

    def script(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(CONNECTED)
        try:
            inner = by.wrap_socket(connection, server_side=True) if by else connection
            inner.recv(4096)
            inner.sendall(answer)
            inner.recv(4096)
        except ssl.SSLError:
            # The client did not like our certificate.
            return

    return script


def test_many_at_once(serve: Callable[[Script], int]) -> None:
    trials, now = Trials(), time.monotonic()
    trials.start("good", serve(proxied(NO_CONTENT)), PLAIN, now, LONG_S)
    trials.start("forbidden", serve(proxied(b"HTTP/1.1 403 Forbidden\r\n\r\n")), PLAIN, now, LONG_S)
    trials.start("closed", serve(lambda connection: None), PLAIN, now, LONG_S)
    with socket.socket() as deaf:
        # It is bound and does not listen: so nobody else does at its port.
        deaf.bind(("127.0.0.1", 0))
        trials.start("nobody", deaf.getsockname()[1], PLAIN, now, LONG_S)
        found = outcomes(trials)
    trials.close()
    assert {name: it.is_good for name, it in found.items()} == {
        "good": True,
        "forbidden": False,
        "closed": False,
        "nobody": False,
    }
    assert (found["good"].latency_ms or 0) > 0
    assert found["forbidden"].latency_ms is None
    assert found["forbidden"].why.startswith("answered 403")
    assert found["nobody"].why == "the engine does not listen"


def test_silence_ends(serve: Callable[[Script], int]) -> None:
    """At its deadline, by whatever clock; and what it held is closed."""
    trials = Trials()
    trials.start("silent", serve(lambda c: _read_all(c)), PLAIN, time.monotonic())
    assert silences(trials) == ["no answer within 5 s"]
    trials.close()


def test_time_in_which_nobody_listened_is_no_silence(serve: Callable[[Script], int]) -> None:
    """As when the daemon waits for another program. The answer has come long since, the second question is not sent."""
    trials, now = Trials(), time.monotonic()
    trials.start("a", serve(proxied(NO_CONTENT)), PLAIN, now)
    found = [it for _, it in trials.turn(now)]
    while not found:
        select.select([trials], [], [], 30)
        now += 60
        found = [it for _, it in trials.turn(now)]
    assert [it.is_good for it in found] == [True]
    trials.close()


def _read_all(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


@pytest.mark.parametrize("first", [_read_all, proxied(NO_CONTENT)])
def test_with_one_answer_all_trials_of_that_name_are_done(serve: Callable[[Script], int], first: Script) -> None:
    trials, now = Trials(), time.monotonic()
    trials.start("a", serve(first), PLAIN, now, LONG_S)
    trials.start("a", serve(proxied(NO_CONTENT) if first is _read_all else _read_all), PLAIN, now, LONG_S)
    assert outcomes(trials)["a"].is_good
    trials.close()


def test_each_silence_counts(serve: Callable[[Script], int]) -> None:
    trials, now = Trials(), time.monotonic()
    for within_s in (5.0, 3.0):
        trials.start("a", serve(_read_all), PLAIN, now, within_s)
    assert silences(trials) == ["no answer within 3 s", "no answer within 5 s"]
    trials.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def served_by(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("name", "words"),
    [("www.example.org", "answered 204"), ("other.example.org", "the certificate of www.example.org is not valid")],
)
def test_over_tls(
    serve: Callable[[Script], int],
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    words: str,
) -> None:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    monkeypatch.setattr("sidegate.gateway.engine.trial._trust", lambda: trust)
    trials = Trials()
    script = proxied(NO_CONTENT, by=served_by(authority, name))
    asked = question("https://www.example.org/generate_204")
    trials.start("a", serve(script), asked, time.monotonic(), LONG_S)
    assert outcomes(trials)["a"].why.startswith(words)
    trials.close()


def test_closed_in_the_handshake() -> None:
    tls = question("https://www.example.org/")
    said, end = converse(asking(tls, ssl.create_default_context()), CONNECTED, b"")
    assert said[1][:1] == b"\x16", "a TLS handshake record"
    assert end == "closed during the TLS handshake: the upstream is not there, or refuses us"
