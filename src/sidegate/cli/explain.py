"""`explain`: what becomes of one client's packets on the running gateway, and why."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any

import click

from sidegate.cli.output import json_option, print_json
from sidegate.gateway import lifecycle
from sidegate.gateway.places import places
from sidegate.problems import Exit, Problem, Problems
from sidegate.walk.data import Protocol

if TYPE_CHECKING:
    from sidegate.gateway.view import ClientView, StatusView
    from sidegate.home import Home
    from sidegate.walk.data import Walk
    from sidegate.walk.known import Tracked


@click.command()
@click.argument("client")
@click.argument("destination")
@click.option("--proto", type=click.Choice(["tcp", "udp", "icmp"]), default="tcp", show_default=True)
@click.option("--why", is_flag=True, help="Every decision, with where the kernel says so.")
@json_option
def explain(client: str, destination: str, proto: Protocol, why: bool, as_json: bool) -> int:
    """What becomes of CLIENT's packets to DESTINATION on this gateway, and why.

    CLIENT is an address, a MAC address or a configured name; DESTINATION a name or an IPv4 address. The walk is that of
    this very home as far as the gateway knows it. Exit code 1: the packet would not arrive, or nobody can know.
    """
    status = lifecycle.status(places())
    if not status.daemon:
        raise Problems(Problem("sidegate", "no daemon is running, so nobody knows", "sidegate up"))
    found = _client(client)
    address, dns = _address(destination)
    own = next(a for a in map(IPv4Interface, status.address.split(", ")) if IPv4Address(status.router) in a.network)
    told = _Told(found, address, dns, status, _tracked(found))
    if address in own.network:
        return _finish(told.in_lan(), None, as_json, why)
    home, walk = _walk(told, own, proto)
    return _finish(told.lines(), (home, walk) if home and walk else None, as_json, why)


class _Told:
    """What is said before the walk."""

    def __init__(
        self, client: ClientView, address: IPv4Address, dns: str, status: StatusView, tracked: Tracked
    ) -> None:
        self.client, self.address, self.dns, self.status, self.tracked = client, address, dns, status, tracked

    def _who(self) -> str:
        return f"client: {self.client.ip} ({', '.join(filter(None, (self.client.mac, self.client.name)))})"

    def in_lan(self) -> list[str]:
        return [self._who(), f"destination: {self.address}, on this LAN: the devices talk past the gateway"]

    def lines(self) -> list[str]:
        lines = [
            self._who(),
            f"destination: {self.address}{self.dns}",
            "rule: none; this version of Sidegate sends everything straight on",
            f"return path: {self.client.path}: {self.client.why}",
        ]
        if self.tracked == "unknown":
            lines.append(
                "the walk: unknown; it hangs on whether the router tracks this client's frames: no verdict yet"
            )
        else:
            lines.append("the walk, with 192.0.2.2 for the router's public address, which this box cannot know:")
        return lines


def _client(word: str) -> ClientView:
    """The most recent of those that match. Raises Problems."""
    clients = lifecycle.clients(places(), None, evidence=True).clients
    found = [c for c in clients if word.lower() in (str(c.ip), c.mac, c.name.lower())]
    if not found:
        known = ", ".join(str(c.ip) for c in clients[:10]) or "nobody yet"
        raise Problems(Problem(word, "no such client has been seen", f"seen: {known}; see: sidegate clients"))
    return min(found, key=lambda c: c.last_sent_s if c.last_sent_s is not None else float("inf"))


def _tracked(client: ClientView) -> Tracked:
    return client.probe.verdict if client.probe else "unknown"


def _address(destination: str) -> tuple[IPv4Address, str]:
    """The address, and how this box came to it. Raises Problems."""
    try:
        return IPv4Address(destination), ""
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(destination, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Problems(Problem(destination, f"no IPv4 address: {why}", "give a name or an IPv4 address")) from None
    return IPv4Address(found[0][4][0]), f", as this box's own resolver answers for {destination}"


def _walk(told: _Told, own: IPv4Interface, proto: Protocol) -> tuple[Home | None, Walk | None]:
    from sidegate.home import RouterProfile
    from sidegate.walk.conversation import Player
    from sidegate.walk.known import CLIENT, DESTINATION, Known, known_home
    from sidegate.walk.network import Network
    from sidegate.walk.question import question
    from sidegate.walk.setting import Setting

    known = Known(own, IPv4Address(told.status.router), told.client.ip, told.address, told.tracked)
    home = known_home(known)
    if home is None:
        return None, None
    proved = (CLIENT,) if told.client.path == "direct" else ()
    network = Network(home, RouterProfile(title="unknown"), Setting("sidegate", proved))
    return home, Player(network, question(network, CLIENT, DESTINATION, proto)).walk()


def _finish(lines: list[str], walked: tuple[Home, Walk] | None, as_json: bool, why: bool) -> int:
    if as_json:
        from sidegate.render.walk_json import walk_json

        told: dict[str, Any] = {"schema": 1, "told": lines, "walk": walk_json(walked[1])["walk"] if walked else None}
        print_json(told)
    else:
        click.echo("\n".join(lines))
        if walked:
            click.echo("\n" + _text(*walked, why), nl=False)
    arrives = walked is None or walked[1].verdict.code == "delivered"
    is_known = not any(line.startswith("the walk: unknown") for line in lines)
    return int(Exit.FINE if arrives and is_known else Exit.FAULT)


def _text(home: Home, walk: Walk, why: bool) -> str:
    from sidegate.home import RouterProfile
    from sidegate.lab.blueprint import blueprint
    from sidegate.render.walk_legs import journey
    from sidegate.render.walk_text import walk_text

    return walk_text(journey(walk, home, blueprint(home, RouterProfile(title="unknown"))), why)
