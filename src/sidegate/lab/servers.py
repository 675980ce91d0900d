"""Real servers of the lab, all in one process: a socket stays in the network namespace it was made in.

HTTP and HTTPS answer `/` with the machine's name, `/who` with the asking address as the server sees it, `/where` with
the address that was asked, `/bytes/N` with N bytes, and `/dns-query` as DNS over HTTPS. Echo sends every UDP datagram
back; STUN tells who sent it.
"""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from sidegate.home import CERTIFIED_SERVICES, UDP_SERVICES
from sidegate.lab import namespaces as ns
from sidegate.lab import relay, stun
from sidegate.lab.papers import Papers, server_context
from sidegate.lab.parts import Blueprint, Machine

_BLOCK_BYTES = 1 << 24


def serve(plan: Blueprint, pids: dict[str, int], papers: Papers | None, ready: Callable[[int], None]) -> None:
    """Opens every machine's sockets, says that it is ready, and answers for as long as it lives."""
    block = os.memfd_create("bytes")
    os.truncate(block, _BLOCK_BYTES)
    selector = selectors.DefaultSelector()
    for machine in plan.machines:
        if machine.listens:
            _listen(machine, pids[machine.name], block, papers, selector)
    ready(0)
    while True:
        for key, _ in selector.select():
            key.data(key.fileobj)


def _listen(machine: Machine, pid: int, block: int, papers: Papers | None, selector: selectors.BaseSelector) -> None:
    ns.enter_network(pid)
    site = _Site(machine.name, block, pid)
    for service, address, port in machine.listens:
        if service == "quic":  # sidegate.lab.http3
            continue
        if service in UDP_SERVICES:
            answer = _mapped if service == "stun" else _echo
            selector.register(_bound(socket.SOCK_DGRAM, address, port), selectors.EVENT_READ, answer)
            continue
        listener = _bound(socket.SOCK_STREAM, address, port)
        listener.listen(512)
        context = server_context(papers.of(address)) if papers and service in CERTIFIED_SERVICES else None
        talk = partial(relay.serve, pid) if service == "dot" else partial(_serve_pages, site)
        selector.register(listener, selectors.EVENT_READ, _acceptor(talk, context))


def _bound(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    return listener


def _echo(listener: socket.socket) -> None:
    _reply(listener, lambda data, _: data)


def _mapped(listener: socket.socket) -> None:
    _reply(listener, stun.answer)


def _reply(listener: socket.socket, say: Callable[[bytes, tuple[str, int]], bytes]) -> None:
    data, asker = listener.recvfrom(65536)
    said = say(data, asker[:2])
    try:
        if said:
            listener.sendto(said, asker)
    except OSError:
        # No route to a private address: the fault this lab is built to show.
        return


def _acceptor(talk: Callable[[socket.socket], None], context: ssl.SSLContext | None) -> Callable[[socket.socket], None]:
    def accept(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection, talk, context), daemon=True).start()

    return accept


def _answer(connection: socket.socket, talk: Callable[[socket.socket], None], context: ssl.SSLContext | None) -> None:
    connection.settimeout(60)
    try:
        with connection:
            if context is None:
                talk(connection)
                return
            with context.wrap_socket(connection, server_side=True) as secure:
                talk(secure)
    except OSError:
        # The asker is gone, or believes no certificate of ours.
        return


def _serve_pages(site: _Site, connection: socket.socket) -> None:
    _Handler(connection, connection.getpeername(), site)  # type: ignore[arg-type]


class _Site:
    """What `BaseHTTPRequestHandler` calls its server."""

    def __init__(self, name: str, block: int, pid: int) -> None:
        self.name, self.block, self.pid = name, block, pid


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Site  # type: ignore[assignment]

    def do_GET(self) -> None:
        """RFC 9110, section 9.3.1."""
        if self.path.startswith("/bytes/") and self.path[7:].isdigit():
            self._send_bytes(int(self.path[7:]))
        elif self.path == "/who":
            self._send_text(f"{self.client_address[0]} {self.client_address[1]}\n")
        elif self.path == "/where":
            address, port = self.connection.getsockname()[:2]
            self._send_text(f"{address} {port}\n")
        elif self.path == "/":
            self._send_text(f"{self.server.name}\n")
        elif self.path.startswith(relay.PATH):
            self._send_answer(relay.question_in(self.path))
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Only for DNS over HTTPS."""
        if self.path != relay.PATH:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self._send_answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _send_answer(self, question: bytes) -> None:
        ns.enter_network(self.server.pid)  # this thread alone: each connection has its own
        try:
            answer = relay.ask(question, self.connection.getsockname()[0])
        except OSError:
            self.send_error(HTTPStatus.BAD_GATEWAY)
            return
        self._send(answer, relay.MEDIA_TYPE)

    def _send_text(self, text: str) -> None:
        self._send(text.encode(), "text/plain")

    def _send(self, body: bytes, media_type: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_bytes(self, size: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.flush()
        with open(os.dup(self.server.block), "rb") as block:
            for start in range(0, size, _BLOCK_BYTES):
                self.connection.sendfile(block, 0, min(_BLOCK_BYTES, size - start))

    def log_message(self, *_: Any) -> None:
        """Nobody reads a lab's access log."""
