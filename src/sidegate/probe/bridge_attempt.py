"""What the bridge probe asked of one target and was answered, and what follows from it. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Literal

from msgspec import Struct

from sidegate.packet import Mac
from sidegate.probe.bridge_message import Question

Step = Literal["control", "poison", "treatment"]
Verdict = Literal["direct", "masquerade", "unknown"]
Confidence = Literal["strong", "fair", "none"]


class Sent(Struct, frozen=True):
    """One question that went out."""

    step: Step
    at_s: float


class Attempt(Struct):
    """One target by one method: what was asked and what was answered, by flow number."""

    question: Question
    flows: list[int] = []
    """That were poisoned, one for each round."""
    asked: dict[tuple[int, int], Sent] = {}
    """By flow and serial."""
    answered: dict[tuple[int, Step], float] = {}
    """Round trip in seconds of the first answer."""
    poison_answered_by: Mac | None = None
    poison_strayed_to: IPv4Address | None = None
    controls_lost: int = 0
    refusal: str = ""


class Conclusion(Struct, frozen=True):
    """As in a `BridgeResult`."""

    verdict: Verdict
    confidence: Confidence
    reason: str


def conclusion_of(attempt: Attempt) -> Conclusion | str:
    """Of one whose controls were all answered; or why it says nothing."""
    if attempt.poison_answered_by is not None:
        return _poison_answered(attempt.poison_answered_by)
    asked, answered = len(attempt.flows), sum((flow, "treatment") in attempt.answered for flow in attempt.flows)
    confidence: Confidence = "fair" if attempt.controls_lost else "strong"
    if answered == asked and attempt.poison_strayed_to is not None:
        return f"{attempt.poison_strayed_to} took the frames that were meant for the client"
    if answered == asked:
        poisons = sum(sent.step == "poison" for sent in attempt.asked.values())
        reason = (
            f"the router answered for {answered} of {asked} flows whose frames had gone to the client first; "
            f"wrong only if all {poisons} of those frames were lost on their way"
        )
        return Conclusion("direct", confidence, reason)
    if answered == 0:
        reason = (
            f"{asked} of {asked} flows whose frames had gone to the client first stayed unanswered, "
            f"while the controls around them were answered: the router's bridge tracks this client's frames"
        )
        return Conclusion("masquerade", confidence, reason)
    return "the rounds contradict each other"


def _poison_answered(by: Mac) -> Conclusion:
    reason = (
        f"a frame addressed to the client was answered by way of {by}: "
        "a kernel between us and the client handles the frames that cross its bridge"
    )
    return Conclusion("masquerade", "strong", reason)
