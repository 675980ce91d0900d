"""Whole conversations in the article's homes: verdicts, and what the walk says about itself."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sidegate.home import PortForward, load_home, load_router
from sidegate.walk.conversation import Ask, Player
from sidegate.walk.data import Walk, sightings
from sidegate.walk.laws import LAWS
from sidegate.walk.network import Network
from sidegate.walk.setting import Setting
from sidegate.walk.worlds import matrix, random_world


def walk(client: str, setting: Setting, home_name: str = "velop-mesh", **more: object) -> Walk:
    home = load_home(home_name)
    network = Network(home, load_router(home.router.profile), setting)
    ask = Ask(client, str(home.client_named(client).v4), "1.2.3.4", **more)  # type: ignore[arg-type]
    return Player(network, ask).walk()


FORWARDING, MASQUERADE = Setting("forwarding"), Setting("masquerade")


@pytest.mark.parametrize(
    ("client", "setting", "code", "path"),
    [
        ("my-computer", Setting("nothing"), "not-forwarding", "none"),
        ("my-computer", FORWARDING, "delivered", "direct"),
        ("desk-computer", FORWARDING, "reply-lost-private-source", "none"),
        ("phone", FORWARDING, "reply-lost-private-source", "none"),
        ("phone", MASQUERADE, "delivered", "masqueraded"),
        ("my-computer", MASQUERADE, "delivered", "masqueraded"),
        ("my-computer", Setting("sidegate", ("my-computer",)), "delivered", "direct"),
        ("phone", Setting("sidegate", ("my-computer",)), "delivered", "masqueraded"),
        ("phone", Setting("sidegate", ("phone",)), "reply-lost-private-source", "none"),
        ("phone", Setting("forwarding", proxied=True), "delivered", "proxied"),
    ],
)
def test_the_articles_home(client: str, setting: Setting, code: str, path: str) -> None:
    verdict = walk(client, setting).verdict
    assert (verdict.code, verdict.return_path) == (code, path)


def test_the_null_binding_is_told_where_it_is_made_and_where_it_bites() -> None:
    laws = [
        (hop.enters, d.law) for hop in walk("phone", FORWARDING).hops for d in hop.decisions if hop.node == "router"
    ]
    assert ("mesh1", "nat-null") in laws
    assert ("cpu", "ct-unreplied") in laws
    assert [law for enters, law in laws if enters == "cpu" and law.startswith("nat")] == ["nat-decided"]


def test_a_port_forward_to_a_wifi_client_comes_back_as_a_stranger() -> None:
    home = load_home("velop-mesh")
    network = Network(home, load_router(home.router.profile), FORWARDING)
    verdict = Player(network, Ask("internet", "1.2.3.4", "123.100.101.102", "tcp", 25565)).walk().verdict
    assert (verdict.code, verdict.node) == ("reply-to-other-tuple", "router")
    assert "gateway" in verdict.remedy


def test_masquerade_for_all_breaks_the_port_forward_of_a_wired_client() -> None:
    home = load_home("bypass")
    forward = PortForward(8080, "computer")
    home = replace(home, router=replace(home.router, port_forward=(forward,)))
    ask = Ask("internet", "1.2.3.4", "123.100.101.102", "tcp", 8080)
    codes = {
        runs: Player(Network(home, load_router("generic"), Setting(runs)), ask).walk().verdict
        for runs in ("forwarding", "masquerade", "sidegate")
    }
    assert {runs: verdict.code for runs, verdict in codes.items()} == {
        "forwarding": "delivered",
        "masquerade": "masqueraded-mid-stream",
        "sidegate": "delivered",
    }
    assert codes["masquerade"].node == "gateway"


@pytest.mark.parametrize(("ttl", "node"), [(1, "gateway"), (2, "router"), (3, "")])
def test_a_ttl_ends_where_it_is_forwarded(ttl: int, node: str) -> None:
    verdict = walk("phone", MASQUERADE, protocol="icmp", ttl=ttl).verdict
    assert (verdict.code, verdict.node) == (("ttl-exceeded", node) if node else ("delivered", ""))


def test_a_conversation_leaves_no_trace_in_the_next() -> None:
    home = load_home("velop-mesh")
    network = Network(home, load_router(home.router.profile), MASQUERADE)
    ask = Ask("phone", "192.168.1.126", "1.2.3.4")
    first, other = Player(network, ask).walk(), Ask("nas", "192.168.1.127", "1.2.3.4")
    Player(network, other).walk()
    assert Player(network, ask).walk() == first


def test_every_expectation_of_the_article_s_homes_is_predicted() -> None:
    home = load_home("velop-mesh")
    for expect in home.expect:
        if expect.to != "server" or expect.gateway == "sidegate":
            continue
        for name, outcome in expect.v4.items():
            verdict = walk(name, Setting(expect.gateway)).verdict
            assert (verdict.return_path if verdict.code == "delivered" else "dead") == outcome, (name, expect.why)


def test_the_matrix_has_no_verdict_that_is_unknown() -> None:
    for world in matrix():
        network = Network(world.home, load_router(world.home.router.profile), world.setting)
        for ask in world.asks[::5]:
            verdict = Player(network, ask).walk().verdict
            assert verdict.code != "unknown", (world.home.name, world.setting, ask)


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_home_obeys_what_must_always_hold(random: Random) -> None:
    world = random_world(random, questions=4)
    network = Network(world.home, load_router(world.home.router.profile), world.setting)
    for ask in world.asks:
        told = Player(network, ask).walk()
        assert told == Player(network, ask).walk()
        assert all(d.law in LAWS for hop in told.hops for d in hop.decisions)
        _every_frame_that_arrives_was_sent(told, network)
        assert all(hop.leaves or hop.decisions for hop in told.hops)


def _every_frame_that_arrives_was_sent(told: Walk, network: Network) -> None:
    sent = []
    for it in sightings(told):
        port = network.nodes[it.node].ports[it.interface]
        if it.out:
            sent.append((port, it.packet))
        elif port.peer is not None:
            sent.remove((port.peer, it.packet))
