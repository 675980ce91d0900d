"""Subscriptions: fetched from a real server, kept, and used when there is no newer one."""

from __future__ import annotations

import os
import select
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from sidegate.gateway.box.files import replace_file
from sidegate.gateway.engine.fetch_limits import LARGEST, WITHIN_S
from sidegate.gateway.engine.subscription import EVERY_S, RETRY_FIRST_S, Subscriptions, copy_path

GOOD = b"socks5://192.0.2.1:1080#one\n"
TOKEN = "token-hunter2"  # noqa: S105


class _Server(ThreadingHTTPServer):
    """Answers as its `answer` says: status, headers, body; once it may."""

    answer: tuple[int, dict[str, str], bytes] = (200, {}, GOOD)
    asked: list[str]
    may: threading.Event


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.may.wait(20)
        status, headers, body = self.server.answer
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.asked, server.may = [], threading.Event()
    server.may.set()
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.may.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def server() -> Iterator[_Server]:
    with serving() as it:
        yield it


class Life:
    """One daemon's subscription, worked as its loop would."""

    def __init__(self, source: str, state: Path) -> None:
        self.told: list[str] = []
        self.it = Subscriptions([source], state, self.told.append)
        self.now = time.monotonic()

    def fetch(self, proxy_port: int | None = None) -> bool:
        """Until one fetch has come to its end; whether the copy changed."""
        told = len(self.told)
        changed = self.it.turn(self.now, proxy_port)
        while len(self.told) == told:
            assert select.select([self.it], [], [], 20)[0]
            changed = self.it.turn(self.now, proxy_port)
        return changed

    def rest_s(self) -> float:
        deadline = self.it.next_deadline()
        assert deadline is not None
        return deadline - self.now

    def wait(self) -> None:
        self.now += self.rest_s()


@pytest.fixture
def life(server: _Server, tmp_path: Path) -> Iterator[Life]:
    it = Life(url(server), tmp_path)
    yield it
    it.it.close()
    assert not [words for words in it.told if TOKEN in words]


