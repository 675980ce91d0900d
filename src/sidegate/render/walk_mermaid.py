"""A walk as a Mermaid graph like the article's.

The way out of the home tells the source address, the way in the destination: what NAT may change. A leg where another
one was changed tells that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sidegate.home import Client, Gateway, Home, Server
from sidegate.lab.blueprint import MODEM
from sidegate.render.walk_legs import Ending, Journey, Leg, changed, circled, end_of
from sidegate.walk.data import Packet

_RESERVED = {"end", "graph", "subgraph", "flowchart", "style", "class", "click", "default", "call", "href", "direction"}


def walk_mermaid(it: Journey, home: Home, ports: bool = False) -> str:
    """The first request and its answer. ports: with port numbers.

    Bold: what a device changed. `!!!`: a private address leaves for the internet. `???`: nobody knows the way to it.
    """
    parts = first_exchange(it)
    edges = list(_edges(parts, home, ports))
    met = _met(parts, home)
    lines = ["graph TD", *(f"    {_node(home, name)}" for name in met), ""]
    missing = _unmet_uplink(parts, home, met)
    return "\n".join([*lines, *(f"    {edge}" for edge in (*missing, *edges))]) + "\n"


def first_exchange(it: Journey) -> list[Leg | Ending]:
    """Up to where the first answer arrived at who asked, or to the end."""
    if not it.legs:
        return list(it.parts)
    asker, parts = it.legs[0].start, []
    for part in it.parts:
        if isinstance(part, Leg) and part.packet.kind == "redirect":
            continue
        parts.append(part)
        if isinstance(part, Ending) and part.device == asker:
            break
    return parts


def _met(parts: list[Leg | Ending], home: Home) -> list[str]:
    """The devices, from the internet down to the clients; the far end of the internet always stands in the picture."""
    seen = {name for part in parts if isinstance(part, Leg) for name in (part.start, part.end)}
    target = {part.packet.dst for part in parts if part.packet is not None}
    servers = [s.name for s in home.internet.server if s.name in seen or {str(s.v4), str(s.v6)} & target]
    order = [*servers, MODEM, *([home.gateway.name] if home.gateway else []), home.router.name]
    order += [node.name for node in home.node] + [client.name for client in home.client]
    return [name for name in order if name in seen or name in servers]


def _unmet_uplink(parts: list[Leg | Ending], home: Home, met: list[str]) -> Iterator[str]:
    """A server that nothing came to is joined by a dotted line, as in the article."""
    joined = {name for part in parts if isinstance(part, Leg) for name in (part.start, part.end)}
    uplink = MODEM if MODEM in met else home.router.name
    for server in home.internet.server:
        if server.name in met and server.name not in joined:
            yield f"{_id(server.name)} -.- {_id(uplink)}"


def _node(home: Home, name: str) -> str:
    router = home.router
    if name == router.name:
        wan = "Public" if not home.modem else "Private"
        return f"{_id(name)}{_box(name, f'{router.lan.ip} (Private Address)', f'{router.wan.ip} ({wan} Address)')}"
    if name == MODEM and home.modem:
        modem = home.modem
        return f"{_id(name)}{_box(name, f'{modem.lan.ip} (Private Address)', f'{modem.wan.ip} (Public Address)')}"
    for host in (*home.lan_hosts, *home.internet.server):
        if host.name == name:
            return _host(home, host)
    return f"{_id(name)}{_box(name)}"


def _host(home: Home, host: Client | Gateway | Server) -> str:
    if isinstance(host, Server):
        return f'{_id(host.name)}(("`{_lines(host.name, f"{host.v4} (Public Address)")}`"))'
    lines = [host.name, f"{host.v4} (Private Address)"]
    if isinstance(host, Gateway):
        return f"{_id(host.name)}{_box(*lines)}"
    if host.gateway == "gateway" and home.gateway:
        lines.append(f"Gateway: {home.gateway.v4}")
    return f'{_id(host.name)}("`{_lines(*lines)}`")'


def _box(*lines: str) -> str:
    return f'[["`{_lines(*lines)}`"]]'


def _lines(*lines: str) -> str:
    return "\n    ".join(lines)


def _edges(parts: list[Leg | Ending], home: Home, ports: bool) -> Iterator[str]:
    legs = [part for part in parts if isinstance(part, Leg)]
    public = {MODEM, *(s.name for s in home.internet.server)}
    for part in parts:
        if isinstance(part, Leg):
            outward = is_forth(part.packet, legs[0].packet) != (legs[0].start in public)
            alarm = " !!!" if outward and part.end in public and _is_private(home, part) else ""
            alarm = " ???" if part is legs[-1] and _is_stranger(home, part) else alarm
            yield f"{_id(part.start)} -->|{_label(part, outward, ports, alarm)}| {_id(part.end)}"
        elif part.begun and part.packet is not None and legs:
            uplink = MODEM if home.modem else home.router.name
            text = _value(part.packet, False, ports)
            yield f'{_id(part.device)} -->|"`{circled(part.after + 1)} daddr=**{text}** ???`"| {_id(uplink)}'


def _is_stranger(home: Home, leg: Leg) -> bool:
    """It comes to the router with the router's own public address."""
    return leg.end == home.router.name and leg.packet.src == str(home.router.wan.ip)


def is_forth(packet: Packet, request: Packet) -> bool:
    """Whether a packet goes where the request went: an answer has the request's kind of destination as its source."""
    if packet.protocol == "icmp" and packet.inner is None:
        return packet.kind == request.kind
    return packet.sport == request.sport or packet.dst == request.dst


def _is_private(home: Home, leg: Leg) -> bool:
    outside = home.modem.wan.ip if home.modem else home.router.wan.ip
    return leg.end != MODEM and ":" not in leg.packet.src and leg.packet.src != str(outside)


def _label(leg: Leg, outward: bool, ports: bool, alarm: str) -> str:
    new_source, new_destination = changed(leg)
    of_source = outward if new_source == new_destination else new_source
    name, value = "saddr" if of_source else "daddr", _value(leg.packet, of_source, ports)
    if new_source or new_destination or alarm:
        return f'"`{circled(leg.number)} {name}=**{value}**{alarm}`"'
    return f'"`{circled(leg.number)} {name}={value}`"' if ports else f"{circled(leg.number)} {name}={value}"


def _value(packet: Packet, of_source: bool, ports: bool) -> str:
    address, port = (packet.src, packet.sport) if of_source else (packet.dst, packet.dport)
    return end_of(address, port, packet.protocol) if ports else address


def _id(name: str) -> str:
    ident = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"n_{ident}" if ident in _RESERVED else ident
