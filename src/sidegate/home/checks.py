"""What must hold between the fields of a home or a router profile; paths are relative to the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from sidegate.home.data import (
    CERTIFIED_SERVICES,
    Address,
    Attached,
    Box,
    Client,
    Expectation,
    Gateway,
    Home,
    Known,
    Node,
    Outcome,
    RouterProfile,
    Server,
)
from sidegate.problems import Problem

_DECIMAL = re.compile("[0-9]{1,5}")


def check_router(profile: RouterProfile) -> list[Problem]:
    """A value needs its evidence and its source."""
    problems = []
    for field in msgspec.structs.fields(profile):
        known = getattr(profile, field.name)
        if isinstance(known, Known) and known.value is not None and not (known.evidence and known.source):
            problems.append(Problem(field.name, "a value without evidence and source", "add both, or drop the value"))
    return problems


def check_home(home: Home) -> list[Problem]:
    """What must hold between the fields of a home; paths relative to the file."""
    return [problem for check in _CHECKS for problem in check(home)]


def _hosts(home: Home) -> Iterator[tuple[str, str]]:
    """What has addresses, each with the path of its name in the file."""
    yield "router.name", home.router.name
    if home.gateway:
        yield "gateway.name", home.gateway.name
    for i, server in enumerate(home.internet.server):
        yield f"internet.server[{i}].name", server.name
    for i, client in enumerate(home.client):
        yield f"client[{i}].name", client.name


def _attached(home: Home) -> Iterator[tuple[str, Attached]]:
    for i, node in enumerate(home.node):
        yield f"node[{i}]", node
    if home.gateway:
        yield "gateway", home.gateway
    for i, client in enumerate(home.client):
        yield f"client[{i}]", client


def _boxes(home: Home) -> Iterator[tuple[str, Box]]:
    yield "router", home.router
    for i, node in enumerate(home.node):
        yield f"node[{i}]", node


def _check_names(home: Home) -> Iterator[Problem]:
    seen: dict[str, str] = {"internet": "a reserved name", "modem": "a reserved name"}
    for path, name in (*_hosts(home), *((f"node[{i}].name", node.name) for i, node in enumerate(home.node))):
        if name in seen:
            yield Problem(path, f'the name "{name}" is taken ({seen[name]})', "give each node a name of its own")
        seen.setdefault(name, path)


def _check_radios(home: Home) -> Iterator[Problem]:
    for path, box in _boxes(home):
        for i, radio in enumerate(box.radios):
            if radio in box.radios[:i]:
                yield Problem(f"{path}.radios[{i}]", f'"{radio}" is there twice', "give each radio a name of its own")


def _check_places(home: Home) -> Iterator[Problem]:
    boxes = {box.name: box for box in home.boxes}
    for path, it in _attached(home):
        box = boxes.get(it.at)
        if box is None:
            yield Problem(f"{path}.at", f'no box "{it.at}"', f"boxes here: {', '.join(boxes)}")
        elif it.by == "wire" and it.radio is not None:
            yield Problem(f"{path}.radio", "a wired device has no radio", 'remove it, or set by = "wifi"')
        elif it.by == "wifi" and not box.radios:
            yield Problem(f"{path}.by", f'"{it.at}" has no radio', 'set by = "wire", or give the box a radio')
        elif it.radio is not None and it.radio not in box.radios:
            yield Problem(f"{path}.radio", f'"{it.at}" has no radio "{it.radio}"', f"radios: {', '.join(box.radios)}")


def _check_rings(home: Home) -> Iterator[Problem]:
    up = {node.name: node.at for node in home.node}
    for i, node in enumerate(home.node):
        seen, at = {node.name}, node.at
        while at in up and at not in seen:
            seen.add(at)
            at = up[at]
        if at in up:
            yield Problem(f"node[{i}].at", "a ring of nodes: it never comes to the router", 'set at = "router"')


def _check_cables(home: Home) -> Iterator[Problem]:
    cables = Counter(it.at for it in home.attached if it.by == "wire")
    cables.update(node.name for node in home.node if node.by == "wire")
    for path, box in _boxes(home):
        count = cables[box.name]
        if count > box.ports:
            yield Problem(f"{path}.ports", f'{count} cables in {box.ports} ports of "{box.name}"', "raise ports")


def _addresses(home: Home) -> Iterator[tuple[str, Address]]:
    """Every address with its path in the file; the router's first, so that it is never the one to be blamed."""
    router, modem = home.router, home.modem
    own = {"lan": router.lan, "wan": router.wan, "lan6": router.lan6, "wan6": router.wan6}
    yield from ((f"router.{key}", interface.ip) for key, interface in own.items() if interface is not None)
    if modem:
        yield from (("modem.lan", modem.lan.ip), ("modem.wan", modem.wan.ip))
    yield from _host_addresses(home)
    for i, server in enumerate(home.internet.server):
        yield from _both(f"internet.server[{i}]", server)
    if home.internet.isp:
        yield "internet.isp.resolver", home.internet.isp.resolver


