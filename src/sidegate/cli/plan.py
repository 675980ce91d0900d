"""`plan`: every way to deploy the gateway beside a given router. Needs no box and changes nothing."""

from __future__ import annotations

import shlex
import sys

import click

from sidegate.cli.output import json_option, print_json
from sidegate.gateway.view import ClientView
from sidegate.home import RouterProfile, load_router, shipped_routers
from sidegate.plan import config_text
from sidegate.plan.data import Device, Plan, Proxy, Verdict, Wish
from sidegate.plan.making import make_plan
from sidegate.plan.questions import ANSWERS, open_questions, parse_answers, with_answers
from sidegate.problems import Problem, Problems


def _complete_router(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in shipped_routers() if name.startswith(incomplete)]


@click.command()
@click.option("--router", metavar="PROFILE", shell_complete=_complete_router, help="A shipped profile or a .toml file.")
@click.option("--answer", "answers", metavar="FIELD=yes|no|unknown", multiple=True, help="What you know; repeatable.")
@click.option(
    "--proxy",
    type=click.Choice(["all", "some", "none"]),
    default="all",
    show_default=True,
    help="Which devices are to be proxied.",
)
@click.option("--ipv6", is_flag=True, help="IPv6 is to pass the box too.")
@click.option("--standby", is_flag=True, help="A second box is to take over when the first one dies.")
@click.option("--live", is_flag=True, help="Use what the probes of the gateway running here have found.")
@click.option("--way", metavar="WAY", help="Show one way in full.")
@click.option("--config-for", metavar="WAY", help="Print a configuration file for this way.")
@json_option
def plan(
    router: str | None,
    answers: tuple[str, ...],
    proxy: Proxy,
    ipv6: bool,
    standby: bool,
    live: bool,
    way: str | None,
    config_for: str | None,
    as_json: bool,
) -> None:
    """Every way to deploy the gateway beside your router, ranked, and what to do first.

    What is not known of the router becomes a question; both cases are predicted. On a terminal you are asked, unless
    --router, --answer, --live, --way or --config-for says what is wanted.

    \b
    sidegate plan --router linksys-velop-mx4200
    sidegate plan --router generic --answer dhcp_off=yes
    sidegate plan --way coexist
    sidegate plan --config-for coexist > sidegate.toml
    """
    wish = Wish(proxy, ipv6, standby)
    said = parse_answers(answers)
    profile = with_answers(load_router(router) if router else RouterProfile("Your router"), said)
    if not (router or answers or live or way or config_for) and sys.stdin.isatty():
        said |= _ask(profile, wish)
        profile = with_answers(profile, said)
    devices = _live_devices() if live else ()
    made = make_plan(profile, wish, _catalogue(), devices, _command(router, said, wish, live))
    _show(made, way, config_for, as_json)


def _show(made: Plan, way: str | None, chosen: str | None, as_json: bool) -> None:
    from sidegate.render.plan import plan_text, way_text

    if chosen is not None:
        text = config_text.config_for(made, chosen)
        if as_json:
            print_json({"schema": made.schema, "way": chosen, "config": text})
        else:
            click.echo(text, nl=False)
        return
    shown = made.way(way) if way is not None else None
    if way is not None and shown is None:
        known = ", ".join(w.id for w in (*made.ways, *made.nat_choices))
        raise Problems(Problem(f"--way {way}", "no such way in this plan", f"ways: {known}"))
    if as_json:
        print_json(shown or made)
    else:
        click.echo(way_text(made, shown) if shown else plan_text(made), nl=False)


def _command(router: str | None, answers: dict[str, str], wish: Wish, live: bool) -> str:
    """The command line that makes this plan again, without questions."""
    words = ["sidegate", "plan", *(["--router", router] if router else [])]
    words += [word for field, said in answers.items() for word in ("--answer", f"{field}={said}")]
    words += ["--proxy", wish.proxy] if wish.proxy != "all" else []
    words += [flag for flag, on in (("--ipv6", wish.ipv6), ("--standby", wish.standby), ("--live", live)) if on]
    return shlex.join(words)


def _catalogue() -> list[RouterProfile]:
    return [load_router(name) for name in shipped_routers()]


def _ask(profile: RouterProfile, wish: Wish) -> dict[str, str]:
    """Asks the person; what stays unknown is left out. On standard error: standard output is the plan."""
    found = {}
    for question in open_questions(profile, wish):
        click.echo(f"{question.ask}\n    To find out: {question.probe or question.find_out}", err=True)
        said = click.prompt("    yes, no or unknown", default="unknown", value_proc=_answer, err=True)
        if said != "unknown":
            found[question.field] = said
    return found


def _answer(text: str) -> str:
    """Its first letter will do."""
    meant = [answer for answer in ANSWERS if answer.startswith(text.strip().lower())]
    if len(meant) != 1:
        raise click.BadParameter("say yes, no or unknown")
    return meant[0]


def _live_devices() -> tuple[Device, ...]:
    """What the gateway that runs here has found. Raises Problems where none does."""
    from sidegate.gateway import lifecycle
    from sidegate.gateway.box.places import places

    if not lifecycle.status(places()).up:
        raise Problems(Problem("--live", "no gateway is up here", "run it on the box, after `sidegate up`"))
    seen = lifecycle.clients(places(), None, evidence=True).clients
    return tuple(Device(str(c.ip), c.mac, c.name, _verdict(c), c.why) for c in seen)


def _verdict(client: ClientView) -> Verdict:
    """Of the bridge probe; without a daemon, of the proofs in the kernel."""
    if client.probe is not None:
        return client.probe.verdict
    return "direct" if client.proof_left_s is not None else "unknown"
