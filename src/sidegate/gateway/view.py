"""What is told to people and programs about the running gateway: plain data, with a version.

`clients_in_kernel` needs no daemon: counters and proofs are in the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from msgspec import Struct

from sidegate.gateway.box import programs
from sidegate.gateway.config import Config
from sidegate.gateway.config.fields import mac_of
from sidegate.gateway.desired import TABLE
from sidegate.gateway.ruleset.nft import Client, Element, parse_elements
from sidegate.probe.bridge import BridgeResult
from sidegate.probe.dhcp import Offer
from sidegate.probe.ra_message import Advert
from sidegate.problems import Problem, Problems

SCHEMA = 1


class LeaseView(Struct, frozen=True):
    """Whose lease a client holds: `not ours` is another server's, or an address set by hand.

    left_s: seconds, None for ever or unknown. name: what the client calls itself; a stranger's word.
    """

    holder: Literal["ours", "not ours"]
    left_s: int | None = None
    name: str = ""


class DhcpView(Struct, frozen=True, kw_only=True):
    """range, lease_s, pid: of our server, where one runs. others: other servers' offers; None: not looked yet."""

    mode: str
    range: str = ""
    lease_s: int | None = None
    pid: int | None = None
    leases: int = 0
    others: tuple[Offer, ...] | None = None


class Ipv6View(Struct, frozen=True):
    """pid: of what advertises this box, where that runs. routers: those that advertise themselves; None: not known yet.

    silent: DNS servers that they tell clients and that do not answer.
    """

    mode: str
    pid: int | None = None
    routers: tuple[Advert, ...] | None = None
    silent: tuple[IPv6Address, ...] = ()


class ClientView(Struct, frozen=True, kw_only=True):
    """One client.

    path: `direct` (the router answers it), or `masqueraded`. why: the reason. decided: whether a probe has spoken.
    since_s, last_sent_s: seconds ago. proof_left_s: seconds until its proof lapses.
    up_*, down_*: through this box to the internet and back, since it was first seen.
    probe: what the last probe sent and heard, where it was asked for. lease: None where this box hands out nothing.
    """

    ip: IPv4Address
    mac: str
    name: str = ""
    path: Literal["direct", "masqueraded"]
    why: str = ""
    decided: bool = False
    since_s: float | None = None
    last_sent_s: float | None = None
    proof_left_s: int | None = None
    up_packets: int = 0
    up_bytes: int = 0
    down_packets: int = 0
    down_bytes: int = 0
    probe: BridgeResult | None = None
    lease: LeaseView | None = None


def called(word: str, clients: Iterable[ClientView]) -> list[ClientView]:
    """Those of this address, MAC address or name; what a device calls itself counts where no other has the name."""
    known, wanted = list(clients), word.lower()
    found = [c for c in known if wanted in (str(c.ip), c.name.lower()) or c.mac == mac_of(word)]
    return found or [c for c in known if c.lease is not None and wanted == c.lease.name.lower()]


def none_called(word: str, clients: Iterable[ClientView]) -> Problem:
    """With whom there is instead."""
    known = ", ".join(str(c.ip) for c in clients) or "nobody yet"
    return Problem(word, "no such client has been seen", f"seen: {known}; see: sidegate clients")


class ClientsView(Struct, frozen=True):
    """daemon: whether a daemon told this; otherwise the kernel alone did, and reasons are not known."""

    clients: tuple[ClientView, ...]
    daemon: bool
    schema: int = SCHEMA


class EventView(Struct, frozen=True):
    """at: RFC 3339, local time."""

    at: str
    what: str


class ConfirmView(Struct, frozen=True):
    """A change that waits for `sidegate confirm`, with left_s seconds left; or, told, what became of one in vain."""

    left_s: float = 0.0
    told: str = ""


class HealthView(Struct, frozen=True):
    """One row of `gateway.health.table.TABLE`. since_s: seconds ago."""

    name: str
    state: Literal["unknown", "up", "down"]
    since_s: float
    why: str


