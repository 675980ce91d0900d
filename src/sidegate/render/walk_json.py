"""A walk as JSON for machines: versioned, every decision with its sentence and its source."""

from __future__ import annotations

from typing import Any

import msgspec

from sidegate.render.walk_text import sentence
from sidegate.walk.data import Decision, Walk
from sidegate.walk.laws import LAWS

SCHEMA = 1


def walk_json(walk: Walk) -> dict[str, Any]:
    """Plain data: the Walk's own fields, its decisions told in full."""
    told: dict[str, Any] = msgspec.to_builtins(walk)
    for hop, plain in zip(walk.hops, told["hops"], strict=True):
        plain["decisions"] = [_told(decision) for decision in hop.decisions]
        plain["leaves"] = [{"interface": interface, "packet": packet} for interface, packet in plain["leaves"]]
    return {"schema": SCHEMA, "walk": told}


def _told(decision: Decision) -> dict[str, Any]:
    law = LAWS[decision.law]
    return {"law": decision.law, "says": sentence(decision), "source": law.source, "about": list(decision.about)}
