"""Does anybody accept a TCP connection? For networks that pass HTTPS, and neither ICMP nor DNS to strangers.

The kernel's own connection, closed as soon as it stands: nothing is sent by it. It leaves by the interface that is
named (SO_BINDTODEVICE, socket(7)), whatever this box's other routes and tunnels say. A refusal is no answer: a router
may refuse for whom it blocks.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Collection
from ipaddress import IPv4Address

HTTPS_PORT = 443
WITHIN_S = 2.0


class TcpKnock:
    """For a selectors loop: wait for `fileno` until `until_s` (`time.monotonic()`), then `turn`.

    answered: the first target that did.
    """

    def __init__(self, interface: str, targets: Collection[IPv4Address], port: int = HTTPS_PORT) -> None:
        self.until_s = time.monotonic() + WITHIN_S
        self.answered: IPv4Address | None = None
        self._open: dict[int, tuple[socket.socket, IPv4Address]] = {}
        self._poll = select.epoll()
        for target in targets:
            self._begin(interface, target, port)

    def fileno(self) -> int:
        return self._poll.fileno()

    def turn(self, now: float) -> bool:
        """Takes what was answered; whether it is over."""
        for fd, _ in self._poll.poll(0):
            self._end(fd)
        return self.answered is not None or not self._open or now >= self.until_s

    def close(self) -> None:
        for knock, _ in self._open.values():
            knock.close()
        self._open.clear()
        self._poll.close()

    def _begin(self, interface: str, target: IPv4Address, port: int) -> None:
        """Whom this box has no way to is as silent as one that is off."""
        knock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            knock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        except OSError:
            knock.close()
            return
        knock.connect_ex((str(target), port))
        self._open[knock.fileno()] = knock, target
        self._poll.register(knock, select.EPOLLOUT)

    def _end(self, fd: int) -> None:
        knock, target = self._open.pop(fd)
        self._poll.unregister(fd)
        if knock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 and self.answered is None:
            self.answered = target
        knock.close()
