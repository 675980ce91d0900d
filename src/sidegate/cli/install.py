"""`install`, `uninstall`: on this machine for good, and off it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidegate.cli.output import json_option, print_json

if TYPE_CHECKING:
    from sidegate.install.steps import Kept

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Below this directory instead, as with DESTDIR; nothing of the machine itself is touched.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would be done.")


@click.command()
@root_option
@dry_run_option
@click.option("--start", is_flag=True, help="Start the service too, now and at every boot.")
@click.option(
    "--python",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    help="The Python that is to run it, of the version that runs now. [default: this one, or the system's]",
)
@json_option
def install(root: Path | None, dry_run: bool, start: bool, python: Path | None, as_json: bool) -> None:
    """Put Sidegate on this machine: program, service, example configuration, man pages, shell completion.

    Copies what runs now to /opt/sidegate; nothing is downloaded. Run again from a newer checkout it upgrades, and your
    configuration stays as it is. The gateway is not started unless --start says so.
    """
    from sidegate.install import machine, words
    from sidegate.install.disk import Disk
    from sidegate.install.work import install as perform

    done = perform(Disk(root or Path("/")), _command_line(), python, on_machine=root is None, start=start, dry=dry_run)
    if as_json:
        print_json(words.report(done, dry_run))
        return
    click.echo(words.text(done, dry_run) or "Installed already, as it is here.")
    if root is None and not dry_run:
        click.echo(_what_now(machine.daemon_by_hand(), machine.is_service_active()))


def _what_now(by_hand: int | None, is_active: bool) -> str:
    """by_hand: the process of a daemon that systemd does not know."""
    if by_hand is not None:
        return f"A daemon that was started by hand (process {by_hand}) goes on as it was. End it: sudo sidegate down"
    if is_active:
        return "The service is running. See: sudo sidegate status"
    return "Start it, now and at every boot: sudo systemctl enable --now sidegate"


@click.command()
@root_option
@dry_run_option
@click.option(
    "--keep",
    type=click.Choice(["config", "state"]),
    multiple=True,
    help="What stays: config: /etc/sidegate and own settings of the service; state: /var/lib/sidegate. Repeatable.",
)
@json_option
def uninstall(root: Path | None, dry_run: bool, keep: tuple[Kept, ...], as_json: bool) -> None:
    """Take Sidegate off this machine again, after `sidegate down`.

    Nothing is left but what --keep names. Your configuration goes too, unless --keep config.
    """
    from sidegate.install import words  # before the program that runs now is removed
    from sidegate.install.disk import Disk
    from sidegate.install.work import uninstall as perform

    done = perform(Disk(root or Path("/")), frozenset(keep), on_machine=root is None, dry=dry_run)
    if as_json:
        print_json(words.report(done, dry_run))
    else:
        click.echo(words.text(done, dry_run) or "Nothing is installed here.")


def _command_line() -> click.Command:
    from sidegate.cli.main import sidegate

    return sidegate
