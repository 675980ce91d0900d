"""The probes on the real kernel: a router with a switch chip, a radio and an internet, in namespaces of their own.

No root is needed: everything lives in one user namespace, whose processes die with its holder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.gateway_lab import wait_for

pytestmark = pytest.mark.kernel

BUILD = """
set -e
mount -t tmpfs tmpfs /run
export XTABLES_LOCKFILE=/run/xtables.lock
for ns in gw chip router wired wifi inet; do
  ip netns add $ns; ip -n $ns link set lo up
  ip netns exec $ns sh -c 'echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables'
done
cable() { ip link add name $2 netns $1 type veth peer name $4 netns $3; }
cable gw eth0 chip p-gw; cable wired eth0 chip p-wired; cable router cpu chip p-cpu
cable wifi eth0 router radio; cable router wan inet eth0
ip -n chip link add name sw type bridge; ip -n router link add name br-lan type bridge
for port in p-gw p-wired p-cpu sw; do
  [ $port = sw ] || ip -n chip link set $port master sw; ip -n chip link set $port up
done
for port in cpu radio; do ip -n router link set $port master br-lan; ip -n router link set $port up; done
ip -n router link set br-lan up; ip -n router link set wan up
host() { ip -n $1 address add $2/24 dev eth0; ip -n $1 link set eth0 up; ip -n $1 route add default via $3; }
host gw 192.168.1.2 192.168.1.1; host wired 192.168.1.10 192.168.1.2; host wifi 192.168.1.20 192.168.1.2
ip -n router address add 192.168.1.1/24 dev br-lan; ip -n router address add 203.0.113.2/24 dev wan
ip -n inet address add 203.0.113.1/24 dev eth0; ip -n inet link set eth0 up
for address in 1.1.1.1 8.8.8.8; do ip -n inet address add $address/32 dev lo; done
ip -n router route add default via 203.0.113.1
ip netns exec router sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
carries() {
  for i in $(seq 1500); do ip -n $1 link show $2 | grep -q 'state UP' && return 0; sleep 0.01; done
  echo "$2 of $1 does not carry" >&2; return 1
}
for ns in gw wired wifi inet; do carries $ns eth0; done
for port in p-gw p-wired p-cpu sw; do carries chip $port; done
for port in cpu radio br-lan wan; do carries router $port; done
"""
"""It ends when every wire carries: the kernel acts on that in a work queue (net/core/link_watch.c, linkwatch_event)."""

NFT_NAT = """
table ip nat {
  chain post {
    type nat hook postrouting priority 100
    oifname wan masquerade
  }
}
"""
DROP_INVALID = """
table ip filter {
  chain forward {
    type filter hook forward priority 0
    ct state invalid drop
    oifname wan accept
  }
}
"""
HIJACK = """
table ip hijack {
  chain pre {
    type nat hook prerouting priority -100
    iifname br-lan udp dport 53 redirect
  }
}
"""
NO_ECHO = """
table ip block {
  chain in {
    type filter hook input priority 0
    icmp type echo-request drop
  }
}
"""
ECHO_PROHIBITED = NO_ECHO.replace("drop", "reject with icmp type admin-prohibited")

COUNT_ICMP_OUT = """
table ip count {
  chain out {
    type filter hook output priority 0
    ip protocol icmp counter
  }
}
"""

PROBE = """
import sys
from ipaddress import IPv4Address
import msgspec
from sidegate.probe.arp import resolve, stand_at
from sidegate.probe.prober import probe_bridge
from sidegate.reading import encode_address
vantage = stand_at("eth0", IPv4Address("192.168.1.1"))
clients = resolve("eth0", *map(IPv4Address, sys.argv[1:]))
results = probe_bridge(vantage, tuple((c.ip, c.macs[0]) for c in clients))
print(msgspec.json.encode(results, enc_hook=encode_address).decode())
"""

RESOLVER = """
import select, socket, sys
sockets = []
for address in sys.argv[1:]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    sockets.append(sock)
print("ready", flush=True)
answered = set()
while True:
    for sock in select.select(sockets, [], [])[0]:
        query, peer = sock.recvfrom(512)
        if peer not in answered:
            sock.sendto(query[:2] + bytes([0x81, 0x80]) + query[4:], peer)
        answered.add(peer)