def _host_addresses(home: Home) -> Iterator[tuple[str, Address]]:
    for path, it in _attached(home):
        if not isinstance(it, Node):
            yield from _both(path, it)


def _both(path: str, host: Server | Gateway | Client) -> Iterator[tuple[str, Address]]:
    yield f"{path}.v4", host.v4
    if host.v6 is not None:
        yield f"{path}.v6", host.v6


def _check_addresses(home: Home) -> Iterator[Problem]:
    seen: dict[Address, str] = {}
    for path, address in _addresses(home):
        if address in seen:
            yield Problem(path, f"{address} is taken ({seen[address]})", "give each node an address of its own")
        seen.setdefault(address, path)


def _check_lan_addresses(home: Home) -> Iterator[Problem]:
    for path, address in _host_addresses(home):
        lan = home.router.lan if address.version == 4 else home.router.lan6
        if lan is None:
            yield Problem(path, "the router has no router.lan6", "give the router lan6, or remove v6")
        elif address not in lan.network:
            yield Problem(path, f"{address} is outside the LAN {lan.network}")
        elif address in (lan.network.network_address, lan.network.broadcast_address):
            yield Problem(path, f"{address} is the LAN's own or its broadcast address", "take another one")


def _check_servers(home: Home) -> Iterator[Problem]:
    lans = [lan.network for lan in (home.router.lan, home.router.lan6) if lan is not None]
    for i, server in enumerate(home.internet.server):
        for path, address in _both(f"internet.server[{i}]", server):
            yield from (Problem(path, f"{address} is inside the LAN {lan}") for lan in lans if address in lan)


def _check_certificates(home: Home) -> Iterator[Problem]:
    for i, server in enumerate(home.internet.server):
        certified = [service for service in server.serves if service in CERTIFIED_SERVICES]
        if certified and server.domain is None:
            what = f"{certified[0]} shows a certificate, and that needs a name"
            yield Problem(f"internet.server[{i}].domain", what, f'set domain, as in "{server.name}.example"')


def _check_domains(home: Home) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for i, server in enumerate(home.internet.server):
        path, domain = f"internet.server[{i}].domain", server.domain
        if domain is not None and domain in seen:
            yield Problem(path, f"{domain} is taken ({seen[domain]})", "give each server a name of its own")
        if domain is not None:
            seen.setdefault(domain, path)


def _check_uplink(home: Home) -> Iterator[Problem]:
    router, modem = home.router, home.modem
    if router.wan.network.overlaps(router.lan.network):
        yield Problem("router.wan", f"{router.wan.network} overlaps the LAN {router.lan.network}", "change one of them")
    if (router.lan6 is None) != (router.wan6 is None):
        yield Problem("router", "lan6 and wan6 go together: give both or none")
    if modem and router.wan.network != modem.lan.network:
        yield Problem("router.wan", f"{router.wan} is not on the modem's LAN {modem.lan.network}")
    if modem and router.wan6:
        yield Problem("router.wan6", "IPv6 behind a modem with router function is not modelled", "remove wan6, lan6")


