"""What a person asks, by name -> an Ask; and which clients a probe would prove. Raises Problems."""

from __future__ import annotations

from ipaddress import ip_address

from msgspec import Struct
from msgspec.structs import replace

from sidegate.home import Home, RouterProfile
from sidegate.lab.blueprint import INTERNET, LAN_PORT
from sidegate.problems import Problem, Problems
from sidegate.walk.conversation import Ask, Player, ear_of
from sidegate.walk.data import Packet, Protocol
from sidegate.walk.engine import Engine
from sidegate.walk.network import Network
from sidegate.walk.setting import Setting

_USUAL_PORTS: dict[Protocol, int] = {"tcp": 80, "udp": 7, "icmp": 0}


class Host(Struct, frozen=True):
    """Somebody with a name: a machine of the blueprint, and addresses; empty where there is none.

    asked4: the IPv4 address that others ask it at, where it is not v4.
    """

    machine: str
    v4: str
    v6: str
    asked4: str = ""


def hosts(home: Home) -> dict[str, Host]:
    """Everybody in a home who can ask or be asked, by name."""
    router = home.router
    found = {router.name: Host(router.name, str(router.lan.ip), str(router.lan6.ip) if router.lan6 else "")}
    for host in home.lan_hosts:
        found[host.name] = Host(host.name, str(host.v4), str(host.v6 or ""))
    for server in home.internet.server:
        found[server.name] = Host(INTERNET, str(server.v4), str(server.v6 or ""))
    return found


def question(
    network: Network, asker: str, destination: str, protocol: Protocol = "tcp", family: int = 0, sport: int = 40000
) -> Ask:
    """destination: a name or an address, `:port` appended where it is not the usual one (IPv6: `[address]:port`). A
    server's domain name stands for the server, whatever an ISP says of it.

    family: 4, 6, or 0 for what the destination says. A server asks the router at its WAN address, as for a port
    forward. Nobody listens where the home says nothing of a service: the walk then shows the refusal.
    """
    home = network.home
    name, port = _split(destination, protocol)
    name = next((s.name for s in home.internet.server if s.domain and s.domain == name.lower().rstrip(".")), name)
    known = hosts(home)
    if asker not in known:
        raise Problems(Problem(home.name, f'nobody is called "{asker}"', f"here are: {', '.join(known)}"))
    who = known[asker]
    family = family or (6 if ":" in name else 4)
    at = _address(home, known, name, family, who.machine == INTERNET)
    source = who.v6 if family == 6 else who.v4
    if not source:
        raise Problems(Problem(home.name, f"{asker} has no IPv{family} address", "take the other family"))
    if at in (who.v4, who.v6):
        raise Problems(Problem(home.name, f"{asker} asks itself", "name another destination"))
    ask = Ask(who.machine, source, at, protocol, port, sport)
    return ask if protocol == "icmp" or _is_heard(network, ask) else replace(ask, shape="closed")


def _split(destination: str, protocol: Protocol) -> tuple[str, int]:
    name, port = destination, ""
    if destination.startswith("["):
        name, _, port = destination[1:].partition("]")
        port = port.removeprefix(":")
    elif destination.count(":") == 1:
        name, _, port = destination.partition(":")
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise Problems(Problem(destination, f'"{port}" is no port', "a port is a number from 1 to 65535"))
    if port and protocol == "icmp":
        raise Problems(Problem(destination, "ICMP knows no ports", "leave the port out"))
    return name, int(port) if port else _USUAL_PORTS[protocol]


def _address(home: Home, known: dict[str, Host], name: str, family: int, from_outside: bool) -> str:
    if name in known:
        if name == home.router.name and from_outside and family == 4:
            return str(home.modem.wan.ip if home.modem else home.router.wan.ip)
        address = known[name].v6 if family == 6 else known[name].v4
        if not address:
            raise Problems(Problem(home.name, f"{name} has no IPv{family} address", "take the other family"))
        return address
    try:
        address = str(ip_address(name))
    except ValueError:
        remedy = f"names here: {', '.join(known)}; or an address"
        raise Problems(Problem(name, "neither a name in this home nor an IP address", remedy)) from None
    if (":" in address) != (family == 6):
        raise Problems(Problem(name, f"not an IPv{family} address", "leave --family out, or name another destination"))
    return address


def check_reachable(network: Network, ask: Ask) -> None:
    """Raises Problems for an address on the internet that is nobody's in this home file: what is there is unknown."""
    address = ip_address(ask.at)
    on_lan = any(lan and address in lan.network for lan in (network.home.router.lan, network.home.router.lan6))
    if network.node_with(ask.at) is None and not on_lan:
        servers = ", ".join(str(s.v4) for s in network.home.internet.server)
        raise Problems(Problem(ask.at, "nobody in this home file has this address", f"servers here: {servers}"))


def _is_heard(network: Network, ask: Ask) -> bool:
    ear = ear_of(network, ask)
    return ear is not None and (ask.protocol, ear.address, ear.port) in network.nodes[ear.node].listens


def proved_clients(home: Home, profile: RouterProfile) -> tuple[str, ...]:
    """The clients whose direct return path the bridge probe would prove in this home: the probe itself, walked.

    For each: an echo of the gateway, poisoned by one whose frame goes to the client's MAC with TTL 1 (probe/bridge.py).
    """
    if home.gateway is None or not home.gateway.plugged:
        return ()
    network = Network(home, profile, Setting("forwarding"))
    target = next((str(s.v4) for s in home.internet.server if s.v4 not in home.internet.blocked), None)
    if target is None:
        return ()
    ask = Ask(home.gateway.name, str(home.gateway.v4), target, "icmp", 0, 1)
    if Player(network, ask).walk().verdict.code != "delivered":
        return ()
    return tuple(c.name for c in home.client if _survives(network, ask, c.name))


def _survives(network: Network, ask: Ask, client: str) -> bool:
    network.forget()
    port, mac = network.nodes[ask.asker].ports[LAN_PORT], network.nodes[client].mac_of(LAN_PORT)
    engine = Engine(network)
    engine.put(port, Packet(port.mac, mac, ask.source, ask.at, "icmp", ask.sport, 0, 1, "echo request"))
    engine.run()
    return Player(network, ask, remembers=True).walk().verdict.code == "delivered"
