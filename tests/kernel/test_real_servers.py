"""DHCP servers as routers and forgotten boxes have them, all on one LAN: each is found, told of, and lived with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pytest

from sidegate.lab.lab import Lab
from tests.kernel.gateway_lab import wait_for
from tests.kernel.test_dhcp import as_a_dhcp_client, get_lease, home, mac, status, up
from tests.kernel.test_dhcp_probe import start_udhcpd
from tests.kernel.test_real_clients import program, unpacked_libraries

pytestmark = pytest.mark.kernel

DHCPD = """\
authoritative; default-lease-time 7200; max-lease-time 7200;
subnet 192.168.1.0 netmask 255.255.255.0 {
  range 192.168.1.30 192.168.1.39; option routers 192.168.1.1; option domain-name-servers 192.168.1.1;
}
"""
KEA = {
    "interfaces-config": {"interfaces": ["eth0"], "dhcp-socket-type": "raw"},
    "lease-database": {"type": "memfile", "persist": False},
    "valid-lifetime": 3600,
    "subnet4": [
        {
            "id": 1,
            "subnet": "192.168.1.0/24",
            "pools": [{"pool": "192.168.1.70 - 192.168.1.79"}],
            "option-data": [
                {"name": "routers", "data": "192.168.1.7"},
                {"name": "domain-name-servers", "data": "9.9.9.9"},
            ],
        }
    ],
}
OURS = "192.168.1.2"


def start_dhcpd(lab: Lab) -> None:
    """On the router. A copy of the program: where AppArmor knows it by its path, it may not read our files."""
    copied = f"cp {shlex.quote(program('dhcpd'))} /run/"
    lab.run("router", "sh", "-c", f"cat >/run/dhcpd.conf; : >/run/dhcpd.leases; {copied}", text=DHCPD)
    files = "-cf /run/dhcpd.conf -lf /run/dhcpd.leases -pf /run/dhcpd.pid"
    lab.run("router", "sh", "-c", f"/run/dhcpd -4 -q {files} br-lan")


def start_kea(lab: Lab) -> None:
    """On a client's machine."""
    copied = f"cp {shlex.quote(program('kea-dhcp4'))} /run/"
    lab.run("computer", "sh", "-c", f"cat >/run/kea.json; {copied}", text=json.dumps({"Dhcp4": KEA}))
    libraries = f"LD_LIBRARY_PATH={shlex.quote(unpacked_libraries())}"
    environment = f"KEA_LOCKFILE_DIR=none KEA_PIDFILE_DIR=/run {libraries}"
    lab.start("computer", "sh", "-c", f"{environment} exec /run/kea-dhcp4 -c /run/kea.json >/run/kea.log 2>&1")
    wait_for(lambda: "STARTED" in lab.run("computer", "cat", "/run/kea.log", check=False).stdout)


@pytest.fixture
def crowded() -> Iterator[Lab]:
    """ISC dhcpd on the router, Kea on a computer, busybox udhcpd on a tablet."""
    with Lab.up(home()) as lab:
        start_dhcpd(lab)
        start_kea(lab)
        start_udhcpd(lab, "tablet", "eth0", "192.168.1.1")
        yield lab


def test_all_of_them_are_found_refused_and_lived_with(crowded: Lab) -> None:
    tablet = str(next(c.v4 for c in crowded.home.client if c.name == "tablet"))
    terms = {
        "192.168.1.1": "hands out gateway 192.168.1.1, DNS 192.168.1.1, an address such as 192.168.1.3",
        "192.168.1.123": "hands out gateway 192.168.1.7, DNS 9.9.9.9, an address such as 192.168.1.7",
        tablet: "hands out gateway 192.168.1.1, DNS 192.168.1.1 and 1.1.1.1, an address such as 192.168.1.",
    }

    def refused() -> dict[str, str]:
        """What is said of each that answers in time: udhcpd looks for 2 s whether its address is free."""
        code, said = up(crowded, '[dhcp]\nmode = "server"')
        assert code == 1
        return {server: line for line in said.splitlines() for server in terms if f"DHCP server, {server} (" in line}

    told = wait_for(lambda: found if {"192.168.1.1", "192.168.1.123"} <= set(found := refused()) else None)
    assert told is not None
    assert all(terms[server] in line for server, line in told.items())
    code, said = up(crowded, '[dhcp]\nmode = "coexist"')
    assert code == 0, said
    lease_s = {"192.168.1.1": 7200, "192.168.1.123": 3600, tablet: 7200}
    # A look that one of them is too late for is followed by another one in a minute (lookout.WATCH_S).
    wait_for(lambda: {o["server"]: o["lease_s"] for o in status(crowded)["dhcp"]["others"] or ()} == lease_s, 100)
    assert status(crowded)["faults"] == []
    as_a_dhcp_client(crowded, "phone")
    address, gateway, *_ = get_lease(crowded, "phone")
    assert gateway in ("192.168.1.1", "192.168.1.7", OURS)
    assert (gateway == OURS) == (int(address.split(".")[3]) > 200)
    assert mac(crowded, "phone") in crowded.run("gateway", "cat", "/run/state/dhcp/leases").stdout or gateway != OURS
