"""A client's connection until it is one with that of its target: who is wanted, and what the proxy says to it.

The way to the proxy is made while the client still shows the name. Nothing is taken from either socket but the proxy's
own answers: what the client said, and what the target says first, is left to who moves it (`splicing`).
"""

from __future__ import annotations

import os
import select
import socket

from sidegate.gateway.engine.handshakes import MOST_ANSWERED, Handshake, Proxy, Refused
from sidegate.gateway.engine.sniffing import MOST_SHOWN, shown_name

SHOWS_WITHIN_S = 0.2
"""After which a client that shows no name waits for the server (app/dispatcher/default.go, sniffer)."""
CONNECTS_WITHIN_S = 16.0
"""transport/internet/system_dialer.go"""
ANSWERS_WITHIN_S = 60.0
"""Of a proxy, whose own way to the target may be slow (features/policy, Handshake)."""
_ASKS_EVERY_S = 45
"""Whether the proxy is still there; it keeps a router's mapping, too (transport/internet/system_dialer.go)."""
_BROKEN = select.EPOLLERR | select.EPOLLHUP


class Gone(Exception):
    """The client is."""


class Opening:
    """client: as accepted, and not blocking. mark: of the socket to the proxy. Raises OSError, and closes nothing."""

    def __init__(self, client: socket.socket, proxy: Proxy, mark: int, now: float) -> None:
        self.client, self._proxy = client, proxy
        self.server = _connecting(proxy, mark)
        self._name: str | None = None
        self._handshake: Handshake | None = None
        self._out = b""
        self._is_connected = self._has_ended = False
        self._shows_until_s, self._ends_s = now + SHOWS_WITHIN_S, now + CONNECTS_WITHIN_S

    def turn(self, fd: int, event: int, now: float) -> bool:
        """Goes on as far as it goes without waiting; whether both are one now. Raises Gone; OSError and Refused, by the
        proxy."""
        if fd == self.client.fileno() and event & _BROKEN:
            raise Gone
        if fd == self.server.fileno():
            self._has_ended |= bool(event & select.EPOLLRDHUP)
            if not self._is_connected:
                self._see_whether_connected(event, now)
        if self._name is None:
            self._look()
        return self._go_on()

    def mind(self, now: float) -> bool:
        """As `turn`, with time gone by. Raises TimeoutError, too."""
        if now >= self._ends_s:
            raise TimeoutError("it does not answer")
        if self._name is None and now >= self._shows_until_s:
            # It may have come while nobody looked: time in which this process was kept waiting is not the client's.
            self._look()
            self._name = self._name or ""
            return self._go_on()
        return False

    def _see_whether_connected(self, event: int, now: float) -> None:
        error = self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        if event & select.EPOLLOUT:
            self._is_connected = True
            self._ends_s = now + ANSWERS_WITHIN_S

    def _look(self) -> None:
        try:
            data = self.client.recv(MOST_SHOWN, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            raise Gone from None
        self._name = shown_name(data) if data else ""

    def _go_on(self) -> bool:
        if not self._is_connected or self._name is None:
            return False
        if self._handshake is None:
            address, port = self.client.getsockname()[:2]
            self._handshake = Handshake(self._proxy, self._name or address.removeprefix("::ffff:"), port)
            self._out = self._handshake.out
        try:
            return self._talk(self._handshake)
        except BlockingIOError:
            return False

    def _talk(self, handshake: Handshake) -> bool:
        """Raises BlockingIOError, too."""
        while not handshake.is_done:
            while self._out:
                self._out = self._out[self.server.send(self._out) :]
            taken = handshake.hear(self.server.recv(MOST_ANSWERED, socket.MSG_PEEK))
            if not taken and self._has_ended:
                raise Refused("it closes the connection")
            if not taken:
                return False
            self.server.recv(taken)
            self._out = handshake.out
        return True


def _connecting(proxy: Proxy, mark: int) -> socket.socket:
    """Raises OSError."""
    family = socket.AF_INET6 if ":" in proxy.host else socket.AF_INET
    it = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        it.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        it.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        it.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        it.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ASKS_EVERY_S)
        it.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASKS_EVERY_S)
        it.connect((proxy.host, proxy.port))
    except BlockingIOError:
        pass
    except OSError:
        it.close()
        raise
    return it
