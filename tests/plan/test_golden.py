"""Whole plans as text. Where a sentence changes on purpose: `pytest --regenerate`, and review the diff."""

from __future__ import annotations

import pytest

from sidegate.home import load_router, shipped_routers
from sidegate.plan.config_text import config_for
from sidegate.plan.data import Device, Plan, Wish
from sidegate.plan.making import make_plan
from sidegate.render.plan import plan_text, way_text
from tests.conftest import Golden

DEVICES = (
    Device("192.168.1.123", "02:5d:00:00:00:01", "my-computer", "direct", "the router answers it directly"),
    Device("192.168.1.125", "02:5d:00:00:00:02", "tablet", "masquerade", "the router's bridge tracks its frames"),
    Device("192.168.1.126", "02:5d:00:00:00:03", "", "unknown", ""),
)
CATALOGUE = [load_router(name) for name in shipped_routers()]


def plan_for(router: str, wish: Wish = Wish(), devices: tuple[Device, ...] = ()) -> Plan:  # noqa: B008 (frozen)
    return make_plan(load_router(router), wish, CATALOGUE, devices, f"sidegate plan --router {router}")


@pytest.mark.parametrize("router", ["linksys-velop-mx4200", "redmi-ax5", "generic"])
def test_a_whole_plan(golden: Golden, router: str) -> None:
    golden(f"plan/{router}.txt", plan_text(plan_for(router)))


def test_every_wish_at_once(golden: Golden) -> None:
    golden("plan/redmi-ax5-some-ipv6-standby.txt", plan_text(plan_for("redmi-ax5", Wish("some", True, True))))


def test_with_what_the_probes_found(golden: Golden) -> None:
    golden("plan/generic-live.txt", plan_text(plan_for("generic", devices=DEVICES)))


def test_one_way_in_full(golden: Golden) -> None:
    plan = plan_for("linksys-velop-mx4200")
    way = plan.way("filter-off")
    assert way is not None
    golden("plan/velop-filter-off.txt", way_text(plan, way))


def test_a_config_file(golden: Golden) -> None:
    golden("plan/velop-own-dhcp.toml", config_for(plan_for("linksys-velop-mx4200", devices=DEVICES), "own-dhcp"))
