"""A box on which `apply` cannot do all: it says so, and changes nothing."""

from __future__ import annotations

import os
from ipaddress import IPv4Address

import pytest

from sidegate.gateway.box.apply import apply
from sidegate.gateway.box.facts import observe
from sidegate.gateway.box.livebox import LiveBox
from sidegate.gateway.config import Config, Network
from sidegate.gateway.decide import decide
from sidegate.problems import Exit, Problem, Problems
from tests.kernel.box_rig import EMPTY, NFT, STATE_DIR, changed, down, files, state, up
from tests.kernel.gateway_rig import GATEWAY, ROUTER, Rig, drop_capabilities, in_namespaces, shell
from tests.kernel.killing import Watching

pytestmark = pytest.mark.kernel


@in_namespaces
def test_refused_step_takes_all_back() -> None:
    class Refusing(LiveBox):
        def write_sysctl(self, path: str, value: str) -> None:
            if path.endswith("/forwarding") and value == "1":
                raise Problems(Problem(path, "refused"))
            super().write_sysctl(path, value)

    Rig()
    shell(NFT)
    before = state()
    with pytest.raises(Problems, match="refused"):
        up(box=Refusing())
    assert (changed(before), files()) == ({}, [])


@in_namespaces
def test_ruleset_that_nft_refuses_changes_nothing() -> None:
    Rig()
    before = state()
    facts = observe(EMPTY, STATE_DIR)
    desired = decide(EMPTY, facts)
    broken = type(desired)(desired.sysctls, desired.accepts, desired.ruleset.replace("masquerade\n", "nonsense\n"), "")
    with pytest.raises(Problems, match="nonsense"):
        apply(broken, facts, Watching(pytest.fail), STATE_DIR)
    assert (changed(before), files()) == ({}, [])


@pytest.mark.parametrize("room_bytes", [0, 4096])
@in_namespaces
def test_full_disk_changes_nothing(room_bytes: int) -> None:
    """A page is less than the journal: the second case fails in the middle of it."""
    Rig()
    STATE_DIR.mkdir()
    shell(f"mount -t tmpfs -o size=64k tmpfs {STATE_DIR}; head -c {64 * 1024 - room_bytes} /dev/zero >{STATE_DIR}/full")
    before = state()
    with pytest.raises(Problems, match="No space left on device") as caught:
        up()
    assert caught.value.exit_code == Exit.USAGE
    assert (changed(before), files()) == ({}, ["full"])


@pytest.mark.parametrize("content", ["", "{", '{"boot_id": 1}', '{"boot_id": "x", "version": 99}'])
@in_namespaces
def test_damaged_journal_changes_nothing(content: str) -> None:
    Rig()
    STATE_DIR.mkdir()
    (STATE_DIR / "journal.json").write_text(content)
    before = state()
    for action in (up, down):
        with pytest.raises(Problems, match=r"journal\.json: the journal"):
            action()
    assert (changed(before), (STATE_DIR / "journal.json").read_text()) == ({}, content)


BAD_BOXES: dict[str, tuple[str, Config, list[str]]] = {
    "no route": ("ip route delete default", EMPTY, ["network: no default route"]),
    "down": ("ip link set eth0 down", Config(Network("eth0", ROUTER)), ["eth0: the interface is down"]),
    "two": (
        "ip address flush dev eth0; ip link set eth0 down",
        Config(Network("eth0", ROUTER)),
        ["eth0: the interface is down", "eth0: the interface has no IPv4 address"],
    ),
    "missing": ("true", Config(Network("eth7", ROUTER)), ["eth7: no such interface"]),
    "loopback": ("true", Config(Network("lo", IPv4Address("127.0.0.2"))), ["lo: not an Ethernet interface (loopback)"]),
    "outside": (
        "true",
        Config(Network("eth0", IPv4Address("10.0.0.1"))),
        ["network.router: 10.0.0.1 is outside the networks of eth0 (192.168.1.2/24)"],
    ),
    "itself": ("true", Config(Network(None, GATEWAY)), ["network.router: 192.168.1.2 is this box itself"]),
    "silent": (
        "true",
        Config(Network(None, IPv4Address("192.168.1.77"))),
        ["network.router: the router 192.168.1.77 does not answer ARP on eth0"],
    ),
    "table": (
        "nft add table inet sidegate",
        EMPTY,
        ["nft table inet sidegate: a table of our name is there that no journal of ours knows"],
    ),
    "table and interface": (
        "nft add table inet sidegate",
        Config(Network("eth7", ROUTER)),
        [
            "eth7: no such interface",
            "nft table inet sidegate: a table of our name is there that no journal of ours knows",
        ],
    ),
}


@pytest.mark.parametrize("name", BAD_BOXES)
@in_namespaces
def test_unfit_box_is_told_at_once_and_left_alone(name: str) -> None:
    Rig()
    script, config, expected = BAD_BOXES[name]
    shell(script)
    with pytest.raises(Problems) as caught:
        up(config)
    assert [f"{p.where}: {p.what}" for p in caught.value.problems] == expected
    assert all(p.remedy for p in caught.value.problems)
    assert files() == []


@in_namespaces
def test_missing_programs_are_told() -> None:
    Rig()
    shell("mount -t tmpfs tmpfs /usr/sbin")
    os.environ["PATH"] = "/nonexistent"
    with pytest.raises(Problems) as caught:
        up()
    assert [(p.where, p.exit_code) for p in caught.value.problems] == [("ip", Exit.MISSING), ("nft", Exit.MISSING)]


@in_namespaces
def test_missing_privilege_is_told() -> None:
    Rig()
    drop_capabilities()
    with pytest.raises(Problems) as caught:
        up()
    assert [p.what for p in caught.value.problems] == ["CAP_NET_ADMIN and CAP_NET_RAW missing"]
    assert caught.value.exit_code == Exit.MISSING
