"""`demo`: the article's home breaks and heals before one's eyes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidegate.cli.output import json_option, print_json
from sidegate.problems import Exit, Problem, Problems

if TYPE_CHECKING:
    from sidegate.demo.result import Result, Split, Stage
    from sidegate.home import Home


@click.command()
@click.argument("home", default="split")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    default="demo-report.html",
    show_default=True,
    help="Where to write the report, one HTML file.",
)
@json_option
def demo(home: str, report: Path, as_json: bool) -> int:
    """Watch the article's home break and heal, on this machine's kernel.

    Builds the home in namespaces of its own; the machine's network is not touched. Its provider lies and blocks: at
    last a proxy is set up, and its engine is killed. Exit code 1: a client stayed offline.
    """
    from sidegate.demo.run import demonstrate, with_rates
    from sidegate.home import load_home

    loaded = load_home(home)
    if loaded.gateway is None or not loaded.gateway.plugged:
        raise Problems(Problem(loaded.name, "this home has no gateway to bring up", "try: sidegate demo velop-mesh"))
    _check_writable(report)
    rated = with_rates(loaded)
    result = demonstrate(rated, _Screen(rated, quiet=as_json))
    _write_report(result, rated, report)
    if as_json:
        print_json(result)
    else:
        _show_end(result, report)
    healed = all(c.v4 and c.v4.ok for c in result.stages[-1].clients) and (result.split is None or result.split.ok)
    return int(Exit.FINE if healed else Exit.FAULT)


class _Screen:
    """Shows the demonstration on the terminal as it goes."""

    def __init__(self, home: Home, quiet: bool) -> None:
        self._quiet = quiet
        self.step(f"\n{home.title}\n")

    def step(self, text: str) -> None:
        if not self._quiet:
            click.echo(text)

    def stage(self, stage: Stage) -> None:
        if self._quiet:
            return
        from sidegate.render.text import reach_table, wants_colour

        click.echo(f"\n{stage.name}. Who reaches {stage.target}?\n")
        click.echo(reach_table(stage, wants_colour(sys.stdout)))

    def split(self, split: Split) -> None:
        if self._quiet:
            return
        from sidegate.render.text import split_table, wants_colour
        from sidegate.render.words import duration

        click.echo(f"\nWhat {split.client} gets:\n")
        click.echo(split_table(split, wants_colour(sys.stdout)))
        click.echo(f"\nAfter {duration(split.back_ms)} new connections went by the proxy again.")


def _check_writable(path: Path) -> None:
    """Before half a minute is spent on what could not be kept. Raises Problems."""
    try:
        is_new = not path.exists()
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise Problems(_unwritable(path, error)) from None


def _unwritable(path: Path, error: OSError) -> Problem:
    return Problem(str(path), f"cannot be written: {error.strerror}", "give another place with --report")


def _write_report(result: Result, home: Home, path: Path) -> None:
    from sidegate.home import behaviour, load_router
    from sidegate.render.report import report

    text = report(result, home, behaviour(home, load_router(home.router.profile)))
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise Problems(_unwritable(path, error)) from None


def _show_end(result: Result, path: Path) -> None:
    from sidegate.render.report import headline
    from sidegate.render.text import BarRow, bars, wants_colour

    click.echo("\nWhat the bridge probe proved:\n")
    for probe in result.probes:
        click.echo(f"  {probe.client}: {probe.verdict} ({probe.confidence})")
    click.echo("\nWhat masquerade costs a wired client (gateway port 100 Mbit/s, client port 1 Gbit/s):\n")
    click.echo(bars([BarRow(b.label, b.mbit, b.note) for b in result.throughput], wants_colour(sys.stdout)))
    click.echo(f"\n{headline(result)}\nThe report, with every probe's evidence: {path.resolve()}")
