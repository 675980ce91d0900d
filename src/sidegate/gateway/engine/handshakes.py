"""How a plain proxy is asked for a connection: SOCKS5 (RFC 1928, RFC 1929) and HTTP CONNECT (RFC 9110 section 9.3.6).

Pure: what is to be sent, and how much of what came is the proxy's answer. What follows it is the target's, which may
be the first to speak, and is never touched here.
"""

from __future__ import annotations

import re
import socket
from binascii import b2a_base64
from collections.abc import Callable
from typing import NamedTuple

MOST_ANSWERED = 1 << 13
"""Octets of all that a proxy says for itself."""
_VERSION, _CONNECT, _NO_LOGIN, _LOGIN = 5, 1, 0, 2
_IPV4, _NAME, _IPV6 = 1, 3, 4
_REFUSALS = (
    "general failure",
    "not allowed",
    "network unreachable",
    "host unreachable",
    "connection refused",
    "TTL expired",
    "command not supported",
    "address type not supported",
)
"""RFC 1928 section 6, from 1 on."""
_END_OF_HEADER = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.[0-9] ([1-5][0-9]{2})[ \r\n]")


class Proxy(NamedTuple):
    """kind: socks or http. host: an address. user: empty: it is asked without a login."""

    kind: str
    host: str
    port: int
    user: str = ""
    password: str = ""


class Refused(Exception):
    """The proxy does not do it, or does not speak as it should; says why, without secrets."""


class Handshake:
    """out: what is to be sent now. is_done: whether what comes next is the target's.

    host: a name, or an address, of the target.
    """

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        self._proxy, self._host, self._port = proxy, host, port
        self._heard = 0
        self.is_done = False
        self._answer: Callable[[bytes], int]
        if proxy.kind == "socks":
            self.out, self._answer = bytes([_VERSION, 1, self._method]), self._hear_method
        else:
            self.out, self._answer = connect_request(proxy, host, port), self._hear_status

    def hear(self, data: bytes) -> int:
        """data: all that came since; how many of its octets are the answer, after which `out` is new; 0: some are
        still missing. Raises Refused."""
        taken = self._answer(data)
        self._heard += taken
        begun = 0 if taken else len(data)
        if not self.is_done and self._heard + begun >= MOST_ANSWERED:
            raise Refused("its answer has no end")
        return taken

    # SOCKS5

    @property
    def _method(self) -> int:
        return _LOGIN if self._proxy.user else _NO_LOGIN

    def _hear_method(self, data: bytes) -> int:
        if len(data) < 2:
            return 0
        if data[0] != _VERSION:
            raise Refused("it does not speak SOCKS5")
        if data[1] != self._method:
            raise Refused("it wants another login")
        if self._proxy.user:
            self.out, self._answer = _login(self._proxy), self._hear_login
        else:
            self._ask()
        return 2

    def _hear_login(self, data: bytes) -> int:
        if len(data) < 2:
            return 0
        if data[1] != 0:
            raise Refused("it refuses the login")
        self._ask()
        return 2

    def _ask(self) -> None:
        head = bytes([_VERSION, _CONNECT, 0])
        self.out, self._answer = head + _address(self._host) + self._port.to_bytes(2, "big"), self._hear_reply

    def _hear_reply(self, data: bytes) -> int:
        """Who refuses may leave the rest out."""
        if len(data) < 2:
            return 0
        if data[0] != _VERSION:
            raise Refused("it does not speak SOCKS5")
        if data[1] != 0:
            raise Refused(_REFUSALS[data[1] - 1] if data[1] <= len(_REFUSALS) else f"refusal {data[1]}")
        if len(data) < 5:
            return 0
        length = _reply_length(data[3], data[4])
        if len(data) < length:
            return 0
        self._end()
        return length

    # HTTP

    def _hear_status(self, data: bytes) -> int:
        end = _END_OF_HEADER.search(data)
        if not end:
            return 0
        status = _STATUS.match(data)
        if not status:
            raise Refused("it does not speak HTTP")
        if status[1][:1] == b"2":
            self._end()
        elif status[1][:1] != b"1":
            raise Refused(f"HTTP status {int(status[1])}")
        else:
            self.out = b""
        return end.end()

    def _end(self) -> None:
        self.out, self.is_done = b"", True


def _login(proxy: Proxy) -> bytes:
    """RFC 1929 section 2."""
    user, password = proxy.user.encode(), proxy.password.encode()
    return bytes([1, len(user)]) + user + bytes([len(password)]) + password


def _address(host: str) -> bytes:
    """RFC 1928 section 5."""
    if ":" in host:
        return bytes([_IPV6]) + socket.inet_pton(socket.AF_INET6, host)
    if host.replace(".", "").isdigit():
        return bytes([_IPV4]) + socket.inet_pton(socket.AF_INET, host)
    name = host.encode("ascii")
    return bytes([_NAME, len(name)]) + name


def _reply_length(kind: int, first: int) -> int:
    """first: octet of the address, which for a name is its length."""
    lengths = {_IPV4: 4, _NAME: 1 + first, _IPV6: 16}
    if kind not in lengths:
        raise Refused("its answer has an address of no known kind")
    return 4 + lengths[kind] + 2


def connect_request(proxy: Proxy, host: str, port: int) -> bytes:
    """With Basic credentials (RFC 7617) where there is a user."""
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {at} HTTP/1.1", f"Host: {at}", "Proxy-Connection: Keep-Alive"]
    if proxy.user:
        login = b2a_base64(f"{proxy.user}:{proxy.password}".encode(), newline=False).decode()
        lines.append(f"Proxy-Authorization: Basic {login}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")
