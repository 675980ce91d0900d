"""Homes and router profiles: what ships is right, what is wrong is told in full."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sidegate.home import (
    Assumed,
    Behaviour,
    BridgeFilter,
    Client,
    Dhcp,
    Expectation,
    Gateway,
    Home,
    Known,
    Node,
    Outcome,
    Router,
    RouterProfile,
    behaviour,
    load_home,
    load_router,
    shipped_homes,
    shipped_routers,
)
from sidegate.problems import Problems
from tests.conftest import GOLDEN_ROOT, Golden

HOMES = (
    "access-points",
    "bypass",
    "bypass-removed",
    "double-nat",
    "redmi-ax5",
    "simple",
    "soft-router",
    "split",
    "velop-mesh",
)
ROUTERS = (
    "asus-merlin",
    "eero",
    "fritzbox",
    "generic",
    "google-nest",
    "huawei-hs8545m",
    "ikuai",
    "linksys-velop-mx4200",
    "mikrotik",
    "netgear-orbi-cbk40",
    "netgear-wndr3800",
    "openwrt",
    "padavan",
    "redmi-ax5",
    "tp-link-wr886n",
    "unifi",
    "xiaomi-ax3600",
    "xiaomi-ax9000",
)


def bad_files(folder: str) -> list[Path]:
    return sorted((GOLDEN_ROOT / folder).glob("*.toml"))


@pytest.mark.parametrize("file", bad_files("homes"), ids=lambda file: file.stem)
def test_a_bad_home_is_told_in_full(file: Path, golden: Golden) -> None:
    with pytest.raises(Problems) as raised:
        load_home(str(file))
    golden(file.with_suffix(".txt"), _without_folder(raised.value, file))


@pytest.mark.parametrize("file", bad_files("routers"), ids=lambda file: file.stem)
def test_a_bad_router_profile_is_told_in_full(file: Path, golden: Golden) -> None:
    with pytest.raises(Problems) as raised:
        load_router(str(file))
    golden(file.with_suffix(".txt"), _without_folder(raised.value, file))


def _without_folder(problems: Problems, file: Path) -> str:
    return f"{problems}\n".replace(f"{file.parent}/", "")


def test_the_bad_files_are_found() -> None:
    assert len(bad_files("homes")) >= 10
    assert len(bad_files("routers")) >= 2


def test_the_catalogue_is_complete() -> None:
    assert shipped_homes() == HOMES
    assert shipped_routers() == ROUTERS


@pytest.mark.parametrize("name", HOMES)
def test_a_shipped_home_is_what_the_article_says(name: str) -> None:
    home = load_home(name)
    servers = {server.name: server for server in home.internet.server}
    assert home.name == name
    assert home.story.strip()
    assert str(home.router.lan) == "192.168.1.1/24"
    assert str((home.modem or home.router).wan) == "123.100.101.102/24"
    assert home.gateway is None or str(home.gateway.v4) == "192.168.1.2"
    assert str(servers["server"].v4) == "1.2.3.4"
    assert {str(s.v4) for s in servers.values() if "dns" in s.serves} == {"1.1.1.1", "8.8.8.8"}
    assert load_router(home.router.profile)


def test_the_failing_home_keeps_its_five_clients() -> None:
    assert [c.name for c in load_home("velop-mesh").client] == [
        "my-computer",
        "desk-computer",
        "tablet",
        "phone",
        "nas",
    ]


@pytest.mark.parametrize("name", HOMES)
def test_a_shipped_home_says_what_matters(name: str) -> None:
    """Every state the gateway can be in, the LAN itself, and a blocked destination."""
    home = load_home(name)
    states = (
        {"nothing", "forwarding", "masquerade", "sidegate"} if home.gateway and home.gateway.plugged else {"nothing"}
    )
    clients = {client.name for client in home.client}
    assert {e.gateway for e in home.expect if e.to == "server"} == states
    for expectation in (e for e in home.expect if e.to == "server"):
        assert expectation.v4.keys() == clients
    assert any(set(e.v4) & clients and e.to in clients for e in home.expect)
    assert any(e.to == "blocked-site" for e in home.expect)


def shipped_expectations() -> Iterator[tuple[Home, Expectation, str, str, Outcome]]:
    for home in map(load_home, HOMES):
        for expectation in home.expect:
            for family, outcomes in (("v4", expectation.v4), ("v6", expectation.v6)):
                yield from ((home, expectation, family, asker, outcome) for asker, outcome in outcomes.items())


def test_shipped_expectations_follow_from_the_laws() -> None:
    """Each expectation, written by hand, against a second opinion of a few lines."""
    checked = 0
    for home, expectation, family, asker, outcome in shipped_expectations():
        opinion = second_opinion(home, expectation, family, asker)
        assert outcome == opinion, f"{home.name}: {expectation.gateway}: {asker} -> {expectation.to} {family}"
        checked += 1
    assert checked > 200


def second_opinion(home: Home, expectation: Expectation, family: str, asker: str) -> Outcome:
    target = expectation.to.partition(":")[0]
    if target == home.router.name:
        return port_forward_opinion(home, int(expectation.to.partition(":")[2]))
    if home.gateway and target == home.gateway.name:
        return "direct" if home.gateway.plugged else "dead"
    server = next((s for s in home.internet.server if s.name == target), None)
    if server is None or family == "v6":
        return "direct"
    if server.v4 in home.internet.blocked:
        return "dead"
    return internet_opinion(home, home.client_named(asker), expectation)


def internet_opinion(home: Home, client: Client, expectation: Expectation) -> Outcome:
    if client.gateway == "router":
        return "direct"
    fault = poisoned(home, client)
    if expectation.gateway == "forwarding":
        return "dead" if fault else "direct"
    if expectation.gateway == "sidegate":
        return "masqueraded" if fault else "direct"
    return "masqueraded" if expectation.gateway == "masquerade" else "dead"


def port_forward_opinion(home: Home, port: int) -> Outcome:
    """For forwards to clients on the router's own NAT, or that have the fault; other ones are not expected anywhere."""
    client = next(home.client_named(f.to) for f in home.router.port_forward if f.port == port)
    if home.modem:
        return "dead"
    assert client.gateway == "router" or poisoned(home, client)
    return "direct" if client.gateway == "router" else "dead"