class UpstreamView(Struct, frozen=True, kw_only=True):
    """One upstream. server: where it is. latency_ms: of a whole request through it; None while it is not known."""

    name: str
    kind: str
    server: str
    state: Literal["unknown", "up", "down"]
    since_s: float
    why: str
    latency_ms: float | None = None
    is_chosen: bool = False
    carries_udp: bool = True


class ProxyView(Struct, frozen=True, kw_only=True):
    """engine: `xray`, our own, or `tproxy`, another program. serves: whether it takes traffic now; pid: of our own.

    chosen: the upstream that is used; empty: none works. why: the reason. ending: engines of an earlier configuration
    that only end their connections.
    """

    engine: str
    serves: bool
    mode: str
    on_failure: str
    chosen: str
    why: str
    pid: int | None = None
    ending: int = 0
    upstreams: tuple[UpstreamView, ...] = ()


class SplitView(Struct, frozen=True, kw_only=True):
    """What goes where. rules: how many hold now. next_turn: when the clock turns one on or off; RFC 3339, or empty.

    proxy: None where nothing is proxied. resolves: whether this box answers names now; None: it is not to.
    proxied_names: whom names that are proxied are asked: the engine (`asked`), the servers of the others (`direct`), or
    nobody (`refused`). notes: what is worth knowing of lists, upstreams and rules, though no error.
    """

    rules: int
    default: str
    next_turn: str = ""
    proxy: ProxyView | None = None
    resolves: bool | None = None
    resolver_pid: int | None = None
    proxied_names: str = ""
    notes: tuple[str, ...] = ()


class StatusView(Struct, frozen=True, kw_only=True):
    """up: our table is in the kernel. config: the file in force, or empty.

    aside_left_s: how long the router stands in for this box at most; None: it does not. aside_why: the check that is
    down, where the daemon did it by itself.
    faults: what is wrong now, as sentences. hints: what somebody should know although nothing is wrong with this box.
    """

    up: bool
    daemon: bool
    pid: int | None = None
    since_s: float | None = None
    interface: str = ""
    address: str = ""
    router: str = ""
    masquerade: str = ""
    config: str = ""
    config_digest: str = ""
    clients: int = 0
    direct: int = 0
    undecided: int = 0
    confirm: ConfirmView | None = None
    aside_left_s: float | None = None
    aside_why: str = ""
    health: tuple[HealthView, ...] = ()
    dhcp: DhcpView | None = None
    ipv6: Ipv6View | None = None
    split: SplitView | None = None
    faults: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    events: tuple[EventView, ...] = ()
    schema: int = SCHEMA


def elements(name: str) -> tuple[Element, ...]:
    """The elements of one of our sets now; none if the set is not there. Raises Problems."""
    command = ("nft", "--json", "list", "set", "inet", TABLE, name)
    status, out, err = programs.attempt(*command)
    if status and "No such file or directory" in err:
        return ()
    try:
        if not status:
            return parse_elements(out)
        why = err.strip()
    except ValueError as error:
        why = str(error)
    raise Problems(Problem(" ".join(command), why))


def client_of(element: Element) -> Client:
    mac, ip = element.key
    return Client(mac, IPv4Address(ip))


def clients_in_kernel(config: Config) -> tuple[ClientView, ...]:
    """What the kernel alone knows. Raises Problems."""
    proofs = {client_of(e): e.expires_s for e in elements("direct4")}
    down = {e.key[0]: e for e in elements("replies4")}
    return tuple(_from_kernel(e, proofs, down, config) for e in elements("clients4"))


def _from_kernel(
    element: Element, proofs: dict[Client, int | None], down: dict[str, Element], config: Config
) -> ClientView:
    client = client_of(element)
    setting = config.masquerade_of(client.mac)
    is_direct = setting == "never" or (setting == "auto" and client in proofs)
    back = down.get(str(client.ip))
    return ClientView(
        ip=client.ip,
        mac=client.mac,
        name=config.name_of(client.mac),
        path="direct" if is_direct else "masqueraded",
        decided=setting != "auto" or client in proofs,
        proof_left_s=proofs.get(client),
        up_packets=element.packets or 0,
        up_bytes=element.bytes or 0,
        down_packets=(back and back.packets) or 0,
        down_bytes=(back and back.bytes) or 0,
    )
