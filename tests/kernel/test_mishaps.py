"""What happens to a gateway in a home: somebody takes its address, a second one is plugged in, its disk is full."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sidegate.home import load_home
from sidegate.lab.lab import Lab
from sidegate.packet import BROADCAST, ETH_ARP, Arp, parse
from tests.kernel.gateway_lab import wait_for
from tests.kernel.test_confirm import status
from tests.kernel.test_dhcp import mac, sidegate, up

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
    with lab.socket("tablet", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ARP)) as wire:
        wire.setblocking(False)
        lab.run("computer", "busybox", "arping", "-q", "-U", "-c", "1", "-w", "1", "-I", "eth0", OURS, check=False)
        (fault,) = wait_for(lambda: conflicts(lab))
        wait_for(lambda: is_announced(wire, mac(lab, "gateway")))
    assert f"{thief} uses this box's own address {OURS} too" in fault
    wait_for(lambda: mac(lab, "gateway") in lab.run("tablet", "ip", "neighbour", "show", OURS).stdout)
    code, text = sidegate(lab, "status")
    assert (code, thief in text) == (1, True)
    assert [e["what"] for e in status(lab)["events"] if thief in e["what"] and "announced once" in e["what"]]


def test_two_devices_with_one_address_are_named(lab: Lab) -> None:
    address = str(lab.home.client_named("computer").v4)
    assert up(lab, '[[client]]\nmac = "{mac}"\nname = "nas"\n'.format(mac=mac(lab, "computer")))[0] == 0
    lab.run("tablet", "sh", "-ec", f"ip address add {address}/24 dev eth0")

    def hints() -> list[str]:
        for who in ("computer", "tablet"):
            lab.run(who, "busybox", "ping", "-q", "-c", "1", "-W", "1", "-I", address, "1.2.3.4", check=False)
        assert sidegate(lab, "probe", "again")[0] == 0
        return [it for it in status(lab)["hints"] if it.startswith(f"{address} is used by 2 devices at once")]

    (hint,) = wait_for(hints)
    assert f"{mac(lab, 'computer')} (nas)" in hint
    assert mac(lab, "tablet") in hint


def test_the_router_gives_the_box_another_address(lab: Lab) -> None:
    """Whoever has the former one as its gateway is offline, and nothing but this says why."""
    assert up(lab, "")[0] == 0
    moved = "ip address flush dev eth0; ip address add 192.168.1.77/24 dev eth0 valid_lft 600 preferred_lft 600"
    lab.run("gateway", "sh", "-ec", f"{moved}; ip route replace default via 192.168.1.1")
    (fault,) = wait_for(lambda: [it for it in status(lab)["faults"] if it.startswith("address: ")])
    assert f"this box was {OURS} until " in fault
    assert f"a reservation for MAC {mac(lab, 'gateway')}" in fault
    lab.run("gateway", "sh", "-ec", f"ip address flush dev eth0; ip address add {OURS}/24 dev eth0")
    lab.run("gateway", "ip", "route", "replace", "default", "via", "192.168.1.1")
    wait_for(lambda: not [it for it in status(lab)["faults"] if it.startswith("address: ")])


def is_announced(wire: socket.socket, by: str) -> bool:
    """Whether one of the frames that came in says so to everybody (RFC 5227 section 2.3)."""
    found = False
    with contextlib.suppress(BlockingIOError):
        while not found:
            frame = parse(wire.recv(2048))
            body = frame.body
            is_ours = isinstance(body, Arp) and str(body.sender_ip) == str(body.target_ip) == OURS
            found = is_ours and (frame.src, frame.dst) == (by, BROADCAST)
    return found


def test_a_second_gateway_is_seen_by_the_first_and_the_other_way(lab: Lab) -> None:
    """Neither ever speaks to the other: each hears the other ask for its own address."""
    other = next(str(c.v4) for c in lab.home.client if c.name == "computer")
    assert up(lab, "")[0] == 0
    lab.run("computer", "ip", "route", "replace", "default", "via", "192.168.1.1")
    assert lab.run("computer", sys.executable, "-m", "sidegate", "up", check=False).returncode == 0
    assert "another gateway on this LAN" in wait_for(lambda: about(status(lab), other))[0]
    theirs = lambda: about(json.loads(lab.run("computer", *STATUS, check=False).stdout), OURS)  # noqa: E731
    assert "another gateway on this LAN" in wait_for(theirs)[0]


STATUS = (sys.executable, "-m", "sidegate", "status", "--json")


def about(told: Any, ip: str) -> list[str]:
    return [hint for hint in told["hints"] if hint.startswith(ip) and "forwards packets itself" in hint]


FILL = "cat /dev/zero >{0}/full 2>/dev/null; true"


def kernel_state(lab: Lab) -> str:
    script = (
        "nft list tables; cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/conf/*/send_redirects; ip rule"
    )
    return lab.run("gateway", "sh", "-c", script).stdout


def fill(lab: Lab, place: str, size: str = "64k") -> None:
    """From now on it is a small disk of its own, and full."""
    lab.run("gateway", "sh", "-c", f"mkdir -p {place}; mount -t tmpfs -o size={size} tmpfs {place}")
    lab.run("gateway", "sh", "-c", FILL.format(place))


def empty(lab: Lab, place: str) -> None:
    """As it was. A daemon that was refused has its log there until it is gone, a moment after it said so."""
    wait_for(lambda: lab.run("gateway", "umount", place, check=False).returncode == 0)


def test_a_full_disk_changes_nothing_half_way(lab: Lab) -> None:
    before = kernel_state(lab)
    for place in ("/run/state", "/run/sidegate"):
        fill(lab, place)
        code, said = up(lab, "")
        assert (place, code, "No space left on device" in said) == (place, 2, True)
        assert kernel_state(lab) == before
        empty(lab, place)
    lab.run("gateway", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /run/state")
    assert up(lab, "")[0] == 0
    lab.run("gateway", "sh", "-c", FILL.format("/run/state"))
    running = kernel_state(lab)
    for more in ((), ("--confirm", "60")):
        lab.run("gateway", "sh", "-c", "cat >/run/sidegate.toml", text='[nat]\nmasquerade = "always"\n')
        code, said = sidegate(lab, "up", "--config", "/run/sidegate.toml", *more)
        assert (more, code, "No space left on device" in said) == (more, 2, True)
        now = status(lab)
        assert (now["masquerade"], now["confirm"], kernel_state(lab)) == ("auto", None, running)
    assert sidegate(lab, "down")[0] == 0
    assert kernel_state(lab) == before


BROKEN = {
    "a share link": '[[upstream]]\nname = "vps"\nlink = "vless://not-a-link"\n',
    "more than this network allows": '[dhcp]\nmode = "server"\nrange = "10.0.0.1-10.0.0.9"\n',
    "cut off": '[dhcp]\nmode = "ser',
}


def test_whatever_is_broken_at_boot_the_last_good_one_is_used_and_that_is_said(lab: Lab) -> None:
    assert up(lab, '[nat]\nmasquerade = "always"\n')[0] == 0
    assert sidegate(lab, "down", "--now")[0] == 0
    for what, text in BROKEN.items():
        lab.run("gateway", "sh", "-c", "cat >/run/sidegate.toml", text=text)
        daemon = lab.start(
            "gateway", sys.executable, "-m", "sidegate", "up", "-c", "/run/sidegate.toml", "--foreground"
        )
        now = wait_for(lambda: (found := status(lab))["daemon"] and found)
        told = " ".join(now["faults"])
        assert (what, now["masquerade"], "is used instead" in told) == (what, "always", True)
        assert (what, len(now["faults"]) >= 2) == (what, True), "what is wrong, and what stands in for it"
        assert sidegate(lab, "down", "--now")[0] == 0
        assert (what, daemon.wait(60)) == (what, 0)
