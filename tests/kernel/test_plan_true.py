"""What a plan predicts, and the configuration file it prints, against the real kernel: every kind of client, TCP to the
internet and its return path, port forwards over TCP and UDP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Address

import pytest
from msgspec import structs

from sidegate.gateway.config import Masquerade
from sidegate.home import Assumed, BridgeFilter, Dhcp, Home, Internet, Known, RouterProfile, Server
from sidegate.lab.asking import Answer, http_get, udp_echo
from sidegate.lab.blueprint import INTERNET
from sidegate.lab.check import Relayed, sidegate
from sidegate.lab.lab import Lab
from sidegate.plan.config_text import config_for
from sidegate.plan.data import Wish
from sidegate.plan.making import make_plan
from sidegate.plan.predict import model_home
from tests.kernel.gateway_lab import PATIENCE_S, SERVER, Box

pytestmark = pytest.mark.kernel

GOT = """#!/bin/sh
test -z "$ip" || echo $router >/run/got
"""
FILE = "/run/sidegate.toml"
CASES = [("on", "auto"), ("on", "always"), ("on", "never"), ("off", "auto")]


@pytest.mark.parametrize(("bridge_filter", "nat"), CASES)
def test_a_plan_comes_true(bridge_filter: BridgeFilter, nat: Masquerade) -> None:
    profile = RouterProfile("mine", bridge_filter=Known(bridge_filter, "measured", "a test"))
    plan = make_plan(profile, Wish(), [])
    way = next(w for w in plan.nat_choices if w.nat == nat)
    with Lab.up(home(bridge_filter)) as lab:
        lab.run("gateway", "sh", "-ec", f"cat >{FILE}", text=config_for(plan, way.id))
        sidegate(lab, "up", "--config", FILE)
        Box(lab).settled()
        predicted = {str(p.kind): p.path for p in way.predictions}
        assert paths(lab, predicted) == predicted
        predicted_forwards = {str(p.kind): p.port_forwards for p in way.predictions}
        assert forwarded(lab, predicted_forwards) == predicted_forwards


def home(bridge_filter: BridgeFilter) -> Home:
    """The plan's own model home, and in its internet what the bridge probe asks."""
    model = model_home(True, Assumed(bridge_filter=bridge_filter), Dhcp())
    targets = (Server("resolver", IPv4Address("1.1.1.1")), Server("resolver-2", IPv4Address("8.8.8.8")))
    return structs.replace(model, internet=Internet((*model.internet.server, *targets)))


def patience_s(is_answered: bool) -> float:
    return PATIENCE_S if is_answered else 0.8


def paths(lab: Lab, predicted: Mapping[str, str]) -> dict[str, str]:
    """How each client is answered by the internet over TCP."""
    with Relayed(lab) as relayed:
        waits = {c.name: patience_s(predicted[c.name] != "none") for c in lab.home.client}
        asked = [(c, lab.begin(c.name, http_get, SERVER, 80, "/", waits[c.name])) for c in lab.home.client]
        answers = [(c, waiting.result()) for c, waiting in asked]
        receivers = relayed.receivers()
    return {c.name: _path(it, (str(c.v4), it.port) in receivers) for c, it in answers}


def _path(answer: Answer, by_gateway: bool) -> str:
    return "none" if not answer.ok else "masqueraded" if by_gateway else "direct"


def forwarded(lab: Lab, predicted: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Over which protocols the internet reaches each client by its forwarded port."""
    wan = str(lab.home.router.wan.ip)
    asked = []
    for it in lab.home.router.port_forward:
        wait_s = patience_s(it.protocol in predicted[it.to])
        ask, how = (http_get, ("/", wait_s)) if it.protocol == "tcp" else (udp_echo, (wait_s,))
        asked.append((it.to, it.protocol, lab.begin(INTERNET, ask, wan, it.port, *how)))
    worked = {(to, protocol) for to, protocol, waiting in asked if waiting.result().ok}
    return {c.name: tuple(p for p in ("tcp", "udp") if (c.name, p) in worked) for c in lab.home.client}


@pytest.mark.parametrize(("way", "router_serves"), [("own-dhcp", False), ("coexist", True)])
def test_the_box_hands_out_as_the_way_says(way: str, router_serves: bool) -> None:
    plan = make_plan(RouterProfile("mine"), Wish(), [])
    model = home("on")
    router = structs.replace(model.router, dhcp=Dhcp(off=not router_serves))
    with Lab.up(structs.replace(model, router=router), dhcp=router_serves) as lab:
        lab.run("gateway", "sh", "-ec", f"cat >{FILE}", text=config_for(plan, way))
        sidegate(lab, "up", "--config", FILE)
        told = json.loads(sidegate(lab, "status", "--json"))["dhcp"]
        lab.run("wired", "ip", "address", "flush", "dev", "eth0")
        lab.run("wired", "sh", "-ec", "cat >/run/got.sh; chmod +x /run/got.sh", text=GOT)
        lab.run("wired", "sh", "-ec", "busybox udhcpc -i eth0 -n -q -f -t 10 -s /run/got.sh")
        gateway = lab.run("wired", "cat", "/run/got").stdout.split()
    assert (told["mode"], told["pid"] > 0) == ("coexist" if router_serves else "server", True)
    possible = {"own-dhcp": ["192.168.1.2"], "coexist": ["192.168.1.1", "192.168.1.2"]}
    assert gateway[0] in possible[way], "beside the router's DHCP it is a race, and the plan says so"
