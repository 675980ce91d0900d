"""`sidegate`: its commands, each imported only when it is called, and the one place that prints problems."""

from __future__ import annotations

import importlib
import os
import select
import sys
from typing import Any, TextIO

import click
import msgspec

from sidegate import __version__
from sidegate.problems import Exit, Problem, Problems

_COMMANDS = {
    "demo": ("sidegate.cli.demo", "Watch the article's home break and heal, on this machine's kernel."),
    "lab": ("sidegate.cli.lab", "Homes on the real kernel, in namespaces of their own."),
    "walk": ("sidegate.cli.walk", "What becomes of a packet in a home, hop by hop, and why."),
    "plan": ("sidegate.cli.plan", "Every way to deploy the gateway beside your router, and what to do first."),
    "up": ("sidegate.cli.gateway", "Make this box the bypass gateway."),
    "confirm": ("sidegate.cli.gateway", "Keep the change that `up --confirm` made."),
    "reload": ("sidegate.cli.gateway", "Take a changed configuration without touching the rest."),
    "config": ("sidegate.cli.config", "Check, compare and restore the configuration."),
    "down": ("sidegate.cli.gateway", "Put everything on this box back as it was."),
    "status": ("sidegate.cli.gateway", "What the gateway is doing."),
    "clients": ("sidegate.cli.gateway", "The clients, their return paths, and why."),
    "explain": ("sidegate.cli.explain", "What becomes of one client's packets on this gateway, and why."),
    "probe": ("sidegate.cli.probe", "Put questions to the network."),
    "install": ("sidegate.cli.install", "Put Sidegate on this machine for good."),
    "uninstall": ("sidegate.cli.install", "Take Sidegate off this machine again."),
}


class _Lazy(click.Group):
    """A command's module costs its import only when it is called: `--help` stays quick."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = _COMMANDS[cmd_name][0]
        command: click.Command = getattr(importlib.import_module(module), cmd_name)
        return command

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about[1]) for name, about in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """click would exit with 1 when nobody reads our output any more, and 1 is a fault."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            if not _is_unread(sys.stdout):
                raise Problems(Problem(ctx.info_name or "", "a connection broke", exit_code=Exit.FAULT)) from None
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return int(Exit.FINE)


def _is_unread(output: TextIO) -> bool:
    """Whether this is a pipe whose last reader has gone (poll(2), POLLERR)."""
    pipe = select.poll()
    pipe.register(output, 0)
    return any(event & select.POLLERR for _, event in pipe.poll(0))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sidegate")
def sidegate() -> None:
    """A bypass gateway done right: NAT only where it is needed, proved per client.

    \b
    Look first, nothing is changed:     sidegate demo, sidegate plan
    On the box that is to be it:        sudo sidegate up, status, clients, down
    Why does it not work for a device:  sudo sidegate explain DEVICE SITE

    Exit codes: 0 fine; 1 a fault was found; 2 the command line, a configuration or the surroundings are not as they
    must be; 3 a privilege or a program is missing. Commands that tell something take --json, for errors too.
    """


def main(arguments: list[str] | None = None) -> None:
    """Runs a command line. Exit codes: see `sidegate.problems.Exit`."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        result: Any = sidegate(words, standalone_mode=False)
    except Problems as error:
        _show(error, as_json="--json" in words)
        sys.exit(int(error.exit_code))
    except click.ClickException as error:
        if "--json" in words:
            _show(Problems(Problem("command line", error.format_message())), as_json=True)
        else:
            error.show()
        sys.exit(int(Exit.USAGE))
    except PermissionError as error:
        _show(Problems(_not_allowed(error)), as_json="--json" in words)
        sys.exit(int(Exit.MISSING))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)


def _not_allowed(error: PermissionError) -> Problem:
    """What root keeps to itself, wherever a command meets it."""
    where = os.fsdecode(error.filename) if error.filename else "privileges"
    return Problem(where, error.strerror or "not permitted", "run it as root, with sudo", Exit.MISSING)


def _show(error: Problems, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"schema": 1, "problems": error.problems}))
    else:
        click.echo(str(error), err=True)
