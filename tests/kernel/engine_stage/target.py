"""Whom everybody wants to reach."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from tests.kernel.engine_stage.addresses import OTHER, TARGET, TARGET6
from tests.kernel.engine_stage.certificate import Certificate

GREETING = b"220 Good morning\r\n"


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        here: tuple[str, int] = self.connection.getsockname()
        body = f"{self.client_address[0]} at {here[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _Mirror(socketserver.BaseRequestHandler):
    greeting, after_s = b"", 0.0

    def handle(self) -> None:
        """What it hears it says again, after its greeting."""
        time.sleep(self.after_s)
        self.request.sendall(self.greeting)
        while heard := self.request.recv(1 << 16):
            self.request.sendall(heard)


class _Greeter(_Mirror):
    """Later than any outbound of the engine's waits for its client."""

    greeting, after_s = GREETING, 1.0


_MANY = 128
"""Connections that may wait to be taken in. Of one more the kernel drops the SYN, which comes again seconds later."""


class _Talkers(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = _MANY

    def handle_error(self, request: object, client_address: object) -> None:
        """Who breaks off is none of its business."""


class _Web(ThreadingHTTPServer):
    request_queue_size = _MANY

    def server_bind(self) -> None:
        """Without looking for its own name, which takes seconds where there is no DNS."""
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Who breaks off is none of its business."""


class _Web6(_Web):
    address_family = socket.AF_INET6


def serve_target(certificate: Certificate) -> None:
    """HTTP on port 80, TLS on 443, echo on 7; on 81 one who answers late; on 82 one who speaks first."""
    for address, port in ((TARGET, 80), (OTHER, 80), (TARGET, 443), (TARGET6, 80)):
        server = (_Web6 if ":" in address else _Web)((address, port), _Page)
        if port == 443:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate.chain, certificate.key)
            context.set_alpn_protocols(["h2", "http/1.1"])
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=_answer_late, args=(socket.create_server((TARGET, 81)),), daemon=True).start()
    for port, handler in ((7, _Mirror), (82, _Greeter)):
        threading.Thread(target=_Talkers((TARGET, port), handler).serve_forever, daemon=True).start()
    for address in (TARGET, TARGET6):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
        for it, port in zip(sockets, (7, 9), strict=True):
            it.bind((address, port))
        threading.Thread(target=_echo, args=sockets, daemon=True).start()


def _answer_late(server: socket.socket) -> None:
    """A while later than Xray by itself would wait for, once a client has said all."""
    while True:
        with suppress(OSError), server.accept()[0] as it:
            it.recv(2048)
            time.sleep(1.5)
            it.sendall(b"late")


def _echo(it: socket.socket, other: socket.socket) -> None:
    """Asked for it, another port answers: it gets through to a full cone alone."""
    while True:
        data, peer = it.recvfrom(2048)
        (other if data == b"other port" else it).sendto(data + b" from " + peer[0].encode(), peer)
