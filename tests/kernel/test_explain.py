"""`sidegate explain` on a running gateway, held against what the kernel does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from subprocess import CompletedProcess

import pytest

from sidegate.home import load_home
from sidegate.lab.asking import http_get
from sidegate.lab.check import set_gateway
from sidegate.lab.lab import Lab
from tests.kernel.gateway_lab import PATIENCE_S, Box

pytestmark = pytest.mark.kernel

WIRED, PHONE, SERVER = "192.168.1.123", "192.168.1.126", "1.2.3.4"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(load_home("velop-mesh")) as lab:
        set_gateway(lab, "sidegate")
        Box(lab).settled()
        yield lab


def explain(lab: Lab, *words: str) -> CompletedProcess[str]:
    return lab.run("gateway", sys.executable, "-m", "sidegate", "explain", *words, check=False)


@pytest.mark.parametrize(
    ("client", "address", "path"), [("my-computer", WIRED, "direct"), ("phone", PHONE, "masqueraded")]
)
def test_the_walk_says_what_happens(lab: Lab, client: str, address: str, path: str) -> None:
    said = json.loads(explain(lab, address, SERVER, "--json").stdout)
    assert lab.call(client, http_get, SERVER, 80, "/", PATIENCE_S).ok
    assert any(line.startswith(f"return path: {path}: ") for line in said["told"])
    assert said["walk"]["verdict"]["code"] == "delivered"
    at_gateway = [hop["before"] for hop in said["walk"]["hops"] if hop["node"] == "gateway"]
    assert any(packet["src"] == SERVER for packet in at_gateway) == (path == "masqueraded")


@pytest.mark.parametrize(("words", "port"), [((), 443), (("--port", "8080"), 8080), (("--proto", "udp"), 443)])
def test_the_walk_is_to_the_port_that_was_asked_for(lab: Lab, words: tuple[str, ...], port: int) -> None:
    done = explain(lab, WIRED, SERVER, *words)
    assert done.returncode == 0
    assert f"{WIRED} asks {SERVER} port {port} over" in done.stdout
    assert "arrives: yes: request and reply arrive" in done.stdout.partition("①")[0]


def test_this_box_itself(lab: Lab) -> None:
    done = explain(lab, WIRED, str(lab.home.gateway.v4 if lab.home.gateway else ""))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "destination: 192.168.1.2, this box itself: nothing is routed or split",
    )


def test_a_name_is_looked_up_and_a_mac_is_a_client(lab: Lab) -> None:
    mac = lab.plan.wire_of("phone").near.mac
    done = explain(lab, mac.upper(), "server.example")
    assert done.returncode == 0
    assert f"destination: {SERVER}, as this box's own resolver answers for server.example" in done.stdout
    assert "⑧" in done.stdout


def test_neighbours_talk_past_the_gateway(lab: Lab) -> None:
    done = explain(lab, WIRED, PHONE)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        f"destination: {PHONE}, on this LAN: the devices talk past the gateway",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [(("192.168.1.99", SERVER), "no such client has been seen"), ((WIRED, "no.such.example"), "no IPv4 address")],
)
def test_who_or_what_is_unknown(lab: Lab, words: tuple[str, str], message: str) -> None:
    done = explain(lab, *words)
    assert done.returncode == 2
    assert message in done.stderr
