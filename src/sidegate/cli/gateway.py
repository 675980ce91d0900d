"""`up`, `down`, `status`, `clients`."""

from __future__ import annotations

from pathlib import Path

import click

from sidegate.cli.output import duration, json_option, print_json, size, table
from sidegate.gateway import lifecycle
from sidegate.gateway.places import places
from sidegate.gateway.view import ClientsView, ClientView, StatusView
from sidegate.problems import Exit

config_option = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path),
    help="Configuration file. [default: /etc/sidegate/sidegate.toml if it exists]",
)


@click.command()
@config_option
@click.option("--foreground", is_flag=True, help="Stay in the foreground, as a service manager wants it.")
@json_option
def up(config: Path | None, foreground: bool, as_json: bool) -> None:
    """Make this box the bypass gateway.

    Finds the interface and the main router, turns on forwarding, loads the nft table, and starts the daemon that meets
    and probes clients. Everything that is changed is written down first, so that `sidegate down` can put it back.
    """
    if foreground:
        lifecycle.become_daemon(config)
    started = lifecycle.start_daemon(config, places())
    if as_json:
        print_json({"schema": 1, "already_up": started is None, "changes": started.changes.changes if started else []})
        return
    if started is None:
        click.echo("Already up, with this configuration. Nothing was changed.")
        return
    for change in started.changes.changes:
        click.echo(f"{change.what}\n    {change.why}")
    if not started.changes.changes:
        click.echo("The box was as it should be. Nothing was changed.")
    click.echo(f"Up (process {started.pid}). See: sidegate status, sidegate clients. Undo: sidegate down.")


@click.command()
@json_option
def down(as_json: bool) -> None:
    """Put everything on this box back as it was."""
    report = lifecycle.end(places())
    if as_json:
        print_json({"schema": 1, "restored": report.restored, "left_alone": report.left_alone})
        return
    for what in report.restored:
        click.echo(f"restored: {what}")
    for what in report.left_alone:
        click.echo(f"left alone, somebody else changed it meanwhile: {what}")
    click.echo("Down." if report.restored or report.left_alone else "Nothing to put back.")


@click.command()
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
        return ["down", *(f"fault: {fault}" for fault in found.faults)]
    lines = ["up"]
    if found.daemon:
        lines = [
            f"up since {duration(found.since_s or 0)} (process {found.pid})",
            f"{found.interface} {found.address}, router {found.router}, masquerade {found.masquerade}",
            f"configuration: {found.config or 'none, all defaults'}",
            f"clients: {found.clients}, {found.direct} direct, {found.clients - found.direct} masqueraded"
            + (f", {found.undecided} still to be decided" if found.undecided else ""),
        ]
    lines += [f"fault: {fault}" for fault in found.faults]
    return lines + [f"  {event.at}  {event.what}" for event in found.events[-10:]]


@click.command()
@click.argument("ip", required=False)
@click.option("--evidence", is_flag=True, help="With all that the last probe sent and heard; always so for one client.")
@config_option
@json_option
def clients(ip: str | None, evidence: bool, config: Path | None, as_json: bool) -> None:
    """The clients, their return paths, and why. With an address: one client, with the evidence."""
    found = lifecycle.clients(places(), config, ip, evidence=evidence or ip is not None)
    if as_json:
        print_json(found)
    elif evidence or ip is not None:
        click.echo("\n\n".join(_client_text(c) for c in found.clients) or f"{ip}: not seen")
    else:
        click.echo(_clients_table(found))


def _client_text(client: ClientView) -> str:
    name = f", {client.name}" if client.name else ""
    head = f"{client.ip} ({client.mac}{name}): {client.path}\n{client.why}"
    return f"{head}\n\n{client.probe.text()}" if client.probe else head


def _clients_table(found: ClientsView) -> str:
    head = ("ADDRESS", "MAC", "NAME", "RETURN PATH", "UP", "DOWN HERE", "SENT", "WHY")
    rows = [
        (
            str(c.ip),
            c.mac,
            c.name,
            c.path if c.decided else f"{c.path} (for now)",
            size(c.up_bytes),
            size(c.down_bytes),
            f"{duration(c.last_sent_s)} ago" if c.last_sent_s is not None else "",
            _short(c.why),
        )
        for c in found.clients
    ]
    return table(head, rows) if rows else "no clients yet"


def _short(why: str) -> str:
    return why if len(why) <= 60 else why[:57] + "..."
