"""A box whose LAN interface is a bridge, as where Docker or virtual machines run beside Sidegate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.gateway_lab import WIRED, Box, all_of, gateway_in, mesh_home, reached, wait_for

pytestmark = pytest.mark.kernel

FILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"
BRIDGED = f"""
echo 1 >{FILTER}
ip link add br0 type bridge
ip link set br0 address "$(cat /sys/class/net/eth0/address)" up
ip addr flush dev eth0
ip link set eth0 master br0
ip addr add 192.168.1.2/24 dev br0
ip route add default via 192.168.1.1
"""


@pytest.fixture
def box() -> Iterator[Box]:
    with gateway_in(mesh_home()) as it:
        it.shell(BRIDGED)
        yield it


def test_a_bridge_that_netfilter_sees_carries_everybody_and_is_put_back(box: Box) -> None:
    box.up().settled()
    assert reached(box.lab) == all_of(WIRED)
    box.shell(f"echo 1 >{FILTER}")
    # As Docker does when it starts: with rules of its own, which are announced.
    box.nft("add table ip docker\n")
    wait_for(lambda: box.shell(f"cat {FILTER}").strip() == "0")
    assert reached(box.lab) == all_of(WIRED)
    box.sidegate("down", "--now")
    assert box.shell(f"cat {FILTER}").strip() == "1"


def test_a_bridge_with_a_switch_of_its_own_is_refused_with_the_remedy(box: Box) -> None:
    box.shell("ip link set br0 type bridge nf_call_iptables 1")
    refused = box.sidegate("up", check=False)
    assert refused.returncode == 2
    remedy = "ip link set br0 type bridge nf_call_iptables 0"
    assert remedy in refused.stderr.replace("\n", " ")
    box.shell(remedy)
    box.up().settled()
    assert reached(box.lab) == all_of(WIRED)
