"""Is this target reachable? ICMP echoes by way of the router, and TCP connections by this box's own routes."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import selectors
import socket
import time
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, cast

from msgspec import Struct
from msgspec.structs import replace

from sidegate.packet import ICMP, Echo, IcmpError, Ipv4, Mac, frame_of
from sidegate.probe.talk import Clock, FreshIcmpId, Heard, Observation, Talk, Vantage, Wait, send
from sidegate.probe.wire import Wire, run

Answer = Literal["answered", "refused", "unreachable", "silent"]

_COPIES = 3
_GAP_S = 0.3
_TIMEOUT_S = 1.0


class ReachResult(Struct, frozen=True):
    """Whether a target answered, to what was asked (`how`: `icmp` or `tcp:PORT`).

    refused: the target is there, but closes this port. unreachable: somebody on the way said so (`reason`).
    rtt_s: round trip of the first answer; None without one. evidence: frames; a TCP connection is the kernel's, so
    it is told by `reason` alone.
    """

    target: IPv4Address | IPv6Address
    how: str
    answer: Answer
    reason: str
    rtt_s: float | None = None
    evidence: tuple[Observation, ...] = ()

    def text(self) -> str:
        """The answer as a sentence, and every frame of the evidence, a line each."""
        head = f"{self.target} by {self.how}: {self.answer}: {self.reason}."
        return "\n".join([head, *(f"  {seen}" for seen in self.evidence)])


def echo(vantage: Vantage, target: IPv4Address, rng: random.Random) -> Talk[ReachResult]:
    """Up to 3 echoes by way of the router, 0.3 s apart; silent 1 s after the first."""
    began_s: float = yield Clock()
    number: int = yield FreshIcmpId()
    token, evidence = rng.randbytes(16), []
    sent: dict[int, float] = {}
    for seq in range(1, _COPIES + 1):
        packet = Ipv4(vantage.ip, target, ICMP, Echo(False, number, seq, token), ident=seq)
        sent[seq] = yield from send(frame_of(vantage.router_mac, vantage.mac, packet))
        words = f"echo request id {number} seq {seq} to {target}"
        evidence.append(Observation(sent[seq] - began_s, "sent", vantage.router_mac, "echo", words, number))
        until_s = sent[seq] + _GAP_S if seq < _COPIES else max(sent[1] + _TIMEOUT_S, sent[seq] + _GAP_S)
        heard = yield from _answer(until_s, target, token, sent)
        if heard is not None:
            mac, at_s, answer, reason, rtt_s = heard
            evidence.append(Observation(at_s - began_s, "received", mac, "echo", reason, number))
            return ReachResult(target, "icmp", answer, reason, rtt_s, tuple(evidence))
    return ReachResult(target, "icmp", "silent", f"no answer within {_TIMEOUT_S:g} s", None, tuple(evidence))


def _answer(
    until_s: float, target: IPv4Address, token: bytes, sent: dict[int, float]
) -> Talk[tuple[Mac, float, Answer, str, float | None] | None]:
    """Who answered, when, what that means, in words, and the round trip; None when the time has come."""
    while True:
        heard: Heard | None = yield Wait(until_s)
        if heard is None:
            return None
        packet = heard.frame.body
        if not isinstance(packet, Ipv4):
            continue
        body = packet.body
        if isinstance(body, Echo) and (packet.src, body.payload) == (target, token) and body.seq in sent:
            reason = f"{target} answered seq {body.seq}"
            return heard.frame.src, heard.at_s, "answered", reason, heard.at_s - sent[body.seq]
        if isinstance(body, IcmpError) and _is_about(body.inner, target, sent):
            return heard.frame.src, heard.at_s, "unreachable", f"{packet.src} said {body.kind} ({body.code})", None


def _is_about(inner: object, target: IPv4Address, sent: dict[int, float]) -> bool:
    return isinstance(inner, Ipv4) and inner.dst == target and inner.ident in sent


def reach_by_icmp(vantage: Vantage, *targets: IPv4Address) -> list[ReachResult]:
    """All targets at once. Blocks at most about 1 s. Raises Problems."""
    rng = random.SystemRandom()
    with Wire[ReachResult](vantage.interface, vantage.ip) as wire:
        return run(wire, *(echo(vantage, target, rng) for target in targets))


def reach_by_tcp(*targets: tuple[IPv4Address | IPv6Address, int], timeout_s: float = 2.0) -> list[ReachResult]:
    """Connect to every (address, port) at once and hang up. Blocks at most `timeout_s`."""
    began_s = time.monotonic()
    results = [ReachResult(t, f"tcp:{port}", "silent", f"no answer within {timeout_s:g} s") for t, port in targets]
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as sockets:
        for index, (target, port) in enumerate(targets):
            sock = sockets.enter_context(_tcp_socket(target))
            error = sock.connect_ex((str(target), port))
            if error in (0, errno.EINPROGRESS):
                selector.register(sock, selectors.EVENT_WRITE, index)
            else:
                results[index] = _tcp_result(results[index], error, 0.0)
        while selector.get_map() and (left_s := began_s + timeout_s - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                sock = cast(socket.socket, key.fileobj)
                selector.unregister(sock)
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                results[key.data] = _tcp_result(results[key.data], error, time.monotonic() - began_s)
    return results


def _tcp_socket(target: IPv4Address | IPv6Address) -> socket.socket:
    sock = socket.socket(socket.AF_INET if target.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


def _tcp_result(asked: ReachResult, error: int, rtt_s: float) -> ReachResult:
    if error == 0:
        return replace(asked, answer="answered", reason="the connection was accepted", rtt_s=rtt_s)
    if error == errno.ECONNREFUSED:
        return replace(asked, answer="refused", reason="the target is there, but nothing listens", rtt_s=rtt_s)
    return replace(asked, answer="unreachable", reason=os.strerror(error))
