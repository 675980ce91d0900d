"""What `sidegate demo` found, as plain frozen data: the report's input and the demo's `--json` output.

All durations are in milliseconds, all rates in Mbit/s. `msgspec.json.encode` writes it, `msgspec.json.decode` with
`type=Result` reads it back; `schema` grows when a field changes its meaning or vanishes.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from sidegate.home import GatewayRuns, Outcome

SCHEMA = 1

Verdict = Literal["direct", "masquerade", "unknown"]


class Reach(Struct, frozen=True):
    """One question to a server over one family. outcome: as in `home.Expectation`. detail: what was seen, in words."""

    outcome: Outcome
    detail: str = ""
    took_ms: float | None = None

    @property
    def ok(self) -> bool:
        return self.outcome != "dead"


class ClientReach(Struct, frozen=True):
    """What one client reached; None: not asked, as with a client that has no IPv6 address."""

    client: str
    v4: Reach | None = None
    v6: Reach | None = None


class Stage(Struct, frozen=True):
    """One state of the home. name: a few words, as `gateway only forwards`. target: the server that was asked."""

    name: str
    gateway: GatewayRuns
    target: str
    clients: tuple[ClientReach, ...]

    def reach(self, client: str) -> ClientReach:
        """What that client reached; empty where it was not asked."""
        return next((c for c in self.clients if c.client == client), ClientReach(client))


class EvidenceLine(Struct, frozen=True):
    """at_ms: since the probe's first packet."""

    at_ms: float
    text: str


class ProbeFinding(Struct, frozen=True):
    """What the bridge probe proved for one client.

    verdict: `direct`, the router answers it directly; `masquerade`, the router refuses to NAT it; `unknown`.
    confidence: in words. method: as `ICMP echo`. target: the address that the probe's packets went to.
    """

    client: str
    verdict: Verdict
    confidence: str
    method: str
    target: str
    evidence: tuple[EvidenceLine, ...] = ()


class Bar(Struct, frozen=True):
    """One measured throughput. note: the conditions, in words."""

    label: str
    mbit: float
    note: str = ""


class Visit(Struct, frozen=True):
    """A site visited by its name. lie: a page came, but from where the provider's false answer led. straight: past the
    proxy. detail: whom the server saw, or what was seen instead.
    """

    site: str
    outcome: Literal["proxied", "straight", "lie", "dead"]
    detail: str = ""
    took_ms: float | None = None

    @property
    def ok(self) -> bool:
        return self.outcome in ("proxied", "straight")


class SplitScene(Struct, frozen=True):
    """One device's visits in one state of the gateway. name: a few words."""

    name: str
    visits: tuple[Visit, ...]

    def visit(self, site: str) -> Visit | None:
        return next((v for v in self.visits if v.site == site), None)


class Split(Struct, frozen=True):
    """What the split did for one device: before it, with it, and as its engine was killed.

    back_ms: from the kill until what is proxied went through the engine again.
    """

    client: str
    scenes: tuple[SplitScene, ...]
    back_ms: float

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(v.site for scene in self.scenes for v in scene.visits))

    @property
    def ok(self) -> bool:
        """Whether every site was reached from the moment the split was on."""
        return all(v.ok for scene in self.scenes[1:] for v in scene.visits)


class Durations(Struct, frozen=True):
    """built_ms: the home on the kernel. decided_ms: from `sidegate up` to every client proved or masqueraded."""

    built_ms: float
    decided_ms: float | None = None
    total_ms: float | None = None


class Versions(Struct, frozen=True):
    sidegate: str
    kernel: str


class Result(Struct, frozen=True):
    """stages: in the order of time; the first is before Sidegate, the last with it. command: how to see it again."""

    home: str
    title: str
    stages: tuple[Stage, ...]
    durations: Durations
    versions: Versions
    command: str
    probes: tuple[ProbeFinding, ...] = ()
    throughput: tuple[Bar, ...] = ()
    split: Split | None = None
    schema: int = SCHEMA
