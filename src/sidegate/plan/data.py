"""What a plan consists of: plain data, as the renderers show it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from sidegate.gateway.config import DhcpMode, Masquerade

SCHEMA = 1

Proxy = Literal["all", "some", "none"]
Kind = Literal["wired", "wifi", "mesh-wired", "mesh-wifi"]
Possibility = Literal["yes", "no", "unknown"]
Path = Literal["direct", "masqueraded", "none", "unknown"]
Delivery = Literal["router-dhcp", "own-dhcp", "coexist", "static"]
Protocol = Literal["tcp", "udp"]
Verdict = Literal["direct", "masquerade", "unknown"]
WayId = Literal[
    "router-dhcp",
    "own-dhcp",
    "coexist",
    "static",
    "filter-off",
    "masquerade-proved",
    "masquerade-all",
    "masquerade-none",
    "router-proxy",
    "other-router",
]

KINDS: tuple[Kind, ...] = ("wired", "wifi", "mesh-wired", "mesh-wifi")
KIND_NAMES: dict[Kind, str] = {
    "wired": "by cable on the router",
    "wifi": "on the router's Wi-Fi",
    "mesh-wired": "by cable on a mesh node",
    "mesh-wifi": "on a mesh node's Wi-Fi",
}


class Wish(Struct, frozen=True):
    """proxy: which devices are to be proxied. ipv6: IPv6 through the gateway too. standby: a second box takes over."""

    proxy: Proxy = "all"
    ipv6: bool = False
    standby: bool = False


class Ground(Struct, frozen=True):
    """What an answer rests on: a field of the router's profile. value: empty for unknown."""

    field: str
    says: str
    value: str = ""
    evidence: str = ""
    source: str = ""
    note: str = ""


class Question(Struct, frozen=True):
    """Something unknown that would change the plan. find_out: how the person can tell. probe: a command that can."""

    field: str
    ask: str
    find_out: str
    decides: str
    probe: str = ""

    @property
    def answer(self) -> str:
        """What to add to the command line once one knows."""
        return f"--answer {self.field}=yes|no"


class Prediction(Struct, frozen=True):
    """What the walk says of one kind of client's IPv4.

    bridge_filter: the value assumed or known of the router. path: the way the reply takes; `none`: it is offline.
    says: the walk's verdict. up, down: who forwards (routes) a packet on its way to the internet and back.
    port_up, port_down: bytes through the gateway's port, both directions together, for each byte up- or downloaded.
    port_forwards: the protocols in which a port forwarded to such a client works. ipv6: the way of IPv6 by the
    router itself. proxied: whether a connection works that the gateway's proxy engine takes. undecided: fields of the
    profile that are unknown and would change what is said here; then the worst case is told.
    """

    kind: Kind
    bridge_filter: bool
    path: Path
    code: str
    says: str
    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    port_up: int = 0
    port_down: int = 0
    port_forwards: tuple[Protocol, ...] = ()
    ipv6: Path = "unknown"
    proxied: bool = False
    undecided: tuple[str, ...] = ()


class Device(Struct, frozen=True):
    """A client that a running gateway has seen. verdict: of its bridge probe. why: as the gateway says."""

    ip: str
    mac: str
    name: str = ""
    verdict: Verdict = "unknown"
    why: str = ""


class DevicePrediction(Struct, frozen=True):
    """What a way leads to for a device that was really probed."""

    ip: str
    name: str
    path: Path
    why: str


class Point(Struct, frozen=True):
    """A reason for a way's place: more points, further down."""

    points: int
    why: str


class Way(Struct, frozen=True, kw_only=True):
    """One way to deploy.

    possible: with this router; grounds: why so; decided_by: the one unknown field that decides it, if there is one.
    nat, dhcp: what goes into our configuration; nat is None where our box is not in it. steps: what to do, first
    things first. back: what to do when the gateway dies. breaks: what will not work as before. points: why it stands
    where it does.
    """

    id: WayId
    title: str
    possible: Possibility
    grounds: tuple[Ground, ...]
    decided_by: str = ""
    nat: Masquerade | None
    dhcp: DhcpMode = "off"
    steps: tuple[str, ...]
    back: tuple[str, ...]
    breaks: tuple[str, ...]
    predictions: tuple[Prediction, ...] = ()
    devices: tuple[DevicePrediction, ...] = ()
    points: tuple[Point, ...] = ()

    @property
    def cost(self) -> int:
        return sum(p.points for p in self.points)


class Plan(Struct, frozen=True, kw_only=True):
    """conclusion: sentences, the most important first. ways: ranked, best first. nat_choices: the best way once for
    each setting of `nat.masquerade`. known, questions: what is known of the router, and what is not. ask_first: fields
    whose answer could put another way first, the best chance first. devices: what a running gateway's probes found.
    command: the command line that makes this plan.
    """

    command: str
    title: str
    wish: Wish
    conclusion: tuple[str, ...]
    ways: tuple[Way, ...]
    nat_choices: tuple[Way, ...]
    known: tuple[Ground, ...]
    questions: tuple[Question, ...]
    ask_first: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    schema: int = SCHEMA

    @property
    def best(self) -> Way:
        return self.ways[0]

    def way(self, name: str) -> Way | None:
        return next((w for w in (*self.ways, *self.nat_choices) if w.id == name), None)
