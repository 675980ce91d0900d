"""DNS over TLS (RFC 7858) and over HTTPS (RFC 8484): each question is handed to the plain DNS server beside it."""

from __future__ import annotations

import socket
import struct
from base64 import urlsafe_b64decode
from urllib.parse import parse_qs, urlsplit

from sidegate.lab import namespaces as ns

PATH = "/dns-query"
MEDIA_TYPE = "application/dns-message"
_PATIENCE_S = 2.0


def ask(question: bytes, server: str) -> bytes:
    """What the DNS server at this address says. Raises OSError."""
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(_PATIENCE_S)
        asker.connect((server, 53))
        asker.send(question)
        return asker.recv(65535)


def serve(pid: int, connection: socket.socket) -> None:
    """Answers the questions of one connection (RFC 1035, section 4.2.2), until its end. Raises OSError.

    pid: of the machine's holder. Called in a thread of its own, which moves to that machine's network.
    """
    ns.enter_network(pid)
    server = connection.getsockname()[0]
    with connection.makefile("rb") as stream:
        while length := stream.read(2):
            answer = ask(stream.read(int.from_bytes(length)), server)
            connection.sendall(struct.pack("!H", len(answer)) + answer)


def question_in(path: str) -> bytes:
    """The question in the path of a GET request (RFC 8484, section 4.1); empty where there is none."""
    asked = parse_qs(urlsplit(path).query).get("dns", [""])[0]
    try:
        return urlsafe_b64decode(asked + "=" * (-len(asked) % 4))
    except ValueError:
        return b""
