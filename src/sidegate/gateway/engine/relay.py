"""TCP for an upstream that is a plain proxy (`handshakes`), without a copy: Xray's SOCKS and HTTP copy all of it.

It takes the place of one of Xray's inbounds, for TCP alone (`xray`, `decided`): what comes there goes to this upstream
with no further question, by the name that the client's first octets show (`sniffing`), or else to the address that it
wanted. Where that fails, the client is told at once, by a reset.

It runs as a thread of the engine's process (`program`), and so imports little.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any, Never

from sidegate.gateway.engine.handshakes import Proxy, Refused
from sidegate.gateway.engine.idle import IDLE_S
from sidegate.gateway.engine.opening import Gone, Opening
from sidegate.gateway.engine.splicing import Pipes, Way, break_off

HALF_CLOSED_S = 240.0
"""Without an octet, once one side has said all (RFC 5382 REQ-5)."""
TELLS_EVERY_S = 60.0
"""Of an upstream that fails."""
_BACKLOG = 4096
"""Cut to net.core.somaxconn."""
_ACCEPTS = 64
"""In a turn."""
_TICK_S = 0.05
LOOK_S = 10.0
"""Between looks for those that are idle."""
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
"""include/uapi/linux/in.h, in6.h"""
_NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_EVENTS = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_COMES = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Port:
    """Where clients come in, and whom they are led to. Raises OSError if another program has it.

    mark: its connections with clients bear it as well (inet_csk_accept); proxy_mark: of those with the proxy. waiting:
    clients for whom no further file may be opened just now; nobody is accepted meanwhile.
    """

    def __init__(self, name: str, listen: str, port: int, mark: int, proxy_mark: int, proxy: Proxy) -> None:
        self._name, self._proxy_mark, self.proxy = name, proxy_mark, proxy
        self.socket = _listener(listen, port, mark)
        self.is_paused = False
        self.waiting: list[socket.socket] = []
        self._tells_s = 0.0

    def open(self, client: socket.socket, now: float) -> Opening:
        """Raises OSError."""
        return Opening(client, self.proxy, self._proxy_mark, now)

    def tell(self, error: Exception, now: float) -> None:
        if now >= self._tells_s:
            self._tells_s = now + TELLS_EVERY_S
            print(f"upstream {self._name}: {error}", flush=True)


def port_of(entry: dict[str, Any]) -> Port:
    """entry: as `plain.relayed` makes it."""
    return Port(**{**entry, "proxy": Proxy(**entry["proxy"])})


def _listener(listen: str, port: int, mark: int) -> socket.socket:
    """What it accepts has all of this too. Raises OSError."""
    is_ipv6 = ":" in listen
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    it = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    it.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    it.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    it.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
    if is_ipv6:
        it.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        it.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    it.bind((listen, port))
    it.listen(_BACKLOG)
    return it


class Flow:
    """Both connections, as one."""

    __slots__ = ("client", "down", "server", "up", "used_s")

    def __init__(self, client: socket.socket, server: socket.socket, now: float) -> None:
        self.client, self.server, self.used_s = client, server, now
        self.up, self.down = Way(client.fileno(), server), Way(server.fileno(), client)

    def turn(self, fd: int, event: int, pipes: Pipes) -> bool:
        """Whether there is more to do at once. Raises OSError once either end is broken."""
        comes, goes = (self.up, self.down) if fd == self.up.source else (self.down, self.up)
        if event & select.EPOLLPRI:
            comes.may_be_marked = True
        has_more = bool(event & _COMES) and comes.turn(pipes)
        if event & select.EPOLLOUT and goes.held:
            has_more |= goes.turn(pipes)
        if event & select.EPOLLERR:
            raise ConnectionResetError
        return has_more

    def turn_both(self, pipes: Pipes) -> bool:
        """As `turn`, whatever came."""
        has_more = self.up.turn(pipes)
        return self.down.turn(pipes) or has_more

    @property
    def is_over(self) -> bool:
        return self.up.is_over and self.down.is_over

    def is_idle(self, now: float) -> bool:
        limit_s = HALF_CLOSED_S if self.up.is_over or self.down.is_over else IDLE_S
        return now - self.used_s >= limit_s

    def drop(self, pipes: Pipes) -> None:
        self.up.drop(pipes)
        self.down.drop(pipes)


class Relay:
    """All of them, in one loop."""

    def __init__(self, ports: Iterable[Port], pipes: Pipes) -> None:
        self._ports = {port.socket.fileno(): port for port in ports}
        self._poll = select.epoll()
        self._pipes = pipes
        self._openings: dict[int, tuple[Port, Opening]] = {}
        self._flows: dict[int, Flow] = {}
        self._again: set[Flow] = set()
        self._starved: set[Flow] = set()
        self._minded_s = self._looked_s = 0.0
        for fd in self._ports:
            self._poll.register(fd, select.EPOLLIN)

    def turn(self) -> None:
        """Waits for what comes, and does it. Who comes anew is last: his sockets may bear the numbers of others that
        were closed just now, of which events are still at hand."""
        ready = self._poll.poll(self._wait_s())
        now = time.monotonic()
        again, self._again = self._again, set()
        for fd, event in ready:
            if flow := self._flows.get(fd):
                self._go_on(flow, fd, event, now)
            elif opening := self._openings.get(fd):
                self._open(*opening, now, fd, event)
        for flow in filter(self._lives, again - self._again):
            self._go_on(flow, -1, 0, now)
        if now - self._minded_s >= _TICK_S:
            self._mind(now)
        for fd, _ in ready:
            if fd in self._ports:
                self._accept(self._ports[fd], now)

    def _wait_s(self) -> float | None:
        if self._again:
            return 0
        if self._openings or self._starved or any(port.is_paused for port in self._ports.values()):
            return _TICK_S
        return LOOK_S if self._flows else None

    # What comes anew

    def _accept(self, port: Port, now: float) -> None:
        for _ in range(_ACCEPTS):
            if port.is_paused:
                return
            try:
                client, _ = port.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Others tell of one connection alone (accept(2)).
                if error.errno in _NONE_LEFT:
                    self._pause(port)
                continue
            client.setblocking(False)
            self._begin(port, client, now)

    def _begin(self, port: Port, client: socket.socket, now: float) -> None:
        try:
            opening = port.open(client, now)
        except OSError as error:
            if error.errno in _NONE_LEFT:
                self._pause(port)
                port.waiting.append(client)
            else:
                break_off(client)
                port.tell(error, now)
            return
        both = client.fileno(), opening.server.fileno()
        self._openings.update(dict.fromkeys(both, (port, opening)))
        try:
            for fd in both:
                self._poll.register(fd, _EVENTS)
        except OSError as error:
            # Of as many as a user may wait for (epoll(7), max_user_watches).
            port.tell(error, now)
            self._fail(opening)

    def _pause(self, port: Port) -> None:
        """No more files may be open: until some are closed, who comes waits."""
        port.is_paused = True
        self._poll.modify(port.socket.fileno(), 0)

    def _resume(self, port: Port, now: float) -> None:
        port.is_paused = False
        self._poll.modify(port.socket.fileno(), select.EPOLLIN)
        waiting, port.waiting = port.waiting, []
        for client in waiting:
            self._begin(port, client, now)

    def _open(self, port: Port, it: Opening, now: float, fd: int = -1, event: int = 0) -> None:
        """fd: negative: time has gone by."""
        try:
            is_done = it.mind(now) if fd < 0 else it.turn(fd, event, now)
        except (OSError, Refused) as error:
            port.tell(error, now)
            self._fail(it)
        except Gone:
            self._fail(it)
        else:
            if is_done:
                self._join(it, now)

    def _join(self, it: Opening, now: float) -> None:
        """What came meanwhile is not told again."""
        flow = Flow(it.client, it.server, now)
        for fd in (it.client.fileno(), it.server.fileno()):
            del self._openings[fd]
            self._flows[fd] = flow
        self._go_on(flow, -1, 0, now)

    def _fail(self, it: Opening) -> None:
        for one in (it.client, it.server):
            del self._openings[one.fileno()]
            break_off(one)

    # What goes on

    def _go_on(self, flow: Flow, fd: int, event: int, now: float) -> None:
        """fd: negative: both ways are looked at."""
        flow.used_s = now
        try:
            has_more = flow.turn_both(self._pipes) if fd < 0 else flow.turn(fd, event, self._pipes)
        except OSError as error:
            if error.errno in _NONE_LEFT:
                self._starved.add(flow)
            else:
                self._end(flow, is_broken=True)
            return
        if flow.is_over:
            self._end(flow, is_broken=False)
        elif has_more:
            self._again.add(flow)

    def _lives(self, flow: Flow) -> bool:
        return self._flows.get(flow.up.source) is flow

    def _end(self, flow: Flow, *, is_broken: bool) -> None:
        flow.drop(self._pipes)
        for it in (flow.client, flow.server):
            del self._flows[it.fileno()]
            if is_broken:
                break_off(it)
            else:
                it.close()

    # As time goes by

    def _mind(self, now: float) -> None:
        self._minded_s = now
        for port, opening in set(self._openings.values()):
            self._open(port, opening, now)
        starved, self._starved = self._starved, set()
        for flow in filter(self._lives, starved):
            self._go_on(flow, -1, 0, now)
        for port in self._ports.values():
            if port.is_paused:
                self._resume(port, now)
        if now - self._looked_s >= LOOK_S:
            self._looked_s = now
            self._end_idle(now)

    def _end_idle(self, now: float) -> None:
        for flow in {flow for flow in self._flows.values() if flow.is_idle(now)}:
            self._end(flow, is_broken=True)


def lead(ports: Sequence[Port]) -> Never:
    """For ever."""
    relay = Relay(ports, Pipes())
    while True:
        relay.turn()
