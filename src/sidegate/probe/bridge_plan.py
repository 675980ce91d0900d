"""How the bridge probe asks: whom, how, how often and how long, and how often it may err then."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Literal

from msgspec import Struct

Method = Literal["icmp", "dns"]

DEFAULT_TARGETS = (IPv4Address("1.1.1.1"), IPv4Address("8.8.8.8"))
METHODS: tuple[Method, ...] = ("icmp", "dns")


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
