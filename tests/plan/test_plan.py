"""What a plan concludes, against the article, the homes' expectations, and itself for every router there is."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
from msgspec import structs

from sidegate.gateway.config import Masquerade, parse_config
from sidegate.gateway.split.review import review
from sidegate.home import Known, RouterProfile, load_home, load_router, shipped_routers
from sidegate.plan import predict as predicting
from sidegate.plan.config_text import config_for
from sidegate.plan.data import KINDS, Device, Kind, Path, Plan, Prediction, Proxy, Wish
from sidegate.plan.making import make_plan
from sidegate.plan.predict import predict
from sidegate.plan.questions import QUESTIONS, with_answers
from sidegate.plan.ways import Recipe, recipes
from sidegate.problems import Problems
from tests.plan.test_golden import DEVICES, plan_for

WISHES = [Wish(proxy, ipv6, standby) for proxy, ipv6, standby in product(get_args(Proxy), (False, True), (False, True))]
NETWORK_WAYS = {"router-dhcp", "own-dhcp", "coexist", "static", "filter-off", "other-router"}


def paths(plan: Plan, way: str) -> dict[Kind, set[Path]]:
    found = plan.way(way)
    assert found is not None
    return {kind: {p.path for p in found.predictions if p.kind == kind} for kind in KINDS}


def all_are(path: Path) -> dict[Kind, set[Path]]:
    return {kind: {path} for kind in KINDS}


def plan_with(answers: dict[str, str], wish: Wish = Wish()) -> Plan:  # noqa: B008 (frozen)
    return make_plan(with_answers(RouterProfile("mine"), answers), wish, [])


class TestTheArticle:
    """The Velop: no gateway field, so DHCP on the box; Wi-Fi needs masquerade; only there."""

    plan = plan_for("linksys-velop-mx4200")

    def test_dhcp_on_the_box_is_best_as_the_router_has_no_gateway_field(self) -> None:
        assert self.plan.best.id == "own-dhcp"
        closed = self.plan.way("router-dhcp")
        assert closed is not None
        assert closed.possible == "no"
        assert "no gateway field" in closed.grounds[0].says
        assert closed.grounds[0].source.startswith("https://")

    def test_masquerade_only_where_proved_needed(self) -> None:
        assert self.plan.best.nat == "auto"
        elsewhere = {"masqueraded"}
        wanted = {"wired": {"direct"}, "wifi": elsewhere, "mesh-wired": elsewhere, "mesh-wifi": elsewhere}
        assert paths(self.plan, "own-dhcp") == wanted

    def test_without_masquerade_all_but_the_wired_lose_ipv4_and_for_all_everyone_pays(self) -> None:
        lost = {"none"}
        assert paths(self.plan, "masquerade-none") == {
            "wired": {"direct"},
            "wifi": lost,
            "mesh-wired": lost,
            "mesh-wifi": lost,
        }
        assert paths(self.plan, "masquerade-all") == all_are("masqueraded")
        assert [w.id for w in self.plan.nat_choices] == ["masquerade-proved", "masquerade-all", "masquerade-none"]

    def test_the_router_cannot_be_mended(self) -> None:
        for name in ("filter-off", "router-proxy"):
            way = self.plan.way(name)
            assert way is not None
            assert (way.possible, way.grounds[0].field) == ("no", "ssh")

    def test_the_forwards_and_the_load_are_those_of_the_article(self) -> None:
        by_kind = {p.kind: p for p in self.plan.best.predictions}
        wired, phone = by_kind["wired"], by_kind["mesh-wifi"]
        assert (wired.up, wired.down) == (("gateway", "router"), ("router",))
        assert (phone.up, phone.down) == (("gateway", "router"), ("router", "gateway"))
        assert (wired.port_up, wired.port_down, phone.port_up, phone.port_down) == (2, 0, 2, 2)
        assert (wired.port_forwards, phone.port_forwards) == (("tcp", "udp"), ())


class TestTheBetterRouter:
    """The Redmi AX5: option 3 or 6 and a reboot, and nobody is masqueraded."""

    plan = plan_for("redmi-ax5")

    def test_its_own_dhcp_and_a_reboot(self) -> None:
        assert (self.plan.best.id, self.plan.best.possible) == ("router-dhcp", "yes")
        assert any(step.startswith("Reboot the router") for step in self.plan.best.steps)
        assert paths(self.plan, "router-dhcp") == all_are("direct")

    def test_with_its_dhcp_off_it_would_fail_like_the_velop(self) -> None:
        assert paths(self.plan, "own-dhcp")["wifi"] == {"masqueraded"}

    def test_by_hand_another_dns_server_keeps_the_filter_off(self) -> None:
        plan = plan_for("redmi-ax5", Wish("some"))
        assert plan.best.id == "static"
        assert paths(plan, "static") == all_are("direct")
        assert "DNS server" in plan.best.steps[0]


class TestTheUnknownRouter:
    plan = plan_for("generic")

    def test_both_filter_values_are_predicted(self) -> None:
        assert paths(self.plan, "static")["wired"] == {"direct"}
        assert paths(self.plan, "static")["wifi"] == {"direct", "masqueraded"}
        assert {(p.bridge_filter, p.path) for p in self.plan.best.predictions if p.kind == "wifi"} == {
            (True, "masqueraded"),
            (False, "direct"),
        }

    def test_what_is_unknown_is_asked_and_the_deciding_first(self) -> None:
        assert [q.field for q in self.plan.questions] == [f for f in QUESTIONS if f != "ra_off"]
        assert self.plan.ask_first == ("dhcp_gateway", "dhcp_off")
        assert self.plan.best.possible == "yes"

    @pytest.mark.parametrize(
        ("answers", "best"),
        [
            ({"dhcp_gateway": "yes"}, "router-dhcp"),
            ({"dhcp_gateway": "no", "dhcp_off": "yes"}, "own-dhcp"),
            ({"dhcp_gateway": "no", "dhcp_off": "no"}, "static"),
            ({"dhcp_gateway": "no", "dhcp_off": "yes", "bridge_filter": "yes", "ssh": "yes"}, "filter-off"),
            ({"dhcp_gateway": "no", "dhcp_off": "yes", "bridge_filter": "no", "ssh": "yes"}, "own-dhcp"),
        ],
    )
    def test_answers_decide(self, answers: dict[str, str], best: str) -> None:
        plan = plan_with(answers)
        assert (plan.best.id, plan.best.possible) == (best, "yes")

    def test_ipv6_asks_one_more(self) -> None:
        assert plan_with({}, Wish(ipv6=True)).questions[-1].field == "ra_off"

    def test_for_some_devices_only_these_are_set(self) -> None:
        assert plan_with({"dhcp_gateway": "yes"}, Wish("some")).best.id == "static"


def test_a_second_box_takes_over_by_itself_only_where_devices_use_a_shared_address() -> None:
    plan = plan_for("linksys-velop-mx4200", Wish(standby=True))
    for name, by_itself in (("own-dhcp", False), ("coexist", False), ("static", True)):
        way = plan.way(name)
        assert way is not None
        assert way.back[0].startswith("The second box takes over by itself") is by_itself
        assert any("keepalived" in step for step in way.steps) is by_itself


def test_a_guess_counts_as_unknown() -> None:
    plan = plan_for("xiaomi-ax3600")
    assert "bridge_filter" in {q.field for q in plan.questions}
    assert paths(plan, "static")["wifi"] == {"direct", "masqueraded"}
    assert any("guessed" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("home", "way", "names"),
    [
        (
            "velop-mesh",
            "own-dhcp",
            {"nas": "wired", "tablet": "wifi", "desk-computer": "mesh-wired", "phone": "mesh-wifi"},
        ),
        ("redmi-ax5", "router-dhcp", {"computer": "wired", "phone": "wifi"}),
    ],
)
def test_the_homes_that_the_kernel_has_confirmed_expect_the_same(home: str, way: str, names: dict[str, Kind]) -> None:
    """The homes' expectations are held against the real kernel by the lab."""
    known = load_home(home)
    plan = plan_for(known.router.profile)
    runs: dict[str, Masquerade] = {"forwarding": "never", "masquerade": "always", "sidegate": "auto"}
    held = 0
    for expectation in known.expect:
        if expectation.gateway == "nothing" or expectation.to != "server":
            continue
        choice = next(w for w in plan.nat_choices if w.nat == runs[expectation.gateway])
        predicted = {p.kind: p.path for p in choice.predictions}
        for client, kind in names.items():
            held += 1
            expected = expectation.v4[client]
            assert predicted[kind] == {"dead": "none"}.get(expected, expected), (expectation.gateway, client)
    assert plan.best.id == way
    assert held == 3 * len(names)


