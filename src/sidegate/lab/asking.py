"""What a person at a client would try, as functions for `Lab.call`: plain sockets, no program to start."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import time

from msgspec import Struct

from sidegate.lab.stun import mapped, question

NO_ANSWER = "no answer"
ANSWERED_WITHIN_S = 5.0
"""An answer takes milliseconds in a lab, and seconds where its servers share a loaded machine."""


class Answer(Struct, frozen=True):
    """What came of asking once.

    detail: the body, or why there was no answer. ms: how long it took. address, port: who asked.
    """

    ok: bool
    detail: str
    ms: float
    address: str = ""
    port: int = 0


def http_get(
    address: str,
    port: int = 80,
    path: str = "/",
    timeout_s: float = ANSWERED_WITHIN_S,
    source: str = "",
    host: str = "",
) -> Answer:
    """One HTTP request over a new connection. source: the address to ask from, where a machine has several.

    host: the server's name as the request says it, where it is not the address.
    """
    start = time.monotonic()
    try:
        sender = (source, 0) if source else None
        with socket.create_connection((address, port), timeout_s, sender) as connection:
            return fetch(connection, host or address, path, start)
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, why(error), answered_since(start))


def fetch(connection: socket.socket, host: str, path: str, start_s: float) -> Answer:
    """One HTTP request over a connection that is there already; it stays open. start_s: when all this began."""
    asker: tuple[str, int] = connection.getsockname()[:2]
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    try:
        with http.client.HTTPResponse(connection, method="GET") as reply:
            reply.begin()
            body = reply.read().decode(errors="replace").strip()
            return Answer(reply.status == 200, body or f"status {reply.status}", answered_since(start_s), *asker)
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, why(error), answered_since(start_s), *asker)


def udp_echo(address: str, port: int = 7, timeout_s: float = ANSWERED_WITHIN_S, text: str = "hello") -> Answer:
    """One datagram, and the wait for the same one back."""
    start = time.monotonic()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(timeout_s)
        try:
            asker.connect((address, port))
            asker.send(text.encode())
            back = asker.recv(2048).decode()
            return Answer(back == text, back, answered_since(start), *asker.getsockname()[:2])
        except OSError as error:
            return Answer(False, why(error), answered_since(start), *asker.getsockname()[:2])


def ping(address: str, timeout_s: float = ANSWERED_WITHIN_S) -> Answer:
    """One ICMP echo through the kernel's own ping socket (icmp(7), net.ipv4.ping_group_range)."""
    start = time.monotonic()
    v6 = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as asker:
        asker.settimeout(timeout_s)
        try:
            asker.connect((address, 0))
            asker.send(struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 0, 1) + os.urandom(16))
            asker.recv(2048)
            return Answer(True, "echo reply", answered_since(start))
        except OSError as error:
            return Answer(False, why(error), answered_since(start))


def stun(address: str, port: int = 3478, timeout_s: float = ANSWERED_WITHIN_S) -> Answer:
    """From which address and port what we send arrives, as "address port"."""
    start = time.monotonic()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(timeout_s)
        try:
            asker.connect((address, port))
            asker.send(question())
            found = mapped(asker.recv(2048))
        except OSError as error:
            return Answer(False, why(error), answered_since(start), *asker.getsockname()[:2])
        said = f"{found[0]} {found[1]}" if found else "malformed"
        return Answer(found is not None, said, answered_since(start), *asker.getsockname()[:2])


def download_mbit(address: str, seconds: float) -> float:
    """The rate of one HTTP download in Mbit/s of payload; a slow start of a tenth of the time is not counted."""
    buffer = bytearray(1 << 20)
    with socket.create_connection((address, 80), timeout=5) as asker:
        asker.sendall(f"GET /bytes/{10**12} HTTP/1.1\r\nHost: lab\r\n\r\n".encode())
        _receive_for(asker, buffer, seconds / 10)
        start = time.monotonic()
        total = _receive_for(asker, buffer, seconds)
        return total * 8 / 1e6 / (time.monotonic() - start)


def _receive_for(asker: socket.socket, buffer: bytearray, seconds: float) -> int:
    end, total = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        total += asker.recv_into(buffer)
    return total


def answered_since(start: float) -> float:
    """Milliseconds since a moment of `time.monotonic`."""
    return round((time.monotonic() - start) * 1000, 2)


def why(error: Exception) -> str:
    """What a person is told of it."""
    if isinstance(error, TimeoutError):
        return NO_ANSWER
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
