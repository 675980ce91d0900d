"""Where our resolver's files are."""

from __future__ import annotations

from pathlib import Path

NAME = "resolver"


class ResolverPlaces:
    """A directory of its own: a nursery takes every child for its own whose record is in its directory."""

    def __init__(self, runtime: Path) -> None:
        self.directory = runtime / "resolver"
        self.conf, self.pid = self.directory / "resolver.conf", self.directory / "resolver.pid"
        self.log = self.directory / "resolver.log"
        self.hosts = self.directory / "hosts"
        self.names, self.fresh_names = self.hosts / "names", self.directory / "names"
