"""DNS messages as bytes: what is asked, and that no answer, however made, misleads."""

from __future__ import annotations

import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.probe.dns import AAAA, A, DnsAnswer, DnsQuestion, answer_to, ask, encoded

QUESTION = DnsQuestion("www.Example.org", A, 0x1234)
ASKED = b"\x03www\x07example\x03org\0\0\1\0\1"
LONG = ".".join(["a" * 63] * 4)


def answer(*records: bytes, flags: int = 0x8180, number: int = 0x1234, asked: bytes = ASKED) -> bytes:
    return struct.pack("!6H", number, flags, 1, len(records), 0, 0) + asked + b"".join(records)


def record(kind: int, content: bytes, ttl_s: int = 60, name: bytes = b"\xc0\x0c") -> bytes:
    return name + struct.pack("!2HIH", kind, 1, ttl_s, len(content)) + content


ALIAS = record(5, b"\x03cdn\xc0\x10", 30)


def test_a_question() -> None:
    assert encoded(QUESTION) == b"\x12\x34\1\0\0\1\0\0\0\0\0\0\x03www\x07Example\x03org\0\0\1\0\1"
    assert encoded(DnsQuestion("", A, 0))[12:] == b"\0\0\1\0\1"


@pytest.mark.parametrize("name", ["a..b", "a" * 64, LONG, "ü"])
def test_what_cannot_be_asked(name: str) -> None:
    with pytest.raises(ValueError, match=r"domain name|ascii"):
        encoded(DnsQuestion(name, A, 0))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (answer(record(A, b"\1\2\3\4")), DnsAnswer("NOERROR", ("1.2.3.4",), 60, (A,))),
        (answer(ALIAS, record(A, b"\1\2\3\4", 9)), DnsAnswer("NOERROR", ("1.2.3.4",), 9, (5, A))),
        (answer(record(AAAA, bytes(15) + b"\1")), DnsAnswer("NOERROR", ("::1",), 60, (AAAA,))),
        (answer(record(A, b"\1\2\3")), DnsAnswer("NOERROR", (), 60, (A,))),
        (answer(flags=0x8183), DnsAnswer("NXDOMAIN")),
        (answer(flags=0x8185), DnsAnswer("REFUSED")),
        (answer(flags=0x818B), DnsAnswer("code 11")),
        (answer(flags=0x8380), DnsAnswer("NOERROR", is_truncated=True)),
        (answer(number=0x1235), None),
        (answer(flags=0x0100), None),
        (answer(asked=ASKED.replace(b"www", b"wwx")), None),
        (answer(asked=b"\x03www\x07example\x03org\0\0\x1c\0\1"), None),
        (answer(record(A, b"\1\2\3\4"))[:-1], None),
        (answer(record(A, b"", name=b"\xc0\x29")), None),
        (answer(record(A, b"", name=b"\xc0\xff")), None),
        (b"", None),
    ],
)
def test_answers(data: bytes, expected: DnsAnswer | None) -> None:
    assert answer_to(QUESTION, data) == expected


@given(st.binary(max_size=80))
def test_any_bytes_are_an_answer_or_none(data: bytes) -> None:
    answer_to(QUESTION, data)
    answer_to(QUESTION, answer()[:12] + data)
    answer_to(QUESTION, answer(data))


@pytest.mark.parametrize("tcp", [False, True])
def test_a_server_is_asked(tcp: bool) -> None:
    """What comes first is not for us."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=_serve_tcp if tcp else _serve_udp, args=(server,))
        if tcp:
            server.listen()
        thread.start()
        found = ask("127.0.0.1", "www.example.org", port=server.getsockname()[1], tcp=tcp)
        thread.join()
    assert found == DnsAnswer("NOERROR", ("1.2.3.4",), 60, (A,))


def _serve_udp(server: socket.socket) -> None:
    query, client = server.recvfrom(512)
    number = int.from_bytes(query[:2])
    server.sendto(answer(number=number ^ 1), client)
    server.sendto(answer(record(A, b"\1\2\3\4"), number=number), client)


def test_a_server_is_asked_again_in_the_same_words() -> None:
    heard = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            heard.append(server.recvfrom(512))
            heard.append(server.recvfrom(512))
            query, client = heard[1]
            server.sendto(answer(record(A, b"\1\2\3\4"), number=int.from_bytes(query[:2])), client)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        found = ask("127.0.0.1", "www.example.org", port=port, timeout_s=0.1, times=100)
        thread.join()
    assert found == DnsAnswer("NOERROR", ("1.2.3.4",), 60, (A,))
    assert heard[0] == heard[1]


def _serve_tcp(server: socket.socket) -> None:
    client, _ = server.accept()
    with client:
        query = client.recv(512)[2:]
        data = answer(record(A, b"\1\2\3\4"), number=int.from_bytes(query[:2]))
        client.sendall(len(data).to_bytes(2) + data)


def test_nobody_answers() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        assert ask("127.0.0.1", "example.org", port=server.getsockname()[1], timeout_s=0.02) is None
