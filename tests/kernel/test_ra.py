"""This box as an IPv6 router beside another one, for the kernel of a client; and what the other one tells."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sidegate.gateway.dhcp.routers import LOOK_S
from sidegate.home import load_home
from sidegate.lab.lab import Lab
from tests.kernel.gateway_lab import wait_for

pytestmark = pytest.mark.kernel

CLIENT = "my-computer"
TWO_LOOKS_S = LOOK_S + 40
"""The daemon looks for 1.6 s, and then only a minute later."""
ROUTER_SAYS = """port=0
interface=br-lan
bind-dynamic
user=root
group=
log-facility=-
pid-file=/run/router.pid
leasefile-ro
enable-ra
dhcp-range=::,constructor:br-lan,ra-only,64,1800
dhcp-option=option6:dns-server,[{dns}]
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A router that advertises itself, and a client that listens to it."""
    with Lab.up(load_home("velop-mesh")) as up:
        up.run(CLIENT, "sh", "-c", "ip -6 route flush default; echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_ra")
        up.run("gateway", "ip", "address", "replace", "2001:db8:1:1::2/64", "dev", "eth0", "nodad")
        advertise(up, "fd00::53")
        yield up


def advertise(lab: Lab, dns: str) -> None:
    lab.run("router", "sh", "-c", "cat >/run/ra.conf", text=ROUTER_SAYS.format(dns=dns))
    lab.start("router", "dnsmasq", "--keep-in-foreground", "--conf-file=/run/ra.conf")
    wait_for(lambda: "proto ra" in routes(lab))


def routes(lab: Lab) -> str:
    return lab.run(CLIENT, "ip", "-6", "route", "show", "default").stdout


def local_address(lab: Lab, machine: str, interface: str = "eth0") -> str:
    found = json.loads(lab.run(machine, "ip", "-json", "-6", "address", "show", "dev", interface).stdout)
    return str(next(a["local"] for a in found[0]["addr_info"] if a["scope"] == "link"))


def sidegate(lab: Lab, *words: str) -> tuple[int, str]:
    done = lab.run("gateway", sys.executable, "-m", "sidegate", *words, check=False)
    return done.returncode, done.stdout + done.stderr


def up(lab: Lab, config: str) -> None:
    lab.run("gateway", "sh", "-c", "cat >/run/sidegate.toml", text=config)
    code, said = sidegate(lab, "up", "--config", "/run/sidegate.toml")
    assert code == 0, said


def status(lab: Lab) -> Any:
    return json.loads(sidegate(lab, "status", "--json")[1])


def adverts_heard(lab: Lab) -> tuple[int, Any] | None:
    """The exit code and the answer of a probe; None where the router was late, which it may be once."""
    code, said = sidegate(lab, "probe", "ra", "--json")
    told = json.loads(said)
    return (code, told) if told["result"]["adverts"] else None


def is_ours(lab: Lab) -> bool:
    """Whether the client prefers this box."""
    return any(local_address(lab, "gateway") in r and "pref high" in r for r in routes(lab).splitlines())


def test_advertised_beside_the_router_and_withdrawn(lab: Lab) -> None:
    up(lab, '[ipv6]\nmode = "gateway"\n[dns]\nmode = "on"\n')
    wait_for(lambda: is_ours(lab))
    assert local_address(lab, "router", "br-lan") in routes(lab)
    wait_for(lambda: "IPv6: advertised as a router, beside 1 other" in sidegate(lab, "status")[1], TWO_LOOKS_S)
    assert sidegate(lab, "down")[0] == 0
    wait_for(lambda: not is_ours(lab))
    assert local_address(lab, "router", "br-lan") in routes(lab)
    up(lab, '[ipv6]\nmode = "gateway"\n')
    wait_for(lambda: is_ours(lab))
    up(lab, "")
    wait_for(lambda: not is_ours(lab))
    assert "clients were told that this box is no IPv6 router" in [e["what"] for e in status(lab)["events"]]


def test_killed_with_the_daemon_it_is_withdrawn_by_down(lab: Lab) -> None:
    up(lab, '[ipv6]\nmode = "gateway"\n')
    wait_for(lambda: is_ours(lab))
    lab.run("gateway", "sh", "-c", "kill -9 $(cat /run/sidegate/daemon.pid)")
    assert is_ours(lab)
    assert sidegate(lab, "down")[0] == 0
    wait_for(lambda: not is_ours(lab))
    assert lab.run("gateway", "sh", "-c", "ls /run/sidegate/advertising", check=False).stdout == ""


def test_dns_servers_that_the_router_tells(lab: Lab) -> None:
    """The article's Windows case. Nothing is advertised that was not asked for, or cannot be."""
    heard = wait_for(lambda: adverts_heard(lab))
    assert heard
    code, told = heard
    (advert,) = told["result"]["adverts"]
    assert (advert["router"], advert["preference"]) == (local_address(lab, "router", "br-lan"), "medium")
    assert advert["dns"] == told["silent"] == ["fd00::53"]
    assert code == 1
    assert "the DNS server fd00::53, which does not answer" in told["findings"][0]
    up(lab, '[dns]\nmode = "on"\n[ipv6]\nmode = "router"\n')
    (hint,) = wait_for(lambda: [h for h in status(lab)["hints"] if "fd00::53" in h], TWO_LOOKS_S)
    assert "not this box: names that are asked there are not split" in hint
    assert (is_ours(lab), status(lab)["ipv6"]["pid"]) == (False, None)
    lab.run("gateway", "ip", "-6", "address", "flush", "dev", "eth0", "scope", "global")
    up(lab, '[ipv6]\nmode = "gateway"\n')
    wait_for(lambda: "no IPv6 address in the LAN" in " ".join(status(lab)["hints"]))
    assert not is_ours(lab)
