"""A simulated home for conversations: time, loss and a router, all in one thread and without a clock."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, TypeVar

import msgspec

from sidegate.packet import ICMP, Echo, Frame, Ipv4, Udp, build, frame_of, parse
from sidegate.probe.bridge import BridgeProbe, BridgeResult
from sidegate.probe.bridge_plan import Plan
from sidegate.probe.switchboard import Switchboard
from sidegate.probe.talk import Talk, Vantage

R = TypeVar("R")

US, ROUTER, CLIENT = "02:00:00:00:00:02", "02:00:00:00:00:01", "02:00:00:00:00:20"
VANTAGE = Vantage("eth0", US, IPv4Address("192.168.1.2"), IPv4Address("192.168.1.1"), ROUTER)
CLIENT_IP = IPv4Address("192.168.1.20")
ONE, EIGHT = IPv4Address("1.1.1.1"), IPv4Address("8.8.8.8")

BEGIN_S = 1000.0
"""Any monotonic clock's reading when the world begins; `rule` and `lost` count from there."""

Answers = list[tuple[float, Frame]]
Rule = Callable[[Frame, float], Answers | None]


class World:
    """Frames go to the client or the router; the internet answers echoes and DNS after `rtt_s`.

    tracks: the bridge between us and the client runs conntrack. loss: of each frame on each of its ways.
    lost: whether a frame on the wire at that time is lost. rule: answers (after seconds, frame) instead of the
    router's own; None leaves it to the router.
    """

    def __init__(
        self,
        *,
        tracks: bool = False,
        rtt_s: float = 0.02,
        loss: float = 0.0,
        lost: Callable[[float], bool] = lambda at_s: False,
        rule: Rule = lambda frame, at_s: None,
        seed: int = 1,
        **board: Any,
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311 (no secret: a simulation)
        self.tracks, self.rtt_s, self.rule = tracks, rtt_s, rule
        self._loss, self._outage = loss, lost
        ports = itertools.count(40000)
        self.held: set[int] = set()
        self.now = BEGIN_S
        self.sent: list[tuple[float, Frame]] = []
        self._entries: set[tuple[str, int, IPv4Address]] = set()
        self._coming: list[tuple[float, int, Frame]] = []
        self._order = itertools.count()
        self.board: Switchboard[Any] = Switchboard(self.rng, lambda: self._hold(next(ports)), self.held.remove, **board)

    def _is_lost(self, at_s: float) -> bool:
        return self._outage(at_s) or (self._loss > 0 and self.rng.random() < self._loss)

    def _hold(self, port: int) -> int:
        self.held.add(port)
        return port

    def hold(self, *talks: Talk[R]) -> list[R]:
        """Run talks to their end; results in their order."""
        keys = [self.board.start(talk) for talk in talks]
        results: dict[int, R] = {}
        while True:
            self.board.advance(self.now)
            while (frame := self.board.to_send(self.now)) is not None:
                self._transmit(parse(frame))
                self.board.sent(self.now)
            results.update(self.board.finished())
            if len(results) == len(keys):
                return [results[key] for key in keys]
            self._to_next_event()

    def _to_next_event(self) -> None:
        deadline = self.board.next_deadline()
        if self._coming and (deadline is None or self._coming[0][0] <= deadline):
            self.now, _, frame = heapq.heappop(self._coming)
            self.board.heard(frame, self.now)
        else:
            assert deadline is not None, "nothing will ever happen again"
            self.now = max(self.now, deadline)

    def _transmit(self, frame: Frame) -> None:
        self.sent.append((self.now, frame))
        if self._is_lost(self.now - BEGIN_S):
            return
        answers = self.rule(frame, self.now - BEGIN_S)
        for after_s, answer in self._route(frame) if answers is None else answers:
            if not self._is_lost(self.now + after_s - BEGIN_S):
                heapq.heappush(self._coming, (self.now + after_s, next(self._order), answer))

    def _route(self, frame: Frame) -> Answers:
        packet = frame.body
        assert isinstance(packet, Ipv4)
        flow = flow_key(packet)
        if frame.dst == CLIENT:
            if self.tracks:
                self._entries.add(flow)
            return []
        return [] if flow in self._entries else [(self.rtt_s, answer_to(frame))]

    def probe(self, targets: tuple[IPv4Address, ...] = (ONE, EIGHT), plan: Plan = Plan()) -> BridgeResult:  # noqa: B008
        (result,) = self.hold(BridgeProbe(VANTAGE, CLIENT_IP, CLIENT, targets, plan, self.rng).talk())
        return result


def flow_key(packet: Ipv4) -> tuple[str, int, IPv4Address]:
    if isinstance(packet.body, Echo):
        return "icmp", packet.body.id, packet.dst
    assert isinstance(packet.body, Udp)
    return "udp", packet.body.sport, packet.dst


def answer_to(frame: Frame) -> Frame:
    """What the target answers, by way of the router."""
    packet = frame.body
    assert isinstance(packet, Ipv4)
    if isinstance(packet.body, Echo):
        body: Echo | Udp = msgspec.structs.replace(packet.body, reply=True)
    else:
        assert isinstance(packet.body, Udp)
        body = Udp(packet.body.dport, packet.body.sport, packet.body.payload)
    return frame_of(US, ROUTER, Ipv4(packet.dst, packet.src, packet.protocol, body, ttl=57))


def is_echo(frame: Frame) -> bool:
    return isinstance(frame.body, Ipv4) and frame.body.protocol == ICMP


def error_about(frame: Frame, source: IPv4Address, mac: str, body: Any) -> Frame:
    """An ICMP error about this frame, from an address and a MAC."""
    return parse(build(frame_of(US, mac, Ipv4(source, VANTAGE.ip, ICMP, body))))
