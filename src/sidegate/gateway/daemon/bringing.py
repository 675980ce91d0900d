"""A running box, brought to a plan that is prepared: the kernel's rules in one transaction, then the engine."""

from __future__ import annotations

import time
from pathlib import Path

from msgspec import Struct

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.apply import Change, Changes, apply
from sidegate.gateway.box.facts import Facts, observe
from sidegate.gateway.box.livebox import LiveBox
from sidegate.gateway.daemon.splitplan import Plan
from sidegate.gateway.daemon.splitter import Splitter
from sidegate.gateway.decide import decide
from sidegate.gateway.desired import Desired


class Brought(Struct, frozen=True):
    """facts: before. desired: what the box is like now. changes: what was done to it.

    begun: what the engine and the resolver do.
    """

    facts: Facts
    desired: Desired
    changes: Changes
    begun: tuple[Change, ...]


class CarryingBox(LiveBox):
    """The transaction that changes our rules takes along what the sets are to hold on to."""

    def __init__(self, carried: str) -> None:
        self._carried = carried

    def nft(self, text: str) -> None:
        if "\tchain upstream {" in text:
            text, self._carried = text + self._carried, ""
        super().nft(text)


def bring(plan: Plan, splitter: Splitter, state_dir: Path) -> Brought:
    """Raises Problems; what was begun by then, the next one goes on with. state_dir: where the journal is."""
    facts = observe(plan.config, state_dir)
    situation = splitter.situation(plan)
    desired = decide(plan.config, facts, situation)
    is_lost = _is_table_lost(facts, state_dir)
    changes = apply(desired, facts, CarryingBox("" if is_lost else splitter.carried()), state_dir)
    splitter.applied(situation)
    if is_lost:
        splitter.forget()
    return Brought(facts, desired, changes, splitter.want(plan, facts, time.monotonic()))


def is_table_new(changes: Changes) -> bool:
    """Whether our table's sets are empty now."""
    return any(c.what.startswith("nft table") for c in changes.changes)


def _is_table_lost(facts: Facts, state_dir: Path) -> bool:
    """Whether our table is not as we left it, so that it is made anew and its sets are empty. Raises Problems."""
    journal = journals.load(state_dir)
    return journal is None or journal.table is None or journal.table.listing != facts.table
