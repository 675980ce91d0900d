"""`lab`: homes on the real kernel."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from click.shell_completion import CompletionItem

from sidegate.cli.output import json_option, print_json, table
from sidegate.home import Home, behaviour, load_home, load_router, shipped_homes
from sidegate.problems import Exit, Problem, Problems

if TYPE_CHECKING:
    from sidegate.lab.capture import Heard

_OF_THE_TERMINAL = ("TERM", "COLORTERM", "NO_COLOR", "COLUMNS", "LINES", "TZ")
"""What a program on a machine of the lab inherits: all else says where things are on this machine, not on that one."""


@click.group()
def lab() -> None:
    """Homes on the real kernel, in namespaces of their own.

    HOME is a shipped home or the path of a home file; LAB is the name of a lab that is up. `check` builds a lab of its
    own for as long as it takes. Nothing of this touches the machine's own network.

    \b
    sidegate lab up split
    sidegate lab exec split gateway sidegate up
    sidegate lab shell split phone
    sidegate lab down split
    """


def _complete_home(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    names = [CompletionItem(name) for name in shipped_homes() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def _complete_lab(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from sidegate.lab import registry

    return [record.name for record in registry.records() if record.name.startswith(incomplete)]


def _complete_machine(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    from sidegate.lab import registry

    machines = (r.ready.machines for r in registry.records() if r.name == context.params.get("lab_name"))
    return [name for names in machines for name in names if name.startswith(incomplete)]


home_argument = click.argument("home", shell_complete=_complete_home)
lab_argument = click.argument("lab_name", metavar="LAB", shell_complete=_complete_lab)
machine_argument = click.argument("machine", shell_complete=_complete_machine)
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
@click.option("--dhcp", is_flag=True, help="The router hands out addresses, unless the home has that off.")
@no_userns_option
@json_option
def up(home: str, name: str | None, gateway: str, dhcp: bool, no_user_namespace: bool, as_json: bool) -> None:
    """Build a home; it stays until `lab down`."""
    from sidegate.lab import registry
    from sidegate.lab.check import set_gateway
    from sidegate.lab.lab import Lab

    loaded = load_home(home)
    start = time.monotonic()
    built = Lab.up(loaded, name=name or loaded.name, user_namespace=not no_user_namespace, dhcp=dhcp)
    took_ms = round((time.monotonic() - start) * 1000)
    try:
        registry.remember(built)
        set_gateway(built, gateway)  # type: ignore[arg-type]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from here on it is up, whatever comes
        built.release()
    except BaseException:
        built.down()
        raise
    if as_json:
        told = {"name": built.name, "pid": built.pid, "ms": took_ms, "machines": built.machines}
        print_json({"schema": 1, **told, "links": built.links()})
    else:
        click.echo(f"{built.name} is up: {len(built.machines)} machines in {took_ms} ms.")
        if built.links():
            click.echo(f"Its proxies: sidegate lab show {built.name}")
        click.echo(f"Try: sidegate lab shell {built.name} {loaded.client[0].name if loaded.client else 'router'}")


@lab.command()
@click.argument("names", metavar="[LAB]...", nargs=-1, shell_complete=_complete_lab)
@click.option("--all", "everything", is_flag=True, help="Every lab of this user.")
@json_option
def down(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """End labs; nothing of them is left."""
    from sidegate.lab import registry

    if not names and not everything:
        raise click.UsageError("name a lab, or give --all")
    living = [record.name for record in registry.records()]
    if unknown := [name for name in names if name not in living]:
        what, up = "no lab of this name is up", ", ".join(living) or "none"
        raise Problems(*(Problem(name, what, f"labs that are up: {up}") for name in unknown))
    ended = living if everything else list(dict.fromkeys(names))
    for name in ended:
        registry.find(name).down()
        registry.forget(name)
        if not as_json:
            click.echo(f"{name} is gone.")
    if as_json:
        print_json({"schema": 1, "ended": ended})


@lab.command("list")
@json_option
def list_labs(as_json: bool) -> None:
    """Labs that are up, and homes that can be."""
    from sidegate.lab import registry

    living = registry.records()
    if as_json:
        labs = [
            {"name": r.name, "home": r.home["name"], "pid": r.ready.pid, "machines": r.ready.machines} for r in living
        ]
        print_json({"schema": 1, "labs": labs, "homes": shipped_homes()})
        return
    rows: list[tuple[str, ...]] = [
        (r.name, r.home["name"], str(r.ready.pid), ", ".join(r.ready.machines)) for r in living
    ]
    click.echo(table(("LAB", "HOME", "PID", "MACHINES"), rows) if rows else "no lab is up")
    click.echo("\nhomes: " + ", ".join(shipped_homes()))


@lab.command()
@lab_argument
@json_option
def show(lab_name: str, as_json: bool) -> None:
    """What is on a lab's internet, and how its proxies are reached."""
    from sidegate.lab import registry

    found = registry.find(lab_name)
    home, links = found.home, found.links()
    if as_json:
        print_json({"schema": 1, "name": lab_name, "home": home.name, "internet": home.internet, "links": links})
        return
    servers = [(s.name, s.domain or "", _addresses(s.v4, s.v6), ", ".join(s.serves)) for s in home.internet.server]
    click.echo(table(("SERVER", "NAME", "ADDRESSES", "SERVES"), servers))
    for section in (_isp_lines(home), [f"{name}: {link}" for name, link in links.items()]):
        if section:
            click.echo("\n" + "\n".join(section))


