"""What the walk says of every kind of client, for one way to deploy.

A model home has one client of each kind: by cable and by Wi-Fi, on the router and on a mesh node, and the gateway by
cable on the router. Where the router's bridge filter is unknown both values are walked. Its kind of NAT and whether
it drops INVALID packets are walked both ways too where they are unknown; only if that changes the outcome is it said.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from itertools import product
from typing import Literal

from msgspec import Struct, structs

from sidegate.gateway.config import Masquerade
from sidegate.home import (
    Assumed,
    Behaviour,
    BridgeFilter,
    Client,
    Dhcp,
    Gateway,
    GatewayRuns,
    Home,
    Internet,
    Nat,
    Node,
    PortForward,
    Router,
    RouterProfile,
    Server,
    behaviour,
)
from sidegate.lab.blueprint import INTERNET
from sidegate.plan.data import KINDS, Delivery, Kind, Path, Prediction, Protocol
from sidegate.plan.questions import value_of
from sidegate.plan.ways import Recipe
from sidegate.walk.conversation import Ask, Player
from sidegate.walk.data import Hop, Walk
from sidegate.walk.network import Network
from sidegate.walk.question import proved_clients
from sidegate.walk.setting import Setting

_LAN, _LAN6 = "192.168.1.", "2001:db8:1:1::"
_GATEWAY, _SERVER, _SERVER6 = IPv4Address("192.168.1.2"), IPv4Address("1.2.3.4"), IPv6Address("2001:db8:cafe::4")
_WAN = IPv4Interface("123.100.101.102/24")
_OTHER_DNS = IPv4Address("1.1.1.1")
_DHCP: dict[Delivery, Dhcp] = {
    "router-dhcp": Dhcp(gateway=_GATEWAY),
    "own-dhcp": Dhcp(off=True),
    "coexist": Dhcp(),
    "static": Dhcp(),
}
_ANOTHER = RouterProfile("another router")
_PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp")
_SERVICE: dict[Protocol, int] = {"tcp": 80, "udp": 7}
"""What a host of the model serves: HTTP and UDP echo."""
_FORWARDED: dict[Kind, int] = {kind: 8000 + i for i, kind in enumerate(KINDS)}
"""The external port that is forwarded to the client of each kind."""


class Case(Struct, frozen=True):
    """What is assumed of a router; None: as its profile says."""

    bridge_filter: BridgeFilter | None
    nat: Nat | None
    drop_invalid: bool | None


def predict(recipe: Recipe, profile: RouterProfile) -> tuple[Prediction, ...]:
    """One prediction for each kind of client, twice where the bridge filter is unknown."""
    profile = _ANOTHER if recipe.id == "other-router" else profile
    found: list[Prediction] = []
    for bridge_filter in _filters(recipe, profile):
        cases = [_case(recipe, profile, case) for case in _cases(bridge_filter, profile)]
        found += [_together([case[i] for case in cases], profile) for i in range(len(KINDS))]
    return tuple(found)


def _filters(recipe: Recipe, profile: RouterProfile) -> tuple[BridgeFilter | None, ...]:
    if recipe.filter_off:
        return ("off",)
    return ("on", "off") if value_of(profile.bridge_filter) is None else (None,)


def _cases(bridge_filter: BridgeFilter | None, profile: RouterProfile) -> Iterator[Case]:
    nats: tuple[Nat | None, ...] = ("masquerade", "snat") if value_of(profile.nat) is None else (None,)
    drops = (False, True) if value_of(profile.drop_invalid) is None else (None,)
    for nat, drop_invalid in product(nats, drops):
        yield Case(bridge_filter, nat, drop_invalid)


def _together(found: list[Prediction], profile: RouterProfile) -> Prediction:
    """One prediction for several cases: the worst one; and what is unknown, if they differ."""
    worst = max(found, key=_badness)
    if all(_badness(p) == _badness(worst) for p in found):
        return worst
    unknown = tuple(field for field in ("nat", "drop_invalid") if value_of(getattr(profile, field)) is None)
    return structs.replace(worst, undecided=unknown)


def _badness(prediction: Prediction) -> tuple[int, int]:
    return ("direct", "masqueraded", "unknown", "none").index(prediction.path), -len(prediction.port_forwards)


def _case(recipe: Recipe, profile: RouterProfile, case: Case) -> tuple[Prediction, ...]:
    assume = Assumed(bridge_filter=case.bridge_filter, nat=case.nat, drop_invalid=case.drop_invalid)
    dhcp = Dhcp(dns=_OTHER_DNS) if recipe.dns_elsewhere else _DHCP[recipe.delivery or "static"]
    home = model_home(recipe.delivery is not None, assume, dhcp)
    return _walked(recipe.delivery is not None, recipe.nat, behaviour(home, profile))


@functools.lru_cache(maxsize=256)
def _walked(by_gateway: bool, nat: Masquerade | None, does: Behaviour) -> tuple[Prediction, ...]:
    """What is walked depends on no more than this, so that most ways share their walks."""
    home = model_home(by_gateway, _assumed(does), Dhcp())
    setting = _setting(home, nat)
    network = Network(home, _ANOTHER, setting)
    engine = Network(home, _ANOTHER, structs.replace(setting, proxied=True)) if by_gateway else None
    return tuple(_prediction(home, network, engine, kind, does.bridge_filter) for kind in KINDS)


def _assumed(does: Behaviour) -> Assumed:
    return Assumed("on" if does.bridge_filter else "off", does.nat, does.firewall, does.drop_invalid, does.dns_hijack)


def model_home(by_gateway: bool, assume: Assumed, dhcp: Dhcp) -> Home:
    """The home that is walked. by_gateway: the clients' gateway is the box, not the router."""
    uses: Literal["gateway", "router"] = "gateway" if by_gateway else "router"
    return Home(
        title="model",
        name="model",
        internet=Internet((Server("server", _SERVER, _SERVER6),)),
        router=Router(
            wan=_WAN,
            lan=IPv4Interface(f"{_LAN}1/24"),
            wan6=IPv6Interface("2001:db8:1::2/64"),
            lan6=IPv6Interface(f"{_LAN6}1/64"),
            assume=assume,
            dhcp=dhcp,
            port_forward=tuple(
                PortForward(_FORWARDED[kind], kind, _SERVICE[proto], proto) for kind in KINDS for proto in _PROTOCOLS
            ),
        ),
        node=(Node("node", "wifi"),),
        gateway=Gateway(_GATEWAY, IPv6Address(f"{_LAN6}2")),
        client=tuple(_client(kind, number, uses) for number, kind in enumerate(KINDS, start=101)),
    )


