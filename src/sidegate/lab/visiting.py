"""Pages as a browser gets them: HTTPS and HTTP/3 by name, and through a proxy of the LAN; for `Lab.call`.

ca: the certificate (PEM) by which the server's own is checked: `Lab.ca`.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import struct
import time
from ipaddress import ip_address
from typing import Any, Literal

from sidegate.lab.asking import ANSWERED_WITHIN_S, Answer, answered_since, fetch, http_get, why
from sidegate.lab.resolving import resolve

_SOCKS_CODES = {1: "failure", 2: "not allowed", 3: "network unreachable", 4: "host unreachable", 5: "refused"}


def visit(
    scheme: Literal["http", "https", "h3"],
    name: str,
    resolver: str,
    path: str = "/who",
    ca: str = "",
    kind: Literal["A", "AAAA"] = "A",
    timeout_s: float = ANSWERED_WITHIN_S,
) -> Answer:
    """Looks a name up at a DNS server, asking again as a stub resolver does, and gets a page of it.

    timeout_s: for the name, and again for the page.
    """
    found = resolve(name, resolver, kind, timeout_s=timeout_s)
    if not found.ok:
        return Answer(False, f"{name}: {found.detail}", found.ms)
    address = found.detail.partition(" ")[0]
    if scheme == "http":
        return http_get(address, 80, path, timeout_s, host=name)
    get = https_get if scheme == "https" else http3_get
    return get(address, name, ca, path, timeout_s=timeout_s)


def https_get(
    address: str, name: str, ca: str, path: str = "/who", port: int = 443, timeout_s: float = ANSWERED_WITHIN_S
) -> Answer:
    """One request over a new TLS connection that names the server (SNI) and checks its certificate."""
    start = time.monotonic()
    try:
        context = ssl.create_default_context(cadata=ca)
        connection = socket.create_connection((address, port), timeout_s)
        with connection, context.wrap_socket(connection, server_hostname=name) as secure:
            return fetch(secure, name, path, start)
    except ssl.SSLCertVerificationError as error:
        return Answer(False, error.verify_message, answered_since(start))
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, why(error), answered_since(start))


def http3_get(
    address: str, name: str, ca: str, path: str = "/who", port: int = 443, timeout_s: float = ANSWERED_WITHIN_S
) -> Answer:
    """One request over a new QUIC connection (RFC 9114). It never falls back to TCP."""
    start = time.monotonic()
    try:
        status, body = asyncio.run(asyncio.wait_for(_http3(address, name, ca, path, port), timeout_s))
    except (OSError, TimeoutError) as error:
        return Answer(False, why(error), answered_since(start))
    return Answer(status == 200, body.strip() or f"status {status}", answered_since(start))


async def _http3(address: str, name: str, ca: str, path: str, port: int) -> tuple[int, str]:
    from aioquic.asyncio.client import connect
    from aioquic.quic.configuration import QuicConfiguration

    configuration = QuicConfiguration(alpn_protocols=["h3"], server_name=name)
    configuration.load_verify_locations(cadata=ca.encode())
    asking = connect(address, port, configuration=configuration, create_protocol=_asking())
    async with asking as asker:
        found: tuple[int, str] = await asker.get(name, path)  # type: ignore[attr-defined]
        return found


def _asking() -> Any:
    """A class, made here: its parent is there only with the library."""
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.h3.connection import H3Connection
    from aioquic.h3.events import DataReceived, HeadersReceived
    from aioquic.quic.events import ConnectionTerminated, QuicEvent

    class Asking(QuicConnectionProtocol):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.http = H3Connection(self._quic)
            self.answer: asyncio.Future[tuple[int, str]] = self._loop.create_future()
            self.status, self.body = 0, b""

        async def get(self, name: str, path: str) -> tuple[int, str]:
            asked = {":method": "GET", ":scheme": "https", ":authority": name, ":path": path}
            stream = self._quic.get_next_available_stream_id()
            self.http.send_headers(stream, [(k.encode(), v.encode()) for k, v in asked.items()], end_stream=True)
            self.transmit()
            return await self.answer

        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, ConnectionTerminated) and not self.answer.done():
                self.answer.set_exception(ConnectionError(event.reason_phrase or "closed"))
            for heard in self.http.handle_event(event):
                if isinstance(heard, HeadersReceived):
                    self.status = int(dict(heard.headers)[b":status"])
                if isinstance(heard, DataReceived):
                    self.body += heard.data
                if isinstance(heard, HeadersReceived | DataReceived) and heard.stream_ended:
                    self.answer.set_result((self.status, self.body.decode()))

    return Asking


def proxy_get(proxy: str, port: int, name: str, path: str = "/who", timeout_s: float = ANSWERED_WITHIN_S) -> Answer:
    """A page through an HTTP proxy, which looks the name up (RFC 9112, section 3.2.2)."""
    return http_get(proxy, port, f"http://{name}{path}", timeout_s, host=name)


def socks_get(
    proxy: str,
    port: int,
    host: str,
    path: str = "/who",
    user: str = "",
    password: str = "",
    timeout_s: float = ANSWERED_WITHIN_S,
) -> Answer:
    """A page through a SOCKS5 proxy (RFC 1928, 1929). host: a name, which the proxy looks up, or an address."""
    start = time.monotonic()
    try:
        with socket.create_connection((proxy, port), timeout_s) as connection:
            if refusal := _socks_connect(connection, host, 80, user, password):
                return Answer(False, refusal, answered_since(start))
            return fetch(connection, host, path, start)
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, why(error), answered_since(start))


def _socks_connect(connection: socket.socket, host: str, port: int, user: str, password: str) -> str:
    """Why the proxy does not connect; empty: it did. Without a user it offers no password."""
    connection.sendall(b"\5\1\2" if user else b"\5\1\0")
    method = _read(connection, 2)[1]
    if method == 2:
        secrets = [bytes([len(word)]) + word.encode() for word in (user, password)]
        connection.sendall(b"\1" + b"".join(secrets))
        if _read(connection, 2)[1] != 0:
            return "wrong password"
    elif method != 0:
        return "wants a password" if not user else "wants no password"
    connection.sendall(b"\5\1\0" + _socks_address(host) + struct.pack("!H", port))
    _, code, _, kind = _read(connection, 4)
    length = {1: 4, 4: 16}.get(kind) or _read(connection, 1)[0]
    _read(connection, length + 2)
    return _SOCKS_CODES.get(code, f"code {code}") if code else ""


def _socks_address(host: str) -> bytes:
    try:
        address = ip_address(host)
    except ValueError:
        return b"\3" + bytes([len(host)]) + host.encode()
    return (b"\1" if address.version == 4 else b"\4") + address.packed


def _read(connection: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count:
        more = connection.recv(count - len(read))
        if not more:
            raise ConnectionError("closed without a word")
        read += more
    return read
