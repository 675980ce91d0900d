"""Why an upstream does not work, as far as a connection to its server tells: nobody there, or one who refuses us."""

from __future__ import annotations

import errno
import os
import select
import socket
from datetime import UTC, datetime
from ipaddress import ip_address

from sidegate.gateway.engine.hints import hint
from sidegate.gateway.engine.upstream import Upstream

WITHIN_S = 3.0


class Knocks:
    """Connections under way, for a selectors loop: wait for `fileno` until `next_deadline`, then `turn`.

    Times are `time.monotonic()`.
    """

    def __init__(self) -> None:
        self._open: dict[str, tuple[socket.socket, Upstream, float, int]] = {}
        self._poll = select.epoll()

    def fileno(self) -> int:
        return self._poll.fileno()

    def next_deadline(self) -> float | None:
        return min((until_s for _, _, until_s, _ in self._open.values()), default=None)

    def start(self, it: Upstream, now: float) -> bool:
        """Only where its server has an address and speaks TCP: looking up a name could take long. Whether it is so."""
        family = _family(it.host)
        if family is None or it.kind == "wireguard":
            return False
        if it.name in self._open:
            return True
        knock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        # What fails at once, as without a route, is told here and nowhere else: SO_ERROR stays 0 (connect(2)).
        answered = knock.connect_ex((it.host, it.port))
        refused = 0 if answered == errno.EINPROGRESS else answered
        self._open[it.name] = (knock, it, now + WITHIN_S, refused)
        self._poll.register(knock, select.EPOLLOUT)
        return True

    def turn(self, now: float) -> list[tuple[str, str]]:
        """By upstream, what was found out."""
        ready = {fd for fd, _ in self._poll.poll(0)}
        found = []
        for name, (knock, it, until_s, refused) in list(self._open.items()):
            if refused or knock.fileno() in ready or now >= until_s:
                answered = knock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if knock.fileno() in ready else None
                answered = refused or answered
                found.append((name, words(answered, it, datetime.now(UTC))))
                self._poll.unregister(knock)
                knock.close()
                del self._open[name]
        return found

    def close(self) -> None:
        for knock, _, _, _ in self._open.values():
            knock.close()
        self._open.clear()
        self._poll.close()


def words(answered: int | None, it: Upstream, now: datetime) -> str:
    """answered: the error number of the connection, 0 for none, None for silence. now: by this box's clock.

    Servers of several kinds are silent, or close the connection, for whoever has a wrong key or a wrong clock.
    """
    if answered == 0:
        looks = hint(it, now, is_there=True)
        return f"its server answers, and lets nothing through: {looks}; or at whether it gets out itself, names too"
    if answered == errno.ECONNREFUSED:
        return f"its server {it.where} refuses connections: nothing listens there"
    return f"its server {it.where} is not to be reached: {os.strerror(answered) if answered else 'it does not answer'}"


def _family(host: str) -> socket.AddressFamily | None:
    try:
        return socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
    except ValueError:
        return None
