"""One conversation, played by sockets of one process."""

from __future__ import annotations

import contextlib
import errno
import functools
import operator
import os
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

from sidegate import packet as wire
from sidegate.gateway.desired import TABLE
from sidegate.lab.tracing.orders import ENGINE_LISTENS, Capture, Order
from sidegate.lab.tracing.stage import Stage, run
from sidegate.walk.conversation import ENGINE_PORT, Actor, Do, goes_on
from sidegate.walk.data import Sighting, Step
from sidegate.walk.engine import TTL

_IP_TRANSPARENT = 19  # linux/in.h


class Scene:
    """One conversation on the stage: every program in it is a socket here."""

    def __init__(self, stage: Stage, order: Order) -> None:
        self.stage, self.order, self.ask = stage, order, order.ask
        self.family = socket.AF_INET6 if ":" in order.ask.at else socket.AF_INET
        self.sockets: dict[Actor, socket.socket] = {}
        self.listeners: dict[Actor, socket.socket] = {}
        self.reply_to: Any = None
        self.numbers: dict[Actor, int] = {}
        self.open: list[socket.socket] = []

    def played(self) -> Capture:
        try:
            if len(self.ask.segments) == 1:
                return self._play()
            with contextlib.contextmanager(self._silence)():
                return self._play()
        finally:
            for it in self.open:
                it.close()
            self.stage.settle(0)
            self.stage.forget()
            self.stage.forget_redirects()

    def _play(self) -> Capture:
        self._listen()
        for machine, lines in self.order.unheard.items():
            self.stage.enter(machine)
            # With -force: what another conversation has not taught again is gone already.
            run("bridge", "-force", "-batch", "-", text="\n".join(lines) + "\n", check=False)
        self.stage.settle(0)
        self.stage.is_prompt = True
        seen: list[tuple[int, Sighting]] = []
        steps: list[Step] = []
        start_s = time.monotonic()
        for number, do in enumerate(self.order.steps):
            self._act(do)
            seen += self.stage.settle(number)
            steps.append(Step(do.title, self._arrived(do, number)))
            if not steps[-1].arrived:
                break
        took_s = time.monotonic() - start_s
        seen.sort(key=lambda it: it[0])
        sightings, entries = tuple(it for _, it in seen), tuple(self.stage.connections())
        return Capture(tuple(steps), sightings, entries, took_s, self.stage.is_prompt)

    def _socket(self, machine: str, kind: int, protocol: int = 0, family: int = 0) -> socket.socket:
        self.stage.enter(machine)
        it = socket.socket(family or self.family, kind, protocol)
        it.setblocking(False)
        if kind == socket.SOCK_STREAM:
            it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Closed with a RST and at once: nothing is sent again later.
            it.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.open.append(it)
        return it

    def _listen(self) -> None:
        ear = self.order.ear
        if self.order.engine:
            engine = self._socket(self.order.gateway, socket.SOCK_STREAM)
            engine.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
            engine.bind(("", ENGINE_LISTENS))
            engine.listen()
            self.listeners["engine-in"] = engine
        if ear is None or self.ask.protocol == "icmp":
            return
        it = self._socket(ear.node, socket.SOCK_STREAM if self.ask.protocol == "tcp" else socket.SOCK_DGRAM)
        it.bind((ear.address, ear.port))
        if self.ask.protocol == "tcp":
            it.listen()
            self.listeners["answerer"] = it
        else:
            self.sockets["answerer"] = it

    def _act(self, do: Do) -> None:
        if do.action == "forget":
            self._forget()
        elif do.action == "stray":
            self._stray(do)
        elif do.action == "open":
            self._connect(do.actor)
        else:
            self._say(do.actor)

    def _forget(self) -> None:
        self.stage.forget()
        if self.order.gateway:
            self.stage.enter(self.order.gateway)
            # Where Sidegate does not run there is no such set.
            run("nft", "flush", "set", "inet", TABLE, "begun4", check=False)

    def _connect(self, actor: Actor) -> None:
        ask = self.ask
        machine, me, ttl = self._place_of(actor)
        it = self._socket(machine, socket.SOCK_STREAM)
        it.bind(me)
        it.setsockopt(*self._hop_limit(), ttl)
        self.sockets[actor] = it
        _expect(it.connect_ex((ask.at, ask.port)))

    def _place_of(self, actor: Actor) -> tuple[str, tuple[str, int], int]:
        """(machine, own address and port, TTL) of who begins something."""
        ask = self.ask
        if actor == "rival" and ask.rival:
            return ask.rival[0], (ask.rival[1], ask.sport), ask.ttl
        if actor == "engine-out":
            return self.order.gateway, (self.order.gateway_v4, ENGINE_PORT), TTL
        return ask.asker, (ask.source, ask.sport), ask.ttl

    def _hop_limit(self) -> tuple[int, int]:
        if self.family == socket.AF_INET6:
            return socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS
        return socket.IPPROTO_IP, socket.IP_TTL

    def _say(self, actor: Actor) -> None:
        it = self._sender(actor)
        if it is None:
            return
        message = struct.pack("!BBHHH", 128 if self.family == socket.AF_INET6 else 8, 0, 0, 0, 1) + bytes(8)
        data = message if self.ask.protocol == "icmp" else b"hello"
        with contextlib.suppress(OSError):  # what cannot be sent is not seen, and that is the result
            if actor == "answerer" and self.ask.protocol == "udp":
                it.sendto(data, self.reply_to)
            else:
                it.send(data)

    def _sender(self, actor: Actor) -> socket.socket | None:
        if actor in ("asker", "rival") and actor not in self.sockets:
            self.sockets[actor] = self._datagram_socket(actor)
        return self._accepted(actor)

    def _datagram_socket(self, actor: Actor) -> socket.socket:
        ask = self.ask
        machine, me, ttl = self._place_of(actor)
        icmp = socket.IPPROTO_ICMPV6 if self.family == socket.AF_INET6 else socket.IPPROTO_ICMP
        it = self._socket(machine, socket.SOCK_DGRAM, icmp if ask.protocol == "icmp" else 0)
        it.bind(me)
        it.setsockopt(*self._hop_limit(), ttl)
        with contextlib.suppress(OSError):  # no route: what is then sent is not seen, and that is the result
            it.connect((ask.at, ask.port))
        return it

    def _accepted(self, actor: Actor) -> socket.socket | None:
        """The actor's socket; a listener accepts its connection only now."""
        if actor not in self.sockets and actor in self.listeners:
            with contextlib.suppress(BlockingIOError):
                it, _ = self.listeners[actor].accept()
                it.setblocking(False)
                it.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.open.append(it)
                self.sockets[actor] = it
        return self.sockets.get(actor)

    def _arrived(self, do: Do, number: int) -> bool:
        if do.action in ("forget", "stray"):
            return goes_on(self.ask, do, number)
        hearer = self._accepted(do.hearer)
        if hearer is None:
            return False
        if do.actor == "rival" and do.action == "open":
            self._accepted("answerer")
            self.sockets.pop("answerer", None)  # the next one to be accepted is the asker's
        return self._is_connected(hearer) if do.action == "open" else self._hears(do.hearer, hearer)

    @staticmethod
    def _is_connected(it: socket.socket) -> bool:
        try:
            it.getpeername()
        except OSError:
            return False
        return it.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    def _hears(self, actor: Actor, it: socket.socket) -> bool:
        try:
            data, address = it.recvfrom(2048)
        except OSError:
            return False
        if actor == "answerer":
            self.reply_to = address
        return bool(data)

    def _stray(self, do: Do) -> None:
        """A segment by itself, with the numbers that it would have in a connection."""
        ask, kind = self.ask, do.title[2:].split()
        flags = functools.reduce(operator.or_, (wire.TcpFlags[name] for name in kind))
        payload = b"hello" if "PSH" in kind else b""
        machine, src, dst, ttl = ask.asker, (ask.source, ask.sport), (ask.at, ask.port), ask.ttl
        if do.actor == "answerer":
            machine, src, dst, ttl = self.order.answers, dst, src, TTL
        mine, other = self.numbers.get(do.actor, 1000), self.numbers.get(_OTHER[do.actor], 1000)
        mine = 1000 if "SYN" in kind else mine
        body = wire.Tcp(src[1], dst[1], mine, other if "ACK" in kind else 0, flags, payload=payload)
        self.numbers[do.actor] = mine + len(payload) + bool(flags & (wire.TcpFlags.SYN | wire.TcpFlags.FIN))
        it = self._socket(machine, socket.SOCK_RAW, socket.IPPROTO_RAW, socket.AF_INET)
        it.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK)
        packet = wire.Ipv4(IPv4Address(src[0]), IPv4Address(dst[0]), wire.TCP, body, ttl)
        with contextlib.suppress(OSError):  # what cannot be sent is not seen, and that is the result
            it.sendto(wire.build_ip(packet), (dst[0], 0))

    def _silence(self) -> Iterator[None]:
        """Both ends say nothing of their own while strays go between them."""
        for machine in (self.ask.asker, self.order.answers):
            self.stage.enter(machine)
            run("nft", "-f", "-", text=_SILENT)
        yield
        for machine in (self.ask.asker, self.order.answers):
            self.stage.enter(machine)
            run("nft", "delete", "table", "ip", "silent")


_OTHER: dict[Actor, Actor] = {"asker": "answerer", "answerer": "asker"}
_MARK = 7
_SILENT = (
    "table ip silent {\n    chain leaving {\n        type filter hook output priority raw; policy accept;\n"
    f"        meta mark != {_MARK} meta l4proto tcp drop\n    }}\n}}\n"
)


def _expect(number: int) -> None:
    """connect_ex: under way, or refused or unreachable, which the step then shows."""
    if number not in (0, errno.EINPROGRESS, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED):
        raise OSError(number, os.strerror(number))
