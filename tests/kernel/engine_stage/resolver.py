"""A DNS server that tells what it was asked."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from tests.kernel.engine_stage.certificate import Certificate


class Resolver:
    """DNS over TCP, over TLS where there is a certificate, and over UDP. asked: the names, in order.

    closes: whether it closes a connection after its first answer. allows: so many connections at a time. open: so many
    there are; most: so many there were at a time, or at all over HTTPS.
    """

    closes, allows, open, most = True, 1000, 0, 0

    def __init__(self, address: str, answer: str, certificate: Certificate | None = None) -> None:
        self.asked: list[str] = []
        self._answer = socket.inet_aton(answer)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        if certificate:
            self._certificate = certificate
            self._context.load_cert_chain(certificate.chain, certificate.key)
            self._serve(self._accept, socket.create_server((address, 853)), True)
            self._serve(self._accept_https, socket.create_server((address, 443)))
        self._serve(self._accept, socket.create_server((address, 53)), False)
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((address, 53))
        self._serve(self._datagrams, datagrams)

    def _serve(self, function: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _accept(self, server: socket.socket, is_tls: bool) -> None:
        while True:
            it = server.accept()[0]
            if self.open >= self.allows:
                it.close()
            else:
                self.open += 1
                self.most = max(self.most, self.open)
                self._serve(self._converse, it, is_tls)

    def _converse(self, it: socket.socket, is_tls: bool) -> None:
        with (
            suppress(OSError),
            self._context.wrap_socket(it, server_side=True) if is_tls else it as stream,
            stream.makefile("rb") as words,
        ):
            while length := words.read(2):
                reply = self.reply(words.read(struct.unpack("!H", length)[0]))
                stream.sendall(struct.pack("!H", len(reply)) + reply)
                if self.closes:
                    break
        self.open -= 1

    def _accept_https(self, server: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate.chain, self._certificate.key)
        context.set_alpn_protocols(["h2"])
        while True:
            with suppress(OSError):
                self._serve(self._converse_https, context.wrap_socket(server.accept()[0], server_side=True))

    def _converse_https(self, it: socket.socket) -> None:
        """As much of HTTP/2 as DNS over HTTPS needs (RFC 9113 section 4.1): a question is the body of a POST."""
        self.most += 1
        with suppress(OSError), it, it.makefile("rb") as words:
            words.read(24)
            it.sendall(_frame(_SETTINGS, 0, 0))
            while head := words.read(9):
                body, kind, flags = words.read(int.from_bytes(head[:3], "big")), head[3], head[4]
                if kind == _SETTINGS and not flags:
                    it.sendall(_frame(_SETTINGS, 1, 0))
                if kind == _DATA and body:
                    stream = int.from_bytes(head[5:], "big")
                    it.sendall(_frame(_HEADERS, 4, stream, _STATUS_200) + _frame(_DATA, 1, stream, self.reply(body)))

    def _datagrams(self, it: socket.socket) -> None:
        while True:
            question, peer = it.recvfrom(2048)
            it.sendto(self.reply(question), peer)

    def reply(self, question: bytes) -> bytes:
        """An A record for whatever is asked (RFC 1035 section 4)."""
        end = question.index(b"\0", 12)
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        self.asked.append(".".join(labels))
        head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
        record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + self._answer
        return head + question[12 : end + 5] + record


_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_STATUS_200 = b"\x88"
"""RFC 7541 appendix A, entry 8."""


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
