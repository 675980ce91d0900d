"""`explain`: what becomes of one client's packets on the running gateway, and why."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from sidegate.cli.explain_split import ROUND_US, Target, ipv6_line, is_walked, look_up, split_lines, without_walk
from sidegate.cli.output import json_option, print_json
from sidegate.gateway import lifecycle
from sidegate.gateway.box.places import places
from sidegate.gateway.view import called, none_called
from sidegate.problems import Exit, Problem, Problems
from sidegate.walk.data import Protocol

if TYPE_CHECKING:
    from sidegate.gateway.split.explaining import ExplainView
    from sidegate.gateway.view import ClientView, StatusView
    from sidegate.home import Home
    from sidegate.walk.data import Walk
    from sidegate.walk.known import Tracked


@click.command()
@click.argument("client")
@click.argument("destination")
@click.option("--proto", type=click.Choice(["tcp", "udp", "icmp"]), default="tcp", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=443, show_default=True, help="Of the destination.")
@click.option("--why", is_flag=True, help="Every decision, with where the kernel says so.")
@json_option
def explain(client: str, destination: str, proto: Protocol, port: int, why: bool, as_json: bool) -> int:
    """What becomes of CLIENT's packets to DESTINATION on this gateway, and why.

    CLIENT is an address, a MAC address or a name, as `sidegate clients` shows them; DESTINATION a name or an
    address. A name is asked for as the client would ask this box, and its address is then known to the kernel as after
    the client's own question.
    What goes straight is walked through this very home, as far as the gateway knows it. Exit code 1: the packet would
    not arrive, or nobody can know.

    \b
    sidegate explain 192.168.1.126 example.org
    sidegate explain tv 192.0.2.1 --proto udp --port 443
    """
    status = lifecycle.status(places())
    if not status.daemon:
        raise Problems(Problem("sidegate", "no daemon is running, so nobody knows", "sidegate up"))
    found = _client(client)
    mode = status.ipv6.mode if status.ipv6 else "off"
    own = next(a for a in map(IPv4Interface, status.address.split(", ")) if IPv4Address(status.router) in a.network)
    target = look_up(destination, own.ip)
    if target.address in own.network:
        return _finish(
            _who(found, target, _THIS_BOX if target.address == own.ip else _PAST_US), None, None, as_json, why
        )
    if isinstance(target.address, IPv6Address) and mode != "gateway":
        return _finish([*_who(found, target), ipv6_line(mode), *ROUND_US], None, None, as_json, why)
    split = lifecycle.explain(places(), _question(found, target, proto, port))
    told = [*_who(found, target), *split_lines(split, target.by_us)]
    told += [ipv6_line(mode), *wrong_now(status)]
    if isinstance(target.address, IPv6Address):
        return _finish([*told, _IPV6_RULES], split, None, as_json, why)
    if split is not None and not is_walked(split):
        return _finish([*told, without_walk(split)], split, None, as_json, why)
    tracked = _tracked(found)
    told += [f"return path: {found.path}: {found.why}"]
    asked = Asked(target.address, proto, port)
    walked = _walk(found, asked, tracked, own, status)
    told += [f"arrives: {_says(walked[1])}", _WALK] if walked else [_HANGS]
    return _finish(told, split, walked, as_json, why)


_IPV6_RULES = "note: the device is known by its MAC address here: rules by its own IPv6 address are left out"
_PAST_US = ", on this LAN: the devices talk past the gateway"
_THIS_BOX = ", this box itself: nothing is routed or split"
_HANGS = "the walk: unknown; it hangs on whether the router tracks this client's frames: no verdict yet"
_WALK = "the walk, with 192.0.2.2 for the router's public address, which this box cannot know:"


def wrong_now(status: StatusView) -> list[str]:
    """What keeps packets from going as is said here, and what to type where nobody but a person may end that."""
    down = [f"{it.name} is down: {it.why}" for it in status.health if it.state == "down"]
    held = [it for it in status.faults if it.startswith("stepping aside: ")]
    return [f"fault: {it}" for it in (*down, *held)]


def _who(client: ClientView, target: Target, where: str = "") -> list[str]:
    device = ", ".join(filter(None, (client.mac, client.name)))
    return [f"client: {client.ip} ({device})", f"destination: {target.address}{where or target.how}"]


def _question(client: ClientView, target: Target, proto: Protocol, port: int) -> dict[str, str]:
    source = "::" if isinstance(target.address, IPv6Address) else str(client.ip)
    question = {"client": source, "mac": client.mac, "destination": str(target.address), "protocol": proto}
    return {**question, "port": str(port), **({"name": target.name} if target.name else {})}


def _client(word: str) -> ClientView:
    """The most recent of those that match. Raises Problems."""
    clients = lifecycle.clients(places(), None, evidence=True).clients
    found = called(word, clients)
    if not found:
        raise Problems(none_called(word, clients[:10]))
    return min(found, key=lambda c: c.last_sent_s if c.last_sent_s is not None else float("inf"))


def _tracked(client: ClientView) -> Tracked:
    return client.probe.verdict if client.probe else "unknown"


class Asked(Struct, frozen=True):
    """What the client sends, and where to. port: without meaning for ICMP."""

    address: IPv4Address
    proto: Protocol
    port: int


def _says(walk: Walk) -> str:
    """The verdict for people."""
    return f"{'yes' if walk.verdict.code == 'delivered' else 'no'}: {walk.verdict.says}"


def _walk(
    client: ClientView, asked: Asked, tracked: Tracked, own: IPv4Interface, status: StatusView
) -> tuple[Home, Walk] | None:
    """None where it hangs on what is not known. Somebody is taken to listen at the destination."""
    from sidegate.home import RouterProfile
    from sidegate.lab.blueprint import INTERNET
    from sidegate.walk.conversation import Player
    from sidegate.walk.known import CLIENT, DESTINATION, Known, known_home
    from sidegate.walk.network import Network
    from sidegate.walk.question import question
    from sidegate.walk.setting import Setting

    home = known_home(Known(own, IPv4Address(status.router), client.ip, asked.address, tracked))
    if home is None:
        return None
    proved = (CLIENT,) if client.path == "direct" else ()
    network = Network(home, RouterProfile(title="unknown"), Setting("sidegate", proved))
    network.nodes[INTERNET].listens.add((asked.proto, str(asked.address), asked.port))
    where = DESTINATION if asked.proto == "icmp" else f"{DESTINATION}:{asked.port}"
    return home, Player(network, question(network, CLIENT, where, asked.proto)).walk()


def _finish(
    lines: list[str], split: ExplainView | None, walked: tuple[Home, Walk] | None, as_json: bool, why: bool
) -> int:
    if as_json:
        from sidegate.render.walk_json import walk_json

        walk = walk_json(walked[1])["walk"] if walked else None
        told: dict[str, Any] = {"schema": 1, "told": lines, "split": split, "walk": walk}
        print_json(told)
    else:
        click.echo("\n".join(lines))
        if walked:
            click.echo("\n" + _text(*walked, why), nl=False)
    arrives = (walked is None or walked[1].verdict.code == "delivered") and (split is None or split.goes != "refused")
    return int(Exit.FINE if arrives and _HANGS not in lines else Exit.FAULT)


def _text(home: Home, walk: Walk, why: bool) -> str:
    from sidegate.home import RouterProfile
    from sidegate.lab.blueprint import blueprint
    from sidegate.render.walk_legs import journey
    from sidegate.render.walk_text import walk_text

    return walk_text(journey(walk, home, blueprint(home, RouterProfile(title="unknown"))), why)
