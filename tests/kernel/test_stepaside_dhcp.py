"""What goes on for clients while the router stands in: addresses with the router as the gateway, and names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sidegate.lab.lab import Lab
from tests.kernel.gateway_lab import wait_for
from tests.kernel.test_dhcp import _forget_addresses, box, get_lease, home, sidegate, status, up

pytestmark = pytest.mark.kernel

CONFIG = '[dhcp]\nmode = "server"\nlease_s = 600\n[dns]\nmode = "on"\n'
OURS, ROUTER = "192.168.1.2", "192.168.1.1"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.up(home()) as found:
        _forget_addresses(found)
        yield found


def states(lab: Lab) -> set[str]:
    """The checks that are up."""
    return {h["name"] for h in status(lab)["health"] if h["state"] == "up"}


def children(lab: Lab) -> set[str]:
    """Programs that serve clients, as the box's processes."""
    return set(
        lab.run("gateway", "sh", "-c", "ps ax -o args | grep -o '[c]onf-file=/run/sidegate/.*' || true").stdout.split()
    )


def record(lab: Lab) -> Any:
    return json.loads(lab.run("gateway", "cat", "/run/state/step-aside.json").stdout)


def test_who_renews_while_the_router_stands_in_is_the_routers(lab: Lab) -> None:
    before = box(lab)
    assert up(lab, CONFIG)[0] == 0
    first = get_lease(lab, "computer")
    assert first[1:3] == [OURS, OURS]
    wait_for(lambda: states(lab) == {"router", "internet", "forwarding", "steering", "dhcp", "dns", "daemon"})
    code, said = sidegate(lab, "down")
    assert (code, "Clients were handed to the router" in said, "ended" in said) == (0, True, False), said
    assert "nobody after: turn on the router's DHCP" in said
    assert ["nobody after" in hint for hint in status(lab)["hints"]] == [True]
    assert get_lease(lab, "computer") == [first[0], ROUTER, ROUTER, "600"]
    assert len(children(lab)) == 2
    assert ({c["name"] for c in record(lab)["kept"]}, record(lab)["is_steady"]) == ({"dnsmasq", "resolver"}, True)
    assert up(lab, CONFIG)[0] == 0
    assert get_lease(lab, "computer") == first
    assert len(children(lab)) == 2
    assert status(lab)["faults"] == []
    assert sidegate(lab, "down")[0] == 0
    assert len(record(lab)["kept"]) == 2, "those that were adopted too"
    code, said = sidegate(lab, "down", "--now")
    assert (code, children(lab), box(lab)) == (0, set(), before)
    lab.run("gateway", "test", "!", "-e", "/run/state/step-aside.json")
