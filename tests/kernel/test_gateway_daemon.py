"""The running gateway in the article's home: killed, disturbed, roamed from, crowded. Clients stay online."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from sidegate.gateway.clients.clientele import Clientele
from sidegate.gateway.clients.returnpath import Prove
from sidegate.gateway.config import Config
from sidegate.gateway.daemon.eventlog import EventLog
from sidegate.gateway.ruleset.nft import Client
from sidegate.home import Medium
from sidegate.lab.asking import Answer, http_get
from sidegate.lab.check import Relayed
from sidegate.lab.lab import Lab
from sidegate.packet import BROADCAST, NO_MAC, Arp, Ipv4, Tcp, TcpFlags, build, frame_of, parse
from tests.kernel.gateway_lab import (
    EVERYBODY,
    PATIENCE_S,
    SERVER,
    WIRED,
    Box,
    Connection,
    all_of,
    gateway_in,
    kill,
    mesh_home,
    reached,
    wait_for,
)
from tests.kernel.gateway_rig import in_namespaces, shell

pytestmark = pytest.mark.kernel

GATEWAY, NAS = "192.168.1.2", "192.168.1.127"
LAPTOP, PHONE = "my-computer", "phone"


@pytest.fixture
def box() -> Generator[Box]:
    """The article's home; nothing is started yet."""
    with gateway_in(mesh_home()) as made:
        yield made


def echoes(asker: socket.socket, patience_s: float = PATIENCE_S) -> bool:
    """Whether one datagram of a flow comes back: this one, and none that was sent before it."""
    said = os.urandom(8)
    asker.settimeout(patience_s)
    asker.send(said)
    try:
        while asker.recv(64) != said:
            pass
    except TimeoutError:
        return False
    return True


def udp_flow(lab: Lab, who: str) -> socket.socket:
    """One with a fixed source port, as a tunnel has."""
    made = lab.socket(who, socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("0.0.0.0", 51820))
    made.connect((SERVER, 7))
    return made


def is_relayed(lab: Lab, connection: Callable[[], Connection]) -> bool:
    """Whether the answers to a new connection come by way of the gateway."""
    with Relayed(lab) as relayed, connection() as made:
        assert made.is_alive()
        return made.name in relayed.receivers()


def move(lab: Lab, who: str, at: str, by: Medium) -> None:
    """To where the bridge takes its frames: the kernel notices a carrier by a work queue (net/core/link_watch.c), and
    a bridge lets none through before (net/bridge/br_if.c, br_port_carrier_check).
    """
    lab.move(who, at, by)
    wait_for(lambda: "state UP" in lab.run(who, "ip", "link", "show", "dev", "eth0").stdout)
    port = lab._ports[who]
    look = ("ip", "-details", "link", "show", "dev", port.interface)
    wait_for(lambda: "bridge_slave state forwarding" in lab.run(port.machine, *look).stdout)


