"""What commands on the box have in common."""

from __future__ import annotations

from typing import Any

import click

from sidegate.gateway.aside import stepaside
from sidegate.gateway.box.places import places
from sidegate.gateway.change import rollback


class OnTheBox(click.Command):
    """First of all it does what a process was to do that was killed: roll back a change, end stepping aside."""

    def invoke(self, ctx: click.Context) -> Any:
        """Raises Problems where that fails; the command is not run then."""
        undone = rollback.honour(places())
        if undone is not None:
            click.echo(f"A change was rolled back: {undone.told}", err=True)
        if stepaside.honour(places()):
            click.echo("The process that answered clients for the router had died: cleared up after it.", err=True)
        return super().invoke(ctx)
