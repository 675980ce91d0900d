"""What most Linux desktops and servers get their addresses and routes by: systemd-networkd and NetworkManager."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidegate.lab.lab import Lab
from tests.kernel.gateway_lab import wait_for
from tests.kernel.test_dhcp import home, mac, sidegate, status, up

pytestmark = pytest.mark.kernel

UNPACKED = Path(sys.prefix) / "unpacked"
"""Where `tools/unpack` puts programs that would come with a service of their own."""
SYS_READ_ONLY = "mount --rbind /sys /sys; mount -o remount,bind,ro,nosuid,nodev,noexec /sys"
"""Both wait for udev to have seen a link, but where /sys is read-only, as in a container (path_is_read_only_fs)."""
NETWORKD = f"""
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=ipv4\\nIPv6AcceptRA=yes\\n' >/run/systemd/network/10-eth0.network
printf 'root:x:0:0::/run:/bin/sh\\nsystemd-network:x:0:0::/:/bin/false\\n' >/run/passwd
printf 'root:x:0:\\nsystemd-network:x:0:\\n' >/run/group
mount --bind /run/passwd /etc/passwd; mount --bind /run/group /etc/group
{SYS_READ_ONLY}
ip link set eth0 down
"""
"""It drops to a user that a lab without root does not have: here that user is root."""
BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
<allow user="*"/></policy></busconfig>
"""
MANAGER = """\
[main]
plugins=keyfile
dhcp=internal
dns=none
rc-manager=unmanaged
auth-polkit=false
systemd-resolved=false
[keyfile]
path=/run/nm/connections
[device-eth]
match-device=interface-name:eth0
managed=1
"""


def program(name: str, *folders: str) -> str:
    """Its path; skips the test where it is not there."""
    unpacked = (str(UNPACKED / where / name) for where in ("usr/sbin", "usr/bin", "usr/lib/systemd", "lib/systemd"))
    places = [shutil.which(name), *(f"{folder}/{name}" for folder in folders), *unpacked]
    found = [place for place in places if place is not None and os.access(place, os.X_OK)]
    if not found:
        pytest.skip(f"not installed: {name}")
    return found[0]


def unpacked_libraries() -> str:
    return ":".join(str(it) for it in sorted((UNPACKED / "usr/lib").glob("*-linux-gnu*")))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.up(home()) as lab:
        for client in ("computer", "phone", "tablet"):
            lab.run(client, "ip", "address", "flush", "dev", "eth0")
        code, said = up(lab, '[dhcp]\nmode = "server"\nlease_s = 600\n[ipv6]\nmode = "gateway"')
        assert code == 0, said
        yield lab


def default_route(lab: Lab, client: str) -> str:
    routes = json.loads(lab.run(client, "ip", "-json", "-4", "route", "show", "default").stdout)
    return " ".join(r["gateway"] for r in routes)


def default_route6(lab: Lab, client: str) -> set[tuple[str, str]]:
    """By whom, and with what preference (RFC 4191)."""
    routes = json.loads(lab.run(client, "ip", "-json", "-6", "route", "show", "default").stdout)
    return {(r["gateway"], r.get("pref", "medium")) for r in routes if "gateway" in r}


def link_local(lab: Lab) -> str:
    (link,) = json.loads(lab.run("gateway", "ip", "-json", "-6", "address", "show", "dev", "eth0").stdout)
    return next(str(a["local"]) for a in link["addr_info"] if a["scope"] == "link")


def known(lab: Lab) -> dict[str, tuple[str, str]]:
    """Under which address the gateway knows each of them, and who gave it."""
    told = {c["mac"]: c for c in json.loads(sidegate(lab, "clients", "--json")[1])["clients"]}
    met = {client: told[mac(lab, client)] for client in STARTED_BY if mac(lab, client) in told}
    return {client: (c["ip"], c["lease"]["holder"]) for client, c in met.items() if c["lease"]}


def address(lab: Lab, client: str) -> str:
    (link,) = json.loads(lab.run(client, "ip", "-json", "-4", "address", "show", "dev", "eth0").stdout)
    return " ".join(a["local"] for a in link["addr_info"])


def is_online(lab: Lab, client: str) -> bool:
    """Asked again by whoever needs it: these programs may lay an address or a route anew at any time."""
    return lab.run(client, "busybox", "ping", "-c", "1", "-W", "5", "1.1.1.1", check=False).returncode == 0


def start_networkd(lab: Lab, client: str) -> None:
    path = program("systemd-networkd", "/usr/lib/systemd", "/lib/systemd")
    lab.run(client, "sh", "-c", NETWORKD)
    lab.start(client, "sh", "-c", f"exec {shlex.quote(path)} 2>/run/networkd.log")


def start_network_manager(lab: Lab, client: str) -> None:
    path, bus = program("NetworkManager"), program("dbus-daemon")
    lab.run(client, "sh", "-c", "mkdir -p /run/dbus /run/nm/connections; cat >/run/bus.conf", text=BUS)
    lab.run(client, "sh", "-c", "cat >/run/nm.conf", text=MANAGER)
    lab.run(client, "sh", "-c", f"{SYS_READ_ONLY}; mount -t tmpfs tmpfs /var/lib; mkdir /var/lib/NetworkManager")
    lab.run(client, bus, "--config-file=/run/bus.conf", "--fork")
    files = "--config=/run/nm.conf --config-dir=/run/nm --system-config-dir=/run/nm --intern-config=/run/nm/intern"
    libraries = shlex.quote(unpacked_libraries())
    options = f"--debug {files} --state-file=/run/nm/state --pid-file=/run/nm/pid"
    lab.start(client, "sh", "-c", f"LD_LIBRARY_PATH={libraries} exec {shlex.quote(path)} {options} >/run/nm.log 2>&1")


STARTED_BY = {"computer": start_networkd, "phone": start_network_manager}


def test_they_use_us_as_their_gateway_and_are_known_by_their_leases(lab: Lab) -> None:
    for client, start in STARTED_BY.items():
        start(lab, client)
    wait_for(lambda: all(default_route(lab, client) == "192.168.1.2" for client in STARTED_BY), within_s=90)
    us = (link_local(lab), "high")
    wait_for(lambda: all(us in default_route6(lab, client) for client in STARTED_BY), within_s=90)
    held = lab.run("gateway", "cat", "/run/state/dhcp/leases").stdout
    for client in STARTED_BY:
        assert 100 <= int(address(lab, client).rpartition(".")[2]) < 200
        assert f"{mac(lab, client)} {address(lab, client)} " in held
        wait_for(lambda client=client: is_online(lab, client))  # type: ignore[misc]
    expected = {client: (address(lab, client), "ours") for client in STARTED_BY}
    wait_for(lambda: known(lab) == expected)
    assert status(lab)["faults"] == []