@pytest.mark.parametrize("router", shipped_routers())
def test_every_plan_holds_together(router: str) -> None:
    for wish in WISHES:
        plan = plan_for(router, wish)
        assert plan.best.possible == "yes"
        assert [w.cost for w in plan.ways] == sorted(w.cost for w in plan.ways)
        assert {w.id for w in plan.ways} == NETWORK_WAYS | ({"router-proxy"} if wish.proxy != "none" else set())
        for way in (*plan.ways, *plan.nat_choices):
            assert way.steps
            assert way.back
            assert way.points
            assert way.grounds
            for prediction in way.predictions:
                assert_sound(way.nat, prediction)


def assert_sound(nat: Masquerade | None, it: Prediction) -> None:
    """Sidegate's promise: nobody is offline; and the load follows from the path."""
    if nat != "never":
        assert it.path in ("direct", "masqueraded")
    assert (it.port_down == 2) == (it.path == "masqueraded")
    assert (it.code == "delivered") == (it.path != "none")
    assert it.ipv6 == "direct"
    assert it.proxied == (nat is not None)


@pytest.mark.parametrize("router", shipped_routers())
def test_every_config_is_accepted_and_says_what_the_way_needs(router: str) -> None:
    for wish in (w for w in WISHES if not w.standby):
        plan = plan_for(router, wish, DEVICES)
        for way in (*plan.ways, *plan.nat_choices):
            if way.nat is None or way.possible == "no":
                with pytest.raises(Problems, match=r"nothing to configure|not possible"):
                    config_for(plan, way.id)
                continue
            config = parse_config(config_for(plan, way.id), "sidegate.toml")
            assert review(config) == ()
            assert (config.nat.masquerade, config.dhcp.mode) == (way.nat, way.dhcp)
            assert (config.resolves, config.ipv6.mode == "gateway") == (wish.proxy != "none", wish.ipv6)
            assert [c.name for c in config.client] == ["my-computer", "tablet"]


