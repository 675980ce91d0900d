"""The configuration that the box goes by, where it is read again, and its versions on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from sidegate.gateway.change import history
from sidegate.gateway.change.history import Chosen
from sidegate.gateway.config import Config
from sidegate.problems import Problem, Problems


class InForce:
    """path: where it is read again; None: the default place. state: the state directory."""

    def __init__(self, chosen: Chosen, path: Path | None, state: Path, tell: Callable[[str], None]) -> None:
        self.chosen = chosen
        self._path, self._state, self._tell = path, state, tell
        self._kept_badly: tuple[Problem, ...] = ()

    @property
    def config(self) -> Config:
        return self.chosen.config

    def read(self, path: Path | None = None, *, is_back: bool = False) -> tuple[Chosen, Path | None]:
        """What is asked for now, and where that is read again. path: another file. is_back: the last good one instead.

        Raises Problems.
        """
        path = path or self._path
        return history.last_good(self._state) if is_back else history.read(path), path

    def take(self, chosen: Chosen, path: Path | None) -> None:
        """It is in force now."""
        self.chosen, self._path = chosen, path
        self.keep()

    def keep(self) -> None:
        """Told first: a configuration that is not the file's is nothing to be found out by chance."""
        for fault in self.chosen.faults:
            self._tell(f"fault: {fault.where}: {fault.what}")
        try:
            history.record(self.chosen, self._state)
            self._kept_badly = ()
        except Problems as error:
            self._kept_badly = error.problems
            self._tell(f"fault: {error}")

    def refuse(self, why: Problems) -> None:
        """The file says something else, which was not taken."""
        self.chosen = structs.replace(self.chosen, faults=why.problems)
        self._tell(f"fault: the configuration was not taken: {why}")

    def faults(self) -> tuple[Problem, ...]:
        """Besides those of the file."""
        return self._kept_badly