def url(server: _Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{TOKEN}"


def test_fetched_and_kept(life: Life, server: _Server, tmp_path: Path) -> None:
    assert life.fetch()
    (copy,) = life.it.copies()
    assert (copy.text, copy.problem) == (GOOD.decode(), None)
    assert server.asked == [f"/{TOKEN}"]
    (path,) = (tmp_path / "subscriptions").iterdir()
    assert path == copy_path(url(server), tmp_path)
    assert TOKEN not in path.name
    assert path.stat().st_mode & 0o777 == 0o600
    assert life.rest_s() == pytest.approx(EVERY_S)


def test_the_next_daemon_asks_only_when_a_day_is_over(life: Life, server: _Server, tmp_path: Path) -> None:
    life.fetch()
    path = copy_path(url(server), tmp_path)
    again = Life(url(server), tmp_path)
    assert EVERY_S - 60 < again.rest_s() <= EVERY_S
    assert again.it.copies()[0].text == GOOD.decode()
    os.utime(path, (0, 0))
    assert Life(url(server), tmp_path).rest_s() <= 0
    years_ahead_s = time.time() + 1e8
    os.utime(path, (years_ahead_s, years_ahead_s))
    assert Life(url(server), tmp_path).rest_s() <= 0, "the clock was wrong when it was fetched"


BAD_ANSWERS = {
    "404": ((404, {}, b""), "the server answers 404"),
    "a login page": ((200, {}, b"<html>Log in"), "neither share links nor base64 of them"),
    "nothing": ((200, {}, b""), "it lists nothing"),
    "no text": ((200, {}, b"\xff\xff"), "what was fetched is no text"),
    "too much": ((200, {}, b"#" * (LARGEST + 10)), f"larger than {LARGEST} bytes"),
    "a ring of redirects": ((302, {"Location": "/"}, b""), "the server answers 302"),
    "a redirect to a file": ((302, {"Location": "file:///etc/passwd"}, b""), "the server answers 302"),
    "only bad entries": ((200, {}, b"ss://hunter2"), "entry 1"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_the_last_good_copy_is_used(case: str, life: Life, server: _Server, tmp_path: Path) -> None:
    replace_file(copy_path(url(server), tmp_path), GOOD)
    server.answer, words = BAD_ANSWERS[case]
    assert not life.fetch()
    (copy,) = life.it.copies()
    assert copy.text == GOOD.decode()
    assert copy.problem is not None
    if case != "only bad entries":
        assert words in copy.problem.what
    assert copy.problem.remedy == "the last good copy is used; it is tried again"


def test_tried_again_ever_more_rarely(life: Life, server: _Server) -> None:
    server.answer = (404, {}, b"")
    life.fetch()
    assert life.rest_s() == pytest.approx(RETRY_FIRST_S)
    life.wait()
    life.fetch()
    assert life.rest_s() == pytest.approx(2 * RETRY_FIRST_S)
    assert [it.what for it in life.it.faults()] == ["cannot be fetched: the server answers 404"]
    server.answer = (200, {}, GOOD)
    life.wait()
    assert life.fetch()
    assert life.it.copies()[0].problem is None
    assert life.it.faults() == ()


def test_tried_at_once_if_somebody_asks(life: Life, server: _Server) -> None:
    server.answer = (404, {}, b"")
    life.fetch()
    life.it.try_again(life.now)
    assert life.rest_s() == 0
    server.answer = (200, {}, GOOD)
    assert life.fetch()
    life.it.try_again(life.now)
    assert life.rest_s() == pytest.approx(EVERY_S)


def test_after_a_failure_by_the_proxy(life: Life, server: _Server) -> None:
    server.answer = (500, {}, b"")
    life.fetch()
    life.wait()
    server.answer = (200, {}, GOOD)
    port = server.server_address[1]
    assert life.fetch(port)
    assert server.asked[1] == url(server), "as a proxy is asked"


def test_nobody_there(tmp_path: Path) -> None:
    life = Life(f"http://127.0.0.1:1/{TOKEN}", tmp_path)
    assert not life.fetch()
    (copy,) = life.it.copies()
    assert copy.text is None
    assert str(copy.problem) == (
        "proxy.subscription[0]: cannot be fetched: Connection refused\n"
        "    there is no copy of it yet; it is tried again"
    )
    life.it.close()


def test_a_certificate_that_nobody_knows(tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with serving(context) as server:
        life = Life(url(server).replace("http:", "https:"), tmp_path)
        assert not life.fetch()
        assert "its certificate is not good" in str(life.it.copies()[0].problem)
        assert not server.asked
        life.it.close()


def test_one_that_never_ends(life: Life, server: _Server) -> None:
    server.may.clear()
    life.it.turn(life.now)
    life.now += WITHIN_S + 6
    assert not life.it.turn(life.now)
    (copy,) = life.it.copies()
    assert copy.problem is not None
    assert copy.problem.what == "cannot be fetched: no answer in time"


def test_one_that_has_brought_all_may_take_its_time_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process does that gets no processor."""
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho '{GOOD.decode().strip()}'\nexec >&-\nsleep 0.4\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    life = Life(f"http://192.0.2.1/{TOKEN}", tmp_path)
    assert life.fetch()
    assert life.it.copies()[0].text == GOOD.decode()
    life.it.close()


def test_a_file_is_read_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    it = Subscriptions([str(path)], tmp_path, lambda _: None)
    assert it.next_deadline() is None
    assert "cannot be read" in str(it.copies()[0].problem)
    path.write_bytes(GOOD)
    assert it.copies()[0].text == GOOD.decode()
    path.write_bytes(b"#" * (LARGEST + 1))
    assert "larger than" in str(it.copies()[0].problem)
    it.close()