"""
"""Of several copies one is answered, the first: when that comes, who asked may end, and shut the port to the others."""


class Net:
    """The namespaces; commands run inside one of them."""

    def __init__(self) -> None:
        script = f"{BUILD}\necho ready; exec sleep 600"
        self._holder = subprocess.Popen(
            ["unshare", "-Urnmpf", "--kill-child", "--mount-proc", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        self._children: list[subprocess.Popen[str]] = []
        if self._holder.stdout.readline() != "ready\n":
            raise RuntimeError(self._holder.stderr.read())
        children = f"/proc/{self._holder.pid}/task/{self._holder.pid}/children"
        with open(children) as file:
            self._init = file.read().split()[0]

    def inside(self, ns: str, *command: str) -> list[str]:
        enter = ["nsenter", f"--target={self._init}", "-U", "-m", "-n", "-p", "--preserve-credentials"]
        return [*enter, "ip", "netns", "exec", ns, *command]

    def run(self, ns: str, *command: str, stdin: str = "") -> str:
        done = subprocess.run(self.inside(ns, *command), input=stdin, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
        print(done.stderr)
        return done.stdout

    def nft(self, ns: str, ruleset: str) -> None:
        self.run(ns, "nft", "-f", "-", stdin=ruleset)

    def filter_bridge(self, on: bool) -> None:
        self.run("router", "sh", "-c", f"echo {int(on)} > /proc/sys/net/bridge/bridge-nf-call-iptables")

    def serve_dns(self, ns: str, *addresses: str) -> None:
        self.serve(ns, RESOLVER, *addresses)

    def serve(self, ns: str, script: str, *arguments: str) -> None:
        """A Python server in the background; it prints a line when it is ready."""
        command = self.inside(ns, sys.executable, "-c", script, *arguments)
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._children.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

    def probe(self, *clients: str) -> list[dict[str, Any]]:
        """What is found out once something is: who was answered too late learns nothing, and asks again."""
        for _ in range(5):
            results = self.probe_once(*clients)
            if "unknown" not in verdicts(results):
                break
        return results

    def probe_once(self, *clients: str) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = json.loads(self.run("gw", sys.executable, "-c", PROBE, *clients))
        return results

    def close(self) -> None:
        self._holder.kill()
        for process in (self._holder, *self._children):
            process.communicate()


WIRED, WIFI = "192.168.1.10", "192.168.1.20"


def verdicts(results: list[dict[str, Any]]) -> list[str]:
    return [result["verdict"] for result in results]


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    yield net
    net.close()


def test_filter_on(net: Net) -> None:
    net.nft("router", NFT_NAT)
    net.filter_bridge(True)
    wired, wifi = net.probe(WIRED, WIFI)
    assert (wired["verdict"], wired["confidence"], wired["method"]) == ("direct", "strong", "icmp")
    assert (wifi["verdict"], wifi["confidence"], wifi["method"]) == ("masquerade", "strong", "icmp")


def test_filter_off(net: Net) -> None:
    net.nft("router", NFT_NAT)
    assert verdicts(net.probe(WIRED, WIFI)) == ["direct", "direct"]


def test_internet_dead(net: Net) -> None:
    net.nft("router", NFT_NAT)
    net.run("inet", "ip", "link", "set", "eth0", "down")
    (wifi,) = net.probe_once(WIFI)
    assert (wifi["verdict"], wifi["confidence"], wifi["method"]) == ("unknown", "none", "")
    assert "8.8.8.8 by DNS over UDP" in wifi["reason"]
    assert not [seen for seen in wifi["evidence"] if seen["step"] == "poison"]


def test_router_without_route_says_so(net: Net) -> None:
    net.nft("router", NFT_NAT)
    net.run("router", "ip", "route", "del", "default")
    (wifi,) = net.probe_once(WIFI)
    assert wifi["verdict"] == "unknown"
    assert "192.168.1.1 answered ICMP unreachable" in wifi["reason"]


def test_dns_decides_where_the_internet_answers_no_echo(net: Net) -> None:
    net.nft("router", NFT_NAT)
    net.nft("inet", NO_ECHO)
    net.serve_dns("inet", "1.1.1.1", "8.8.8.8")
    net.filter_bridge(True)
    wired, wifi = net.probe(WIRED, WIFI)
    assert (wired["verdict"], wired["method"]) == ("direct", "dns")
    assert (wifi["verdict"], wifi["method"]) == ("masquerade", "dns")


def test_a_closed_dns_port_is_an_answer(net: Net) -> None:
    net.nft("router", NFT_NAT)
    net.nft("inet", NO_ECHO)
    net.filter_bridge(True)
    wired, wifi = net.probe(WIRED, WIFI)
    assert (wired["verdict"], wired["method"]) == ("direct", "dns")
    assert (wifi["verdict"], wifi["method"]) == ("masquerade", "dns")


def test_a_router_that_redirects_dns_gives_itself_away(net: Net) -> None:
    net.nft("router", NFT_NAT + HIJACK)
    net.nft("inet", ECHO_PROHIBITED)
    net.serve_dns("router", "192.168.1.1")
    net.filter_bridge(True)
    wired, wifi = net.probe(WIRED, WIFI)
    assert (wired["verdict"], wired["method"]) == ("direct", "dns")
    assert (wifi["verdict"], wifi["method"]) == ("masquerade", "dns")
    assert "a frame addressed to the client was answered" in wifi["reason"]


@pytest.mark.parametrize("filter_on", [True, False])
def test_router_that_drops_invalid(net: Net, filter_on: bool) -> None:
    net.nft("router", NFT_NAT + DROP_INVALID)
    net.filter_bridge(filter_on)
    assert verdicts(net.probe(WIRED, WIFI)) == ["direct", "masquerade" if filter_on else "direct"]


@pytest.mark.parametrize("filter_on", [True, False])
@pytest.mark.parametrize("target", [("MASQUERADE",), ("SNAT", "--to-source", "203.0.113.2")])
def test_iptables_legacy(net: Net, filter_on: bool, target: tuple[str, ...]) -> None:
    rule = ["-t", "nat", "-A", "POSTROUTING", "-o", "wan", "-j", *target]
    net.run("router", "env", "XTABLES_LOCKFILE=/run/xtables.lock", "iptables-legacy", *rule)
    net.filter_bridge(filter_on)
    assert verdicts(net.probe(WIRED, WIFI)) == ["direct", "masquerade" if filter_on else "direct"]


def test_client_that_forwards_is_noted(net: Net) -> None:
    net.nft("router", NFT_NAT)
    net.run("wifi", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    net.filter_bridge(True)
    (wifi,) = net.probe(WIFI)
    assert wifi["verdict"] == "masquerade"
    assert any("the client forwards packets itself" in note for note in wifi["notes"])


def test_own_masquerade_leaves_the_probe_alone(net: Net) -> None:
    """With a masquerade that rewrote the probe's ports or ids, no answer would fit."""
    net.nft("router", NFT_NAT)
    net.nft("gw", NFT_NAT.replace("wan masquerade", "eth0 counter masquerade random"))
    assert verdicts(net.probe(WIRED, WIFI)) == ["direct", "direct"]
    assert "counter packets 0" in net.run("gw", "nft", "list", "ruleset")


