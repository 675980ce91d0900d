"""`lab`: homes on the real kernel."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from sidegate.cli.output import json_option, print_json, table
from sidegate.home import load_home, shipped_homes
from sidegate.problems import Exit


@click.group()
def lab() -> None:
    """Homes on the real kernel, in namespaces of their own.

    HOME is a shipped home or the path of a home file; for exec, shell, capture and down it is the name of a lab that is
    up. `check` builds a lab of its own for as long as it takes. Nothing of this touches the machine's own network.
    """


def _complete_home(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in shipped_homes() if name.startswith(incomplete)]


home_argument = click.argument("home", shell_complete=_complete_home)
no_userns_option = click.option(
    "--no-user-namespace", is_flag=True, help="As root, where the kernel allows no user namespaces."
)


@lab.command()
@home_argument
@click.option("--name", help="Name of the lab. [default: the home's name]")
@click.option(
    "--gateway",
    type=click.Choice(["nothing", "forwarding", "masquerade", "sidegate"]),
    default="nothing",
    show_default=True,
    help="What the gateway does from the start.",
)
@no_userns_option
@json_option
def up(home: str, name: str | None, gateway: str, no_user_namespace: bool, as_json: bool) -> None:
    """Build a home; it stays until `lab down`."""
    from sidegate.lab import registry
    from sidegate.lab.check import set_gateway
    from sidegate.lab.lab import Lab

    loaded = load_home(home)
    start = time.monotonic()
    built = Lab.up(loaded, name=name or loaded.name, keep=True, user_namespace=not no_user_namespace)
    took_ms = round((time.monotonic() - start) * 1000)
    try:
        registry.remember(built)
        set_gateway(built, gateway)  # type: ignore[arg-type]
    except BaseException:
        built.down()
        raise
    if as_json:
        print_json({"schema": 1, "name": built.name, "pid": built.pid, "ms": took_ms, "machines": built.machines})
    else:
        click.echo(f"{built.name} is up: {len(built.machines)} machines in {took_ms} ms.")
        click.echo(f"Try: sidegate lab shell {built.name} {loaded.client[0].name if loaded.client else 'router'}")


@lab.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every lab of this user.")
def down(names: tuple[str, ...], everything: bool) -> None:
    """End labs; nothing of them is left."""
    from sidegate.lab import registry

    if not names and not everything:
        raise click.UsageError("name a lab, or give --all")
    for name in [r.name for r in registry.records()] if everything else names:
        registry.find(name).down()
        registry.forget(name)
        click.echo(f"{name} is gone.")


@lab.command("list")
@json_option
def list_labs(as_json: bool) -> None:
    """Labs that are up, and homes that can be."""
    from sidegate.lab import registry

    living = registry.records()
    if as_json:
        labs = [{"name": r.name, "home": r.home.name, "pid": r.ready.pid, "machines": r.ready.machines} for r in living]
        print_json({"schema": 1, "labs": labs, "homes": shipped_homes()})
        return
    rows: list[tuple[str, ...]] = [(r.name, r.home.name, str(r.ready.pid), ", ".join(r.ready.machines)) for r in living]
    click.echo(table(("LAB", "HOME", "PID", "MACHINES"), rows) if rows else "no lab is up")
    click.echo("\nhomes: " + ", ".join(shipped_homes()))


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("home")
@click.argument("machine")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(home: str, machine: str, command: tuple[str, ...]) -> None:
    """Run a program on a machine of a lab."""
    _become(home, machine, command)


@lab.command()
@click.argument("home")
@click.argument("machine")
def shell(home: str, machine: str) -> None:
    """Sit down at a machine of a lab."""
    _become(home, machine, (os.environ.get("SHELL", "/bin/sh"),))


def _become(home: str, machine: str, command: tuple[str, ...]) -> None:
    from sidegate.lab import registry
    from sidegate.lab.init import main_environment

    argv = registry.find(home).command(machine, command)
    environment = {**os.environ, **main_environment()}
    os.execvpe(argv[0], argv, environment)  # noqa: S606 - no shell is the point


@lab.command()
@home_argument
@no_userns_option
@json_option
def check(home: str, no_user_namespace: bool, as_json: bool) -> int:
    """Hold the home's own expectations against the kernel. Exit code 1: one is not met."""
    from sidegate.lab.check import Checked
    from sidegate.lab.check import check as check_lab
    from sidegate.lab.lab import Lab

    loaded = load_home(home)

    def line(one: Checked) -> str:
        start = f"gateway: {one.gateway:10}  {one.who} -> {one.to} (IP{one.family}): {one.found}"
        if one.is_met:
            return f"pass  {start}  [{one.detail}, {one.ms:.0f} ms]"
        return f"FAIL  {start}, expected {one.expected}  [{one.detail}]\n      {one.why}"

    def tell(one: Checked) -> None:
        if not as_json:
            click.echo(line(one))

    with Lab.up(loaded, user_namespace=not no_user_namespace) as built:
        found = check_lab(built, tell)
    failed = [one for one in found if not one.is_met]
    if as_json:
        print_json({"schema": 1, "home": loaded.name, "met": not failed, "checks": found})
    else:
        click.echo(f"{len(found) - len(failed)} met, {len(failed)} not met")
    return int(Exit.FAULT if failed else Exit.FINE)


@lab.command()
@click.argument("home")
@click.argument("machine")
@click.argument("interface", required=False)
@click.option("--count", type=int, help="Stop after so many frames.")
@click.option("--write", type=click.Path(path_type=Path), help="Write them to a pcap file as well.")
def capture(home: str, machine: str, interface: str | None, count: int | None, write: Path | None) -> None:
    """Listen on a machine's interfaces until Ctrl-C."""
    from sidegate.lab import registry
    from sidegate.lab.capture import PcapFile, describe
    from sidegate.lab.capture import capture as listen

    file = PcapFile(write) if write else None
    try:
        for number, heard in enumerate(listen(registry.find(home), machine, interface), start=1):
            if file:
                file.add(heard)
            stamp = time.strftime("%H:%M:%S", time.localtime(heard.at_s)) + f"{heard.at_s % 1:.6f}"[1:]
            click.echo(
                f"{stamp}  {heard.interface:8} {'out' if heard.is_outgoing else 'in ':3}  {describe(heard.frame)}"
            )
            if number == count:
                break
    finally:
        if file:
            file.close()


@lab.command()
@home_argument
@click.option("--format", "form", type=click.Choice(["svg", "mermaid"]), default="svg", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write to a file. [default: standard output]")
def graph(home: str, form: str, output: Path | None) -> None:
    """Draw a home."""
    from sidegate.render.mermaid import mermaid
    from sidegate.render.svg import svg

    loaded = load_home(home)
    text = svg(loaded) if form == "svg" else mermaid(loaded)
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    else:
        output.write_text(text, "utf-8")
