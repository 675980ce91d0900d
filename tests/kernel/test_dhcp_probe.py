"""Looking for DHCP servers that are really there: dnsmasq and busybox udhcpd, as routers have them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from sidegate.home import load_home
from sidegate.lab.lab import Lab
from tests.kernel.dns_box import end
from tests.kernel.gateway_lab import wait_for

pytestmark = pytest.mark.kernel

UDHCPD = """interface br-lan
start 192.168.1.30
end 192.168.1.60
option subnet 255.255.255.0
option router 192.168.1.1
option dns 192.168.1.1 1.1.1.1
option domain home.lan
option lease 7200
max_leases 31
lease_file /run/udhcpd.leases
pidfile /run/udhcpd.pid
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The router hands out the gateway, as the article's first diagram has it."""
    with Lab.up(load_home("bypass"), dhcp=True) as up:
        yield up


def probe(lab: Lab) -> tuple[int, Any]:
    done = lab.run("gateway", sys.executable, "-m", "sidegate", "probe", "dhcp", "--json", check=False)
    return done.returncode, json.loads(done.stdout)


def start_udhcpd(lab: Lab, machine: str, interface: str, gateway: str) -> None:
    """busybox udhcpd, answering when this returns."""
    text = UDHCPD.replace("br-lan", interface).replace("option router 192.168.1.1", f"option router {gateway}")
    lab.run(machine, "sh", "-c", "cat >/run/udhcpd.conf; touch /run/udhcpd.leases", text=text)
    lab.start(machine, "busybox", "udhcpd", "-f", "/run/udhcpd.conf")
    deadline = time.monotonic() + 30
    while ":0043 " not in lab.run(machine, "cat", "/proc/net/udp").stdout:
        assert time.monotonic() < deadline, "udhcpd did not start"
        time.sleep(0.02)


def test_one_router_with_dnsmasq(lab: Lab) -> None:
    status, said = probe(lab)
    (offer,) = said["result"]["offers"]
    router_mac = next(m for m in lab.plan.machines if m.name == "router").bridges[0].mac
    assert status == 0
    assert (offer["server"], offer["server_mac"]) == ("192.168.1.1", router_mac)
    assert (offer["gateways"], offer["dns"], offer["lease_s"]) == (["192.168.1.2"], ["192.168.1.1"], 43200)
    assert IPv4Address("192.168.1.100") <= IPv4Address(offer["address"]) <= IPv4Address("192.168.1.199")
    assert lab.run("router", "cat", "/run/router.leases").stdout == "", "looking takes no lease"


def test_two_servers_that_disagree_are_both_told(lab: Lab) -> None:
    """udhcpd on a client's machine: somebody's forgotten access point."""
    start_udhcpd(lab, "computer", "eth0", "192.168.1.1")

    def both() -> subprocess.CompletedProcess[str] | None:
        """What is said once both answer in time: udhcpd looks for 2 of 4 s whether its address is free."""
        done = lab.run("gateway", sys.executable, "-m", "sidegate", "probe", "dhcp", check=False)
        return done if "2 DHCP servers answer." in done.stdout else None

    done = wait_for(both)
    assert done is not None
    assert done.returncode == 1
    assert "192.168.1.123 (02:5d" in done.stdout
    assert "gateway 192.168.1.1, DNS 192.168.1.1 and 1.1.1.1, an address such as 192.168.1." in done.stdout
    assert "They disagree" in done.stdout
    assert "this box among them" in done.stdout


def test_nobody(lab: Lab) -> None:
    end(lab, "router", "/run/dnsmasq-router.pid")
    status, said = probe(lab)
    assert (status, said["result"]["offers"], said["own_server"]) == (1, [], False)


def test_a_busybox_router(lab: Lab, tmp_path: Path) -> None:
    end(lab, "router", "/run/dnsmasq-router.pid")
    start_udhcpd(lab, "router", "br-lan", "192.168.1.2")
    status, said = probe(lab)
    (offer,) = said["result"]["offers"]
    assert (status, offer["server"], offer["domain"]) == (0, "192.168.1.1", "home.lan")
    assert offer["gateways"] == ["192.168.1.2"]
