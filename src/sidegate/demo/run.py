"""The demonstration itself: a lab, and on its gateway the command line that a user would type."""

from __future__ import annotations

import platform
import time
from typing import Protocol

import msgspec

from sidegate import __version__
from sidegate.demo.result import (
    Bar,
    ClientReach,
    Durations,
    EvidenceLine,
    ProbeFinding,
    Reach,
    Result,
    Split,
    Stage,
    Versions,
)
from sidegate.demo.splitting import cast, play
from sidegate.home import Client, GatewayRuns, Home
from sidegate.lab.asking import ANSWERED_WITHIN_S, Answer, download_mbit
from sidegate.lab.check import (
    Receiver,
    Relayed,
    address_of,
    ask,
    outcome_of,
    set_gateway,
    sidegate,
    wait_until_decided,
)
from sidegate.lab.lab import Lab, Waiting
from sidegate.probe.bridge import BridgeResult
from sidegate.probe.talk import Observation
from sidegate.reading import decode_address

GATEWAY_MBIT, CLIENT_MBIT = 100.0, 1000.0
DOWNLOAD_S = 2.0
_LOST_AFTER_S = 2.5
"""For answers some of which do not come. Those that are to come have longer: they take milliseconds."""
_METHODS = {"icmp": "ICMP echo", "dns": "DNS over UDP"}


def with_rates(home: Home) -> Home:
    """The home with a slow port at the gateway and a fast one at every client: masquerade's price becomes visible."""
    if home.gateway is None:
        return home
    gateway = msgspec.structs.replace(home.gateway, rate_mbit=GATEWAY_MBIT)
    clients = tuple(msgspec.structs.replace(c, rate_mbit=CLIENT_MBIT) for c in home.client)
    return msgspec.structs.replace(home, gateway=gateway, client=clients)


class Listener(Protocol):
    """Who watches the demonstration."""

    def step(self, text: str) -> None:
        """A line about what happens now."""

    def stage(self, stage: Stage) -> None:
        """Who reaches the internet, as just seen."""

    def split(self, split: Split) -> None:
        """What the split did for one device."""


def demonstrate(home: Home, listener: Listener) -> Result:
    """Builds the home, breaks it, heals it, measures. Raises Problems."""
    began = time.monotonic()
    with Lab.up(home) as lab:
        built_ms = _ms_since(began)
        listener.step(f"Built: {len(lab.machines)} machines on this kernel in {built_ms:.0f} ms.")
        before = _stage(lab, "The gateway forwards, and no more", "forwarding")
        listener.stage(before)
        listener.step("The usual remedy is masquerade for everybody. It works, and here is what it costs:")
        set_gateway(lab, "masquerade")
        slow = _bar(lab, "masquerade for all", "every reply crosses the gateway's port")
        listener.step(f"    {slow.label}: {slow.mbit:.0f} Mbit/s")
        set_gateway(lab, "nothing")
        decided_ms = _bring_up(lab, listener)
        after = _stage(lab, "With Sidegate", None)
        listener.stage(after)
        probes = _probes(lab)
        fast = _bar(lab, "with Sidegate", "the router answers this client directly")
        split = _split(lab, listener)
    return Result(
        home=home.name,
        title=home.title,
        stages=(before, after),
        durations=Durations(built_ms, decided_ms, _ms_since(began)),
        versions=Versions(__version__, platform.release()),
        command="make demo",
        probes=probes,
        throughput=(slow, fast),
        split=split,
    )


def _bring_up(lab: Lab, listener: Listener) -> float:
    listener.step("On the gateway: sidegate up")
    start = time.monotonic()
    for line in sidegate(lab, "up").splitlines():
        listener.step(f"    {line}")
    wait_until_decided(lab)
    decided_ms = _ms_since(start)
    listener.step(f"Every client proved or masqueraded after {decided_ms:.0f} ms.")
    return decided_ms


def _split(lab: Lab, listener: Listener) -> Split | None:
    """Only in a home where something is to be proxied."""
    who = cast(lab)
    if who is None:
        return None
    found = play(lab, who, listener)
    listener.split(found)
    return found


def _stage(lab: Lab, name: str, runs: GatewayRuns | None) -> Stage:
    if runs is not None:
        set_gateway(lab, runs)
    target = next(s for s in lab.home.internet.server if s.v4 not in lab.home.internet.blocked)
    with Relayed(lab) as relayed:
        within_s = _LOST_AFTER_S if runs else ANSWERED_WITHIN_S
        asked = [
            (c, ask(lab, c.name, target.name, "v4", within_s), _ask_v6(lab, c, target.name)) for c in lab.home.client
        ]
        answers = [(c, v4.result(), v6.result() if v6 else None) for c, v4, v6 in asked]
        crossed = relayed.receivers()
    reached = tuple(
        ClientReach(c.name, _reach(v4, crossed), _reach(v6, crossed) if v6 else None) for c, v4, v6 in answers
    )
    return Stage(name, runs or "sidegate", f"{target.name} ({target.v4})", reached)


def _ask_v6(lab: Lab, client: Client, target: str) -> Waiting[Answer] | None:
    server = next(s for s in lab.home.internet.server if s.name == target)
    return ask(lab, client.name, target, "v6", ANSWERED_WITHIN_S) if client.v6 and server.v6 else None


def _reach(answer: Answer, crossed: set[Receiver]) -> Reach:
    return Reach(outcome_of(answer, crossed), "answered" if answer.ok else answer.detail, answer.ms)


class _Client(msgspec.Struct):
    """What the demo reads of `sidegate clients --json`."""

    ip: str
    probe: BridgeResult | None


class _Clients(msgspec.Struct):
    clients: list[_Client]


def _probes(lab: Lab) -> tuple[ProbeFinding, ...]:
    names = {str(c.v4): c.name for c in lab.home.client}
    said = sidegate(lab, "clients", "--evidence", "--json")
    clients = msgspec.json.decode(said, type=_Clients, dec_hook=decode_address).clients
    return tuple(_finding(names[c.ip], c.probe) for c in clients if c.probe and c.ip in names)


def _finding(name: str, probe: BridgeResult) -> ProbeFinding:
    return ProbeFinding(
        client=name,
        verdict=probe.verdict,
        confidence=f"{probe.confidence}: {probe.reason}",
        method=_METHODS.get(probe.method, ""),
        target=str(probe.target or ""),
        evidence=tuple(EvidenceLine(seen.at_s * 1000, _words(seen)) for seen in probe.evidence),
    )


def _words(seen: Observation) -> str:
    way = "to" if seen.way == "sent" else "from"
    return f"{seen.way} ({seen.step}) {way} {seen.mac}: {seen.what}"


def _bar(lab: Lab, label: str, note: str) -> Bar:
    """The download of the first wired client that the gateway serves."""
    client = next(c for c in lab.home.client if c.by == "wire" and c.gateway == "gateway")
    target = next(s.name for s in lab.home.internet.server if s.v4 not in lab.home.internet.blocked)
    mbit = lab.call(client.name, download_mbit, address_of(lab.home, target, "v4"), DOWNLOAD_S)
    return Bar(f"{client.name}, {label}", round(mbit, 1), note)


def _ms_since(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 1)