def poisoned(home: Home, client: Client) -> bool:
    """Whether the client's frames to the gateway cross a kernel bridge of the router that runs conntrack."""
    assert home.gateway is not None
    filters = behaviour(home, load_router(home.router.profile)).bridge_filter
    return filters and router_port(home, client) != router_port(home, home.gateway)


def router_port(home: Home, it: Client | Gateway | Node) -> str:
    """What the device's frames arrive by at the router: its chip, a radio, a wire or a backhaul of its own."""
    nodes = {node.name: node for node in home.node}
    while it.at in nodes:
        it = nodes[it.at]
    if it.by == "wire":
        return "chip" if home.router.switch_chip else it.name
    return it.name if isinstance(it, Node) else (it.radio or home.router.radios[0])


@pytest.mark.parametrize("name", ROUTERS)
def test_every_value_of_a_shipped_router_has_evidence(name: str) -> None:
    profile = load_router(name)
    for field, known in known_fields(profile):
        if known.value is not None:
            assert known.evidence, field
        if known != Known():
            assert known.source, field


def test_the_generic_router_knows_nothing() -> None:
    assert all(known == Known() for _, known in known_fields(load_router("generic")))


def known_fields(profile: RouterProfile) -> Iterator[tuple[str, Known[object]]]:
    for field in msgspec.structs.fields(profile):
        value = getattr(profile, field.name)
        if isinstance(value, Known):
            yield field.name, value


GATEWAY, ROUTER, RESOLVER = "192.168.1.2", "192.168.1.1", "1.1.1.1"


@pytest.mark.parametrize(
    ("profile", "assume", "dhcp", "filters"),
    [
        (None, None, {}, False),
        ("off", None, {}, False),
        ("on", None, {}, True),
        ("on", None, {"gateway": GATEWAY}, True),
        ("on", "off", {}, False),
        ("off", "on", {}, True),
        (None, "on", {}, True),
        ("unless-dhcp-points-away", None, {}, True),
        ("unless-dhcp-points-away", None, {"gateway": ROUTER}, True),
        ("unless-dhcp-points-away", None, {"gateway": ROUTER, "dns": ROUTER}, True),
        ("unless-dhcp-points-away", None, {"gateway": GATEWAY}, False),
        ("unless-dhcp-points-away", None, {"dns": RESOLVER}, False),
        ("unless-dhcp-points-away", None, {"off": True}, True),
        ("unless-dhcp-points-away", None, {"off": True, "gateway": GATEWAY}, True),
        ("unless-dhcp-points-away", "off", {}, False),
        ("off", "unless-dhcp-points-away", {}, True),
        ("off", "unless-dhcp-points-away", {"gateway": GATEWAY}, False),
    ],
)
def test_the_bridge_filter_of_a_router_in_a_home(
    profile: BridgeFilter | None, assume: BridgeFilter | None, dhcp: dict[str, object], filters: bool
) -> None:
    home = home_with(Assumed(bridge_filter=assume), msgspec.convert(dhcp, Dhcp, dec_hook=lambda kind, text: kind(text)))
    known = RouterProfile(title="a router", bridge_filter=Known(value=profile))
    assert behaviour(home, known).bridge_filter is filters


