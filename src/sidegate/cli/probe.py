"""`probe`: questions to the network, answered with evidence.

All but `again` need no running gateway and change nothing.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import click

from sidegate.cli.gateway import config_option
from sidegate.cli.output import json_option, print_json
from sidegate.gateway.box.facts import Facts, observe
from sidegate.gateway.box.places import places
from sidegate.gateway.config import load_config
from sidegate.gateway.daemon import control
from sidegate.probe.arp import resolve
from sidegate.probe.dhcp import ask, serves_here, summary
from sidegate.probe.prober import probe_bridge
from sidegate.probe.ra import Opinion, addresses6, opinions, silent_among
from sidegate.probe.ra import ask as ask_routers
from sidegate.probe.ra import summary as ra_summary
from sidegate.probe.reach import reach_by_icmp
from sidegate.probe.talk import Vantage
from sidegate.problems import Exit, Problem, Problems


def _address(value: str) -> IPv4Address:
    try:
        return IPv4Address(value)
    except ValueError:
        raise click.BadParameter(f"{value} is no IPv4 address") from None


_ADDRESS = click.types.FuncParamType(_address)


@click.group()
def probe() -> None:
    """Put questions to the network."""


@probe.command(short_help="Does the router track this client's frames? Then it needs masquerade.")
@click.option(
    "--client",
    "clients",
    type=_ADDRESS,
    metavar="ADDRESS",
    multiple=True,
    required=True,
    help="Whom to probe; repeatable.",
)
@click.option(
    "--target", "targets", type=_ADDRESS, metavar="ADDRESS", multiple=True, help="Ask by way of this public address."
)
@config_option
@json_option
def bridge(
    clients: tuple[IPv4Address, ...], targets: tuple[IPv4Address, ...], config: Path | None, as_json: bool
) -> int:
    """Does the main router's bridge track this client's frames? Then it needs masquerade.

    Exit code 1: a client's verdict is unknown.
    """
    settings = load_config(config)
    facts = observe(settings, places().state)
    found = probe_bridge(_vantage(facts), _with_macs(facts, clients), targets or settings.probe.targets)
    if as_json:
        print_json({"schema": 1, "results": found})
    else:
        click.echo("\n\n".join(result.text() for result in found))
    return int(Exit.FAULT if any(r.verdict == "unknown" for r in found) else Exit.FINE)


@probe.command(short_help="Let the running gateway probe all its clients anew.")
@json_option
def again(as_json: bool) -> None:
    """Let the running gateway probe all its clients anew, as after moving cables, and check its own health.

    Nothing changes until then.
    """
    try:
        answer = control.ask(places().control, "POST", "/v1/probe")
    except control.NotListening:
        raise Problems(Problem("sidegate", "no daemon is running", "sidegate up")) from None
    if as_json:
        print_json({"schema": 1, **answer})
    else:
        click.echo(f"probing {answer['probing']} clients; see: sidegate clients")


@probe.command(short_help="Who has this address?")
@click.argument("address", type=_ADDRESS, metavar="ADDRESS")
@config_option
@json_option
def arp(address: IPv4Address, config: Path | None, as_json: bool) -> int:
    """Who has this address? Exit code 1: nobody, or more than one device."""
    facts = observe(load_config(config), places().state)
    result = resolve(facts.interface.name, address)[0]
    if as_json:
        print_json({"schema": 1, "result": result})
    else:
        click.echo(result.text())
    return int(Exit.FINE if len(result.macs) == 1 else Exit.FAULT)


@probe.command(short_help="Is the internet reachable by way of the router?")
@click.argument("targets", type=_ADDRESS, metavar="[ADDRESS]...", nargs=-1)
@config_option
@json_option
def reach(targets: tuple[IPv4Address, ...], config: Path | None, as_json: bool) -> int:
    """Is the internet reachable by way of the router? Exit code 1: no target answered."""
    settings = load_config(config)
    facts = observe(settings, places().state)
    results = reach_by_icmp(_vantage(facts), *(targets or settings.probe.targets))
    if as_json:
        print_json({"schema": 1, "results": results})
    else:
        click.echo("\n".join(result.text() for result in results))
    return int(Exit.FINE if any(r.rtt_s is not None for r in results) else Exit.FAULT)


@probe.command(short_help="Who hands out addresses, and which gateway and DNS with them?")
@config_option
@json_option
def dhcp(config: Path | None, as_json: bool) -> int:
    """Who hands out addresses, and which gateway and DNS with them? Takes 4 s.

    Asks in the name of a device that does not exist; no lease is taken. Exit code 1: nobody answers and no server runs
    on this box either, or several servers hand out.
    """
    facts = observe(load_config(config), places().state)
    ours = tuple(a.ip for a in facts.interface.addresses)
    result, own_server = ask(facts.interface.name), serves_here()
    if as_json:
        print_json({"schema": 1, "own_server": own_server, "own_addresses": ours, "result": result})
    else:
        evidence = (f"  {seen}" for seen in result.evidence)
        click.echo("\n".join([*summary(result, ours, own_server=own_server), *evidence]))
    return int(Exit.FINE if len(result.offers) + own_server == 1 else Exit.FAULT)


@probe.command(short_help="Which IPv6 routers advertise themselves, and which DNS servers?")
@config_option
@json_option
def ra(config: Path | None, as_json: bool) -> int:
    """Which routers advertise themselves by IPv6, and which DNS servers with it? Takes 2 to 3 s.

    Exit code 1: one of them tells clients a DNS server that does not answer, or, where this box is to resolve names,
    another one than this box.
    """
    settings = load_config(config)
    interface = observe(settings, places().state).interface.name
    result = ask_routers(interface)
    silent, ours = silent_among(interface, result.dns), addresses6(interface)
    told = opinions(result.adverts, Opinion(ours, settings.resolves, settings.ipv6.mode == "gateway", silent))
    if as_json:
        print_json({"schema": 1, "own_addresses": ours, "silent": silent, "findings": told, "result": result})
    else:
        click.echo("\n".join([*ra_summary(result, told), *(f"  {seen}" for seen in result.evidence)]))
    return int(Exit.FAULT if told else Exit.FINE)


def _vantage(facts: Facts) -> Vantage:
    router = facts.router.address
    own = next(a.ip for a in facts.interface.addresses if router in a.network)
    return Vantage(facts.interface.name, facts.interface.mac, own, router, facts.router.mac or "")


def _with_macs(facts: Facts, clients: tuple[IPv4Address, ...]) -> tuple[tuple[IPv4Address, str], ...]:
    outside = [c for c in clients if not any(c in network for network in facts.lan)]
    if outside:
        lan = ", ".join(map(str, facts.lan))
        raise Problems(*(Problem(str(c), f"outside the LAN {lan}", "give a client's address") for c in outside))
    answers = resolve(facts.interface.name, *clients)
    silent = [a for a in answers if not a.macs]
    if silent:
        raise Problems(*(Problem(str(a.ip), "does not answer ARP", "is it switched on?", Exit.FAULT) for a in silent))
    return tuple((a.ip, a.macs[0]) for a in answers)