def announce(lab: Lab, who: str) -> None:
    """A gratuitous ARP, as a device sends it on a new link (RFC 5227, section 2.3): the bridges learn where it is."""
    mac, ip = lab.plan.wire_of(who).near.mac, lab.home.client_named(who).v4
    with lab.socket(who, socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        wire.send(who_has(mac, ip, ip))


def who_has(mac: str, ip: IPv4Address, target: IPv4Address) -> bytes:
    asked = Arp(reply=False, sender_mac=mac, sender_ip=ip, target_mac=NO_MAC, target_ip=target)
    return build(frame_of(BROADCAST, mac, asked))


# The daemon dies


def kill_daemon(box: Box) -> None:
    kill(box.pid())
    assert not box.status()["daemon"]


def test_killed_daemon_leaves_everybody_online_for_good(box: Box) -> None:
    before = box.state()
    box.up().settled()
    assert reached(box.lab) == all_of(WIRED)
    old = {who: Connection(box.lab, who) for who in (LAPTOP, PHONE)}
    tunnel = udp_flow(box.lab, LAPTOP)
    assert echoes(tunnel)
    kill_daemon(box)
    assert reached(box.lab) == all_of(WIRED)
    assert box.status()["faults"] == [
        "no daemon is running: clients are masqueraded as their proofs lapse; start it: sidegate up"
    ]
    assert box.sidegate("status", check=False).returncode == 1
    box.expire_proofs()
    assert reached(box.lab) == all_of(set())
    assert box.paths() == dict.fromkeys(EVERYBODY, "masqueraded")
    assert {who for who, connection in old.items() if connection.is_alive()} == {LAPTOP, PHONE}
    assert echoes(tunnel)
    box.sidegate("down", "--now")
    assert box.state() == before


def test_next_daemon_adopts_what_the_killed_one_proved(box: Box) -> None:
    before = box.state()
    box.up().settled()
    kill_daemon(box)
    box.shell(
        "nft 'add table ip cut; add chain ip cut c { type filter hook forward priority 0; policy drop; }'", "router"
    )
    done = box.sidegate("up")
    assert "Nothing was changed." in done.stdout
    adopted = {who for who, c in box.clients().items() if c["path"] == "direct" and "earlier run" in c["why"]}
    assert (adopted, box.in_set("direct4")) == (WIRED, 2)
    box.shell("nft delete table ip cut", "router")
    box.probe_again()
    box.settled()
    assert reached(box.lab) == all_of(WIRED)
    box.sidegate("down", "--now")
    assert box.state() == before


def test_killed_daemon_and_down_restores(box: Box) -> None:
    before = box.state()
    box.up()
    kill_daemon(box)
    assert "Down." in box.sidegate("down", "--now").stdout
    assert box.state() == before
    assert box.sidegate("down", "--now").stdout == "Nothing to put back.\n"


# Clients come and roam


def test_stopped_daemon_is_told_and_the_kernel_asked(box: Box) -> None:
    box.up()
    os.kill(box.pid(), signal.SIGSTOP)
    done = box.sidegate("status", check=False)
    assert done.returncode == 1
    assert "does not answer" in done.stdout
    assert "sidegate down, then sidegate up" in done.stdout


def test_client_that_appears_later_is_online_with_its_first_packet(box: Box) -> None:
    box.up()
    assert box.clients() == {}
    with Relayed(box.lab) as relayed, Connection(box.lab, LAPTOP) as first:
        assert (first.retransmitted, first.is_alive()) == (0, True)
        assert first.name in relayed.receivers()
        wait_for(lambda: box.paths() == {LAPTOP: "direct"})
        assert first.is_alive()
    assert not is_relayed(box.lab, lambda: Connection(box.lab, LAPTOP))


def test_roaming_client_comes_back(box: Box) -> None:
    """Its first SYN finds the proof still there and stays unanswered; the repeated one is masqueraded. So it is with
    one more connection, and then the proof is gone."""
    box.up().settled()
    tunnel = udp_flow(box.lab, LAPTOP)
    assert echoes(tunnel)
    move(box.lab, LAPTOP, "router", "wifi")
    for proofs_left in (2, 1):
        with Connection(box.lab, LAPTOP) as made:
            assert made.retransmitted in (1, 2)
            assert made.is_alive()
        assert box.in_set("direct4") == proofs_left
    wait_for(lambda: echoes(tunnel, 0.3))
    wait_for(lambda: box.paths()[LAPTOP] == "masqueraded")
    box.probe_again()
    wait_for(lambda: box.clients()[LAPTOP]["decided"] and "tracks" in box.clients()[LAPTOP]["why"])
    assert f"{box.clients()[LAPTOP]['ip']} (" in box.events()
    assert "connections stayed unanswered" in box.events()
    with Connection(box.lab, LAPTOP) as made:
        assert (made.retransmitted, made.is_alive()) == (0, True)

    move(box.lab, LAPTOP, "router", "wire")
    announce(box.lab, LAPTOP)
    with Connection(box.lab, LAPTOP) as made:
        assert made.is_alive()
    box.probe_again()
    wait_for(lambda: box.paths() == {who: "direct" if who in WIRED else "masqueraded" for who in EVERYBODY})
    assert reached(box.lab) == all_of(WIRED)
    wait_for(lambda: echoes(tunnel, 0.3))


def test_dead_server_ends_no_proof(box: Box) -> None:
    box.up().settled()
    assert not box.lab.call(LAPTOP, http_get, "203.0.113.66", 80, "/", 2.5).ok
    assert (box.in_set("direct4"), box.in_set("stale4")) == (2, 0)


def test_stale_mark_says_nothing_about_the_next_proof(box: Box) -> None:
    """The kernel's mark lives for longer than the probe takes."""
    box.up().settled()
    laptop = f"{{ {box.clients()[LAPTOP]['mac']} . {box.clients()[LAPTOP]['ip']} }}"
    box.nft(f"delete element inet sidegate direct4 {laptop}\nadd element inet sidegate stale4 {laptop}\n")
    wait_for(lambda: "connections stayed unanswered" in box.events())
    box.probe_again()
    wait_for(lambda: box.paths()[LAPTOP] == "direct" and box.in_set("direct4") == 2)
    assert box.in_set("stale4") == 0


# Surroundings


FORWARD_DROPS = {
    "iptables-nft": "iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER",
    "iptables-legacy": "iptables-legacy -P FORWARD DROP; iptables-legacy -t nat -A POSTROUTING -s 172.17.0.0/16"
    " ! -o docker0 -j MASQUERADE",
    "nft": "nft 'add table inet fw; add chain inet fw f { type filter hook forward priority 0; policy drop; }'",
}


@pytest.mark.parametrize("kind", FORWARD_DROPS)
def test_docker_beside_us(box: Box, kind: str) -> None:
    box.shell("echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables; ip link add docker0 type bridge")
    box.shell("ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up; echo 1 >/proc/sys/net/ipv4/ip_forward")
    box.shell(FORWARD_DROPS[kind])
    for who in EVERYBODY:
        # A box that forwards sends redirects, and clients that follow them are not seen here any more.
        box.shell("echo 0 | tee /proc/sys/net/ipv4/conf/*/accept_redirects", who)
    before = box.state()
    assert {r.tcp for r in reached(box.lab, patience_s=1.0).values()} == {False}
    box.up().settled()
    assert reached(box.lab) == all_of(WIRED)
    box.sidegate("down", "--now")
    assert box.state() == before


def test_firewall_that_comes_later_is_noticed(box: Box) -> None:
    """As when Docker starts after us: nftables announces it."""
    before = box.state()
    box.up().settled()
    box.shell("iptables-nft -P FORWARD DROP")
    wait_for(lambda: "put right: accept in" in box.events())
    assert reached(box.lab) == all_of(WIRED)
    box.sidegate("down", "--now")
    box.shell("iptables-nft -P FORWARD ACCEPT; nft delete table ip filter")
    assert box.state() == before


# Who is never masqueraded


def ask(lab: Lab, asker: str, target: str = SERVER, source: str = "") -> Answer:
    return lab.call(asker, http_get, target, 80, "/who", PATIENCE_S, source)


def who_asks(lab: Lab, asker: str, target: str, source: str = "") -> str:
    """The address under which a LAN server sees the asker."""
    answer = ask(lab, asker, target, source)
    assert answer.ok, answer.detail
    return answer.detail.split()[0]


def test_lan_to_lan_is_never_masqueraded(box: Box) -> None:
    box.up().settled()
    addresses = {c.name: str(c.v4) for c in box.lab.home.client}
    for who in (LAPTOP, PHONE):
        assert who_asks(box.lab, who, NAS) == addresses[who]
        box.shell(f"ip route add {NAS} via {GATEWAY}", who)
        with Relayed(box.lab) as relayed:
            assert who_asks(box.lab, who, NAS) == addresses[who]
            assert (NAS, 80) in relayed.receivers(), "the gateway did not see it"


def test_own_traffic_is_never_masqueraded(box: Box) -> None:
    """Bound to a second address: masquerade would rewrite it to the first."""
    box.shell("ip addr add 192.168.1.9/24 dev eth0")
    box.up().settled()
    assert ask(box.lab, "gateway").ok
    with box.lab.socket("gateway", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
        wire.setblocking(False)
        assert ask(box.lab, "gateway", source="192.168.1.9").ok
        assert _sources_to(wire, SERVER) == {"192.168.1.9"}
    for source in ("192.168.1.9", GATEWAY):
        assert who_asks(box.lab, "gateway", NAS, source) == source


def _sources_to(wire: socket.socket, target: str) -> set[str]:
    """Of new connections: what ends one that was before may come late."""
    found: set[str] = set()
    while True:
        try:
            packet = parse(wire.recv(4096)).body
        except BlockingIOError:
            return found
        if isinstance(packet, Ipv4) and isinstance(packet.body, Tcp) and packet.body.flags == TcpFlags.SYN:
            found |= {str(packet.src)} if str(packet.dst) == target else set()


# Commands beside each other


def test_second_up_changes_nothing(box: Box) -> None:
    box.up().settled()
    before, pid = box.state(), box.pid()
    done = box.sidegate("up")
    assert done.stdout == "Already up, with this configuration. Nothing was changed.\n"
    assert (box.state(), box.pid()) == (before, pid)


def test_second_daemon_is_refused(box: Box) -> None:
    box.up()
    before = box.state()
    done = box.sidegate("up", "--foreground", check=False)
    assert (done.returncode, box.state()) == (2, before)
    assert "sidegate: a daemon is running already (process " in done.stderr


def test_racing_commands_are_served_one_after_the_other(box: Box) -> None:
    before = box.state()
    command = (sys.executable, "-m", "sidegate")
    ups = [box.lab.start("gateway", *command, "up") for _ in range(3)]
    looks = [box.lab.start("gateway", *command, "status") for _ in range(3)]
    assert [p.wait(60) for p in ups] == [0, 0, 0]
    assert {p.wait(60) for p in looks} <= {0, 1}
    assert box.pid()
    both = [box.lab.start("gateway", *command, word) for word in ("down", "down")]
    assert [p.wait(60) for p in both] == [0, 0]
    assert box.state() == before


def test_relative_configuration_is_found(box: Box) -> None:
    """The daemon works in /, the person does not."""
    box.write("/run/mine.toml", '[[client]]\nmac = "02:5d:00:00:00:16"\nname = "pc"\nmasquerade = "always"\n')
    box.sidegate("up", "--config", "mine.toml", prefix=("env", "--chdir=/run"))
    box.settled()
    assert reached(box.lab) == all_of({"nas"})
    client = box.clients()[LAPTOP]
    assert (client["name"], client["path"], client["why"]) == ("pc", "masqueraded", "the configuration says so")


# A service manager


def test_service_manager_is_told(box: Box) -> None:
    before = box.state()
    with box.lab.socket("gateway", socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = f"\0sidegate-notify-{os.getpid()}"
        manager.bind(path)
        manager.settimeout(60)
        command = (sys.executable, "-m", "sidegate", "up", "--foreground")
        service = box.lab.start("gateway", "env", f"NOTIFY_SOCKET=@{path[1:]}", *command)
        assert manager.recv(100) == b"READY=1"
        up = box.state()
        assert up != before
        assert box.status()["faults"] == []
        os.kill(box.pid(), signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
    assert service.wait(60) == 0
    assert box.state() == up
    assert box.status()["up"]
    box.sidegate("down", "--now")
    assert box.state() == before


def test_sigterm_while_probing(box: Box) -> None:
    before = box.state()
    box.up()
    asked = [box.lab.begin(who, http_get, SERVER, 80, "/", PATIENCE_S) for who in EVERYBODY]
    wait_for(lambda: len(box.clients()) > 0)
    box.probe_again()
    os.kill(box.pid(), signal.SIGTERM)
    wait_for(lambda: not box.status()["daemon"])
    assert {w.result().ok for w in asked} == {True}
    assert {r.tcp for r in reached(box.lab).values()} == {True}
    box.sidegate("down", "--now")
    assert box.state() == before


# The box is disturbed


def test_interface_goes_down_and_up_again(box: Box) -> None:
    box.up().settled()
    box.probe_again()
    box.shell("ip link set eth0 down")
    wait_for(lambda: box.status()["faults"])
    assert box.sidegate("status", check=False).returncode == 1
    box.shell("ip link set eth0 up; ip route replace default via 192.168.1.1")
    wait_for(lambda: not box.status()["faults"])
    box.settled()
    wait_for(lambda: box.paths() == {who: "direct" if who in WIRED else "masqueraded" for who in EVERYBODY})
    assert reached(box.lab) == all_of(WIRED)


def test_routers_mac_changes(box: Box) -> None:
    """Another router took its place: what was proved about the old one is void.

    Noticed by its ARP: the second `up` changes nothing, so that no announcement of our own makes the daemon look.
    """
    box.up()
    kill_daemon(box)
    box.up().settled()
    box.shell("ip link set br-lan address 02:5d:00:00:0f:01", "router")
    for name in ("gateway", LAPTOP):
        box.shell("ip neigh flush dev eth0", name)
    ask(box.lab, LAPTOP)
    wait_for(lambda: "all proofs are void" in box.events())
    box.settled()
    assert reached(box.lab) == all_of(WIRED)


def test_own_address_changes(box: Box) -> None:
    box.up().settled()
    box.shell("ip addr add 192.168.1.9/24 dev eth0; ip addr del 192.168.1.2/24 dev eth0")
    box.shell("ip addr replace 192.168.1.9/24 dev eth0; ip route replace default via 192.168.1.1")
    wait_for(lambda: "192.168.1.9/24" in box.status()["address"])
    wait_for(lambda: "all proofs are void" in box.events())
    for client in box.lab.home.client:
        box.shell("ip route replace default via 192.168.1.9", client.name)
    box.settled()
    assert reached(box.lab) == all_of(WIRED)


def test_table_that_somebody_deletes_is_put_right_with_its_proofs(box: Box) -> None:
    """As `systemctl reload nftables` does, with `flush ruleset`."""
    box.up().settled()
    with Connection(box.lab, LAPTOP) as old:
        box.nft("flush ruleset\n")
        wait_for(lambda: "put right: nft table inet sidegate" in box.events())
        wait_for(lambda: box.in_set("direct4") == 2)
        assert old.is_alive()
    assert reached(box.lab) == all_of(WIRED)


@in_namespaces
def test_a_proof_for_a_table_that_is_gone_is_no_fault_and_one_that_it_refuses_is() -> None:
    """Until it is put right, which is told."""
    looks: list[bool] = []
    log = EventLog(Path("/run/log"))
    clientele = Clientele(Config(), log, lambda: looks.append(True))
    proof = [Prove(Client("02:00:00:00:00:10", IPv4Address("192.168.1.16")), 60)]
    clientele._perform(proof)
    assert (log.faults, log.events, len(looks)) == ((), (), 1)
    shell("nft add table inet sidegate")
    clientele._perform(proof)
    assert "No such file or directory" in log.faults[0].what


@pytest.mark.parametrize("what", ["forwarding", "send_redirects"])
def test_setting_that_somebody_turns_is_put_right(box: Box, what: str) -> None:
    """No settings are announced: something else is, or half a minute passes."""
    box.up()
    file = f"/proc/sys/net/ipv4/conf/eth0/{what}"
    wanted = box.shell(f"cat {file}").strip()
    box.shell(f"echo {1 - int(wanted)} >{file}; ip link set eth0 txqueuelen 900")
    wait_for(lambda: box.shell(f"cat {file}").strip() == wanted)
    wait_for(lambda: f"put right: sysctl net/ipv4/conf/eth0/{what}={wanted}" in box.events())


# A crowd


def test_crowd_is_met_probed_and_survived(box: Box) -> None:
    """Every free address of the LAN announces itself from one port; the laptop is served meanwhile."""
    box.up()
    taken = {str(h.v4) for h in box.lab.home.lan_hosts} | {"192.168.1.1"}
    crowd = [ip for ip in IPv4Network("192.168.1.0/24").hosts() if str(ip) not in taken]
    with box.lab.socket("nas", socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))

        def is_met() -> bool:
            """Asked again: of so many frames at once some may be lost."""
            for number, ip in enumerate(crowd):
                wire.send(who_has(f"02:00:00:00:ff:{number:02x}", ip, IPv4Address(GATEWAY)))
                if number % 50 == 0:
                    assert ask(box.lab, LAPTOP).ok
            return bool(box.status()["clients"] > len(crowd))

        wait_for(is_met)
    assert ask(box.lab, LAPTOP).ok
    wait_for(lambda: LAPTOP in box.paths() and box.status()["undecided"] < 200)
    resident = next(x for x in Path(f"/proc/{box.pid()}/status").read_text().splitlines() if x.startswith("VmHWM"))
    assert int(resident.split()[1]) < 80_000, "kB; the figure itself is the benchmark's"