def test_what_nobody_knows_is_the_plainest_router() -> None:
    plainest = Behaviour(bridge_filter=False, nat="masquerade", firewall="nft", drop_invalid=False, dns_hijack=False)
    assert behaviour(home_with(Assumed(), Dhcp()), RouterProfile(title="a router")) == plainest


@pytest.mark.parametrize(("profile", "assume"), list(itertools.product((None, False, True), repeat=2)))
@pytest.mark.parametrize("flag", ["drop_invalid", "dns_hijack"])
def test_a_flag_is_the_homes_assumption_else_the_profiles(flag: str, profile: bool | None, assume: bool | None) -> None:
    home = home_with(msgspec.convert({flag: assume}, Assumed), Dhcp())
    known = msgspec.structs.replace(RouterProfile(title="a router"), **{flag: Known(value=profile)})
    assert getattr(behaviour(home, known), flag) is bool(profile if assume is None else assume)


def test_nat_and_firewall_are_the_homes_assumption_else_the_profiles() -> None:
    profile = RouterProfile(title="a router", nat=Known(value="snat"), firewall=Known(value="iptables-legacy"))
    known = behaviour(home_with(Assumed(), Dhcp()), profile)
    assumed = behaviour(home_with(Assumed(nat="none", firewall="iptables-nft"), Dhcp()), profile)
    assert (known.nat, known.firewall) == ("snat", "iptables-legacy")
    assert (assumed.nat, assumed.firewall) == ("none", "iptables-nft")


def home_with(assume: Assumed, dhcp: Dhcp) -> Home:
    home = load_home("bypass")
    return msgspec.structs.replace(home, router=msgspec.structs.replace(home.router, assume=assume, dhcp=dhcp))


def test_a_home_knows_its_parts() -> None:
    home = load_home("velop-mesh")
    assert [box.name for box in home.boxes] == ["router", "study"]
    assert isinstance(home.boxes[0], Router)
    assert [it.name for it in home.attached] == ["study", "gateway", *(c.name for c in home.client)]
    assert [it.name for it in home.lan_hosts] == ["gateway", *(c.name for c in home.client)]
    assert home.client_named("phone").at == "study"
    with pytest.raises(Problems, match='no client "gateway"'):
        home.client_named("gateway")


@pytest.mark.parametrize("name", ["velop", "x" * 300, "homes/none", ""])
def test_an_unknown_name_lists_what_ships(name: str) -> None:
    with pytest.raises(Problems) as raised:
        load_home(name)
    (problem,) = raised.value.problems
    assert problem.where == name
    assert "velop-mesh" in problem.remedy or "cannot be read" in problem.what


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes('title = "Küche"'.encode("latin-1"))
    (tmp_path / "folder.toml").mkdir()
    for name, what in (("latin", "not UTF-8"), ("folder", "cannot be read"), ("absent", "cannot be read")):
        with pytest.raises(Problems, match=what):
            load_home(str(tmp_path / f"{name}.toml"))


def test_a_home_from_a_path_bears_the_files_name(tmp_path: Path) -> None:
    text = '[internet]\nserver = []\n[router]\nwan = "1.0.0.2/24"\nlan = "192.168.1.1/24"\n'
    (tmp_path / "mine.toml").write_text(f'title = "Mine"\n{text}')
    (tmp_path / "named.toml").write_text(f'title = "Mine"\nname = "given"\n{text}')
    assert load_home(str(tmp_path / "mine.toml")).name == "mine"
    assert load_home(str(tmp_path / "named.toml")).name == "given"
