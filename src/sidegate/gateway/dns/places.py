"""Where our resolvers' files are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sidegate.gateway.split.ports import RELIEF_PORT

Name = Literal["resolver", "resolver-relief"]
NAME: Name = "resolver"
RELIEF: Name = "resolver-relief"
"""Answers while the other one is started anew; see `seating`."""
NAMES = (NAME, RELIEF)


class ResolverPlaces:
    """A directory of its own: a nursery takes every child for its own whose record is in its directory."""

    def __init__(self, runtime: Path, name: Name = NAME) -> None:
        self.name = name
        self.port = 53 if name == NAME else RELIEF_PORT
        self.directory = runtime / "resolver"
        self.conf, self.pid = self.directory / f"{name}.conf", self.directory / f"{name}.pid"
        self.log = self.directory / f"{name}.log"
        self.hosts = self.directory / "hosts"
        self.names, self.fresh_names = self.hosts / "names", self.directory / "names"
