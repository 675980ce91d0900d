"""A DNS question and its answer as bytes (RFC 1035 section 4), pure; and `ask`, which puts one question and waits.

What comes in may be hostile: lengths are checked, a name's compression pointers only lead backwards, and an answer is
taken only for the question that was asked.
"""

from __future__ import annotations

import secrets
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from msgspec import Struct

A, CNAME, SOA, PTR, TXT, AAAA, HTTPS = 1, 5, 6, 12, 16, 28, 65
RCODES: Final = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
_IN, _RECURSE, _IS_ANSWER, _IS_TRUNCATED = 1, 0x0100, 0x8000, 0x0200
_HEADER, _TAIL, _RECORD = struct.Struct("!6H"), struct.Struct("!2H"), struct.Struct("!2HIH")
_LONGEST = 255


class DnsQuestion(Struct, frozen=True):
    """name: in ASCII, without a dot at its end. number: the id by which the answer is known."""

    name: str
    kind: int
    number: int


class DnsAnswer(Struct, frozen=True):
    """code: as `NXDOMAIN`. addresses: of the asked name, in the answer's order. ttl_s: the least of the records'.

    kinds: of all records of the answer section.
    """

    code: str
    addresses: tuple[str, ...] = ()
    ttl_s: int | None = None
    kinds: tuple[int, ...] = ()
    is_truncated: bool = False


def encoded(question: DnsQuestion) -> bytes:
    """The query. Raises ValueError for a name that fits in no query."""
    labels = [label.encode("ascii") for label in question.name.split(".")] if question.name else []
    if any(not 0 < len(it) < 64 for it in labels) or sum(len(it) + 1 for it in labels) >= _LONGEST:
        raise ValueError(f"not a domain name: {question.name!r}")
    name = b"".join(bytes((len(it),)) + it for it in labels) + b"\0"
    return _HEADER.pack(question.number, _RECURSE, 1, 0, 0, 0) + name + _TAIL.pack(question.kind, _IN)


def answer_to(question: DnsQuestion, data: bytes) -> DnsAnswer | None:
    """None for what is no answer to it, or damaged."""
    try:
        number, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
        if number != question.number or not flags & _IS_ANSWER or questions != 1:
            return None
        name, at = _name(data, _HEADER.size)
        if (name, _TAIL.unpack_from(data, at)) != (question.name.lower(), (question.kind, _IN)):
            return None
        records = list(_records(data, at + _TAIL.size, answers))
    except (struct.error, IndexError, ValueError):
        return None
    return DnsAnswer(
        RCODES.get(flags & 15, f"code {flags & 15}"),
        tuple(it for kind, _, raw in records if (it := _address(kind, raw)) is not None),
        min((ttl_s for _, ttl_s, _ in records), default=None),
        tuple(kind for kind, _, _ in records),
        bool(flags & _IS_TRUNCATED),
    )


def ask(
    server: IPv4Address | str,
    name: str,
    kind: int = A,
    *,
    port: int = 53,
    timeout_s: float = 2.0,
    tcp: bool = False,
    times: int = 1,
) -> DnsAnswer | None:
    """Blocks; None without an answer within timeout_s, or where the server refuses packets.

    times: over UDP, so often at the most, from the same port and letter by letter: whoever hands a question on knows by
    that that the first one was lost (forward_query in dnsmasq's src/forward.c).
    """
    question = DnsQuestion(name, kind, secrets.randbelow(1 << 16))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as it:
        asked = (exchange(it, (str(server), port), question, time.monotonic() + timeout_s) for _ in range(times))
        return next((answer for answer in asked if answer is not None), None)


def exchange(it: socket.socket, server: tuple[str, int], question: DnsQuestion, deadline: float) -> DnsAnswer | None:
    """By a socket of the caller's, which may be another machine's. deadline: `time.monotonic()`."""
    is_tcp = it.type == socket.SOCK_STREAM
    query = encoded(question)
    try:
        it.settimeout(max(0.001, deadline - time.monotonic()))
        it.connect(server)
        it.sendall(struct.pack("!H", len(query)) + query if is_tcp else query)
        while (left_s := deadline - time.monotonic()) > 0:
            it.settimeout(left_s)
            data = _whole(it) if is_tcp else it.recv(65535)
            found = answer_to(question, data)
            if found is not None or is_tcp:
                return found
    except OSError:
        # Nobody listens, nobody answered in time, or there is no way there: no answer.
        return None
    return None


def _whole(it: socket.socket) -> bytes:
    """One message of a stream (RFC 1035 section 4.2.2)."""
    with it.makefile("rb") as stream:
        length = stream.read(2)
        return stream.read(int.from_bytes(length)) if len(length) == 2 else b""


def _name(data: bytes, at: int) -> tuple[str, int]:
    """A name, lower case, and where what follows it begins. Raises ValueError, IndexError."""
    labels: list[str] = []
    end, before, length = None, at, 0
    while data[at]:
        if data[at] < 64:
            label = data[at + 1 : at + 1 + data[at]]
            length += len(label) + 1
            labels.append(label.decode("latin-1").lower())
            at += 1 + data[at]
        else:
            target = (data[at] & 63) << 8 | data[at + 1]
            end = end or at + 2
            if target >= before:
                raise ValueError("a pointer that does not lead backwards")
            at = before = target
        if length > _LONGEST:
            raise ValueError("a name without end")
    return ".".join(labels), end or at + 1


def _records(data: bytes, at: int, count: int) -> Iterator[tuple[int, int, bytes]]:
    """Kind, seconds to live and content of each."""
    for _ in range(count):
        _, at = _name(data, at)
        kind, _, ttl_s, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data):
            raise ValueError("a record beyond the end")
        yield kind, ttl_s, data[at : at + length]
        at += length


def _address(kind: int, raw: bytes) -> str | None:
    if (kind, len(raw)) == (A, 4):
        return str(IPv4Address(raw))
    return str(IPv6Address(raw)) if (kind, len(raw)) == (AAAA, 16) else None
