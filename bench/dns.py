"""Our resolver with 10,000 proxied names beside 10,000 networks: changing, remembering, learning."""

from __future__ import annotations

import re
import socket
import statistics
import sys
import time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec

from bench.figures import Figure, median_ms, spread
from sidegate.gateway.desired import TABLE
from sidegate.gateway.dns.dnsmasq import dnsmasq_conf
from sidegate.gateway.dns.learned import names_set
from sidegate.gateway.dns.names import name_table
from sidegate.gateway.dns.places import ResolverPlaces
from sidegate.gateway.dns.resolver import Resolver
from sidegate.gateway.split.policy import Destination, Policy, Rule
from sidegate.home import load_home
from sidegate.lab.lab import Lab
from sidegate.probe.dns import A, DnsQuestion, answer_to, ask, encoded
from sidegate.reading import encode_address

NAMES = NETWORKS = 10_000
_ENGINE_PORT, _WE, _CLIENT = 15499, "192.168.1.2", "my-computer"
_LEARNED = 50
_ENGINE = (
    f"dnsmasq --conf-file=/dev/null --port={_ENGINE_PORT} --listen-address=127.0.0.1 --bind-interfaces --no-resolv "
    "--no-hosts --user=root --group= --pid-file= --local-ttl=600"
)
_MANY = 100_000
_CHANGES, _ASKED_EVERY_S, _ASKED_FOR_S = 3, 0.02, 40.0
"""Not more often than one device may ask (`restraint.NAMES`)."""
_CONF = """
[proxy]
upstream = "{link}"
list = ["/run/names.txt"]
"""
_WANT = """
import sys, time, msgspec
from pathlib import Path
from sidegate.gateway.dns.child import Resolving
from sidegate.gateway.dns.resolver import Resolver
from sidegate.gateway.box.places import Places
from sidegate.reading import decode_address
it = msgspec.json.decode(sys.stdin.read(), type=Resolver, dec_hook=decode_address)
resolving = Resolving(Places(Path("/run/state"), Path("/run/own")), lambda _: None)
resolving.want(it)
while not resolving.is_settled():
    resolving.turn(time.monotonic())
    if resolving.answers():
        resolving.led(resolving.lead)
    time.sleep(0.001)
print(resolving.pid())
"""


def policy() -> Policy:
    names = tuple(sorted(f"name{n}.foreign.example" for n in range(NAMES)))
    return Policy((Rule("proxy.list", "proxy", Destination(suffixes=names)),))


def resolver(it: Policy) -> Resolver:
    return Resolver(
        interface="eth0",
        lan=(IPv4Network("192.168.1.0/24"),),
        router=IPv4Address("192.168.1.1"),
        direct=(IPv4Address("123.100.96.53"),),
        engine_port=_ENGINE_PORT,
        names=name_table(it),
    )


