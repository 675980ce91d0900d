"""One question to one DNS server, of any type: plain (RFC 1035, section 4), over TLS, or over HTTPS."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from sidegate.lab import relay
from sidegate.lab.asking import ANSWERED_WITHIN_S, Answer, answered_since, why

TYPES = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SVCB": 64, "HTTPS": 65}
_CODES = {1: "format error", 2: "server failure", 3: "no such name", 4: "not implemented", 5: "refused"}
_ASK_AGAIN_S = 1.0
"""As the resolvers of Windows, Android and systemd do, about."""
_HEADER = struct.Struct("!HHHHHH")


class Record(Struct, frozen=True):
    """kind: the type's number. value: an address, a name, a text, or the data in hexadecimal."""

    name: str
    kind: int
    ttl_s: int
    value: str


def resolve(
    name: str,
    server: str,
    kind: str = "A",
    over: Literal["udp", "tcp", "tls", "https"] = "udp",
    timeout_s: float = ANSWERED_WITHIN_S,
    port: int = 53,
    ca: str = "",
    again_s: float = _ASK_AGAIN_S,
) -> Answer:
    """What the server says: the values of that type, in order, apart by a space, or why there are none.

    Not ok: no answer, an error that the server names, or no such record ("nothing"). ca: for TLS and HTTPS, the
    certificate (PEM) by which the one of the server's address is checked. again_s: a datagram is sent again after it.
    """
    start = time.monotonic()
    try:
        reply, asker = _exchange(_question(name, TYPES[kind]), server, over, timeout_s, port, ca, again_s)
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, why(error), answered_since(start))
    try:
        code, records = read_reply(reply)
    except (IndexError, struct.error, UnicodeDecodeError):
        return Answer(False, "malformed", answered_since(start), *asker)
    values = " ".join(r.value for r in records if r.kind == TYPES[kind])
    return Answer(bool(values), values or _CODES.get(code, "nothing"), answered_since(start), *asker)


def _question(name: str, kind: int) -> bytes:
    """Recursion desired."""
    return _HEADER.pack(int.from_bytes(os.urandom(2)), 0x0100, 1, 0, 0, 0) + labels(name) + struct.pack("!HH", kind, 1)


def labels(name: str) -> bytes:
    """A name as it stands in a message, uncompressed."""
    return b"".join(bytes([len(part)]) + part.encode() for part in name.rstrip(".").split(".") if part) + b"\0"


def _exchange(
    question: bytes, server: str, over: str, timeout_s: float, port: int, ca: str, again_s: float
) -> tuple[bytes, tuple[str, int]]:
    kind = socket.SOCK_DGRAM if over == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, kind) as plain:
        plain.settimeout(timeout_s)
        plain.connect((server, port))
        asker: tuple[str, int] = plain.getsockname()[:2]
        if over == "udp":
            return _over_datagrams(plain, question, timeout_s, again_s), asker
        if over == "tcp":
            return _over_stream(plain, question), asker
        with ssl.create_default_context(cadata=ca).wrap_socket(plain, server_hostname=server) as secure:
            return (_over_stream if over == "tls" else _over_https)(secure, question), asker


def _over_datagrams(connection: socket.socket, question: bytes, timeout_s: float, again_s: float) -> bytes:
    """Asks again, with the same id: a datagram that a resolver lost while it was replaced says nothing of the next."""
    end_s = time.monotonic() + timeout_s
    while True:
        connection.send(question)
        left_s = end_s - time.monotonic()
        connection.settimeout(max(0.01, min(again_s, left_s)))
        try:
            return connection.recv(65535)
        except TimeoutError:
            if left_s <= again_s:
                raise


def _over_stream(connection: socket.socket, question: bytes) -> bytes:
    connection.sendall(struct.pack("!H", len(question)) + question)
    with connection.makefile("rb") as stream:
        return stream.read(int.from_bytes(stream.read(2)))


def _over_https(connection: socket.socket, question: bytes) -> bytes:
    """RFC 8484, section 4.1."""
    head = f"POST {relay.PATH} HTTP/1.1\r\nHost: dns\r\nContent-Type: {relay.MEDIA_TYPE}\r\n"
    connection.sendall(f"{head}Content-Length: {len(question)}\r\n\r\n".encode() + question)
    with http.client.HTTPResponse(connection, method="POST") as reply:
        reply.begin()
        return reply.read() if reply.status == 200 else b""


def read_reply(reply: bytes) -> tuple[int, list[Record]]:
    """The code of an answer, and its answer section. Raises IndexError, struct.error or UnicodeDecodeError."""
    _, flags, questions, answers, _, _ = _HEADER.unpack_from(reply)
    at = _HEADER.size
    for _ in range(questions):
        at = _name(reply, at)[1] + 4
    return flags & 15, list(_records(reply, at, answers))


def _records(reply: bytes, at: int, count: int) -> Iterator[Record]:
    for _ in range(count):
        name, at = _name(reply, at)
        kind, _, ttl_s, length = struct.unpack_from("!HHIH", reply, at)
        at += 10
        yield Record(name, kind, ttl_s, _value(reply, at, length, kind))
        at += length


def _value(reply: bytes, at: int, length: int, kind: int) -> str:
    data = reply[at : at + length]
    if kind == TYPES["A"] and length == 4:
        return socket.inet_ntop(socket.AF_INET, data)
    if kind == TYPES["AAAA"] and length == 16:
        return socket.inet_ntop(socket.AF_INET6, data)
    if kind in (TYPES["CNAME"], TYPES["NS"], TYPES["PTR"]):
        return _name(reply, at)[0]
    if kind == TYPES["TXT"]:
        return data[1 : 1 + data[0]].decode()
    return data.hex()


def _name(reply: bytes, at: int) -> tuple[str, int]:
    """The name at a place of a message, and the place behind it. A pointer may only lead back, so that it ends."""
    parts: list[str] = []
    behind, limit = 0, len(reply)
    while reply[at]:
        if reply[at] >= 0xC0:
            target = struct.unpack_from("!H", reply, at)[0] & 0x3FFF
            behind = behind or at + 2
            if target >= min(at, limit):
                raise IndexError("a pointer that does not lead back")
            at = limit = target
            continue
        parts.append(reply[at + 1 : at + 1 + reply[at]].decode("ascii"))
        at += 1 + reply[at]
    return ".".join(parts), behind or at + 1
