"""Homes, settings and questions to try the laws on: the full matrix of what decides a walk, and random ones.

Pure; whoever calls gives the randomness (`random.Random`, or hypothesis's `randoms()`, which shrinks).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from random import Random
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from sidegate.home import (
    Assumed,
    Box,
    Client,
    Gateway,
    GatewayRuns,
    Home,
    Internet,
    Medium,
    Modem,
    Nat,
    Node,
    PortForward,
    Router,
    Server,
    check_home,
)
from sidegate.lab.blueprint import INTERNET
from sidegate.walk.conversation import Ask, Shape
from sidegate.walk.data import Protocol
from sidegate.walk.setting import Forwarded, Setting

ANSWER_PORT = 5000
"""Where the answering program of a question listens: nothing of the lab's own does."""
_PORT_FORWARDED = 6000
_FIRST_SPORT = 42000
_SERVER4, _SERVER6 = IPv4Address("1.2.3.4"), IPv6Address("2001:db8:cafe::4")
_BLOCKED = IPv4Address("203.0.113.66")
_PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "icmp")


class World(Struct, frozen=True):
    """A home in one setting, and what is asked there."""

    home: Home
    setting: Setting
    asks: tuple[Ask, ...]


# The matrix

_PLACES: tuple[tuple[str, str, Medium], ...] = (
    ("wired", "router", "wire"),
    ("wifi", "router", "wifi"),
    ("meshwired", "study", "wire"),
    ("meshwifi", "study", "wifi"),
)
_GATEWAY_PLACES: tuple[tuple[str, str, Medium], ...] = (
    ("chip", "router", "wire"),
    ("radio", "router", "wifi"),
    ("mesh", "study", "wire"),
)
Masquerade = Literal["none", "all", "proved"]
_RUNS: dict[Masquerade, GatewayRuns] = {"none": "forwarding", "all": "masquerade", "proved": "sidegate"}


def matrix() -> Iterator[World]:
    """Everything that issue and article name, minus what is meaningless.

    Homes: bridge filter × the gateway's place × the router's NAT × drop-invalid. Settings: masquerade × proxied, and
    with redirects sent, masquerade × accepted or not (a proxied packet is not forwarded: no redirect). Questions: each
    kind of client × ICMP, UDP, TCP new, TCP mid-stream twice (its boxes forgot it; nobody ever knew it), port forward.
    With redirects, one question for each client, since a kernel sends the same host no second one for a while.
    """
    nats: tuple[Nat, ...] = ("masquerade", "snat")
    for filtered, (place, at, by), nat, drops in itertools.product((0, 1), _GATEWAY_PLACES, nats, (0, 1)):
        home = _matrix_home(f"{'filter' if filtered else 'plain'}-{place}-{nat}-{drops}", filtered, at, by, nat, drops)
        yield from (World(home, setting, tuple(_matrix_asks(home))) for setting in _settings(home))
        yield from (World(home, setting, tuple(_redirect_asks(home))) for setting in _redirect_settings(home))


def _matrix_home(name: str, filtered: int, at: str, by: Medium, nat: Nat, drops: int) -> Home:
    """Three clients in each place, one for each protocol; the first of each has a port forward."""
    clients = tuple(
        Client(f"{place}-{protocol}", IPv4Address(f"192.168.1.{100 + 10 * i + j}"), at=where, by=medium)
        for i, (place, where, medium) in enumerate(_PLACES)
        for j, protocol in enumerate(_PROTOCOLS)
    )
    forwards = tuple(PortForward(_PORT_FORWARDED + i, c.name, ANSWER_PORT) for i, c in enumerate(clients[::3]))
    assume = Assumed("on" if filtered else "off", nat, "nft", bool(drops), False)
    router = Router(
        wan=IPv4Interface("123.100.101.102/24"),
        lan=IPv4Interface("192.168.1.1/24"),
        assume=assume,
        ports=8,
        port_forward=forwards,
    )
    gateway = Gateway(IPv4Address("192.168.1.2"), at=at, by=by)
    internet = Internet((Server("server", _SERVER4),))
    return Home(name, internet, router, "", None, (Node("study", "wifi", ports=8),), gateway, clients, (), name)


def _settings(home: Home) -> Iterator[Setting]:
    for masquerade, proxied in itertools.product(_RUNS, (False, True)):
        yield Setting(_RUNS[masquerade], _proved(home, masquerade), proxied)


def _redirect_settings(home: Home) -> Iterator[Setting]:
    for masquerade, accepted in itertools.product(_RUNS, (True, False)):
        yield Setting(_RUNS[masquerade], _proved(home, masquerade), False, True, accepted, instant=True)


