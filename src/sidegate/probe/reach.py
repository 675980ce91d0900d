"""Is this target reachable? ICMP echoes by way of the router."""

from __future__ import annotations

import random
from ipaddress import IPv4Address
from typing import Literal

from msgspec import Struct

from sidegate.packet import ICMP, Echo, IcmpError, Ipv4, Mac, frame_of
from sidegate.probe.talk import Clock, FreshIcmpId, Heard, Observation, Talk, Vantage, Wait, send
from sidegate.probe.wire import Wire, run

Answer = Literal["answered", "unreachable", "silent"]

_COPIES = 3
_GAP_S = 0.3
_TIMEOUT_S = 1.0


class ReachResult(Struct, frozen=True):
    """Whether a target answered, to what was asked (`how`: `icmp`).

    unreachable: somebody on the way said so (`reason`). rtt_s: round trip of the first answer; None without one.
    """

    target: IPv4Address
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
