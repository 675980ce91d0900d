"""DNS answers, byte for byte: as servers write them, and as nobody should."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.lab.resolving import TYPES, Record, labels, read_reply
from sidegate.lab.wiretap import Seen

QUESTION = labels("www.a.example") + struct.pack("!HH", 1, 1)
POINTER = b"\xc0\x0c"
"""To the name of the question."""


def reply(*records: bytes, code: int = 0) -> bytes:
    return struct.pack("!HHHHHH", 7, 0x8180 | code, 1, len(records), 0, 0) + QUESTION + b"".join(records)


def record(kind: str, data: bytes, name: bytes = POINTER) -> bytes:
    return name + struct.pack("!HHIH", TYPES[kind], 1, 60, len(data)) + data


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        ("A", bytes([1, 2, 3, 4]), "1.2.3.4"),
        ("AAAA", bytes(15) + b"\1", "::1"),
        ("CNAME", b"\3cdn\xc0\x10", "cdn.a.example"),
        ("TXT", b"\5hello", "hello"),
        ("HTTPS", b"\0\1\0", "000100"),
        ("A", b"\1", "01"),
    ],
)
def test_a_record_is_read(kind: str, data: bytes, value: str) -> None:
    assert read_reply(reply(record(kind, data))) == (0, [Record("www.a.example", TYPES[kind], 60, value)])


def test_a_code_is_read() -> None:
    assert read_reply(reply(code=3)) == (3, [])


@pytest.mark.parametrize("name", [b"\xc0\x1f", b"\xc0\xff", b"\x3fshort"], ids=["to itself", "forward", "cut off"])
def test_a_name_without_an_end_is_refused(name: bytes) -> None:
    with pytest.raises((IndexError, struct.error)):
        read_reply(reply(record("A", bytes(4), name)))


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(IndexError, struct.error, UnicodeDecodeError):
        read_reply(data)
    with suppress(IndexError, struct.error, UnicodeDecodeError):
        read_reply(reply() + data)


def seen(protocol: str, port: int, payload: bytes) -> Seen:
    return Seen(protocol, "192.168.1.5", "1.1.1.1", port, payload)


def test_a_question_is_seen_over_udp_and_tcp() -> None:
    asked = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels("WWW.a.example") + struct.pack("!HH", 1, 1)
    assert seen("udp", 53, asked).asks_for == "www.a.example"
    assert seen("tcp", 53, struct.pack("!H", len(asked)) + asked).asks_for == "www.a.example"
    assert seen("udp", 5353, asked).asks_for is None
    assert seen("tcp", 53, b"").asks_for is None
    assert seen("udp", 443, asked).mentions("a.example")


@given(st.binary(max_size=60))
def test_any_payload_is_seen(payload: bytes) -> None:
    packet = seen("udp", 53, payload)
    assert packet.asks_for is None or isinstance(packet.asks_for, str)
    assert not packet.mentions("secret.example")
