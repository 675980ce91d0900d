"""What a person at a client would try, as functions for `Lab.call`: plain sockets, no program to start."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import time

from msgspec import Struct


class Answer(Struct, frozen=True):
    """What came of asking once.

    detail: the body, or why there was no answer. ms: how long it took. address, port: who asked.
    """

    ok: bool
    detail: str
    ms: float
    address: str = ""
    port: int = 0


def http_get(address: str, port: int = 80, path: str = "/", timeout_s: float = 1.5, source: str = "") -> Answer:
    """One HTTP request over a new connection. source: the address to ask from, where a machine has several."""
    start = time.monotonic()
    asker: tuple[str, int] = "", 0
    try:
        sender = (source, 0) if source else None
        connection = http.client.HTTPConnection(address, port, timeout=timeout_s, source_address=sender)
        connection.connect()
        asker = connection.sock.getsockname()[:2]
        connection.request("GET", path)
        reply = connection.getresponse()
        body = reply.read().decode(errors="replace")
        connection.close()
        return Answer(reply.status == 200, body.strip() or f"status {reply.status}", _since(start), *asker)
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, _why(error), _since(start), *asker)


def udp_echo(address: str, port: int = 7, timeout_s: float = 1.5, text: str = "hello") -> Answer:
    """One datagram, and the wait for the same one back."""
    start = time.monotonic()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(timeout_s)
        try:
            asker.connect((address, port))
            asker.send(text.encode())
            back = asker.recv(2048).decode()
            return Answer(back == text, back, _since(start), *asker.getsockname()[:2])
        except OSError as error:
            return Answer(False, _why(error), _since(start), *asker.getsockname()[:2])


def ping(address: str, timeout_s: float = 1.5) -> Answer:
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
            return Answer(True, "echo reply", _since(start))
        except OSError as error:
            return Answer(False, _why(error), _since(start))


def look_up(name: str, server: str, timeout_s: float = 1.5) -> Answer:
    """The first IPv4 address of a name, asked of one DNS server over UDP (RFC 1035, section 4)."""
    start = time.monotonic()
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = os.urandom(2) + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(timeout_s)
        try:
            asker.connect((server, 53))
            asker.send(query)
            reply = asker.recv(4096)
        except OSError as error:
            return Answer(False, _why(error), _since(start))
    answers = struct.unpack("!H", reply[6:8])[0]
    if answers == 0:
        return Answer(False, "no such name", _since(start))
    return Answer(True, socket.inet_ntoa(reply[-4:]), _since(start))


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


def _since(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 2)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
