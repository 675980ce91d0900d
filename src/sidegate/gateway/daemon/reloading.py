"""Another configuration, from when somebody asks for it until it is in force, or is not to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from sidegate.gateway.box.apply import Changes
from sidegate.gateway.box.facts import observe
from sidegate.gateway.change.history import Chosen
from sidegate.gateway.daemon.splitplan import Plan
from sidegate.gateway.daemon.splitter import Splitter
from sidegate.gateway.decide import decide
from sidegate.gateway.dhcp.handout import Handout
from sidegate.problems import Problem, Problems, in_file

_OVERTAKEN = Problem("sidegate", "another change came before this one was in force", "sidegate config history")


class Taking(Struct, frozen=True):
    """A configuration that is to be in force. path: where it is read again. hear: is told how that went."""

    chosen: Chosen
    path: Path | None
    hear: Callable[[Changes | Problems], None]


class Reloading:
    """One at a time: whoever comes later takes the place of the one that waits. state: where the journal is."""

    def __init__(self, splitter: Splitter, handout: Handout, state: Path) -> None:
        self._splitter, self._handout, self._state = splitter, handout, state
        self._waiting: Taking | None = None

    def begin(self, it: Taking, now: float) -> Plan | None:
        """What the box is to be brought to now; None: once what it needs is there, `Splitter.turn` gives it.

        Raises Problems. What was in force stays so then, as it does until then; what was begun is to be put right.
        """
        config = it.chosen.config
        with in_file(it.chosen.source):
            plan = self._splitter.plan(config)
        facts = observe(config, self._state)
        self._handout.ask_first(decide(config, facts).dhcp)
        self._splitter.ask_first(plan, facts)
        self.give_up(Problems(_OVERTAKEN))
        if self._splitter.prepare(plan, facts, now):
            return plan
        self._waiting = it
        return None

    def waited(self) -> Taking | None:
        """The one that waited, which waits no longer."""
        it, self._waiting = self._waiting, None
        return it

    def give_up(self, why: Problems) -> None:
        """The one that waits is told."""
        if (it := self.waited()) is not None:
            it.hear(why)
