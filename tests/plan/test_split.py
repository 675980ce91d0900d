"""What a plan says of the split: whom devices ask for names, and which of them are proxied."""

from __future__ import annotations

import pytest

from sidegate.home import shipped_routers
from sidegate.plan.data import Way, Wish
from sidegate.plan.steps import GATEWAY
from tests.plan.test_golden import DEVICES, plan_for
from tests.plan.test_plan import WISHES, plan_with

TELLS = ("to the same address", f"DNS {GATEWAY}", f"set the DNS server to {GATEWAY} by hand")
"""How steps say that the box is the DNS server."""


@pytest.mark.parametrize("router", shipped_routers())
def test_devices_ask_the_box_for_names_if_and_only_if_it_answers(router: str) -> None:
    """By its own DHCP, which names itself where it resolves, or by a step that says so."""
    for wish in (w for w in WISHES if not w.ipv6):
        plan = plan_for(router, wish)
        for way in plan.ways:
            told = any(word in step for step in way.steps for word in TELLS)
            assert told == (way.nat is not None and way.dhcp == "off" and wish.proxy != "none"), (wish, way.id)


def test_without_a_field_for_the_dns_server_the_box_had_better_hand_out_addresses() -> None:
    answers = {"dhcp_gateway": "yes", "dhcp_dns": "no", "bridge_filter": "no"}
    assert plan_with({**answers, "dhcp_off": "yes"}).best.id == "own-dhcp"
    assert plan_with({**answers, "dhcp_off": "yes"}, Wish("none")).best.id == "router-dhcp"
    plan = plan_with({**answers, "dhcp_off": "no"})
    assert plan.best.id == "router-dhcp"
    assert any(f"set the DNS server to {GATEWAY} by hand" in step for step in plan.best.steps)
    assert any("the provider's answers are believed" in text for text in plan.best.breaks)
    assert "by hand" in plan.best.back[-1]


def test_where_every_device_comes_to_the_box_a_rule_says_which_are_not_proxied() -> None:
    def says(way: Way | None) -> bool:
        return way is not None and any('`send = "direct"`' in step for step in way.steps)

    for wish in (Wish("some"), Wish("all")):
        plan = plan_for("openwrt", wish)
        assert says(plan.way("router-dhcp")) == (wish.proxy == "some")
        assert not says(plan.way("static"))


def test_forwarded_udp_ports_are_to_be_named_where_their_answers_would_not_go_straight() -> None:
    def says(wish: Wish, way: str) -> bool:
        found = plan_for("linksys-velop-mx4200", wish).way(way)
        assert found is not None
        return any("`forwarded = [" in text for text in found.breaks)

    assert says(Wish("all"), "own-dhcp"), "they may be proxied"
    assert not says(Wish("none"), "own-dhcp")
    assert says(Wish("none"), "masquerade-all")


def test_a_gateway_that_runs_keeps_its_file() -> None:
    running = plan_for("openwrt", devices=DEVICES)
    assert any("add what it lacks" in step for step in running.best.steps)
    assert not any("save what" in step for step in running.best.steps)