def test_a_config_stands_whatever_names_and_titles_hold() -> None:
    name = 'a "b"\n\\ \x7f [nat] 电视'
    profile = RouterProfile('mine"\nmasquerade = "never"\r\x0b')
    plan = make_plan(profile, Wish(), [], (Device("192.168.1.5", "02:5d:00:00:00:05", name, "direct"),))
    config = parse_config(config_for(plan, "static"), "x")
    assert (config.client[0].name, config.nat.masquerade) == (name, "auto")


def test_commented_examples_of_a_config_are_valid_too() -> None:
    text = config_for(plan_for("generic"), "coexist")
    shown = "\n".join(line.removeprefix("# ") if is_example(line) else line for line in text.splitlines())
    config = parse_config(shown, "x")
    assert (str(config.network.router), config.client[0].name) == ("192.168.1.1", "tv")
    assert (config.proxy.links, config.proxy.country) == (("socks5://192.0.2.10:1080#first",), ("CN",))
    assert config.dhcp.range == "192.168.1.201-192.168.1.250", "apart from what the router is told to keep"


def is_example(line: str) -> bool:
    return " = " in line or line.startswith("# [")


def test_what_else_is_unknown_is_told_only_if_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = next(r for r in recipes(RouterProfile("mine"), Wish()) if r.id == "static")
    assert not any(p.undecided for p in predict(recipe, RouterProfile("mine")))

    def case(recipe: Recipe, profile: RouterProfile, case: predicting.Case) -> tuple[Prediction, ...]:
        path: Path = "none" if case.drop_invalid else "direct"
        return tuple(Prediction(kind, True, path, "", "") for kind in KINDS)

    monkeypatch.setattr(predicting, "_case", case)
    profile = RouterProfile("mine", nat=Known("snat", "measured", "a test"))
    worst = predict(recipe, profile)
    assert {(p.path, p.undecided) for p in worst} == {("none", ("drop_invalid",))}


class TestLive:
    """A gateway runs already: its probes stand in for what the profile does not know."""

    def test_a_client_that_needs_masquerade_proves_the_filter(self) -> None:
        plan = plan_for("generic", devices=DEVICES)
        assert "bridge_filter" not in {q.field for q in plan.questions}
        known = next(g for g in plan.known if g.field == "bridge_filter")
        assert (known.value, known.evidence) == ("on", "measured")
        assert "192.168.1.125 (tablet)" in known.source
        assert paths(plan, "static")["wifi"] == {"masqueraded"}

    def test_devices_get_what_was_measured(self) -> None:
        plan = plan_for("generic", devices=DEVICES)
        assert [d.path for d in plan.best.devices] == ["direct", "masqueraded", "unknown"]
        by_nat = {w.nat: [d.path for d in w.devices] for w in plan.nat_choices}
        assert by_nat["always"] == ["masqueraded"] * 3
        assert by_nat["never"] == ["direct", "none", "unknown"]
        mended = plan.way("filter-off")
        assert mended is not None
        assert [d.path for d in mended.devices] == ["direct"] * 3

    def test_direct_clients_prove_nothing_about_the_filter(self) -> None:
        plan = plan_for("generic", devices=DEVICES[:1])
        assert "bridge_filter" in {q.field for q in plan.questions}
        assert any("only one on Wi-Fi" in note for note in plan.notes)

    def test_nobody_probed(self) -> None:
        plan = plan_for("generic", devices=DEVICES[2:])
        assert any("no client has been probed yet" in note for note in plan.notes)

    def test_the_probe_outweighs_the_profile_and_says_so(self) -> None:
        plan = plan_for("openwrt", devices=DEVICES)
        assert paths(plan, "router-dhcp")["wifi"] == {"masqueraded"}
        assert any("contradicts" in note for note in plan.notes)

    def test_a_condition_of_the_profile_stays(self) -> None:
        plan = plan_for("redmi-ax5", devices=DEVICES)
        assert plan.best.id == "router-dhcp"
        assert paths(plan, "router-dhcp")["wifi"] == {"direct"}


def test_answers_replace_the_profile_and_unknown_takes_away() -> None:
    velop = load_router("linksys-velop-mx4200")
    changed = with_answers(velop, {"dhcp_gateway": "yes", "bridge_filter": "no", "ssh": "unknown"})
    assert (changed.dhcp_gateway.value, changed.bridge_filter.value, changed.ssh.value) == (True, "off", None)
    assert changed.dhcp_gateway.source == "your answer"
    assert structs.replace(changed, dhcp_gateway=velop.dhcp_gateway) != velop
