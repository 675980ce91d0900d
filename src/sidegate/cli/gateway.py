"""`up`, `confirm`, `reload`, `down`, `status`, `clients`."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import structs

from sidegate.cli.on_the_box import OnTheBox
from sidegate.cli.output import duration, json_option, print_json, size, table
from sidegate.cli.status_split import split_lines
from sidegate.gateway import lifecycle
from sidegate.gateway.aside.stepaside import LASTS_S
from sidegate.gateway.box.places import places
from sidegate.gateway.change import pending, rollback
from sidegate.gateway.view import (
    ClientsView,
    ClientView,
    DhcpView,
    Ipv6View,
    LeaseView,
    StatusView,
    called,
    none_called,
)
from sidegate.problems import Exit, Problems

config_option = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path),
    help="Configuration file. [default: /etc/sidegate/sidegate.toml if it exists]",
)


confirm_option = click.option(
    "--confirm",
    "confirm_s",
    type=click.FloatRange(5, 86400),
    metavar="SECONDS",
    help="Undo it by itself after as many seconds, unless `sidegate confirm` comes over a new connection.",
)


@click.command(cls=OnTheBox)
@config_option
@click.option("--foreground", is_flag=True, help="Stay in the foreground, as a service manager wants it.")
@confirm_option
@json_option
def up(config: Path | None, foreground: bool, confirm_s: float | None, as_json: bool) -> None:
    """Make this box the bypass gateway; or have a running one take a changed configuration.

    Finds the interface and the main router, turns on forwarding, loads the nft table, and starts the daemon that meets
    and probes clients. Everything that is changed is written down first, so that `sidegate down` can put it back.

    \b
    sudo sidegate up                          no configuration is needed
    sudo sidegate up --confirm 60             undone by itself unless confirmed: from afar
    sudo sidegate up -c /root/try.toml        with another file than /etc/sidegate/sidegate.toml
    """
    if foreground:
        if confirm_s is not None:
            raise click.UsageError("--confirm is for a person who can confirm: not with --foreground")
        lifecycle.become_daemon(config, places())
    _tell_went(lifecycle.start_daemon(config, places(), confirm_s), confirm_s, as_json)


def _tell_went(went: lifecycle.Went, confirm_s: float | None, as_json: bool) -> None:
    changes = went.changes.changes if went.changes else ()
    if as_json:
        print_json({"schema": 1, "already_up": went.changes is None, "was_up": went.was_up, "changes": changes})
        return
    if went.changes is None:
        click.echo("Already up, with this configuration. Nothing was changed.")
        return
    for change in changes:
        click.echo(f"{change.what}\n    {change.why}")
    if not changes:
        click.echo("The box was as it should be. Nothing was changed.")
    split = lifecycle.status(places()).split
    for note in split.notes if split else ():
        click.echo(f"to know: {note}")
    click.echo(f"Up (process {went.pid}). See: sidegate status, sidegate clients. Undo: sidegate down.")
    if confirm_s is not None:
        click.echo(f"It undoes itself in {confirm_s:g} s. If all works, log in anew and run: sidegate confirm")


@click.command(cls=OnTheBox)
@click.option("--anyway", is_flag=True, help="Also over the connection that the change came by.")
def confirm(anyway: bool) -> None:
    """Keep the change that `up --confirm` made. Over a new connection: the old one may live on where no new one can."""
    rollback.confirm(places(), "" if anyway else pending.own_connection())
    click.echo("Confirmed. It stays.")


@click.command(cls=OnTheBox)
@json_option
def reload(as_json: bool) -> None:
    """Have the running gateway read its configuration again; it touches only what changed."""
    _tell_went(lifecycle.reload(places()), None, as_json)


@click.command(cls=OnTheBox)
@click.option(
    "--step-aside",
    "step_aside_s",
    type=click.FloatRange(1, 604800),
    metavar="SECONDS",
    help="Let the router stand in so long at most, instead of a day; and change nothing where it cannot.",
)
@click.option("--now", is_flag=True, help="Hand clients to nobody: those that use this box are offline then.")
@json_option
def down(step_aside_s: float | None, now: bool, as_json: bool) -> None:
    """Put everything on this box back as it was; clients that use it are handed to the router first, without a gap.

    The router stands in for a day, or until no client has asked for half an hour; `sidegate up` takes it back.
    """
    if now and step_aside_s is not None:
        raise click.UsageError("--now hands over nothing: not with --step-aside")
    lasts_s = None if now else step_aside_s or LASTS_S
    ended = lifecycle.end(places(), lasts_s, must=step_aside_s is not None)
    if as_json:
        print_json(
            {
                "schema": 1,
                "restored": ended.report.restored,
                "left_alone": ended.report.left_alone,
                "aside_s": ended.aside_s,
                "not_handed_over": ended.why_not,
                "notes": _ended_notes(ended),
            }
        )
        return
    click.echo("\n".join(_ended_lines(ended)))


def _ended_lines(ended: lifecycle.Ended) -> list[str]:
    report = ended.report
    lines = [f"restored: {what}" for what in report.restored]
    lines += [f"left alone, somebody else changed it meanwhile: {what}" for what in report.left_alone]
    if ended.aside_s is not None:
        lines.append(f"Clients were handed to the router, which stands in for {duration(ended.aside_s)} at most.")
    lines += [f"{note[0].upper()}{note[1:]}." for note in _ended_notes(ended)]
    if ended.why_not:
        what = (
            "Not all of it was handed over"
            if ended.aside_s is not None
            else "Clients could not be handed to the router"
        )
        lines.append(f"{what}: {ended.why_not}")
    return [*lines, "Down." if report.restored or report.left_alone else "Nothing to put back."]


def _ended_notes(ended: lifecycle.Ended) -> list[str]:
    """What somebody should know of how it is from now on."""
    straight = 'what was proxied goes straight from now on: proxy.on_failure = "block" holds here, not there'
    return [*([straight] if ended.unblocks else ()), *([lifecycle.SERVES_ALONE] if ended.serves_alone else ())]


@click.command(cls=OnTheBox)
@json_option
def status(as_json: bool) -> int:
    """What the gateway is doing. Exit code 1: something is wrong."""
    found = lifecycle.status(places())
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(_status_lines(found)))
    return int(Exit.FAULT if found.faults else Exit.FINE)


def _status_lines(found: StatusView) -> list[str]:
    if not found.up:
        return ["down", *_aside_lines(found), *(f"fault: {fault}" for fault in found.faults), *_confirm_lines(found)]
    lines = ["up"]
    if found.daemon:
        lines = [
            f"up since {duration(found.since_s or 0)} (process {found.pid})",
            f"{found.interface} {found.address}, router {found.router}, masquerade {found.masquerade}",
            f"configuration: {found.config or 'none, all defaults'}",
            _clients_line(found),
            *_dhcp_lines(found.dhcp),
            *_ipv6_lines(found.ipv6),
            *split_lines(found.split),
            *_aside_lines(found),
            *(f"{h.name}: {h.state} since {duration(h.since_s)}: {h.why}" for h in found.health),
        ]
    lines += [f"fault: {fault}" for fault in found.faults] + _confirm_lines(found)
    lines += [f"hint: {hint}" for hint in found.hints]
    return lines + [f"  {event.at}  {event.what}" for event in found.events[-10:]]


def _clients_line(found: StatusView) -> str:
    if not found.clients:
        own = found.address.partition("/")[0]
        return f"clients: none yet: one is met when it sends to the internet with {own} as its gateway"
    undecided = f", {found.undecided} still to be decided" if found.undecided else ""
    return f"clients: {found.clients}, {found.direct} direct, {found.clients - found.direct} masqueraded{undecided}"


def _dhcp_lines(dhcp: DhcpView | None) -> list[str]:
    if dhcp is None or dhcp.mode == "off":
        return []
    runs = f"process {dhcp.pid}" if dhcp.pid is not None else "not running"
    lease = duration(dhcp.lease_s or 0)
    return [f"DHCP: {dhcp.mode}, {dhcp.range}, {dhcp.leases} leases of {lease} each ({runs})"]


def _ipv6_lines(ipv6: Ipv6View | None) -> list[str]:
    if ipv6 is None or ipv6.mode != "gateway":
        return []
    runs = f"process {ipv6.pid}" if ipv6.pid is not None else "not running"
    others = "" if ipv6.routers is None else f", beside {len(ipv6.routers)} other"
    return [f"IPv6: advertised as a router{others} ({runs})"]


def _aside_lines(found: StatusView) -> list[str]:
    if found.aside_left_s is None:
        return []
    if found.aside_why:
        return [f"clients are handed to the router until this is up again: {found.aside_why}"]
    return [f"clients are handed to the router, which stands in for {duration(found.aside_left_s)} at most"]


def _confirm_lines(found: StatusView) -> list[str]:
    if found.confirm is None:
        return []
    if found.confirm.told:
        return [f"the last change was rolled back: {found.confirm.told}"]
    return [f"a change waits to be confirmed: {found.confirm.left_s:.0f} s left; sidegate confirm keeps it"]


@click.command(cls=OnTheBox)
@click.argument("client", required=False)
@click.option("--evidence", is_flag=True, help="With all that the last probe sent and heard; always so for one client.")
@config_option
@json_option
def clients(client: str | None, evidence: bool, config: Path | None, as_json: bool) -> None:
    """The clients, their return paths, and why. CLIENT, an address, a MAC address or a name: one, with the evidence."""
    found = lifecycle.clients(places(), config, evidence=evidence or client is not None)
    if client is not None:
        found = _only(client, found)
    if as_json:
        print_json(found)
    elif evidence or client is not None:
        click.echo("\n\n".join(_client_text(c) for c in found.clients) or _nobody(found))
    else:
        click.echo(_clients_table(found))


def _only(word: str, known: ClientsView) -> ClientsView:
    """Raises Problems where nobody is so called."""
    found = called(word, known.clients)
    if not found:
        raise Problems(none_called(word, known.clients[:10]))
    return structs.replace(known, clients=tuple(found))


def _client_text(client: ClientView) -> str:
    name = f", {client.name}" if client.name else ""
    head = f"{client.ip} ({client.mac}{name}): {client.path}\n{client.why}"
    return f"{head}\n\n{client.probe.text()}" if client.probe else head


def _clients_table(found: ClientsView) -> str:
    leased = any(c.lease for c in found.clients)
    head = ("ADDRESS", "MAC", "NAME", *(("LEASE",) if leased else ()), "RETURN PATH", "UP", "DOWN HERE", "SENT", "WHY")
    rows = [
        (
            str(c.ip),
            c.mac,
            c.name or (c.lease.name if c.lease else ""),
            *((_lease(c.lease),) if leased else ()),
            c.path if c.decided else f"{c.path} (for now)",
            size(c.up_bytes),
            size(c.down_bytes),
            f"{duration(c.last_sent_s)} ago" if c.last_sent_s is not None else "",
            _short(c.why),
        )
        for c in found.clients
    ]
    return table(head, rows) if rows else _nobody(found)


def _nobody(found: ClientsView) -> str:
    if not found.daemon:
        return "no clients: no daemon is running\n    sudo sidegate up"
    what = "no clients yet: one is met when it sends to the internet with this box as its gateway"
    return f"{what}\n    how it comes to that: sidegate plan; or set it by hand on one device, and see it here"


def _lease(lease: LeaseView | None) -> str:
    if lease is None:
        return ""
    return f"{lease.holder}, {duration(lease.left_s)} left" if lease.left_s is not None else lease.holder


def _short(why: str) -> str:
    return why if len(why) <= 60 else why[:57] + "..."
