"""`apply` and `undo` on the real kernel: whatever happens between them, the box is as it was, or as desired."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.apply import Changes, Report, apply, undo
from sidegate.gateway.box.facts import list_table, observe
from sidegate.gateway.box.livebox import LiveBox
from sidegate.gateway.config import ClientConfig, Config, Nat, Network
from sidegate.gateway.decide import decide
from sidegate.problems import Exit, Problem, Problems
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
    drop_capabilities,
    in_namespaces,
    shell,
    tcp,
)

pytestmark = pytest.mark.kernel

STATE_DIR = Path("/run/state")
EMPTY = Config()

IPTABLES_NFT = "iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER"
IPTABLES_LEGACY = IPTABLES_NFT.replace("-nft", "-legacy")
NFT = "nft 'add table inet fw; add chain inet fw f { type filter hook forward priority 0; policy drop; }'"
NFT_IP = "nft 'add table ip fw; add chain ip fw f { type filter hook forward priority 5; policy drop; }'"
FIREWALLD = (
    "nft 'add table inet firewalld; add chain inet firewalld forwarding { type filter hook forward priority 10; };"
    " add rule inet firewalld forwarding ct state established,related accept;"
    " add rule inet firewalld forwarding ct state invalid drop;"
    " add rule inet firewalld forwarding reject with icmpx type admin-prohibited'"
)
DROP_INVALID = (
    "nft 'add table inet strict; add chain inet strict f { type filter hook forward priority 20; };"
    " add rule inet strict f ct state vmap { established : accept, invalid : drop }'"
)
STRICT = "for i in all eth0; do echo 1 >/proc/sys/net/ipv4/conf/$i/rp_filter; done"
SURROUNDINGS = {
    "nothing": "true",
    "iptables-nft": IPTABLES_NFT,
    "iptables-legacy": IPTABLES_LEGACY,
    "nft inet": NFT,
    "nft ip": NFT_IP,
    "firewalld": FIREWALLD,
    "drop invalid": DROP_INVALID,
    "all together": "; ".join((IPTABLES_NFT, IPTABLES_LEGACY, NFT, NFT_IP, FIREWALLD, DROP_INVALID, STRICT)),
}


def up(config: Config = EMPTY, box: LiveBox | None = None) -> Changes:
    facts = observe(config, STATE_DIR)
    return apply(decide(config, facts), facts, box or LiveBox(), STATE_DIR)


def down(box: LiveBox | None = None) -> Report:
    return undo(box or LiveBox(), STATE_DIR)


def state() -> dict[str, str]:
    """Everything that `down` must restore: settings, routes, rules, rulesets of every kind.

    `linkdown` goes by itself when the kernel has noticed the new cable.
    """
    settings = {str(p): p.read_text() for p in Path("/proc/sys/net/ipv4/conf").glob("*/*") if os.access(p, os.R_OK)}
    legacy = "iptables-legacy -S" if Path("/proc/net/ip_tables_names").read_text() else "true"
    programs = ("ip -4 route show table all", "ip rule", "nft list ruleset", legacy)
    return settings | {p: shell(p).replace(" linkdown", "") for p in programs}


def changed(before: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """What is not as it was: where -> (before, now)."""
    now = state()
    return {k: (before.get(k), now.get(k)) for k in before | now if before.get(k) != now.get(k)}


def files() -> list[str]:
    return sorted(p.name for p in STATE_DIR.iterdir()) if STATE_DIR.exists() else []


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


class Watching(LiveBox):
    """Tells before each call that changes the box."""

    def __init__(self, tell: Callable[[str], Any]) -> None:
        self.tell = tell

    def write_sysctl(self, path: str, value: str) -> None:
        self.tell(f"write {path}")
        super().write_sysctl(path, value)

    def nft(self, text: str) -> None:
        self.tell(f"nft {text}")
        super().nft(text)

    def insert_accept(self, accept: Any) -> None:
        self.tell(f"insert {accept.place}")
        super().insert_accept(accept)

    def delete_accept(self, accept: Any) -> None:
        self.tell(f"delete {accept.place}")
        super().delete_accept(accept)

    def add_route(self, route: Any) -> None:
        """Once with nothing done, and once half done."""
        self.tell(f"add {route.place}")
        shell(f"ip -{route.family} route replace local default dev lo table {route.table}")
        self.tell(f"add the rule of {route.place}")
        super().add_route(route)

    def delete_route(self, route: Any) -> None:
        self.tell(f"delete {route.place}")
        shell(f"ip -{route.family} route flush table {route.table}")
        self.tell(f"delete the rule of {route.place}")
        super().delete_route(route)


JOURNAL_CALLS = ("open", "fsync", "replace", "unlink", "mkdir")


def killed(action: Callable[[LiveBox], object], at: int) -> bool:
    """Runs the action in a child that kills itself with SIGKILL before its `at`-th change; whether it came so far."""
    pid = os.fork()
    if pid == 0:
        _die_at(action, at)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), f"the child failed: {status}"
    return status == signal.SIGKILL


def _die_at(action: Callable[[LiveBox], object], at: int) -> None:
    left = at

    def tell(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def told(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tell("journal")
            return real(*args, **kwargs)

        return call

    for name in JOURNAL_CALLS:
        setattr(os, name, told(getattr(os, name)))
    code = 1
    try:
        action(Watching(tell))
        code = 0
    finally:
        os._exit(code)


def every_step(action: Callable[[LiveBox], object], afterwards: Callable[[int], None], least: int) -> None:
    step = 1
    while killed(action, step):
        afterwards(step)
        step += 1
    assert step > least, "the action has fewer steps than it must have: the kills hit nothing"


@in_namespaces
def test_killed_at_every_step_of_up_then_down() -> None:
    Rig()
    shell(f"{NFT}; {IPTABLES_LEGACY}; {STRICT}")
    before = state()

    def restored(step: int) -> None:
        down()
        assert (step, changed(before), files()) == (step, {}, [])

    every_step(lambda box: up(box=box), restored, least=14)


@in_namespaces
def test_killed_at_every_step_of_up_then_up_then_down() -> None:
    Rig()
    shell(f"{NFT}; {STRICT}")
    before = state()
    up()
    desired = state()
    down()

    def converges(step: int) -> None:
        up()
        assert (step, changed(desired)) == (step, {})
        assert up() == Changes()
        down()
        assert (step, changed(before), files()) == (step, {}, [])

    every_step(lambda box: up(box=box), converges, least=12)


@in_namespaces
def test_killed_at_every_step_of_down_then_down() -> None:
    Rig()
    shell(f"{NFT}; {IPTABLES_LEGACY}; {STRICT}")
    before = state()
    up()

    def restored(step: int) -> None:
        down()
        assert (step, changed(before), files()) == (step, {}, [])
        up()

    every_step(down, restored, least=8)


@in_namespaces
def test_killed_at_every_step_of_down_then_up() -> None:
    Rig()
    shell(f"{NFT}; {STRICT}")
    before = state()
    up()
    desired = state()

    def converges(step: int) -> None:
        up()
        assert (step, changed(desired)) == (step, {})

    every_step(down, converges, least=6)
    assert (changed(before), files()) == ({}, [])


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
