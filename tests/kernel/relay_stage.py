"""Who plays on the relay's stage: a plain proxy of ours that is the target as well, and clients."""

from __future__ import annotations

import socket
import ssl
import threading

from sidegate.gateway.engine import relay
from sidegate.gateway.engine.handshakes import Proxy
from sidegate.gateway.split.ports import engine_mark, upstream_mark
from tests.kernel.engine_stage.clients import exactly
from tests.kernel.engine_stage.programs import sh

PORT, WITHIN_S = 15000, 30.0
HERE, HERE6 = ("127.0.0.1", PORT), ("::1", PORT)


class Target:
    """A plain proxy, and whoever is wanted by way of it."""

    def __init__(self, kind: str = "socks") -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._server.settimeout(WITHIN_S)
        self.proxy = Proxy(kind, "127.0.0.1", self._server.getsockname()[1])

    def accept(self, first: bytes = b"") -> tuple[str, socket.socket]:
        """Who is wanted, and the connection. first: what the target says at once."""
        it = self._server.accept()[0]
        it.settimeout(WITHIN_S)
        return (self._accept_http if self.proxy.kind == "http" else self._accept_socks)(it, first), it

    def _accept_http(self, it: socket.socket, first: bytes) -> str:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += it.recv(1) or b"ended\r\n\r\n"
        it.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + first)
        return request.split()[1].decode()

    def _accept_socks(self, it: socket.socket, first: bytes) -> str:
        exactly(it, 3)
        it.sendall(b"\5\0")
        kind = exactly(it, 4)[3]
        length = exactly(it, 1)[0] if kind == 3 else {1: 4, 4: 16}[kind]
        host = exactly(it, length)
        port = int.from_bytes(exactly(it, 2), "big")
        it.sendall(b"\5\0\0\1" + bytes(6) + first)
        family = socket.AF_INET6 if kind == 4 else socket.AF_INET
        return f"{host.decode() if kind == 3 else socket.inet_ntop(family, host)}:{port}"


def begin(proxy: Proxy) -> None:
    """The relay, for the rest of this process."""
    sh("ip link set lo up")
    port = relay.Port("play", "::", PORT, engine_mark(0), upstream_mark(0), proxy)
    threading.Thread(target=relay.lead, args=([port],), daemon=True).start()


def client(at: tuple[str, int] = HERE, words: bytes = b"") -> socket.socket:
    it = socket.create_connection(at, WITHIN_S)
    it.sendall(words)
    return it


def all_of(it: socket.socket) -> str:
    """Up to the end of its words, or how they were broken off."""
    heard = b""
    try:
        while more := it.recv(1 << 16):
            heard += more
    except OSError as error:
        return f"{heard.decode()}{type(error).__name__}"
    return heard.decode()


def hello(name: str) -> bytes:
    comes, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    it = ssl.create_default_context().wrap_bio(comes, goes, server_hostname=name)
    try:
        it.do_handshake()
    except ssl.SSLWantReadError:
        return goes.read()
    raise AssertionError
