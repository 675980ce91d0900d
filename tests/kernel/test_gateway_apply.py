"""`apply` and `undo` on the real kernel: whatever is there before them, the box is as it was, or as desired."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.apply import Changes, Report, apply
from sidegate.gateway.box.facts import list_table, observe
from sidegate.gateway.box.livebox import LiveBox
from sidegate.gateway.config import ClientConfig, Config, Nat
from sidegate.gateway.decide import decide
from tests.kernel.box_rig import EMPTY, NFT, STATE_DIR, SURROUNDINGS, changed, down, files, state, up
from tests.kernel.gateway_rig import (
    ACK,
    CLIENT,
    CLIENT_MAC,
    GATEWAY,
    GATEWAY_MAC,
    ROUTER,
    ROUTER_MAC,
    SYN,
    Rig,
    in_namespaces,
    shell,
    tcp,
)
from tests.kernel.killing import Watching

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("name", "bridged"), [*((n, False) for n in SURROUNDINGS), ("nothing", True), ("all together", True)]
)
@in_namespaces
def test_up_forwards_and_down_restores(name: str, bridged: bool) -> None:
    rig = Rig(bridged)
    shell("echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables")
    shell(SURROUNDINGS[name])
    before = state()
    assert rig.source(tcp(SYN)) is None
    assert up().changes
    assert Path("/proc/sys/net/ipv4/conf/all/forwarding").read_text() == "0\n"
    assert rig.source(tcp(SYN)) == GATEWAY
    rig.prove()
    assert [rig.source(tcp(f, 40001)) for f in (SYN, ACK)] == [CLIENT, CLIENT]
    assert down().restored
    assert (changed(before), files()) == ({}, [])


@pytest.mark.parametrize(
    ("rule", "is_noticed"),
    [
        ("ct state invalid counter drop", True),
        ("ct state { invalid, new } reject", True),
        ("ct state vmap { established : accept, invalid : drop }", True),
        ("ct state established drop", False),
        ("ct state invalid counter", False),
        ("ip saddr 10.0.0.0/8 drop", False),
        ("log counter drop", True),
    ],
)
@in_namespaces
def test_rules_that_drop_are_noticed(rule: str, is_noticed: bool) -> None:
    """In a chain with policy accept."""
    Rig()
    shell(
        f"nft 'add table ip fw; add chain ip fw f {{ type filter hook forward priority 0; }}; add rule ip fw f {rule}'"
    )
    assert bool(observe(EMPTY, STATE_DIR).forward_drops) == is_noticed


@in_namespaces
def test_second_up_writes_nothing() -> None:
    Rig()
    shell(SURROUNDINGS["all together"])
    up()
    journal = STATE_DIR / "journal.json"
    stamp, ruleset = (journal.stat().st_ino, journal.stat().st_mtime_ns), shell("nft -a list ruleset")
    assert up(box=Watching(lambda call: pytest.fail(call))) == Changes()
    assert ((journal.stat().st_ino, journal.stat().st_mtime_ns), shell("nft -a list ruleset")) == (stamp, ruleset)
    assert journal.stat().st_mode & 0o777 == 0o600


@in_namespaces
def test_change_of_configuration_is_applied_and_still_undone() -> None:
    rig = Rig()
    shell(NFT)
    before = state()
    up()
    changes = up(Config(nat=Nat("never"), client=(ClientConfig(CLIENT_MAC, "tv", "always"),)))
    assert [c.what for c in changes.changes] == ["nft table inet sidegate"]
    assert rig.source(tcp(SYN)) == GATEWAY
    shell("nft delete table inet fw")
    assert [c.what for c in up(Config(nat=Nat("never"))).changes] == ["nft table inet sidegate"]
    shell(NFT)
    down()
    assert changed(before) == {}


@in_namespaces
def test_change_of_interface_puts_the_old_one_back() -> None:
    Rig()
    shell(
        "ip link add eth1 type veth peer name far; ip link set eth1 up; ip link set far up;"
        f"ip link set eth1 address {CLIENT_MAC}; ip address add 192.168.7.2/24 dev eth1; {NFT}"
    )
    before = state()
    facts = observe(EMPTY, STATE_DIR)
    moved = msgspec.structs.replace(facts, interface=msgspec.structs.replace(facts.interface, name="eth1"))
    renamed = {p.replace("eth0", "eth1"): v for p, v in facts.sysctls.items()}
    up()
    desired = decide(EMPTY, msgspec.structs.replace(moved, sysctls=renamed))
    apply(desired, observe(EMPTY, STATE_DIR), LiveBox(), STATE_DIR)
    assert [Path(f"/proc/sys/net/ipv4/conf/eth{n}/forwarding").read_text() for n in (0, 1)] == ["0\n", "1\n"]
    assert "eth0" not in shell("nft list ruleset")
    down()
    assert (changed(before), files()) == ({}, [])


@in_namespaces
def test_changed_table_is_replaced() -> None:
    rig = Rig()
    up()
    rig.nft("flush chain inet sidegate source_nat\n")
    assert [c.what for c in up().changes] == ["nft table inet sidegate"]
    rig.nft("delete table inet sidegate\n")
    assert [c.what for c in up().changes] == ["nft table inet sidegate"]
    assert rig.source(tcp(SYN)) == GATEWAY


@in_namespaces
def test_what_somebody_else_changed_is_left_alone() -> None:
    Rig()
    shell("echo 1 >/proc/sys/net/ipv4/conf/eth0/rp_filter")
    up()
    shell("echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter")
    report = down()
    assert Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").read_text() == "0\n"
    assert report.left_alone == (
        "net/ipv4/conf/eth0/rp_filter: 0, neither what we wrote (2) nor what was there before (1)",
    )
    assert files() == []


@in_namespaces
def test_down_after_the_interface_is_gone() -> None:
    Rig()
    up()
    shell("ip link delete eth0")
    assert "net/ipv4/conf/eth0/forwarding: gone, with its interface" in down().left_alone
    assert list_table() is None


@in_namespaces
def test_down_without_up_does_nothing() -> None:
    Rig()
    before = state()
    assert down() == Report()
    assert (changed(before), files()) == ({}, [])


@in_namespaces
def test_journal_of_another_boot_is_void() -> None:
    Rig()
    up()
    down()
    journals.save(journals.Journal("another boot", (journals.SysctlStep("net/ipv4/ip_forward", "1", "0"),)), STATE_DIR)
    assert down() == Report()
    assert (Path("/proc/sys/net/ipv4/ip_forward").read_text(), files()) == ("0\n", [])


@in_namespaces
def test_facts() -> None:
    Rig()
    shell(
        "ip route add 10.1.0.0/16 dev eth0; ip route add default dev eth0 metric 900;"
        " ip address add 192.168.1.5/24 dev eth0"
    )
    facts = observe(EMPTY, STATE_DIR)
    assert (facts.interface.name, facts.interface.mac, facts.interface.mtu) == ("eth0", GATEWAY_MAC, 1500)
    assert list(map(str, facts.interface.addresses)) == ["192.168.1.2/24", "192.168.1.5/24"]
    assert (facts.router.address, facts.router.mac) == (ROUTER, ROUTER_MAC)
    assert list(map(str, facts.lan)) == ["10.1.0.0/16", "192.168.1.0/24"]
    assert {(n.ip, n.mac, n.state) for n in facts.neighbours} == {
        (ROUTER, ROUTER_MAC, "PERMANENT"),
        (CLIENT, CLIENT_MAC, "PERMANENT"),
    }
    assert facts.table is None
