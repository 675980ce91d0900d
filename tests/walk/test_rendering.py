"""The article's own diagrams come out of the walk; and every rendering of it is kept as a golden file."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sidegate.home import Home, load_home, load_router
from sidegate.render.walk_json import walk_json
from sidegate.render.walk_legs import Journey, Leg, circled, journey
from sidegate.render.walk_mermaid import walk_mermaid
from sidegate.render.walk_svg import walk_svg
from sidegate.render.walk_text import walk_text
from sidegate.walk.conversation import Ask, Player
from sidegate.walk.network import Network
from sidegate.walk.question import question
from sidegate.walk.setting import Setting
from sidegate.walk.worlds import random_world
from tests.conftest import GOLDEN_ROOT, Golden


def article() -> Home:
    return load_home(str(GOLDEN_ROOT / "walk/article.toml"))


def walked(
    home: Home, setting: Setting, asker: str = "computer", destination: str = "server", protocol: str = "tcp"
) -> tuple[Journey, Network]:
    network = Network(home, load_router(home.router.profile), setting)
    ask = question(network, asker, destination, protocol)  # type: ignore[arg-type]
    told = Player(network, replace(ask, sport=4321)).walk()
    return journey(told, home, network.plan), network


def plain(home: Home, nat: str) -> Home:
    """The article's home before the bypass router came."""
    assume = msgspec.structs.replace(home.router.assume, bridge_filter="off", nat=nat)
    client = replace(home.client[0], gateway="router")
    return replace(home, router=replace(home.router, assume=assume), gateway=None, client=(client,))


DIAGRAMS = {
    "1-no-nat": (plain(article(), "none"), Setting("nothing"), False),
    "2-snat-with-ports": (plain(article(), "masquerade"), Setting("nothing"), True),
    "3-bypass-first-hop": (article(), Setting("nothing"), False),
    "4-un-nated-second-pass": (article(), Setting("forwarding"), False),
    "5-masquerade-in-eight-steps": (article(), Setting("masquerade"), False),
}


@pytest.mark.parametrize("name", DIAGRAMS)
def test_the_articles_diagrams(name: str, golden: Golden) -> None:
    home, setting, ports = DIAGRAMS[name]
    golden(f"walk/{name}.mmd", walk_mermaid(walked(home, setting)[0], home, ports))


def test_the_port_forward(golden: Golden) -> None:
    for name, home in (("6-port-forward", plain(article(), "masquerade")), ("7-port-forward-lost", article())):
        setting = Setting("forwarding" if home.gateway else "nothing")
        it, _ = walked(home, setting, "server", "router:8080")
        golden(f"walk/{name}.mmd", walk_mermaid(it, home, ports=True))


def test_the_masquerade_has_the_articles_eight_steps() -> None:
    it, _ = walked(article(), Setting("masquerade"), protocol="icmp")
    told = [(leg.start, leg.end, leg.packet.src, leg.packet.dst) for leg in it.legs[:8]]
    assert told == [
        ("computer", "router", "192.168.1.123", "1.2.3.4"),
        ("router", "bypass", "192.168.1.123", "1.2.3.4"),
        ("bypass", "router", "192.168.1.2", "1.2.3.4"),
        ("router", "server", "123.100.101.102", "1.2.3.4"),
        ("server", "router", "1.2.3.4", "123.100.101.102"),
        ("router", "bypass", "1.2.3.4", "192.168.1.2"),
        ("bypass", "router", "1.2.3.4", "192.168.1.123"),
        ("router", "computer", "1.2.3.4", "192.168.1.123"),
    ]


@pytest.mark.parametrize("runs", ["forwarding", "masquerade"])
def test_the_text(runs: str, golden: Golden) -> None:
    it, _ = walked(load_home("velop-mesh"), Setting(runs), "phone")  # type: ignore[arg-type]
    golden(f"walk/phone-{runs}.txt", walk_text(it))
    golden(f"walk/phone-{runs}-why.txt", walk_text(it, why=True))


def test_the_picture(golden: Golden) -> None:
    it, network = walked(load_home("velop-mesh"), Setting("masquerade"), "phone")
    drawn = walk_svg(it, network.home, network.does)
    golden("walk/phone-masquerade.svg", drawn)
    assert ET.fromstring(drawn).tag.endswith("svg")  # noqa: S314


def test_the_json(golden: Golden) -> None:
    it, _ = walked(load_home("velop-mesh"), Setting("forwarding"), "phone", protocol="icmp")
    told = msgspec.json.format(msgspec.json.encode(walk_json(it.walk)), indent=1).decode()
    golden("walk/phone-forwarding.json", told + "\n")


def test_circled_numbers() -> None:
    assert [circled(n) for n in (1, 20, 21, 35, 36, 50, 51)] == ["①", "⑳", "㉑", "㉟", "㊱", "㊿", "(51)"]


@settings(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False))
def test_any_walk_can_be_rendered(random: Random) -> None:
    world = random_world(random, questions=2)
    home = world.home
    network = Network(home, load_router(home.router.profile), world.setting)
    for ask in world.asks:
        it = journey(Player(network, ask).walk(), home, network.plan)
        assert [leg.number for leg in it.legs] == list(range(1, len(it.legs) + 1))
        assert all(leg.start != leg.end for leg in it.legs)
        assert _is_connected(it, ask)
        text, graph = walk_text(it, why=True), walk_mermaid(it, home)
        assert "{" not in text
        assert graph.startswith("graph TD\n")
        ET.fromstring(walk_svg(it, home, network.does))  # noqa: S314
        msgspec.json.encode(walk_json(it.walk))


def _is_connected(it: Journey, ask: Ask) -> bool:
    """Every leg but those that begin something starts where an earlier one ended."""
    been = {ask.asker}
    for part in it.parts:
        if isinstance(part, Leg):
            if part.before is not None and part.start not in been:
                return False
            been |= {part.start, part.end}
    return True
