"""What the split costs whoever goes straight, and how long rules with many names and networks take to be applied.

Measured as in `dataplane`: in short turns within one lab, so that whatever else the machine does slows all alike.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from pathlib import Path

from bench import dataplane
from bench.dataplane import CLIENT, GATEWAY, SECONDS, Rates
from bench.figures import Figure, spread
from bench.gateway import SERVER
from sidegate.gateway.box.apply import apply, undo
from sidegate.gateway.box.facts import observe
from sidegate.gateway.box.livebox import LiveBox
from sidegate.gateway.config import Config
from sidegate.gateway.decide import Situation, decide
from sidegate.gateway.desired import TABLE
from sidegate.gateway.ruleset.nft import Client, Shape, prove, ruleset
from sidegate.gateway.ruleset.steer import Steering
from sidegate.gateway.split.policy import Destination, Policy, Rule
from sidegate.gateway.split.ports import ports
from sidegate.home import load_home
from sidegate.lab.asking import download_mbit
from sidegate.lab.check import set_gateway
from sidegate.lab.lab import Lab

LISTED = 10_000
CHANGES = 9
ROUNDS, DOWNLOAD_ROUNDS = 120, 25
"""One round's ratio of new connections lies 10 % from their median (standard deviation); of 120, 2 % is uncertain."""
PLAIN, TRACKED, SPLIT = "plain forwarding", "forwarding with conntrack", "split, proved"
PORTS = dict(zip((PLAIN, TRACKED, SPLIT), dataplane.PORTS.values(), strict=False))
_TRACKING = "table ip plain {\nchain post {\ntype nat hook postrouting priority srcnat;\n}\n}\n"
"""No rule, and yet conntrack enters each connection, as on any box with Docker, a VPN or a NAT of its own."""
BAR = 0.95


def straight_costs() -> list[Figure]:
    """New connections and throughput of one client to a destination that is not proxied."""
    with Lab.up(load_home("velop-mesh")) as lab:
        set_gateway(lab, "sidegate")
        dataplane.leave_to_the_kernel(lab)
        lab.begin("internet", dataplane.close_whatever_connects)
        none = dataplane.NONE
        tables = {PLAIN: none, TRACKED: none + _TRACKING, SPLIT: none + _split_text(lab)}
        connections = dataplane.in_turns(
            lab, tables, lambda it: lab.call(CLIENT, dataplane.connections_per_s, PORTS[it], SECONDS), ROUNDS
        )
        downloads = dataplane.in_turns(
            lab, tables, lambda _: lab.call(CLIENT, download_mbit, SERVER, SECONDS), DOWNLOAD_ROUNDS
        )
        begun = lab.run(GATEWAY, "nft", "list", "set", "inet", TABLE, "begun4").stdout
        assert "elements" in begun, "the client did not come by the gateway, or was not proved"
    return [*_ratios("new connections", "per s", connections), *_ratios("download", "Mbit/s", downloads)]


def _split_text(lab: Lab) -> str:
    """With the client's proof."""
    mac, theirs = (json.loads(lab.run(m, "ip", "-json", "link", "show", "eth0").stdout) for m in (GATEWAY, CLIENT))
    ip = next(c.v4 for c in lab.home.client if c.name == CLIENT)
    steering = Steering(_policy(), (("proxy", ports(0, 0)),), spares=True)
    shape = Shape("eth0", mac[0]["address"], (IPv4Network("192.168.1.0/24"),), "auto", steering=steering)
    return ruleset(shape) + prove([Client(theirs[0]["address"], IPv4Address(str(ip)))], 3600)


def _policy(networks: int = 1000) -> Policy:
    found = collapse_addresses(IPv4Network((0x10000000 + (i * 37 << 8), 24)) for i in range(networks))
    names = tuple(sorted(f"name{i}.example" for i in range(networks)))
    return Policy((Rule("proxy.list", "proxy", Destination(suffixes=names, networks4=tuple(found))),))


def _ratios(what: str, unit: str, rates: Rates) -> Iterator[Figure]:
    yield from dataplane.medians(what, unit, rates)
    for them, bar in ((PLAIN, BAR), (TRACKED, None)):
        ratio, sure = dataplane.ratios(rates[SPLIT], rates[them])
        yield Figure(f"{what}, split / {them}", ratio, "×", bar, "least", sure)


def large_lists() -> list[Figure]:
    """10,000 names and 10,000 networks: observed, decided and applied, and then one rule more and one less in turns."""
    with Lab.up(load_home("velop-mesh")) as lab:
        first_s, changes_ms = lab.call(GATEWAY, _apply_large)
    return [
        Figure("10,000 names and networks applied", first_s, "s", 2),
        Figure("one rule changed beside them", statistics.median(changes_ms), "ms", 200, note=spread(changes_ms)),
    ]


def _apply_large() -> tuple[float, list[float]]:
    policy, place = _policy(LISTED), Path(tempfile.mkdtemp())
    more = Policy((*policy.rules, Rule("rule[0]", "block", None, None, ((25, 25),))))
    first_s = _applied_s(policy, place)
    changes_ms = [1000 * _applied_s(more if i % 2 == 0 else policy, place) for i in range(CHANGES)]
    undo(LiveBox(), place)
    return first_s, changes_ms


def _applied_s(policy: Policy, place: Path) -> float:
    start = time.perf_counter()
    facts = observe(Config(), place)
    apply(decide(Config(), facts, Situation(policy, (("proxy", ports(0, 0)),))), facts, LiveBox(), place)
    return time.perf_counter() - start
