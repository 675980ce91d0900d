"""Does a DNS server answer us at all? A question over UDP by the ordinary sockets of this box, IPv4 or IPv6.

Unlike the talks, these ask along the box's own routes, hence its own server as well. Any answer with the number of the
question counts, a refusal too: somebody serves there.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import time
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address

from sidegate.packet import IpAddress
from sidegate.probe.talk import DNS_PORT

ANSWERS_WITHIN_S = 1.5
_LARGEST = 4096
_RANDOM = random.SystemRandom()


class DnsQuestions:
    """For a selectors loop: wait for `fileno` until `until_s` (`time.monotonic()`), then `turn`.

    answered: who did. name: what is asked; the root by default, which every resolver knows.
    """

    def __init__(self, interface: str, servers: Collection[IpAddress], name: str = "", kind: int = 2) -> None:
        """kind: the type of record that is asked for; NS by default."""
        self.until_s = time.monotonic() + ANSWERS_WITHIN_S
        self.answered: set[IpAddress] = set()
        self._number = _RANDOM.randrange(1 << 16)
        self._open: dict[socket.socket, IpAddress] = {}
        self._selector = selectors.EpollSelector()
        query = _query(self._number, name, kind)
        for server in servers:
            self._ask(interface, server, query)

    def fileno(self) -> int:
        return self._selector.fileno()

    def turn(self, now: float) -> bool:
        """Takes what was answered; whether it is over."""
        for key, _ in self._selector.select(0):
            self._take(key.fileobj)  # type: ignore[arg-type]
        return not self._open or now >= self.until_s

    def close(self) -> None:
        for sock in self._open:
            sock.close()
        self._open.clear()
        self._selector.close()

    def _ask(self, interface: str, server: IpAddress, query: bytes) -> None:
        """Whom this box has no way to is as silent as one that is off."""
        sock = socket.socket(_family(server), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(_endpoint(interface, server))
            sock.send(query)
        except OSError:
            sock.close()
            return
        self._open[sock] = server
        self._selector.register(sock, selectors.EVENT_READ)

    def _take(self, sock: socket.socket) -> None:
        """An error that came back (a closed port) is no answer: nobody serves there."""
        is_answer, is_over = False, True
        with contextlib.suppress(OSError):
            data = sock.recv(_LARGEST)
            is_answer = len(data) >= 12 and data[:2] == struct.pack("!H", self._number) and bool(data[2] & 0x80)
            is_over = is_answer
        if is_answer:
            self.answered.add(self._open[sock])
        if is_over:
            self._selector.unregister(sock)
            del self._open[sock]
            sock.close()


def which_answer(interface: str, servers: Collection[IpAddress]) -> set[IpAddress]:
    """Those that answer within 1.5 s. Blocks until all did, or so long."""
    questions = DnsQuestions(interface, servers)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(questions, selectors.EVENT_READ)
            while not questions.turn(now := time.monotonic()):
                selector.select(max(0.0, questions.until_s - now))
        return questions.answered
    finally:
        questions.close()


def _family(server: IpAddress) -> socket.AddressFamily:
    return socket.AF_INET if isinstance(server, IPv4Address) else socket.AF_INET6


def _endpoint(interface: str, server: IpAddress) -> tuple[str, int] | tuple[str, int, int, int]:
    """A link-local address means one link (RFC 4007). Raises OSError."""
    if isinstance(server, IPv6Address):
        return str(server), DNS_PORT, 0, socket.if_nametoindex(interface) if server.is_link_local else 0
    return str(server), DNS_PORT


def _query(number: int, name: str, kind: int) -> bytes:
    """RFC 1035 section 4.1: recursion desired, one question of class IN."""
    labels = b"".join(bytes((len(label),)) + label.encode("ascii") for label in name.split(".") if label)
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1)
