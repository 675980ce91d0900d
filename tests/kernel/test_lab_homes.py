"""Every shipped home does on this kernel what its own file expects."""

from __future__ import annotations

import msgspec
import pytest

from sidegate.home import Assumed, Expectation, Firewall, Home, Nat, load_home, shipped_homes
from sidegate.lab import check as checking
from sidegate.lab.asking import ping, udp_echo
from sidegate.lab.check import Checked, check
from sidegate.lab.lab import Lab
from sidegate.lab.resolving import resolve

pytestmark = pytest.mark.kernel


def told(found: list[Checked]) -> str:
    return "\n".join(f"{c.gateway}: {c.who} -> {c.to} {c.family}: {c.found}, not {c.expected}: {c.why}" for c in found)


# The longest first, so that parallel runs end together.
@pytest.mark.parametrize("name", sorted(shipped_homes(), key=lambda name: -len(load_home(str(name)).expect)))
def test_a_shipped_home_meets_its_expectations(name: str) -> None:
    home = load_home(name)
    with Lab.up(home) as lab:
        found = check(lab)
    assert len(found) == sum(len(e.v4) + len(e.v6) for e in home.expect)
    assert not (failed := [c for c in found if not c.is_met]), told(failed)


def only(home: Home, *expectations: Expectation) -> Home:
    return msgspec.structs.replace(home, expect=expectations)


@pytest.mark.parametrize("nat", ["masquerade", "snat"])
@pytest.mark.parametrize("firewall", ["nft", "iptables-nft", "iptables-legacy"])
@pytest.mark.parametrize("drop_invalid", [False, True])
def test_every_language_of_router_rules_makes_and_mends_the_fault(
    firewall: Firewall, nat: Nat, drop_invalid: bool
) -> None:
    """With the bridge filter on and a gateway that only forwards; and a port forward into the home."""
    home = load_home("velop-mesh")
    assume = Assumed(bridge_filter="on", firewall=firewall, nat=nat, drop_invalid=drop_invalid, dns_hijack=True)
    home = msgspec.structs.replace(home, router=msgspec.structs.replace(home.router, assume=assume))
    forwarding = Expectation("server", "forwarding", {"nas": "direct", "tablet": "dead", "phone": "dead"})
    masquerade = Expectation("server", "masquerade", {"nas": "masqueraded", "tablet": "masqueraded"})
    with Lab.up(only(home, forwarding, masquerade)) as lab:
        failed = [c for c in check(lab) if not c.is_met]
    assert not failed, told(failed)


def test_a_check_that_is_not_met_says_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checking._PATIENCE_S, True, 15.0)  # the phone is to be answered, and who is late is no dead one
    wrong = Expectation("server", "masquerade", {"nas": "direct", "phone": "dead"}, why="a reason")
    blocked = Expectation("blocked-site", "masquerade", {"nas": "masqueraded"})
    heard: list[Checked] = []
    with Lab.up(only(load_home("velop-mesh"), wrong, blocked)) as lab:
        found = check(lab, heard.append)
    assert heard == found
    assert [(c.who, c.expected, c.found, c.detail, c.is_met) for c in found] == [
        ("nas", "direct", "masqueraded", "internet", False),
        ("phone", "dead", "masqueraded", "internet", False),
        ("nas", "masqueraded", "dead", "no answer", False),
    ]
    assert [c.why for c in found] == ["a reason", "a reason", ""]


def test_two_clients_on_the_same_port_are_told_apart() -> None:
    """The gateway relays the phone's answer only; a port alone does not say whose it was."""
    both = Expectation("server", "forwarding", {"nas": "direct", "my-computer": "direct"})
    with Lab.up(only(load_home("velop-mesh"), both)) as lab:
        for name in ("nas", "my-computer", "gateway"):
            lab.run(name, "sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=40000 40000")
        lab.run("gateway", "iptables", "-t", "nat", "-I", "POSTROUTING", "-s", "192.168.1.127", "-j", "MASQUERADE")
        lab.run("gateway", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
        from sidegate.lab.check import _hold

        found = {c.who: c.found for c in _hold(lab, [both])}
    assert found == {"nas": "masqueraded", "my-computer": "direct"}


def test_the_servers_of_a_lab_answer() -> None:
    with Lab.up(load_home("simple")) as lab:
        assert lab.call("computer", udp_echo, "1.1.1.1").ok
        assert lab.call("phone", ping, "192.168.1.1").ok
        by_router = lab.call("computer", resolve, "server.example", "192.168.1.1")
        assert (by_router.ok, by_router.detail) == (True, "1.2.3.4")
        assert lab.call("computer", resolve, "no.example", "1.1.1.1").detail == "no such name"
        assert lab.run("computer", "getent", "ahostsv4", "server.example").stdout.split()[0] == "1.2.3.4"
        assert lab.run("computer", "hostname").stdout == "computer\n"
