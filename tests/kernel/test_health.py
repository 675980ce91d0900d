"""What is down is told with since-when and why, and so is what comes back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sidegate.home import load_home
from sidegate.lab.lab import Lab
from tests.kernel.test_confirm import box, set_config, status, until, up

pytestmark = pytest.mark.kernel


ALL_UP = {"router": "up", "internet": "up", "forwarding": "up", "daemon": "up"}


def health(lab: Lab) -> dict[str, Any]:
    return {h["name"]: h for h in status(lab)["health"]}


def states(lab: Lab) -> dict[str, str]:
    return {name: h["state"] for name, h in health(lab).items()}


def asked_until(lab: Lab, **wanted: str) -> None:
    """Until these are so; asked anew each time, or it would take a minute."""

    def is_so() -> bool:
        assert box(lab, "probe", "again").returncode == 0
        return states(lab).items() >= wanted.items()

    until(is_so, 40)


def path_of_phone(lab: Lab) -> tuple[str, bool]:
    """And whether a probe said so."""
    told = json.loads(box(lab, "clients", "--json").stdout)["clients"]
    return next(((c["path"], c["decided"]) for c in told if c["ip"] == "192.168.1.125"), ("", False))


def test_router_and_internet_go_and_come_back() -> None:
    """It comes back with a bridge that filters, as after new firmware: what was proved of the old one is void."""
    with Lab.up(load_home("bypass")) as lab:
        set_config(lab, '[probe]\ntargets = ["1.1.1.1"]\n')
        up(lab)
        until(lambda: states(lab) == ALL_UP)
        assert re.search(r"internet: up since \d+ s: 1\.1\.1\.1 answered an echo", box(lab, "status").stdout)
        lab.run("phone", "busybox", "ping", "-c", "1", "-W", "2", "192.168.1.2")
        until(lambda: path_of_phone(lab) == ("direct", True))
        lab.run("router", "ip", "link", "set", "wan", "down")
        asked_until(lab, internet="down", router="up")
        assert [f for f in status(lab)["faults"] if f.startswith("internet: down: none of 1.1.1.1 answered")]
        lab.run("router", "ip", "link", "set", "br-lan", "down")
        asked_until(lab, internet="unknown", router="down")
        assert health(lab)["internet"]["why"] == "not asked while the router is down"
        assert path_of_phone(lab)[0] == "masqueraded"
        lab.run("router", "sh", "-c", "echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables")
        lab.run(
            "router", "sh", "-c", "ip link set br-lan up; ip link set wan up; ip route add default via 123.100.101.1"
        )
        asked_until(lab, **ALL_UP)
        assert any("the router is back" in event["what"] for event in status(lab)["events"])
