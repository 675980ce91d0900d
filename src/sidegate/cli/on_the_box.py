"""What commands on the box have in common."""

from __future__ import annotations

from typing import Any

import click

from sidegate.gateway import rollback
from sidegate.gateway.places import places


class OnTheBox(click.Command):
    """First of all it rolls back a change whose time to be confirmed is over, should nobody have done so."""

    def invoke(self, ctx: click.Context) -> Any:
        """Raises Problems where that fails; the command is not run then."""
        undone = rollback.honour(places())
        if undone is not None:
            click.echo(f"A change was rolled back: {undone.told}", err=True)
        return super().invoke(ctx)