def _proved(home: Home, masquerade: Masquerade) -> tuple[str, ...]:
    """Every other place, whether the proof is right or has become wrong: the walk must follow either."""
    wired = tuple(c.name for c in home.client if c.name.startswith(("wired", "meshwifi")))
    return wired if masquerade == "proved" else ()


def _matrix_asks(home: Home) -> Iterator[Ask]:
    sport = itertools.count(_FIRST_SPORT)
    for client in home.client[::3]:
        for protocol in _PROTOCOLS:
            yield _ask(client, protocol, next(sport))
        for shape in _MID_STREAM:
            yield _ask(client, "tcp", next(sport), shape)
    for forward in home.router.port_forward:
        yield Ask(INTERNET, str(_SERVER4), str(home.router.wan.ip), "tcp", forward.port, next(sport))


_MID_STREAM: tuple[Shape, ...] = ("forgotten", "stray")


def _redirect_asks(home: Home) -> Iterator[Ask]:
    sport = itertools.count(_FIRST_SPORT)
    for client in home.client:
        protocol: Protocol = client.name.rsplit("-", 1)[1]  # type: ignore[assignment]
        yield _ask(client, protocol, next(sport))


def _ask(client: Client, protocol: Protocol, sport: int, shape: Shape = "exchange") -> Ask:
    port = 0 if protocol == "icmp" else ANSWER_PORT
    return Ask(client.name, str(client.v4), str(_SERVER4), protocol, port, sport, shape)


# Random worlds


def random_world(random: Random, questions: int = 12) -> World:
    """Any home that the files allow, in any setting, and `questions` questions of anybody to anybody."""
    home = _random_home(random)
    setting = _random_setting(random, home)
    if setting.redirects_sent:
        return World(home, setting, tuple(_one_question_each(random, home)))
    asks = (_random_ask(random, home, _FIRST_SPORT + i) for i in range(questions))
    return World(home, setting, tuple(asks))


def _one_question_each(random: Random, home: Home) -> Iterator[Ask]:
    for i, client in enumerate(home.client):
        yield replace(_random_ask(random, home, _FIRST_SPORT + i, client), ttl=64)


def _random_home(random: Random) -> Home:
    v6 = random.random() < 0.5
    modem = None if v6 or random.random() < 0.7 else Modem(IPv4Interface("123.100.101.102/24"), _MODEM_LAN)
    router = _random_router(random, v6, modem)
    boxes: list[Box] = [router]
    for name in ("study", "attic")[: random.choice((0, 1, 1, 2))]:
        boxes.append(_random_node(random, name, boxes))
    gateway = _random_gateway(random, boxes) if random.random() < 0.95 else None
    clients = tuple(_random_client(random, i, boxes, v6) for i in range(random.randint(1, 4)))
    if gateway is None:
        clients = tuple(replace(client, gateway="router") for client in clients)
    forwards = tuple(_random_forward(random, i, clients) for i in range(random.choice((0, 1, 1, 2))))
    servers = (Server("server", _SERVER4, _SERVER6 if v6 else None), Server("blocked", _BLOCKED))
    nodes = tuple(box for box in boxes if isinstance(box, Node))
    home = Home(
        title="a random home",
        internet=Internet(servers, (_BLOCKED,) if random.random() < 0.5 else ()),
        router=replace(router, port_forward=forwards),
        modem=modem,
        node=nodes,
        gateway=gateway,
        client=clients,
        name="random",
    )
    problems = check_home(home)
    if problems:
        raise AssertionError("\n".join(map(str, problems)))
    return home


_MODEM_LAN = IPv4Interface("192.168.0.1/24")


def _random_router(random: Random, v6: bool, modem: Modem | None) -> Router:
    assume = Assumed(
        bridge_filter=random.choice(("on", "on", "off")),
        nat=random.choice(("masquerade", "masquerade", "snat", "none")),
        firewall=random.choice(("nft", "iptables-nft", "iptables-legacy")),
        drop_invalid=random.random() < 0.4,
        dns_hijack=random.random() < 0.3,
    )
    return Router(
        wan=IPv4Interface("192.168.0.2/24" if modem else "123.100.101.102/24"),
        lan=IPv4Interface("192.168.1.1/24"),
        assume=assume,
        wan6=IPv6Interface("2001:db8:1::2/64") if v6 else None,
        lan6=IPv6Interface("2001:db8:1:1::1/64") if v6 else None,
        ports=16,
        switch_chip=random.random() < 0.8,
        radios=("radio0", "radio1"),
    )


def _random_node(random: Random, name: str, boxes: list[Box]) -> Node:
    at = random.choice(boxes)
    filters, chip = random.random() < 0.3, random.random() < 0.8
    return Node(name, _medium(random), at.name, None, None, 16, chip, ("radio0",), filters)


def _medium(random: Random) -> Medium:
    return random.choice(("wire", "wifi"))


