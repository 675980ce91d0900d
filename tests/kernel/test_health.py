"""What is down is told with since-when and why, and so is what comes back."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sidegate.gateway.health.checkup import Checkup, Place
from sidegate.home import load_home
from sidegate.lab.lab import Lab
from sidegate.lab.parts import INTERNET
from sidegate.probe.talk import Vantage
from tests.kernel.gateway_lab import is_known, told, wait_for
from tests.kernel.gateway_rig import GATEWAY, GATEWAY_MAC, ROUTER, ROUTER_MAC, SERVER, Rig, in_namespaces, shell
from tests.kernel.looking import look
from tests.kernel.test_confirm import box, set_config, status, up

pytestmark = pytest.mark.kernel


ALL_UP = {"router": "up", "internet": "up", "forwarding": "up", "daemon": "up"}


def health(lab: Lab) -> dict[str, Any]:
    return {h["name"]: h for h in status(lab)["health"]}


def states(lab: Lab) -> dict[str, str]:
    return {name: h["state"] for name, h in health(lab).items()}


def asked_until(lab: Lab, **wanted: str) -> None:
    """Until these are so; asked anew each time, or it would take a minute."""

    def is_so() -> bool:
        look(lab, "gateway", "probe", "again")
        return states(lab).items() >= wanted.items()

    wait_for(is_so, 90)


def asked_until_why(lab: Lab, why: str) -> None:
    def is_so() -> bool:
        look(lab, "gateway", "probe", "again")
        return bool(health(lab)["internet"]["why"] == why)

    wait_for(is_so, 90)


@contextmanager
def only_tcp_passes(lab: Lab) -> Iterator[None]:
    """As some providers have it; and at the target somebody listens for HTTPS."""
    rule = "add rule ip provider forward meta l4proto { icmp, udp } drop"
    chain = "add chain ip provider forward { type filter hook forward priority -10; }"
    lab.run("router", "nft", f"add table ip provider; {chain}; {rule}")
    with lab.socket(INTERNET, socket.AF_INET, socket.SOCK_STREAM) as https:
        https.bind(("1.1.1.1", 443))
        https.listen()
        yield
    lab.run("router", "nft", "delete table ip provider")


def path_of_phone(lab: Lab) -> tuple[str, bool]:
    """And whether a probe said so. One that learned nothing is made again."""
    phone = next((c for c in told(lab, "clients")["clients"] if c["ip"] == "192.168.1.125"), None)
    if phone is None:
        return "", False
    if phone["decided"] and not is_known(phone):
        look(lab, "gateway", "probe", "again")
    return phone["path"], is_known(phone)


def test_router_and_internet_go_and_come_back() -> None:
    """It comes back with a bridge that filters, as after new firmware: what was proved of the old one is void."""
    with Lab.up(load_home("bypass")) as lab:
        set_config(lab, '[probe]\ntargets = ["1.1.1.1"]\n')
        up(lab)
        wait_for(lambda: states(lab) == ALL_UP)
        assert re.search(r"internet: up since [^:]+: 1\.1\.1\.1 answered an echo", box(lab, "status").stdout)
        lab.run("phone", "busybox", "ping", "-c", "1", "-W", "15", "192.168.1.2")
        wait_for(lambda: path_of_phone(lab) == ("direct", True))
        with only_tcp_passes(lab):
            asked_until_why(lab, "1.1.1.1 took a TCP connection; no echo or DNS query was answered")
            assert states(lab)["internet"] == "up"
        lab.run("router", "ip", "link", "set", "wan", "down")
        asked_until(lab, internet="down", router="up")
        assert [f for f in status(lab)["faults"] if f.startswith("internet: down: none of 1.1.1.1 answered")]
        lab.run("router", "ip", "link", "set", "br-lan", "down")
        asked_until(lab, internet="unknown", router="down")
        assert health(lab)["internet"]["why"] == "not asked while the router is down"
        wait_for(lambda: path_of_phone(lab)[0] == "masqueraded")
        lab.run("router", "sh", "-c", "echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables")
        lab.run(
            "router", "sh", "-c", "ip link set br-lan up; ip link set wan up; ip route add default via 123.100.101.1"
        )
        asked_until(lab, **ALL_UP)
        assert any("the router is back" in event["what"] for event in status(lab)["events"])
        wait_for(lambda: path_of_phone(lab) == ("masqueraded", True))


@pytest.mark.parametrize("where", ["all", "eth0"])
@in_namespaces
def test_redirects_that_somebody_turned_on_are_found_when_forwarding_is_checked(where: str) -> None:
    """The kernel announces no such setting."""
    Rig().forward()
    place = Place(Vantage("eth0", GATEWAY_MAC, GATEWAY, ROUTER, ROUTER_MAC), (SERVER,))
    repairs: list[float] = []
    checkup = Checkup(0.0, lambda _: None, lambda: repairs.append(0.0))
    shell("for it in all eth0; do echo 0 >/proc/sys/net/ipv4/conf/$it/send_redirects; done")
    checkup.stand_at(place, 0.0)
    checkup.turn(0.0)
    assert (checkup.states()["forwarding"], repairs) == ("up", [])
    shell(f"echo 1 >/proc/sys/net/ipv4/conf/{where}/send_redirects")
    checkup.turn(5.0)
    assert (checkup.states()["forwarding"], len(repairs)) == ("up", 1)
    checkup.close()