def _client(kind: Kind, number: int, uses: Literal["gateway", "router"]) -> Client:
    return Client(
        name=kind,
        v4=IPv4Address(f"{_LAN}{number}"),
        v6=IPv6Address(f"{_LAN6}{number}"),
        at="node" if kind.startswith("mesh") else "router",
        by="wifi" if kind.endswith("wifi") else "wire",
        gateway=uses,
    )


def _setting(home: Home, nat: Masquerade | None) -> Setting:
    """What runs on the gateway; for `auto` proved are those whom the bridge probe would prove."""
    runs: dict[Masquerade | None, GatewayRuns] = {None: "nothing", "never": "forwarding"}
    if nat != "auto":
        return Setting(runs.get(nat, "sidegate"))
    return Setting("sidegate", proved_clients(home, _ANOTHER))


def _ask_internet(home: Home, network: Network, kind: Kind) -> Walk:
    return Player(network, Ask(kind, str(home.client_named(kind).v4), str(_SERVER))).walk()


def _ask_internet6(home: Home, network: Network, kind: Kind) -> Walk:
    return Player(network, Ask(kind, str(home.client_named(kind).v6), str(_SERVER6))).walk()


def _ask_forwarded(network: Network, kind: Kind, protocol: Protocol) -> Walk:
    ask = Ask(INTERNET, str(_SERVER), str(_WAN.ip), protocol, _FORWARDED[kind])
    return Player(network, ask).walk()


def _prediction(home: Home, network: Network, engine: Network | None, kind: Kind, filters: bool) -> Prediction:
    walk = _ask_internet(home, network, kind)
    gateway = home.gateway.name if home.gateway else ""
    forwards = tuple(p for p in _PROTOCOLS if _ask_forwarded(network, kind, p).verdict.code == "delivered")
    delivered = walk.verdict.code == "delivered"
    return Prediction(
        kind=kind,
        bridge_filter=filters,
        path=_path(walk),
        code=walk.verdict.code,
        says=walk.verdict.says,
        up=_forwarders(walk, "request"),
        down=_forwarders(walk, "reply"),
        port_up=_through_port(walk, "request", gateway) if delivered else 0,
        port_down=_through_port(walk, "reply", gateway) if delivered else 0,
        port_forwards=forwards,
        ipv6=_path(_ask_internet6(home, network, kind)),
        proxied=engine is not None and _ask_internet(home, engine, kind).verdict.return_path == "proxied",
    )


def _path(walk: Walk) -> Path:
    paths: dict[str, Path] = {"direct": "direct", "masqueraded": "masqueraded", "none": "none"}
    return paths.get(walk.verdict.return_path, "unknown")


def _data_hops(walk: Walk, title: str) -> list[Hop]:
    """Where the data of the step of this title came in; acknowledgements are not data."""
    number = next((i for i, step in enumerate(walk.steps) if step.title == title and step.arrived), None)
    arrivals = (hop for hop in walk.hops if hop.step == number and hop.enters is not None)
    return [hop for hop in arrivals if hop.before is not None and hop.before.kind == "PSH ACK"]


def _forwarders(walk: Walk, title: str) -> tuple[str, ...]:
    """Who routed it, in order."""
    hops = _data_hops(walk, title)
    return tuple(hop.node for hop in hops if hop.leaves and any(d.law == "route" for d in hop.decisions))


def _through_port(walk: Walk, title: str, gateway: str) -> int:
    """How often it went through the gateway's port, in or out."""
    return sum(1 + len(hop.leaves) for hop in _data_hops(walk, title) if hop.node == gateway)
