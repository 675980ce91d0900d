"""How a plain proxy is asked: conversations, and answers in pieces, with the target's own words right behind them."""

from __future__ import annotations

import socket
from base64 import b64decode
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.engine.handshakes import MOST_ANSWERED, Handshake, Proxy, Refused

PLAIN = Proxy("socks", "192.0.2.1", 1080)
WITH_LOGIN = Proxy("socks", "192.0.2.1", 1080, "nämé", "hunter2:")
WEB = Proxy("http", "192.0.2.1", 3128)
WEB_WITH_LOGIN = Proxy("http", "192.0.2.1", 3128, "name", "hunter2:")
DONE4 = b"\5\0\0\1" + bytes(6)
BANNER = b"SSH-2.0-target speaks first\r\n\r\n\5\0"


def converse(it: Handshake, answers: list[bytes], step: int = 1 << 16) -> list[bytes]:
    """What it sends, with the answers given in pieces. All of them are taken, and nothing of what follows them."""
    sent = []
    for answer in answers:
        sent.append(it.out)
        stream = answer + (BANNER if answer is answers[-1] else b"")
        taken = 0
        for end in range(step, len(stream) + step, step):
            assert not it.is_done
            taken = it.hear(stream[:end])
            if taken:
                break
        assert taken == len(answer)
    assert it.is_done
    assert it.out == b""
    return sent


@pytest.mark.parametrize("step", [1, 3, 1 << 16])
@pytest.mark.parametrize("reply", [DONE4, b"\5\0\0\3\5abcde\0\x50", b"\5\0\0\4" + bytes(18)])
def test_socks_without_a_login(reply: bytes, step: int) -> None:
    sent = converse(Handshake(PLAIN, "a.example", 443), [b"\5\0", reply], step)
    assert sent == [b"\5\1\0", b"\5\1\0\3\x09a.example\1\xbb"]


@pytest.mark.parametrize("step", [1, 1 << 16])
def test_socks_with_a_login(step: int) -> None:
    sent = converse(Handshake(WITH_LOGIN, "198.51.100.7", 80), [b"\5\2", b"\1\0", DONE4], step)
    assert sent == [b"\5\1\2", b"\1\x06" + "nämé".encode() + b"\x08hunter2:", b"\5\1\0\1\xc6\x33\x64\x07\0\x50"]


def test_socks_to_ipv6() -> None:
    sent = converse(Handshake(PLAIN, "2001:db8::1", 22), [b"\5\0", DONE4])
    assert sent[1] == b"\5\1\0\4" + socket.inet_pton(socket.AF_INET6, "2001:db8::1") + b"\0\x16"


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 204 x\n\n",
    ],
)
def test_http(answer: bytes, step: int) -> None:
    (request,) = converse(Handshake(WEB, "a.example", 443), [answer], step)
    assert request == b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Connection: Keep-Alive\r\n\r\n"


def test_http_with_a_login_to_ipv6_after_a_while() -> None:
    answers = [b"HTTP/1.1 100 wait\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
    request, nothing = converse(Handshake(WEB_WITH_LOGIN, "2001:db8::1", 80), answers)
    assert request.startswith(b"CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n")
    (login,) = [line for line in request.split(b"\r\n") if line.startswith(b"Proxy-Authorization: Basic ")]
    assert b64decode(login.rpartition(b" ")[2]) == b"name:hunter2:"
    assert nothing == b""


@pytest.mark.parametrize(
    ("proxy", "answers", "why"),
    [
        (PLAIN, [b"\5\xff"], "it wants another login"),
        (PLAIN, [b"\4\0"], "it does not speak SOCKS5"),
        (PLAIN, [b"HTTP/1.1 400 Bad Request\r\n\r\n"], "it does not speak SOCKS5"),
        (WITH_LOGIN, [b"\5\0"], "it wants another login"),
        (WITH_LOGIN, [b"\5\2", b"\1\1"], "it refuses the login"),
        (PLAIN, [b"\5\0", b"\5\2"], "not allowed"),
        (PLAIN, [b"\5\0", b"\5\x63\0\1"], "refusal 99"),
        (PLAIN, [b"\5\0", b"\5\0\0\7\0\0"], "its answer has an address of no known kind"),
        (WEB, [b"HTTP/1.1 407 no\r\nProxy-Authenticate: Basic\r\n\r\n"], "HTTP status 407"),
        (WEB, [b"SSH-2.0\r\n\r\n"], "it does not speak HTTP"),
        (WEB, [b"HTTP/1.1 200 OK\r\nX: " + b"x" * MOST_ANSWERED], "its answer has no end"),
    ],
)
def test_who_refuses(proxy: Proxy, answers: list[bytes], why: str) -> None:
    it = Handshake(proxy, "a.example", 443)
    for answer in answers[:-1]:
        assert it.hear(answer) == len(answer)
    with pytest.raises(Refused) as told:
        it.hear(answers[-1])
    assert str(told.value) == why


def test_who_only_ever_promises_an_answer() -> None:
    """All of it may be there at once, and more of it each time."""
    it, wait = Handshake(WEB, "a.example", 443), b"HTTP/1.1 100 wait\r\n\r\n"
    with pytest.raises(Refused, match="has no end"):
        sum(it.hear(wait) for _ in range(MOST_ANSWERED))


@given(st.sampled_from([PLAIN, WITH_LOGIN, WEB]), st.lists(st.binary(max_size=40), max_size=5))
def test_whatever_a_proxy_says(proxy: Proxy, answers: list[bytes]) -> None:
    it = Handshake(proxy, "a.example", 443)
    with suppress(Refused):
        for answer in answers:
            if not it.is_done:
                assert 0 <= it.hear(answer) <= len(answer)
