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

How often it may err is computed by `error_bounds`. With independent loss of 1 % per frame and two targets:
`direct` for a client that needs masquerade (dangerous): at most 4e-12; `masquerade` for one that does not (costs
bandwidth): at most 2.5e-10. At 10 %: 4e-6 and 1.9e-4. Copies are spread over 30 ms and rounds over more, against loss
in bursts. A switch that does not know the client's MAC floods the poison to the router: that errs towards masquerade.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address
from typing import Literal

from msgspec import Struct

from sidegate.packet import (
    ICMP,
    UDP,
    Echo,
    IcmpError,
    Ipv4,
    Mac,
    Redirect,
    Udp,
    frame_of,
)
from sidegate.probe.talk import (
    DNS_PORT,
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
from sidegate.probe.wire import Wire, run

Method = Literal["icmp", "dns"]
Step = Literal["control", "poison", "treatment"]

DEFAULT_TARGETS = (IPv4Address("1.1.1.1"), IPv4Address("8.8.8.8"))
METHODS: tuple[Method, ...] = ("icmp", "dns")
_METHOD_NAMES: dict[Method, str] = {"icmp": "ICMP echo", "dns": "DNS over UDP"}

_DNS_QUESTION = b"\7example\3com\0\0\1\0\1"
"""A record of example.com (RFC 2606: reserved, always there); class IN."""
_TOKEN_BYTES = 16
_RANDOM = random.SystemRandom()
"""One for all: each has 2.5 kB of state that it never uses, and thousands of probes may wait."""

_EVIDENCE_MOST = 256
"""Frames told of one probe; one without strangers has at most 4 attempts of 21 questions, an answer to each."""
_NOTES_MOST = 16
_MORE = "more was heard than is told here"
_FORWARDS = "the client forwards packets itself"


class Plan(Struct, frozen=True):
    """How often and how long. Copies of one step differ in their serial and share the flow.

    rounds: that must agree. poison_gap_s: between copies of the poison; also from the last one to the treatment, so
    that it is overtaken by nothing. control_timeout_s: after which a target counts as silent.
    least_wait_s, longest_wait_s: limits of the wait after the last treatment copy, else 4 × the control's round trip.
    """

    rounds: int = 2
    copies: int = 3
    poison_gap_s: float = 0.015
    control_gap_s: float = 0.25
    control_timeout_s: float = 1.0
    least_wait_s: float = 0.08
    longest_wait_s: float = 1.0


class ErrorBounds(Struct, frozen=True):
    """Probabilities of a wrong verdict, upper bounds."""

    false_direct: float
    false_masquerade: float


def error_bounds(loss: float, targets: int = 2, plan: Plan = Plan()) -> ErrorBounds:  # noqa: B008 (frozen)
    """How often a probe may err if each frame is lost on each of its ways with the independent probability `loss`.

    A round misleads towards `direct` if all poison copies are lost before the router, and towards `masquerade` if of
    all treatment copies the question or the answer is lost. All rounds of one attempt must mislead alike, and each
    target is attempted once by each method.
    """
    attempts, unanswered = targets * len(METHODS), 1 - (1 - loss) ** 2
    frames = plan.copies * plan.rounds
    return ErrorBounds(min(1.0, attempts * loss**frames), min(1.0, attempts * unanswered**frames))


class BridgeResult(Struct, frozen=True):
    """What the bridge probe found out about one client.

    verdict: the return path this client may be given. confidence: `strong`, `fair` (frames were lost meanwhile) or
    `none`. reason: why, as a sentence. method and target: what decided; empty and None when nothing did.
    notes: what else was noticed, each a sentence.
    """

    client_ip: IPv4Address
    client_mac: Mac
    verdict: Literal["direct", "masquerade", "unknown"]
    confidence: Literal["strong", "fair", "none"]
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


class _Sent(Struct, frozen=True):
    step: Step
    at_s: float


class _Attempt(Struct):
    """One target by one method: what was asked and what was answered, by flow number."""

    method: Method
    target: IPv4Address
    asked: dict[tuple[int, int], _Sent] = {}
    answered: dict[tuple[int, Step], float] = {}
    """Round trip in seconds of the first answer."""
    poison_answered_by: Mac | None = None
    poison_strayed_to: IPv4Address | None = None
    controls_lost: int = 0
    refusal: str = ""


class _Conclusion(Struct, frozen=True):
    verdict: Literal["direct", "masquerade"]
    confidence: Literal["strong", "fair"]
    reason: str


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
        self._evidence: list[Observation] = []
        self._notes: list[str] = []
        self._silent: list[str] = []
        self._began_s = self._now_s = 0.0

    def talk(self) -> Talk[BridgeResult]:
        """Yields commands (see `talk.py`); returns the result."""
        self._began_s = self._now_s = yield Clock()
        if self._client_mac in (self._vantage.router_mac, self._vantage.mac):
            # proxy ARP: no frame of ours would go to the client itself, and the answers would look direct
            self._silent.append(f"{self._client_ip} answers ARP with the MAC of the router or of this box")
            return self._nothing_learned()
        for method in METHODS:
            for target in self._targets:
                attempt = _Attempt(method, target)
                conclusion = yield from self._try(attempt)
                if conclusion is not None:
                    return self._result(conclusion, attempt)
        return self._nothing_learned()

    def _try(self, attempt: _Attempt) -> Talk[_Conclusion | None]:
        flows: list[int] = []
        rtt_s = yield from self._control(attempt)
        for _ in range(self._plan.rounds):
            if rtt_s is None:
                return None
            flow = yield from self._fresh_flow(attempt)
            flows.append(flow)
            yield from self._poison(attempt, flow)
            last_sent_s = yield from self._treat(attempt, flow, rtt_s)
            if (flow, "treatment") not in attempt.answered:
                rtt_s = yield from self._control_after(attempt, flow, last_sent_s)
        return None if rtt_s is None else self._judge(attempt, flows)

    def _judge(self, attempt: _Attempt, flows: list[int]) -> _Conclusion | None:
        if attempt.poison_answered_by is not None:
            reason = (
                f"a frame addressed to the client was answered by way of {attempt.poison_answered_by}: "
                "a kernel between us and the client handles the frames that cross its bridge"
            )
            return _Conclusion("masquerade", "strong", reason)
        answered = sum((flow, "treatment") in attempt.answered for flow in flows)
        confidence: Literal["strong", "fair"] = "fair" if attempt.controls_lost else "strong"
        if answered == len(flows) and attempt.poison_strayed_to is not None:
            why = f"{attempt.poison_strayed_to} took the frames that were meant for the client"
            self._learned_nothing_from(attempt, why)
            return None
        if answered == len(flows):
            poisons = self._plan.copies * len(flows)
            reason = (
                f"the router answered for {answered} of {answered} flows whose frames had gone to the client first; "
                f"wrong only if all {poisons} of those frames were lost on their way"
            )
            return _Conclusion("direct", confidence, reason)
        if answered == 0:
            reason = (
                f"{len(flows)} of {len(flows)} flows whose frames had gone to the client first stayed unanswered, "
                f"while the controls around them were answered: the router's bridge tracks this client's frames"
            )
            return _Conclusion("masquerade", confidence, reason)
        self._learned_nothing_from(attempt, "the rounds contradict each other")
        return None

    def _learned_nothing_from(self, attempt: _Attempt, why: str) -> None:
        self._silent.append(f"{attempt.target} by {_METHOD_NAMES[attempt.method]}: {why}")

    # The steps

    def _control(self, attempt: _Attempt) -> Talk[float | None]:
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

    def _poison(self, attempt: _Attempt, flow: int) -> Talk[None]:
        for _ in range(self._plan.copies):
            sent_s = yield from self._ask(attempt, "poison", flow)
            yield from self._listen(attempt, flow, "poison", sent_s + self._plan.poison_gap_s)

    def _treat(self, attempt: _Attempt, flow: int, rtt_s: float) -> Talk[float]:
        """Returns when the last copy was sent."""
        sent_s, wait_s = self._now_s, self._patience_s(rtt_s)
        for copy in range(self._plan.copies):
            sent_s = yield from self._ask(attempt, "treatment", flow)
            last = copy == self._plan.copies - 1
            answer = yield from self._listen(attempt, flow, "treatment", sent_s + (wait_s if last else wait_s / 2))
            if answer is not None:
                break
        return sent_s

    def _control_after(self, attempt: _Attempt, flow: int, treated_s: float) -> Talk[float | None]:
        """A control, and then the patience that *its* round trip asks for: the line may have become slow."""
        rtt_s = yield from self._control(attempt)
        if rtt_s is not None:
            yield from self._listen(attempt, flow, "treatment", treated_s + self._patience_s(rtt_s))
        return rtt_s

    def _patience_s(self, rtt_s: float) -> float:
        return min(max(4 * rtt_s, self._plan.least_wait_s), self._plan.longest_wait_s)

    # Asking and listening

    def _fresh_flow(self, attempt: _Attempt) -> Talk[int]:
        number: int = yield FreshIcmpId() if attempt.method == "icmp" else FreshUdpPort()
        return number

    def _ask(self, attempt: _Attempt, step: Step, flow: int) -> Talk[float]:
        serial = self._fresh_serial(attempt, flow)
        packet = self._question(attempt, flow, serial, ttl=1 if step == "poison" else 64)
        mac = self._client_mac if step == "poison" else self._vantage.router_mac
        self._now_s = yield from send(frame_of(mac, self._vantage.mac, packet))
        attempt.asked[flow, serial] = _Sent(step, self._now_s)
        self._record("sent", self._now_s, mac, step, packet)
        return self._now_s

    def _fresh_serial(self, attempt: _Attempt, flow: int) -> int:
        while (flow, serial := self._rng.randint(1, 65535)) in attempt.asked:
            pass
        return serial

    def _question(self, attempt: _Attempt, flow: int, serial: int, ttl: int) -> Ipv4:
        """The question with its serial, twice: as echo sequence number or DNS id, and as IP identification.

        The latter because ICMP errors may quote no more than 8 bytes behind the IP header (RFC 792).
        """
        if attempt.method == "icmp":
            body: Echo | Udp = Echo(False, flow, serial, self._token)
        else:
            body = Udp(flow, DNS_PORT, serial.to_bytes(2) + b"\1\0\0\1\0\0\0\0\0\0" + _DNS_QUESTION)
        protocol = ICMP if attempt.method == "icmp" else UDP
        return Ipv4(self._vantage.ip, attempt.target, protocol, body, ttl=ttl, ident=serial)

    def _listen(self, attempt: _Attempt, flow: int, step: Step, until_s: float) -> Talk[float | None]:
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

    def _take(self, attempt: _Attempt, heard: Heard) -> None:
        """Enter what was heard into the attempt and the evidence; forgeries and strangers only leave a note."""
        packet = heard.frame.body
        flow = flow_of(heard.frame)
        if not isinstance(packet, Ipv4) or flow is None:
            return
        serial, genuine = self._serial_of(attempt, packet)
        sent = attempt.asked.get((flow[1], serial)) if serial is not None else None
        if sent is None or not genuine:
            self._note(f"{heard.frame.src} sent an answer that fits no question ({_words(packet)})")
            return
        self._record("received", heard.at_s, heard.frame.src, sent.step, packet, flow[1])
        if _is_answer(packet, attempt.target):
            self._answered(attempt, flow[1], sent, heard)
        else:
            self._take_error(attempt, sent, packet)

    def _answered(self, attempt: _Attempt, flow: int, sent: _Sent, heard: Heard) -> None:
        if sent.step == "poison" and heard.frame.src == self._client_mac:
            return self._note("the client passed on the frame that it should have dropped")
        if sent.step == "poison":
            attempt.poison_answered_by = heard.frame.src
        attempt.answered.setdefault((flow, sent.step), heard.at_s - sent.at_s)
        return None

    def _take_error(self, attempt: _Attempt, sent: _Sent, packet: Ipv4) -> None:
        if packet.src == self._client_ip:
            self._note(f"{_FORWARDS}: it answered the frame sent to it with {_words(packet)}")
        elif isinstance(packet.body, Redirect):
            self._note(f"{packet.src} sent a redirect to {packet.body.gateway}")
        elif sent.step == "poison":
            attempt.poison_strayed_to = packet.src
        elif sent.step == "control":
            attempt.refusal = f"{packet.src} answered {_words(packet)}"

    def _serial_of(self, attempt: _Attempt, packet: Ipv4) -> tuple[int | None, bool]:
        """The serial of the question that this packet answers, and whether it also proves to have seen it."""
        body = packet.body
        if isinstance(body, Echo):
            return body.seq, body.payload == self._token and packet.src == attempt.target
        if isinstance(body, Udp):
            return int.from_bytes(body.payload[:2]), len(body.payload) >= 12 and packet.src == attempt.target
        if isinstance(body, IcmpError | Redirect) and isinstance(body.inner, Ipv4):
            return body.inner.ident, body.inner.dst == attempt.target
        return None, False

    # Telling

    def _record(
        self, way: Literal["sent", "received"], at_s: float, mac: Mac, step: Step, packet: Ipv4, flow: int | None = None
    ) -> None:
        if len(self._evidence) >= _EVIDENCE_MOST:
            # Somebody repeats answers; whoever floods us must not fill our memory.
            return self._note(_MORE)
        if flow is None:
            flow = packet.body.id if isinstance(packet.body, Echo) else None
        if flow is None and isinstance(packet.body, Udp):
            flow = packet.body.sport
        self._evidence.append(Observation(at_s - self._began_s, way, mac, step, _words(packet), flow))
        return None

    def _note(self, note: str) -> None:
        if len(self._notes) < _NOTES_MOST and note not in self._notes:
            self._notes.append(note if len(self._notes) < _NOTES_MOST - 1 else _MORE)

    def _result(self, found: _Conclusion, attempt: _Attempt) -> BridgeResult:
        return BridgeResult(
            *(self._client_ip, self._client_mac, found.verdict, found.confidence, found.reason),
            *(attempt.method, attempt.target, self._now_s - self._began_s, tuple(self._evidence), tuple(self._notes)),
        )

    def _nothing_learned(self) -> BridgeResult:
        reason = "no target told anything: " + "; ".join(self._silent)
        return BridgeResult(
            *(self._client_ip, self._client_mac, "unknown", "none", reason),
            *("", None, self._now_s - self._began_s, tuple(self._evidence), tuple(self._notes)),
        )


def _is_answer(packet: Ipv4, target: IPv4Address) -> bool:
    """Whether the target itself answered: by an echo reply, by DNS, or by refusing the UDP port."""
    port_closed = isinstance(packet.body, IcmpError) and packet.body.kind == "unreachable" and packet.body.code == 3
    return packet.src == target and (isinstance(packet.body, Echo | Udp) or port_closed)


def _words(packet: Ipv4) -> str:
    """The packet as evidence tells it."""
    body = packet.body
    if isinstance(body, Echo):
        what = f"echo {'reply' if body.reply else 'request'} id {body.id} seq {body.seq}"
    elif isinstance(body, Udp):
        name = "DNS answer" if body.sport == DNS_PORT else "DNS query"
        what = f"{name} id {int.from_bytes(body.payload[:2])}, ports {body.sport} to {body.dport}"
    elif isinstance(body, IcmpError):
        what = f"ICMP {body.kind} (code {body.code})"
    else:
        what = "ICMP redirect" if isinstance(body, Redirect) else f"IP protocol {packet.protocol}"
    return f"{what}, {packet.src} to {packet.dst}, ttl {packet.ttl}"


class Prober:
    """Bridge probes of many clients over one socket, for a selectors loop.

    Wait for `fileno` to be readable until `next_deadline`, then call `on_readable` or `on_time`. At most 16 probes
    run at once, at most about `rate` frames per second go out. All times are `time.monotonic()`.
    Raises Problems when made, and from `on_readable` and `on_time` when the interface is gone: then `close` it.
    """

    def __init__(
        self,
        vantage: Vantage,
        targets: tuple[IPv4Address, ...] = DEFAULT_TARGETS,
        plan: Plan = Plan(),  # noqa: B008 (frozen)
        rate: float = 200,
    ) -> None:
        self._vantage, self._targets, self._plan = vantage, targets, plan
        self._wire: Wire[BridgeResult] = Wire(vantage.interface, vantage.ip, rate=rate)

    def fileno(self) -> int:
        return self._wire.fileno()

    def start(self, client_ip: IPv4Address, client_mac: Mac) -> int:
        """Begin a probe with the next turn; returns its key."""
        return self._wire.start(BridgeProbe(self._vantage, client_ip, client_mac, self._targets, self._plan).talk())

    def on_readable(self, now: float) -> None:
        self._wire.turn(now)

    def on_time(self, now: float) -> None:
        self._wire.turn(now)

    def next_deadline(self) -> float | None:
        return self._wire.next_deadline()

    def finished(self) -> list[tuple[int, BridgeResult]]:
        """Results since the last call, with their keys."""
        return self._wire.finished()

    def close(self) -> None:
        self._wire.close()


def probe_bridge(
    vantage: Vantage,
    clients: tuple[tuple[IPv4Address, Mac], ...],
    targets: tuple[IPv4Address, ...] = DEFAULT_TARGETS,
    plan: Plan = Plan(),  # noqa: B008 (frozen)
) -> list[BridgeResult]:
    """Probe clients, one result each in their order. Blocks, typically 0.2 to 0.5 s. Raises Problems."""
    with Wire[BridgeResult](vantage.interface, vantage.ip) as wire:
        return run(wire, *(BridgeProbe(vantage, ip, mac, targets, plan).talk() for ip, mac in clients))
