"""`sidegate plan --live` beside a gateway that really runs and has really probed."""

from __future__ import annotations

import json

import pytest

from sidegate.home import load_home
from sidegate.lab.check import sidegate
from tests.kernel.gateway_lab import gateway_in

pytestmark = pytest.mark.kernel

WIRED = {"my-computer", "nas"}


def test_the_probes_stand_in_for_what_is_unknown_of_the_router() -> None:
    home = load_home("velop-mesh")
    with gateway_in(home) as box:
        box.up().settled()
        plan = json.loads(sidegate(box.lab, "plan", "--live", "--json"))
    wired = {str(c.v4) for c in home.client if c.name in WIRED}
    others = {str(c.v4) for c in home.client if c.name not in WIRED}
    best = plan["ways"][0]
    assert {d["ip"] for d in best["devices"] if d["path"] == "direct"} == wired
    assert {d["ip"] for d in best["devices"] if d["path"] == "masqueraded"} == others
    known = {g["field"]: g for g in plan["known"]}
    assert (known["bridge_filter"]["value"], known["bridge_filter"]["evidence"]) == ("on", "measured")
    assert "bridge_filter" not in {q["field"] for q in plan["questions"]}
