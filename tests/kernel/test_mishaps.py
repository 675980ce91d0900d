"""What happens to a gateway in a home: somebody takes its address, a second one is plugged in, its disk is full."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sidegate.home import load_home
from sidegate.lab.lab import Lab
from tests.kernel.test_dhcp import mac, sidegate, status, until, up

pytestmark = pytest.mark.kernel

OURS = "192.168.1.2"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.up(load_home("bypass")) as lab:
        yield lab


def conflicts(lab: Lab) -> list[str]:
    return [fault for fault in status(lab)["faults"] if fault.startswith("address conflict")]


def test_another_device_takes_our_address(lab: Lab) -> None:
    """Whoever has learned its MAC address learns ours again."""
    assert up(lab, "")[0] == 0
    assert conflicts(lab) == []
    thief = mac(lab, "computer")
    lab.run("tablet", "ip", "neighbour", "replace", OURS, "lladdr", thief, "dev", "eth0", "nud", "reachable")
    lab.run("computer", "ip", "address", "add", f"{OURS}/24", "dev", "eth0")
    lab.run("computer", "busybox", "arping", "-q", "-U", "-c", "1", "-w", "1", "-I", "eth0", OURS, check=False)
    (fault,) = until(lambda: conflicts(lab))
    assert f"{thief} uses this box's own address {OURS} too" in fault
    until(lambda: mac(lab, "gateway") in lab.run("tablet", "ip", "neighbour", "show", OURS).stdout)
    code, text = sidegate(lab, "status")
    assert (code, thief in text) == (1, True)
    assert [e["what"] for e in status(lab)["events"] if thief in e["what"] and "announced once" in e["what"]]


def test_a_second_gateway_is_seen_by_the_first_and_the_other_way(lab: Lab) -> None:
    """Neither ever speaks to the other: each hears the other ask for its own address."""
    other = next(str(c.v4) for c in lab.home.client if c.name == "computer")
    assert up(lab, "")[0] == 0
    lab.run("computer", "ip", "route", "replace", "default", "via", "192.168.1.1")
    assert lab.run("computer", sys.executable, "-m", "sidegate", "up", check=False).returncode == 0
    assert "another gateway on this LAN" in until(lambda: about(status(lab), other))[0]
    theirs = lambda: about(json.loads(lab.run("computer", *STATUS, check=False).stdout), OURS)  # noqa: E731
    assert "another gateway on this LAN" in until(theirs, within_s=20)[0]


STATUS = (sys.executable, "-m", "sidegate", "status", "--json")


def about(told: Any, ip: str) -> list[str]:
    return [hint for hint in told["hints"] if hint.startswith(ip) and "forwards packets itself" in hint]