def _random_place(random: Random, boxes: list[Box]) -> tuple[str, Medium, str | None]:
    box, medium = random.choice(boxes), _medium(random)
    return box.name, medium, random.choice(box.radios) if medium == "wifi" else None


def _random_gateway(random: Random, boxes: list[Box]) -> Gateway:
    at, by, radio = _random_place(random, boxes)
    return Gateway(IPv4Address("192.168.1.2"), at=at, by=by, radio=radio, plugged=random.random() < 0.97)


def _random_client(random: Random, number: int, boxes: list[Box], v6: bool) -> Client:
    at, by, radio = _random_place(random, boxes)
    return Client(
        f"client{number}",
        IPv4Address(f"192.168.1.{100 + number}"),
        IPv6Address(f"2001:db8:1:1::{100 + number}") if v6 else None,
        at,
        by,
        radio,
        gateway=random.choice(("gateway", "gateway", "gateway", "gateway", "router", "none")),
    )


def _random_forward(random: Random, number: int, clients: tuple[Client, ...]) -> PortForward:
    protocol: Literal["tcp", "udp"] = random.choice(("tcp", "udp"))
    return PortForward(_PORT_FORWARDED + number, random.choice(clients).name, ANSWER_PORT, protocol)


def _random_setting(random: Random, home: Home) -> Setting:
    if home.gateway is None or not home.gateway.plugged:
        return Setting("nothing")
    runs: GatewayRuns = random.choice(("forwarding", "forwarding", "masquerade", "sidegate", "sidegate", "nothing"))
    proved = tuple(c.name for c in home.client if runs == "sidegate" and random.random() < 0.5)
    proxied = runs != "nothing" and random.random() < 0.25
    sent = runs != "nothing" and not proxied and random.random() < 0.2
    strict = tuple(name for name in (home.router.name, home.gateway.name) if random.random() < 0.1)
    forwards = home.router.port_forward if runs == "sidegate" else ()
    forwarded = tuple(Forwarded(f.to, f.protocol, f.to_port) for f in forwards if random.random() < 0.5)
    return Setting(runs, proved, proxied, sent, random.random() < 0.7, strict, instant=True, forwarded=forwarded)


def _random_ask(random: Random, home: Home, sport: int, client: Client | None = None) -> Ask:
    family = 6 if home.router.lan6 and random.random() < 0.15 else 4
    asker, source = (client.name, client.v6 if family == 6 else client.v4) if client else _asker(random, home, family)
    protocol: Protocol = random.choice(("tcp", "tcp", "udp", "icmp"))
    at, port = _target(random, home, asker, family)
    if at == source or (asker == home.router.name and at == home.router.wan.ip):
        at = _SERVER6 if family == 6 else _SERVER4
    shape = random.choice(_SHAPES[protocol])
    if shape == "stray" and family == 6:
        shape = "exchange"
    ttl = random.choice((64, 64, 64, 64, 64, 64, 1, 2, 3))
    return Ask(asker, str(source), str(at), protocol, 0 if protocol == "icmp" else port, sport, shape, ttl)


_SHAPES: dict[Protocol, tuple[Shape, ...]] = {
    "tcp": ("exchange", "exchange", "forgotten", "stray", "closed"),
    "udp": ("exchange", "exchange", "forgotten", "closed"),
    "icmp": ("exchange", "forgotten"),
}


def _asker(random: Random, home: Home, family: int) -> tuple[str, object]:
    """Mostly a client; sometimes a server (a port forward), the gateway or the router."""
    client = random.choice(home.client)
    who = random.random()
    if family == 6:
        return (INTERNET, _SERVER6) if who < 0.2 else (client.name, client.v6)
    if who < 0.2:
        return INTERNET, _SERVER4
    if who < 0.26 and home.gateway and home.gateway.plugged:
        return home.gateway.name, home.gateway.v4
    if who < 0.32:
        return home.router.name, home.router.lan.ip
    return client.name, client.v4


def _target(random: Random, home: Home, asker: str, family: int) -> tuple[object, int]:
    client, router = random.choice(home.client), home.router
    if family == 6:
        return (client.v6 if asker == INTERNET or random.random() < 0.2 else _SERVER6), ANSWER_PORT
    if asker == INTERNET:
        wan = home.modem.wan.ip if home.modem else router.wan.ip
        return wan, random.choice((*(f.port for f in router.port_forward), ANSWER_PORT))
    others = [client.v4, router.lan.ip, router.wan.ip, _BLOCKED, IPv4Address("192.168.1.99")]
    others += [home.gateway.v4] if home.gateway else []
    others += [home.modem.lan.ip] if home.modem else []
    return (_SERVER4 if random.random() < 0.65 else random.choice(others)), ANSWER_PORT
