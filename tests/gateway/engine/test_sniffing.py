"""The name that a client's first octets show: real hellos and requests, in pieces, and whatever anybody may send."""

from __future__ import annotations

import re
import ssl
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.engine.sniffing import MOST_SHOWN, host_name, shown_name

NAME = "www.foreign.example"
REQUEST = f"GET /a HTTP/1.1\r\nAccept: */*\r\nHost: {NAME}\r\n\r\n".encode()


@cache
def hello(name: str = NAME) -> bytes:
    """OpenSSL's, in one record."""
    context = ssl.create_default_context()
    context.check_hostname = bool(name)
    context.verify_mode = ssl.CERT_REQUIRED if name else ssl.CERT_NONE
    comes, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(comes, goes, server_hostname=name or None).do_handshake()
    return goes.read()


LARGE_KEYS = b"\x0a\x0a" + (1216).to_bytes(2, "big") + bytes(1216)
"""An extension, as post-quantum ones take it (X25519MLKEM768)."""
EMPTY = b"\x0a\x0a\0\0"


def with_extensions(data: bytes, extra: bytes, at_front: bool) -> bytes:
    """The hello with some more."""
    begin = 5 + 4 + 2 + 32
    begin += 1 + data[begin]
    begin += 2 + int.from_bytes(data[begin : begin + 2], "big")
    begin += 1 + data[begin]
    old = data[begin + 2 :]
    extensions = extra + old if at_front else old + extra
    body = data[9:begin] + len(extensions).to_bytes(2, "big") + extensions
    return in_records(b"\1" + len(body).to_bytes(3, "big") + body, 1 << 14)


def in_records(message: bytes, size: int) -> bytes:
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\3\1" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


WITH_NAME = [
    pytest.param(REQUEST, id="request"),
    pytest.param(hello(), id="hello"),
    pytest.param(with_extensions(hello(), LARGE_KEYS, at_front=True), id="large keys first"),
    pytest.param(with_extensions(hello(), LARGE_KEYS, at_front=False), id="large keys last"),
    pytest.param(in_records(hello()[5:], 100), id="several records"),
]


@pytest.mark.parametrize(
    "line", [b"host:www.foreign.example", b"HOST: \tWWW.foreign.EXAMPLE.:8080 ", b"Host: www.foreign.example:"]
)
def test_ways_to_write_a_host(line: bytes) -> None:
    for end in (b"\n", b"\r\n"):
        assert shown_name(b"POST http://x/ HTTP/1.1" + end + b"A: Host: b.example" + end + line + end) == NAME


@pytest.mark.parametrize("data", WITH_NAME)
def test_every_beginning_shows_the_name_or_waits_for_it(data: bytes) -> None:
    told = [shown_name(data[:length]) for length in range(len(data) + 1)]
    first = told.index(NAME)
    assert set(told[:first]) == {None}
    assert set(told[first:]) == {NAME}
    assert shown_name(data + b"what follows") == NAME


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0\1\2",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\nHost: a.example\r\n\r\n",
        b"GETTING Host: a.example\r\n",
        b"POST / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 203.0.113.5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: cloudflare-ech.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.example\0.b.example\r\n\r\n",
        b"GET /" + b"a" * MOST_SHOWN,
        b"GET / HTTP/1.1\r\nHost:" + b" :" * (MOST_SHOWN // 2),
        hello(""),
        hello("cloudflare-ech.com"),
        b"\x16\3\1\0\0",
        b"\x16\3\1\xff\xff",
        b"\x16\2\1\0\1",
        b"\x16\3\1\0\4\2\0\0\0",
        hello()[:-200] + b"\x17" + hello()[-199:],
    ],
)
def test_no_name(data: bytes) -> None:
    found = shown_name(data)
    assert found == "" or (NAME in str(found) and data.startswith(b"\x16"))


def test_who_makes_many_parts_of_it_keeps_nobody_busy() -> None:
    """A few milliseconds of each of a thousand connections would be seconds for all others."""
    large = with_extensions(hello(), LARGE_KEYS, at_front=True)[5:]
    assert shown_name(in_records(large, 4)) == NAME
    assert shown_name(in_records(large, 1)) == ""
    assert shown_name(with_extensions(hello(), EMPTY * 100, at_front=True)) == NAME
    assert shown_name(with_extensions(hello(), EMPTY * 1000, at_front=True)) == ""


def test_a_record_of_another_kind_ends_a_hello() -> None:
    in_two = in_records(hello()[5:], 40)
    assert shown_name(in_two[:45]) is None
    assert shown_name(in_two[:45] + b"\x17" + in_two[46:]) == ""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A.Example", "a.example"),
        ("a.example.", "a.example"),
        ("_x-y.a1.example", "_x-y.a1.example"),
        ("xn--e1afmkfd.xn--p1ai", "xn--e1afmkfd.xn--p1ai"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        ("a" * 64 + ".example", ""),
        ("a." * 126 + "a", "a." * 126 + "a"),
        ("a." * 127 + "a", ""),
        ("localhost", ""),
        ("", ""),
        (".", ""),
        ("a..example", ""),
        ("-a.example", ""),
        ("a.example\r\nX: y", ""),
        ("a.example ", ""),
        ("198.51.100.7", ""),
        ("0x7f.1", ""),
        ("1.0x7f000001", ""),
        ("2001:db8::1", ""),
        ("b\xfccher.example", ""),
        ("Cloudflare-ECH.com", ""),
    ],
)
def test_what_is_a_name(text: str, name: str) -> None:
    assert host_name(text) == name


def is_harmless(name: str | None) -> bool:
    return name is None or (len(name) <= 253 and re.fullmatch(r"[a-z0-9._-]*", name) is not None)


@given(st.binary(max_size=200))
def test_whatever_comes(data: bytes) -> None:
    for begin in (b"", b"\x16", b"\x16\3\1\0\xc0\1\0\0\xbc\3\3", b"GET / HTTP/1.1\r\nHost:"):
        assert is_harmless(shown_name(begin + data))


@given(st.data())
def test_a_hello_with_octets_exchanged(data: st.DataObject) -> None:
    it = bytearray(hello())
    for _ in range(data.draw(st.integers(1, 4))):
        it[data.draw(st.integers(0, len(it) - 1))] = data.draw(st.integers(0, 255))
    assert is_harmless(shown_name(bytes(it[: data.draw(st.integers(0, len(it)))])))


@given(st.text(max_size=300))
def test_whatever_is_called_a_host(text: str) -> None:
    assert is_harmless(host_name(text))
    assert host_name(host_name(text)) == host_name(text)