def test_many_clients_at_once(net: Net) -> None:
    """Interleaved probes of one socket keep their flows apart."""
    net.nft("router", NFT_NAT)
    net.filter_bridge(True)
    clients = [WIRED, WIFI] * 10
    assert verdicts(net.probe(*clients)) == ["direct", "masquerade"] * 10


PROBER = """
import resource, selectors, subprocess, sys, time
from collections import Counter
from ipaddress import IPv4Address
from sidegate.probe.arp import resolve, stand_at
from sidegate.probe.prober import Prober
from sidegate.problems import Problems
vantage = stand_at("eth0", IPv4Address("192.168.1.1"))
(wired, wifi) = (r.macs[0] for r in resolve("eth0", IPv4Address("192.168.1.10"), IPv4Address("192.168.1.20")))
prober = Prober(vantage, rate=2000)
def begin(n):
    return prober.start(IPv4Address("192.168.2.0") + n, wifi if n % 2 else wired)
keys = {begin(n): n for n in range(250)}
selector = selectors.DefaultSelector()
selector.register(prober, selectors.EVENT_READ)
told = Counter()
while keys:
    deadline = prober.next_deadline()
    ready = selector.select(None if deadline is None else max(0, deadline - time.monotonic()))
    (prober.on_readable if ready else prober.on_time)(time.monotonic())
    for key, result in prober.finished():
        n = keys.pop(key)
        told["wifi" if n % 2 else "wired", result.verdict] += 1
        if (n % 2 == 0) and result.verdict != "direct" and told.total() < 1000:
            # On a machine with other things to do answers are late, and say nothing, or what costs bandwidth only.
            keys[begin(n)] = n
print(told["wired", "direct"], told["wifi", "direct"], prober.next_deadline())
usage = resource.getrusage(resource.RUSAGE_SELF)
print(f"{usage.ru_utime + usage.ru_stime:.2f} s of CPU, {usage.ru_maxrss // 1024} MB", file=sys.stderr)
subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)
prober.start(vantage.router_ip, wifi)
try:
    prober.on_time(time.monotonic())
except Problems as problems:
    print(problems)
prober.close()
"""


