"""The bridge probe: does the main router's bridge track the frames between a client and us?

If it does, it has already decided "no NAT" for the client's flows when we hand their packets to it, and the client
needs our masquerade. The router cannot be asked, so we make the same thing happen to a flow of our own:

1. control: an echo to a target on the internet, by way of the router. It must be answered.
2. poison: the same target and a fresh id, but TTL 1 and the frame addressed to the *client's* MAC. The client drops it.
   If the frame crossed a tracking bridge, the router now holds a conntrack entry for this flow without NAT.
3. treatment: the poisoned flow again, by way of the router. With such an entry it leaves un-NATed and stays unanswered.
4. control again, where the treatment was silent.

Each round uses a fresh id. `direct`: every round's treatment was answered. `masquerade`: every round's treatment was
silent while the controls before and after it were answered; or a poison frame was answered by way of somebody other
than the client, which only a kernel that handles bridged frames does (a router that redirects DNS). Anything else, as
a poison frame that somebody else reports to have taken, says nothing: on to the next target, then the same by UDP with
DNS queries, then `unknown`.

How often it may err is computed by `bridge_plan.error_bounds`. With independent loss of 1 % per frame and two targets:
`direct` for a client that needs masquerade (dangerous): at most 4e-12; `masquerade` for one that does not (costs
bandwidth): at most 2.5e-10. At 10 %: 4e-6 and 1.9e-4. Copies are spread over 30 ms and rounds over more, against loss
in bursts. A switch that does not know the client's MAC floods the poison to the router: that errs towards masquerade.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address
from typing import Literal

from msgspec import Struct

from sidegate.packet import Ipv4, Mac, Redirect, frame_of
from sidegate.probe.bridge_attempt import Attempt, Conclusion, Confidence, Sent, Step, Verdict, conclusion_of
from sidegate.probe.bridge_evidence import Evidence
from sidegate.probe.bridge_message import Question, words
from sidegate.probe.bridge_plan import DEFAULT_TARGETS, METHODS, Method, Plan
from sidegate.probe.talk import (
    Clock,
    FreshIcmpId,
    FreshUdpPort,
    Heard,
    Observation,
    Talk,
    Vantage,
    Wait,
    flow_of,
    send,
)

_METHOD_NAMES: dict[Method, str] = {"icmp": "ICMP echo", "dns": "DNS over UDP"}
_TOKEN_BYTES = 16
_RANDOM = random.SystemRandom()
"""One for all: each has 2.5 kB of state that it never uses, and thousands of probes may wait."""

_FORWARDS = "the client forwards packets itself"


class BridgeResult(Struct, frozen=True):
    """What the bridge probe found out about one client.

    verdict: the return path this client may be given. confidence: `strong`, `fair` (frames were lost meanwhile) or
    `none`. reason: why, as a sentence. method and target: what decided; empty and None when nothing did.
    notes: what else was noticed, each a sentence.
    """

    client_ip: IPv4Address
    client_mac: Mac
    verdict: Verdict
    confidence: Confidence
    reason: str
    method: Method | Literal[""]
    target: IPv4Address | None
    took_s: float
    evidence: tuple[Observation, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_gateway(self) -> bool:
        """Whether the client itself passes on what is sent through it: it answered a packet whose TTL had ended."""
        return any(note.startswith(_FORWARDS) for note in self.notes)

    def text(self) -> str:
        """The verdict, its reason and notes, and every frame of the evidence, a line each."""
        head = f"{self.client_ip} ({self.client_mac}): {self.verdict}, confidence {self.confidence}: {self.reason}."
        notes = [f"  note: {note}." for note in self.notes]
        return "\n".join([head, *notes, *(f"  {seen}" for seen in self.evidence)])


class BridgeProbe:
    """The conversation about one client; `talk` is to be held once. rng: for serials and payload tokens."""

    def __init__(
        self,
        vantage: Vantage,
        client_ip: IPv4Address,
        client_mac: Mac,
        targets: tuple[IPv4Address, ...] = DEFAULT_TARGETS,
        plan: Plan = Plan(),  # noqa: B008 (frozen)
        rng: random.Random | None = None,
    ) -> None:
        self._vantage, self._plan, self._targets = vantage, plan, targets
        self._client_ip, self._client_mac = client_ip, client_mac
        self._rng = rng or _RANDOM
        self._token = self._rng.randbytes(_TOKEN_BYTES)
        self._evidence = Evidence()
        self._told_nothing: list[str] = []
        self._now_s = 0.0

    def talk(self) -> Talk[BridgeResult]:
        """Yields commands (see `talk.py`); returns the result."""
        self._evidence.began_s = self._now_s = yield Clock()
        if self._client_mac in (self._vantage.router_mac, self._vantage.mac):
            # proxy ARP: no frame of ours would go to the client itself, and the answers would look direct
            self._told_nothing.append(f"{self._client_ip} answers ARP with the MAC of the router or of this box")
            return self._nothing_learned()
        for method in METHODS:
            for target in self._targets:
                attempt = Attempt(Question(self._vantage.ip, target, method, self._token))
                conclusion = yield from self._try(attempt)
                if conclusion is not None:
                    return self._told(conclusion, method, target)
        return self._nothing_learned()

    def _try(self, attempt: Attempt) -> Talk[Conclusion | None]:
        rtt_s = yield from self._control(attempt)
        for _ in range(self._plan.rounds):
            if rtt_s is None:
                return None
            flow = yield from self._fresh_flow(attempt)
            attempt.flows.append(flow)
            yield from self._poison(attempt, flow)
            last_sent_s = yield from self._treat(attempt, flow, rtt_s)
            if (flow, "treatment") not in attempt.answered:
                rtt_s = yield from self._control_after(attempt, flow, last_sent_s)
        return None if rtt_s is None else self._conclude(attempt)

    def _conclude(self, attempt: Attempt) -> Conclusion | None:
        found = conclusion_of(attempt)
        if isinstance(found, Conclusion):
            return found
        self._learned_nothing_from(attempt, found)
        return None

    def _learned_nothing_from(self, attempt: Attempt, why: str) -> None:
        self._told_nothing.append(f"{attempt.question.target} by {_METHOD_NAMES[attempt.question.method]}: {why}")

    # The steps

    def _control(self, attempt: Attempt) -> Talk[float | None]:
        """The round trip in seconds, or None for silence, noted."""
        flow = yield from self._fresh_flow(attempt)
        give_up_s = self._now_s + self._plan.control_timeout_s
        for copy in range(self._plan.copies):
            sent_s = yield from self._ask(attempt, "control", flow)
            until_s = min(sent_s + self._plan.control_gap_s, give_up_s)
            last = copy == self._plan.copies - 1
            rtt_s = yield from self._listen(attempt, flow, "control", give_up_s if last else until_s)
            if rtt_s is not None:
                attempt.controls_lost += copy if rtt_s < self._plan.control_gap_s else 0
                return rtt_s
            if attempt.refusal:
                break
        why = attempt.refusal or f"no answer within {self._plan.control_timeout_s:g} s"
        self._learned_nothing_from(attempt, why)
        return None

    def _poison(self, attempt: Attempt, flow: int) -> Talk[None]:
        for _ in range(self._plan.copies):
            sent_s = yield from self._ask(attempt, "poison", flow)
            yield from self._listen(attempt, flow, "poison", sent_s + self._plan.poison_gap_s)

    def _treat(self, attempt: Attempt, flow: int, rtt_s: float) -> Talk[float]:
        """Returns when the last copy was sent."""
        sent_s, wait_s = self._now_s, self._patience_s(rtt_s)
        for copy in range(self._plan.copies):
            sent_s = yield from self._ask(attempt, "treatment", flow)
            last = copy == self._plan.copies - 1
            answer = yield from self._listen(attempt, flow, "treatment", sent_s + (wait_s if last else wait_s / 2))
            if answer is not None:
                break
        return sent_s

    def _control_after(self, attempt: Attempt, flow: int, treated_s: float) -> Talk[float | None]:
        """A control, and then the patience that *its* round trip asks for: the line may have become slow."""
        rtt_s = yield from self._control(attempt)
        if rtt_s is not None:
            yield from self._listen(attempt, flow, "treatment", treated_s + self._patience_s(rtt_s))
        return rtt_s

    def _patience_s(self, rtt_s: float) -> float:
        return min(max(4 * rtt_s, self._plan.least_wait_s), self._plan.longest_wait_s)

    # Asking and listening

    def _fresh_flow(self, attempt: Attempt) -> Talk[int]:
        number: int = yield FreshIcmpId() if attempt.question.method == "icmp" else FreshUdpPort()
        return number

    def _ask(self, attempt: Attempt, step: Step, flow: int) -> Talk[float]:
        serial = self._fresh_serial(attempt, flow)
        packet = attempt.question.packet(flow, serial, ttl=1 if step == "poison" else 64)
        mac = self._client_mac if step == "poison" else self._vantage.router_mac
        self._now_s = yield from send(frame_of(mac, self._vantage.mac, packet))
        attempt.asked[flow, serial] = Sent(step, self._now_s)
        self._evidence.record("sent", self._now_s, mac, step, packet)
        return self._now_s

    def _fresh_serial(self, attempt: Attempt, flow: int) -> int:
        while (flow, serial := self._rng.randint(1, 65535)) in attempt.asked:
            pass
        return serial

    def _listen(self, attempt: Attempt, flow: int, step: Step, until_s: float) -> Talk[float | None]:
        """The round trip of this step's first answer as soon as there is one; None when the time has come.

        The poison's answers are only recorded: its copies are sent to their end.
        """
        while step == "poison" or (flow, step) not in attempt.answered:
            heard: Heard | None = yield Wait(until_s)
            if heard is None:
                self._now_s = max(self._now_s, until_s)
                return None
            self._now_s = heard.at_s
            self._take(attempt, heard)
            if attempt.refusal and step == "control":
                return None
        return attempt.answered[flow, step]

    def _take(self, attempt: Attempt, heard: Heard) -> None:
        """Enter what was heard into the attempt and the evidence; forgeries and strangers only leave a note."""
        packet = heard.frame.body
        flow = flow_of(heard.frame)
        if not isinstance(packet, Ipv4) or flow is None:
            return
        serial, genuine = attempt.question.serial_of(packet)
        sent = attempt.asked.get((flow[1], serial)) if serial is not None else None
        if sent is None or not genuine:
            self._evidence.note(f"{heard.frame.src} sent an answer that fits no question ({words(packet)})")
            return
        self._evidence.record("received", heard.at_s, heard.frame.src, sent.step, packet, flow[1])
        if attempt.question.is_answered_by(packet):
            self._answered(attempt, flow[1], sent, heard)
        else:
            self._take_error(attempt, sent, packet)

    def _answered(self, attempt: Attempt, flow: int, sent: Sent, heard: Heard) -> None:
        if sent.step == "poison" and heard.frame.src == self._client_mac:
            self._evidence.note("the client passed on the frame that it should have dropped")
            return
        if sent.step == "poison":
            attempt.poison_answered_by = heard.frame.src
        attempt.answered.setdefault((flow, sent.step), heard.at_s - sent.at_s)

    def _take_error(self, attempt: Attempt, sent: Sent, packet: Ipv4) -> None:
        if packet.src == self._client_ip:
            self._evidence.note(f"{_FORWARDS}: it answered the frame sent to it with {words(packet)}")
        elif isinstance(packet.body, Redirect):
            self._evidence.note(f"{packet.src} sent a redirect to {packet.body.gateway}")
        elif sent.step == "poison":
            attempt.poison_strayed_to = packet.src
        elif sent.step == "control":
            attempt.refusal = f"{packet.src} answered {words(packet)}"

    # Telling

    def _nothing_learned(self) -> BridgeResult:
        reason = "no target told anything: " + "; ".join(self._told_nothing)
        return self._told(Conclusion("unknown", "none", reason), "", None)

    def _told(self, found: Conclusion, method: Method | Literal[""], target: IPv4Address | None) -> BridgeResult:
        told, took_s = self._evidence, self._now_s - self._evidence.began_s
        return BridgeResult(
            *(self._client_ip, self._client_mac, found.verdict, found.confidence, found.reason),
            *(method, target, took_s, tuple(told.seen), tuple(told.notes)),
        )
