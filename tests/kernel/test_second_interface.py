"""A box with two interfaces in one LAN, as a small computer with a cable and Wi-Fi."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.kernel.gateway_lab import Box, gateway_in, mesh_home, wait_for

pytestmark = pytest.mark.kernel

OURS, CLIENT = "192.168.1.2", "nas"


@pytest.fixture
def box() -> Iterator[Box]:
    with gateway_in(mesh_home()) as box:
        _plug_in(box)
        yield box


def _plug_in(box: Box) -> None:
    """A second interface, whose address comes from the router."""
    there = box.lab.holder("gateway").inside
    port = f"ip link add second type veth peer name wlan0 netns {there}; ip link set second master chip up"
    box.shell(port, "router.hw")
    box.shell("ip link set wlan0 up; ip address add 192.168.1.33/24 dev wlan0 metric 600")


def answering(box: Box, address: str) -> set[str]:
    """The MAC addresses that answer a client for an address."""
    asked = box.lab.run(CLIENT, "busybox", "arping", "-c", "1", "-w", "1", "-I", "eth0", address, check=False).stdout
    return set(re.findall(r"\[([0-9a-f:]{17})\]", asked))


def mac(box: Box, interface: str) -> str:
    return box.shell(f"ip -brief link show dev {interface}").split()[2]


def test_clients_find_this_box_at_the_interface_that_forwards(box: Box) -> None:
    eth0, wlan0 = mac(box, "eth0"), mac(box, "wlan0")
    wait_for(lambda: answering(box, OURS) == {eth0, wlan0})
    before = box.state()
    box.up()
    wait_for(lambda: answering(box, OURS) == {eth0})
    wait_for(lambda: wlan0 in answering(box, "192.168.1.33"))
    assert box.status()["faults"] == []
    box.sidegate("down", "--now")
    assert box.state() == before


def test_another_way_to_the_internet_is_told(box: Box) -> None:
    """As of a VPN on this box, or of a phone that is plugged into it."""
    box.up()

    def told() -> bool:
        box.probe_again()
        return any("leaves by wlan0, not by eth0" in hint for hint in box.status()["hints"])

    box.shell("ip route add 0.0.0.0/1 via 192.168.1.1 dev wlan0; ip route add 128.0.0.0/1 via 192.168.1.1 dev wlan0")
    wait_for(told)
    box.shell("ip route del 0.0.0.0/1; ip route del 128.0.0.0/1")
    wait_for(lambda: not told())