def _addresses(v4: IPv4Address, v6: IPv6Address | None) -> str:
    return f"{v4}, {v6}" if v6 else str(v4)


def _isp_lines(home: Home) -> list[str]:
    lines = []
    if home.internet.blocked:
        lines.append(f"The ISP drops what is sent to {', '.join(map(str, home.internet.blocked))}.")
    if isp := home.internet.isp:
        whom = "whatever DNS server is asked" if isp.forges else f"when its DNS server {isp.resolver} is asked"
        lies = (f"that {lie.domain} is {_addresses(lie.v4, lie.v6)}" for lie in isp.lie)
        lines.append(f"It says, {whom}, {'; '.join(lies)}." if isp.lie else f"Its DNS server: {isp.resolver}.")
    return lines


@lab.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@lab_argument
@machine_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(lab_name: str, machine: str, command: tuple[str, ...]) -> None:
    """Run a program on a machine of a lab. Its exit code is ours. `--` may stand before it."""
    program = command[1:] if command[0] == "--" else command
    if not program:
        raise click.UsageError("name a program")
    _become(lab_name, machine, program)


@lab.command()
@lab_argument
@machine_argument
def shell(lab_name: str, machine: str) -> None:
    """Sit down at a machine of a lab."""
    _become(lab_name, machine, (os.environ.get("SHELL") or "/bin/sh",))


def _become(lab_name: str, machine: str, command: tuple[str, ...]) -> None:
    """Replaces this process. Python ignores SIGPIPE, and an ignored signal stays ignored across execve(2)."""
    from sidegate.lab import registry
    from sidegate.lab.machine import main_environment

    argv = registry.find(lab_name).command(machine, command)
    kept = {name: os.environ[name] for name in _OF_THE_TERMINAL if name in os.environ}
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(argv[0], argv, kept | main_environment())  # noqa: S606 - no shell is the point


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
@lab_argument
@machine_argument
@click.argument("interface", required=False)
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many frames.")
@click.option("--write", type=click.Path(path_type=Path), help="Write them to a pcap file as well.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each frame.")
def capture(
    lab_name: str, machine: str, interface: str | None, count: int | None, write: Path | None, as_json: bool
) -> None:
    """Listen on a machine's interfaces until Ctrl-C."""
    from sidegate.lab import registry
    from sidegate.lab.capture import PcapFile
    from sidegate.lab.capture import capture as listen

    heard_all = listen(registry.find(lab_name), machine, interface)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as until_done:
        file = until_done.enter_context(contextlib.closing(PcapFile(write))) if write else None
        for heard in itertools.islice(heard_all, count):
            if file:
                file.add(heard)
            click.echo(_frame_json(heard) if as_json else _frame_line(heard))


def _frame_line(heard: Heard) -> str:
    from sidegate.lab.capture import describe

    stamp = time.strftime("%H:%M:%S", time.localtime(heard.at_s)) + f"{heard.at_s % 1:.6f}"[1:]
    way = "out" if heard.is_outgoing else "in"
    return f"{stamp}  {heard.interface:8} {way:3}  {describe(heard.frame)}"


def _frame_json(heard: Heard) -> bytes:
    from sidegate.lab.capture import describe

    what = {"at_s": heard.at_s, "interface": heard.interface, "is_outgoing": heard.is_outgoing}
    return msgspec.json.encode({"schema": 1, **what, "text": describe(heard.frame), "frame": heard.data.hex()})


@lab.command()
@home_argument
@click.option("--format", "form", type=click.Choice(["svg", "mermaid", "plan"]), default="svg", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write to a file. [default: standard output]")
def graph(home: str, form: str, output: Path | None) -> None:
    """Draw a home. `plan` is no picture, but all that the lab builds for it."""
    text = _drawn(load_home(home), form)
    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise Problems(Problem(str(output), f"cannot be written: {error.strerror}", "give another --output")) from None


def _drawn(home: Home, form: str) -> str:
    if form == "svg":
        from sidegate.render.svg import svg

        return svg(home, behaviour=behaviour(home, load_router(home.router.profile)))
    if form == "mermaid":
        from sidegate.render.mermaid import mermaid

        return mermaid(home)
    from sidegate.lab.blueprint import blueprint
    from sidegate.lab.listing import listing

    return listing(blueprint(home, load_router(home.router.profile)))