def test_prober_in_a_selectors_loop_with_250_clients(net: Net) -> None:
    """And when the interface goes down, it says so."""
    net.nft("router", NFT_NAT)
    net.filter_bridge(True)
    first, *rest = net.run("gw", sys.executable, "-c", PROBER).splitlines()
    assert first == "125 0 None"
    assert rest[0] == "eth0: the network interface is down"


def test_dns_answers_provoke_nothing_from_this_box(net: Net) -> None:
    net.nft("router", NFT_NAT)
    net.nft("inet", ECHO_PROHIBITED)
    net.nft(
        "gw", "table ip count {\n chain out {\n type filter hook output priority 0\n ip protocol icmp counter\n }\n}\n"
    )
    net.serve_dns("inet", "1.1.1.1", "8.8.8.8")
    assert verdicts(net.probe(WIRED)) == ["direct"]
    assert "counter packets 0" in net.run("gw", "nft", "list", "ruleset")


ARP = """
import sys
from ipaddress import IPv4Address
from sidegate.probe.arp import resolve
for result in resolve("eth0", *map(IPv4Address, sys.argv[1:])):
    print(len(result.macs))
"""


def test_arp_finds_owners_and_duplicates(net: Net) -> None:
    net.run("wifi", "ip", "address", "add", f"{WIRED}/24", "dev", "eth0")

    def answers() -> list[str]:
        return net.run("gw", sys.executable, "-c", ARP, WIRED, WIFI, "192.168.1.99").splitlines()

    # The second owner's answer takes another way, and may come later than it is waited for.
    assert wait_for(lambda: found if (found := answers())[0] == "2" else None) == ["2", "1", "0"]


REACH = """
from ipaddress import IPv4Address as Ip
from sidegate.probe.arp import stand_at
from sidegate.probe.reach import reach_by_icmp
vantage = stand_at("eth0", Ip("192.168.1.1"))
for result in reach_by_icmp(vantage, Ip("1.1.1.1"), Ip("203.0.113.99"), Ip("9.9.9.9")):
    print(result.target, result.how, result.answer)
"""


def test_reach(net: Net) -> None:
    net.nft("router", NFT_NAT)
    net.run("inet", "ip", "route", "add", "unreachable", "9.9.9.9")
    net.run("inet", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    # Silent for good: of one that it does not find the router says so after 3 s (net/ipv4/arp.c, arp_error_report).
    net.run("router", "ip", "neighbour", "add", "203.0.113.99", "lladdr", "02:00:00:00:00:99", "dev", "wan")
    assert net.run("gw", sys.executable, "-c", REACH).splitlines() == [
        "1.1.1.1 icmp answered",
        "203.0.113.99 icmp silent",
        "9.9.9.9 icmp unreachable",
    ]


OPEN = """
import sys
from ipaddress import IPv4Address
from sidegate.probe.wire import Wire
from sidegate.problems import Problems
try:
    Wire(sys.argv[1], IPv4Address("192.168.1.2"))
except Problems as problems:
    print(problems, int(problems.exit_code))
"""


@pytest.mark.parametrize(
    ("interface", "wrapper", "said"),
    [
        ("eth9", (), "no such network interface"),
        ("eth0", ("setpriv", "--bounding-set=-all", "--inh-caps=-all"), "no privilege"),
    ],
)
def test_what_keeps_the_wire_from_opening(net: Net, interface: str, wrapper: tuple[str, ...], said: str) -> None:
    assert said in net.run("gw", *wrapper, sys.executable, "-c", OPEN, interface)