def _check_dhcp(home: Home) -> Iterator[Problem]:
    dhcp, lan = home.router.dhcp, home.router.lan.network
    if dhcp.off and (dhcp.gateway or dhcp.dns):
        yield Problem("router.dhcp", "DHCP that is off hands nothing out", "remove off, or remove gateway and dns")
    if dhcp.gateway is not None and dhcp.gateway not in lan:
        yield Problem("router.dhcp.gateway", f"{dhcp.gateway} is outside the LAN {lan}")


def _check_port_forwards(home: Home) -> Iterator[Problem]:
    clients = ", ".join(client.name for client in home.client)
    seen: dict[tuple[str, int], str] = {}
    for i, forward in enumerate(home.router.port_forward):
        path, key = f"router.port_forward[{i}]", (forward.protocol, forward.port)
        if forward.to not in {client.name for client in home.client}:
            yield Problem(f"{path}.to", f'no client "{forward.to}"', f"clients here: {clients}")
        if key in seen:
            yield Problem(f"{path}.port", f"{forward.protocol} port {forward.port} is taken ({seen[key]})")
        seen.setdefault(key, path)


def _check_gateways(home: Home) -> Iterator[Problem]:
    for i, client in enumerate(home.client):
        if client.gateway == "gateway" and home.gateway is None:
            yield Problem(f"client[{i}].gateway", "this home has no gateway", 'set gateway = "router"')


def _check_expectations(home: Home) -> Iterator[Problem]:
    for i, expectation in enumerate(home.expect):
        yield from _check_target(home, f"expect[{i}]", expectation)
        yield from _check_runs(home, f"expect[{i}]", expectation)
        for family in ("v4", "v6"):
            yield from _check_askers(home, f"expect[{i}].{family}", expectation, family)


def _check_target(home: Home, path: str, expectation: Expectation) -> Iterator[Problem]:
    target, colon, port = expectation.to.partition(":")
    if target not in {name for _, name in _hosts(home)}:
        yield Problem(f"{path}.to", f'no host "{target}"', "a server, a client, the gateway or the router")
    if colon and not (_DECIMAL.fullmatch(port) and 1 <= int(port) <= 65535):
        yield Problem(f"{path}.to", f'no port "{port}"', "write name:port with a port from 1 to 65535")


def _check_runs(home: Home, path: str, expectation: Expectation) -> Iterator[Problem]:
    if expectation.gateway != "nothing" and not (home.gateway and home.gateway.plugged):
        what = "the gateway is not plugged in" if home.gateway else "this home has no gateway"
        yield Problem(f"{path}.gateway", what, 'set gateway = "nothing"')


def _check_askers(home: Home, path: str, expectation: Expectation, family: str) -> Iterator[Problem]:
    known = {name for _, name in _hosts(home)}
    v4_only = {host.name for host in (*home.lan_hosts, *home.internet.server) if host.v6 is None}
    outcomes: dict[str, Outcome] = getattr(expectation, family)
    for name, outcome in outcomes.items():
        if name not in known:
            yield Problem(f"{path}.{name}", f'no host "{name}"', "a server, a client, the gateway or the router")
        if name == expectation.to.partition(":")[0]:
            yield Problem(f"{path}.{name}", f'"{name}" would ask itself')
        if family == "v6" and name in v4_only and outcome != "dead":
            yield Problem(f"{path}.{name}", f'"{name}" has no v6 address', "give it one, or remove the expectation")
        if expectation.gateway == "nothing" and outcome == "masqueraded":
            yield Problem(f"{path}.{name}", "a gateway that runs nothing masquerades nobody")


_CHECKS: tuple[Callable[[Home], Iterator[Problem]], ...] = (
    _check_names,
    _check_radios,
    _check_places,
    _check_rings,
    _check_cables,
    _check_addresses,
    _check_lan_addresses,
    _check_servers,
    _check_certificates,
    _check_domains,
    _check_uplink,
    _check_dhcp,
    _check_port_forwards,
    _check_gateways,
    _check_expectations,
)
