"""`walk`: what becomes of a packet in a home, and why. Needs no root, no lab, no gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from sidegate.cli.output import print_json
from sidegate.home import Home, RouterProfile, load_home, load_router, shipped_homes
from sidegate.problems import Exit, Problem, Problems
from sidegate.walk.data import Protocol, Walk
from sidegate.walk.setting import Setting

if TYPE_CHECKING:
    from sidegate.walk.network import Network

Masquerade = Literal["none", "all", "auto"]


def _complete_home(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in shipped_homes() if name.startswith(incomplete)]


@click.command()
@click.argument("home", shell_complete=_complete_home)
@click.argument("client")
@click.argument("destination")
@click.option("--proto", type=click.Choice(["tcp", "udp", "icmp"]), default="tcp", show_default=True)
@click.option("--family", type=click.Choice(["4", "6"]), help="By default what the destination is.")
@click.option(
    "--masquerade",
    type=click.Choice(["none", "all", "auto"]),
    default="none",
    show_default=True,
    help="What the gateway does: forward only; masquerade everything; as `sidegate up`, what its probe cannot prove.",
)
@click.option("--no-forwarding", is_flag=True, help="The gateway does not even forward.")
@click.option("--proxied", is_flag=True, help="The gateway's proxy engine takes all TCP.")
@click.option("--redirects", is_flag=True, help="The gateway sends ICMP redirects, and clients accept them.")
@click.option(
    "--format", "shape", type=click.Choice(["text", "mermaid", "svg", "json"]), default="text", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--why", is_flag=True, help="Every decision, with where the kernel says so.")
@click.option("--ports", is_flag=True, help="Port numbers in the Mermaid graph.")
def walk(
    home: str,
    client: str,
    destination: str,
    proto: Protocol,
    family: str | None,
    masquerade: Masquerade,
    no_forwarding: bool,
    proxied: bool,
    redirects: bool,
    shape: str,
    as_json: bool,
    why: bool,
    ports: bool,
) -> int:
    """What becomes of a packet of CLIENT to DESTINATION in HOME, hop by hop, and why.

    HOME is a shipped home or the path of a home file. CLIENT may also be the gateway, the router or a server (then it
    asks the router for a forwarded port). DESTINATION is a name, a server's domain name or an address, with `:port`
    where it is not 80.

    Exit code 1: the conversation fails.

    \b
    sidegate walk velop-mesh phone server
    sidegate walk velop-mesh phone server:443 --masquerade auto --why
    sidegate walk split phone foreign --format svg > way.svg
    """
    from sidegate.walk.conversation import Player
    from sidegate.walk.network import Network
    from sidegate.walk.question import check_reachable, question

    the_home = load_home(home)
    profile = load_router(the_home.router.profile)
    if no_forwarding and (masquerade != "none" or proxied or redirects):
        raise Problems(Problem("--no-forwarding", "a gateway that does not forward does nothing else either"))
    setting = _setting(the_home, profile, masquerade, no_forwarding, proxied, redirects)
    network = Network(the_home, profile, setting)
    ask = question(network, client, destination, proto, int(family or 0))
    check_reachable(network, ask)
    told = Player(network, ask).walk()
    _print(network, told, "json" if as_json else shape, why, ports)
    return int(Exit.FINE if told.verdict.code == "delivered" else Exit.FAULT)


def _setting(
    home: Home, profile: RouterProfile, masquerade: Masquerade, no_forwarding: bool, proxied: bool, redirects: bool
) -> Setting:
    from sidegate.walk.question import proved_clients

    if home.gateway is None or not home.gateway.plugged or no_forwarding:
        return Setting("nothing")
    if masquerade == "all":
        return Setting("masquerade", (), proxied, redirects)
    if masquerade == "auto":
        return Setting("sidegate", proved_clients(home, profile), proxied, redirects)
    return Setting("forwarding", (), proxied, redirects)


def _print(network: Network, told: Walk, shape: str, why: bool, ports: bool) -> None:
    from sidegate.render.walk_legs import journey

    if shape == "json":
        from sidegate.render.walk_json import walk_json

        print_json(walk_json(told))
        return
    it = journey(told, network.home, network.plan)
    if shape == "mermaid":
        from sidegate.render.walk_mermaid import walk_mermaid

        click.echo(walk_mermaid(it, network.home, ports), nl=False)
    elif shape == "svg":
        from sidegate.render.walk_svg import walk_svg

        click.echo(walk_svg(it, network.home, network.does), nl=False)
    else:
        from sidegate.render.walk_text import walk_text

        click.echo(walk_text(it, why), nl=False)