def resolver_with_many_names() -> list[Figure]:
    with Lab.up(load_home("split")) as lab:
        lab.run("gateway", "nft", "-f", "-", text=_sets())
        answers = (f"--address=/new{n}.name{n}.foreign.example/6.0.0.{n}" for n in range(_LEARNED))
        lab.run("gateway", *_ENGINE.split(), "--address=/foreign.example/5.1.2.3", *answers)
        decided, runs = median_ms(decide, 5)
        pid = _start(lab)
        alone = _learning_ms(lab, range(_LEARNED // 2))
        rate = _answers_per_s(lab)
        memory = _memory_mb(lab, pid)
        _add_networks(lab)
        beside = _learning_ms(lab, range(_LEARNED // 2, _LEARNED))
        grown = _memory_mb(lab, pid)
    many = f"with {NAMES:,} names"
    return [
        *(figure for count in (NAMES, _MANY) for figure in _while_changing(count)),
        Figure(f"resolver: other rules decided, {many}", decided, "ms", note=runs),
        Figure(f"resolver: answers from its cache, {many}", rate, "per s", 20_000, "least", "dnsperf, 10 clients"),
        Figure(f"resolver: memory, {many}", memory, "MB"),
        Figure("resolver: a new name asked and learned", alone, "ms", note=f"mean of {_LEARNED // 2}"),
        Figure(
            f"resolver: the same beside a set of {NETWORKS:,} networks", beside, "ms", note=f"mean of {_LEARNED // 2}"
        ),
        Figure(f"resolver: memory then, {many}", grown, "MB"),
    ]


def decide() -> str:
    """The configuration for rules that were not seen before."""
    name_table.cache_clear()
    return dnsmasq_conf(resolver(policy()), ResolverPlaces(Path("/run/own")), "root")


def _sets() -> str:
    (rule,) = policy().rules
    assert rule.destination is not None
    names = (
        f"set {names_set(rule.destination.names_key, 4)} {{ type ipv4_addr; size 65536; flags timeout; timeout 2h; }}"
    )
    networks = "set networks { type ipv4_addr . inet_proto; flags interval; }"
    return f"table inet {TABLE} {{\n{networks}\n{names}\n}}\n"


def _start(lab: Lab) -> int:
    """Its process id."""
    text = msgspec.json.encode(resolver(policy()), enc_hook=encode_address).decode()
    return int(lab.run("gateway", sys.executable, "-c", _WANT, text=text, timeout_s=60).stdout)


def _while_changing(count: int) -> list[Figure]:
    """The daemon's own changes, as clients see them: one that keeps its port, and one that takes another each time."""
    with Lab.up(load_home("split")) as lab:
        link = lab.links()["proxy-socks"]
        lab.run("gateway", "sh", "-c", "cat >/run/split.toml", text=_CONF.format(link=link))
        _list_names(lab, count, 0)
        _sidegate(lab, "up", "--config", "/run/split.toml")
        clients = ((_CLIENT, 40053), ("nas", 0))
        asking = [lab.begin(who, asked_all_the_time, port, _ASKED_FOR_S) for who, port in clients]
        taken_ms = []
        for n in range(1, _CHANGES + 1):
            _list_names(lab, count, n)
            before = _resolvers(lab)
            began_s = time.monotonic()
            _sidegate(lab, "reload")
            taken_ms.append(1000 * (time.monotonic() - began_s))
            while len(now := _resolvers(lab)) != 1 or now == before:
                time.sleep(0.05)
        if any(it.is_over for it in asking):
            raise RuntimeError(f"changes take longer than {_ASKED_FOR_S:g} s")
        told = [it.result() for it in asking]
        _sidegate(lab, "down", "--now")
    asked, lost = sum(it[0] for it in told), sum(it[1] for it in told)
    longest = max(it[2] for it in told) * 1000
    name, note = f"{_CHANGES} changes with {count:,} names", f"of {asked:,} questions of 2 clients"
    return [
        Figure(f"resolver: lost queries during {name}", lost, "queries", 0, note=note),
        Figure(f"resolver: longest wait for an answer during {name}", longest, "ms"),
        Figure(f"reload of one with {count:,} names", statistics.median(taken_ms), "ms", note=spread(taken_ms)),
    ]


def _list_names(lab: Lab, count: int, change: int) -> None:
    names = "".join(f"name{n}.foreign.example\n" for n in range(count - 1)) + f"change{change}.example\n"
    lab.run("gateway", "sh", "-c", "cat >/run/names.txt", text=names)


def _sidegate(lab: Lab, *words: str) -> None:
    lab.run("gateway", sys.executable, "-m", "sidegate", *words, timeout_s=120)


def _resolvers(lab: Lab) -> list[str]:
    script = "for f in /run/sidegate/resolver/*.pid; do p=$(cat $f); kill -0 $p 2>/dev/null && echo $p; done; true"
    return lab.run("gateway", "sh", "-c", script).stdout.split()


def asked_all_the_time(port: int, during_s: float) -> tuple[int, int, float]:
    """How many were asked, how many of them had no answer within a second, and the longest wait for one, in seconds.

    port: from this one; 0: from one of its own for each question. Runs at a client.
    """
    kept = _asker(port) if port else None
    asked = lost = 0
    longest_s = 0.0
    end_s = time.monotonic() + during_s
    while time.monotonic() < end_s:
        asker = kept or _asker(0)
        asked += 1
        began_s = time.monotonic()
        question = DnsQuestion("www.domestic.example", A, asked & 0xFFFF)
        try:
            asker.send(encoded(question))
            while answer_to(question, asker.recv(512)) is None:
                pass
        except OSError:
            lost += 1
        longest_s = max(longest_s, time.monotonic() - began_s)
        if kept is None:
            asker.close()
        time.sleep(_ASKED_EVERY_S)
    return asked, lost, longest_s


def _asker(port: int) -> socket.socket:
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.bind(("", port))
    asker.connect((_WE, 53))
    asker.settimeout(1.0)
    return asker


def _learning_ms(lab: Lab, which: range) -> float:
    return lab.call(_CLIENT, ask_each, which.start, which.stop) / len(which) * 1000


def ask_each(first: int, last: int) -> float:
    """Seconds for all. Runs at a client."""
    began_s = time.perf_counter()
    for n in range(first, last):
        answer = ask(_WE, f"new{n}.name{n}.foreign.example")
        if answer is None or answer.addresses != (f"6.0.0.{n}",):
            raise RuntimeError(f"no answer for name {n}: {answer}")
    return time.perf_counter() - began_s


def _answers_per_s(lab: Lab) -> float:
    names = "".join(f"name{n}.foreign.example A\n" for n in range(0, NAMES, 2))
    lab.run(_CLIENT, "sh", "-c", "cat >/run/names", text=names)
    command = ("dnsperf", "-s", _WE, "-d", "/run/names", "-c", "10")
    lab.run(_CLIENT, *command, "-n", "1")
    said = lab.run(_CLIENT, *command, "-l", "5").stdout
    found = re.search(r"Queries per second:\s+([0-9.]+)", said)
    return float(found[1]) if found else 0.0


def _memory_mb(lab: Lab, pid: int) -> float:
    status = lab.run("gateway", "cat", f"/proc/{pid}/status").stdout
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1000 if found else 0.0


def _add_networks(lab: Lab) -> None:
    """As `steer` writes them. In parts: without the machine's root a message must fit into the socket's buffer."""
    networks = [f"20.{n // 256}.{n % 256}.0/25 . 0-255" for n in range(NETWORKS)]
    for at in range(0, NETWORKS, 1000):
        listed = ", ".join(networks[at : at + 1000])
        lab.run("gateway", "nft", "-f", "-", text=f"add element inet sidegate networks {{ {listed} }}\n")
