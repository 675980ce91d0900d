"""The networks of countries: from a file of networks, or out of a country database.

What was found in a database is kept as a text file per country, for the next start; a change of the database voids it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from msgspec import structs

from sidegate.gateway.box.files import replace_file
from sidegate.gateway.config import Lists
from sidegate.gateway.config.split import GIVE_COUNTRY
from sidegate.gateway.split.destinations import Gathered
from sidegate.gateway.split.lists import ListFile, ListReader, stamp_of
from sidegate.gateway.split.policy import Destination
from sidegate.problems import Problem, Problems


class Countries:
    """state: the state directory, where the text files are; None: nothing is kept there."""

    def __init__(self, reader: ListReader, state: Path | None) -> None:
        self._reader = reader
        self._kept_in = state / "countries" if state else None

    def read(self, countries: Collection[str], lists: Lists, errors: list[Problem]) -> dict[str, ListFile]:
        """countries: two letters each, upper case. What each has; without those that `errors` was told of."""
        files = {country.upper(): Path(path) for country, path in lists.country_files.items()}
        found: dict[str, ListFile] = {}
        for country in [c for c in countries if c in files]:
            try:
                found[country] = self._from_file(country, files[country])
            except Problems as error:
                errors += error.problems
        try:
            found |= self._from_database([c for c in countries if c not in files], lists, errors)
        except Problems as error:
            errors += error.problems
        return found

    def paths(self, countries: Collection[str], lists: Lists) -> set[Path]:
        """The files in which the reader remembers them."""
        kept = {p for c in countries if (p := self._kept(c.upper())) is not None}
        return kept | {Path(path) for path in lists.country_files.values()}

    def _from_file(self, country: str, path: Path) -> ListFile:
        found = self._reader.read(path)
        if found.entries.has_names:
            what = f"names domains, and was to hold the networks of {country} alone"
            raise Problems(Problem(str(path), what, "give domains by proxy.list or a rule's list"))
        return found

    def _from_database(self, countries: list[str], lists: Lists, errors: list[Problem]) -> dict[str, ListFile]:
        """Raises Problems."""
        if not countries:
            return {}
        if lists.country_db is None:
            what = f"no file and no database holds the networks of {', '.join(countries)}"
            raise Problems(Problem("lists.country_db", what, GIVE_COUNTRY))
        path = Path(lists.country_db)
        made_of = ((path, stamp_of(path)),)
        head = _head(path)
        kept = {c: it for c in countries if (it := self._kept_file(c, head)) is not None}
        found = {c: structs.replace(it, made_of=made_of) for c, it in kept.items()}
        missing = [c for c in countries if c not in found]
        for country, gathered in (_networks_of(path, missing) if missing else {}).items():
            if gathered:
                found[country] = ListFile(path, gathered.destination(), made_of=made_of)
                self._keep(country, head, found[country].entries)
            else:
                errors.append(Problem(str(path), f"knows no network of a country {country}"))
        return found

    def _kept(self, country: str) -> Path | None:
        return self._kept_in / f"{country}.txt" if self._kept_in else None

    def _kept_file(self, country: str, head: str) -> ListFile | None:
        path = self._kept(country)
        try:
            if path is None or _first_line(path) != head:
                return None
            found = self._reader.read(path)
        except (OSError, Problems):
            return None
        return None if found.bad_count or found.entries.has_names else found

    def _keep(self, country: str, head: str, entries: Destination) -> None:
        path = self._kept(country)
        if path is None:
            return
        networks: Iterable[IPv4Network | IPv6Network] = (*entries.networks4, *entries.networks6)
        # Not kept, it is read anew at the next start: nothing to keep a home offline for, as on a full disk.
        with contextlib.suppress(OSError):
            replace_file(path, "\n".join([head, *map(str, networks), ""]).encode(), 0o644)


def _networks_of(path: Path, countries: list[str]) -> dict[str, Gathered]:
    """The library costs 2.6 MB of memory, which most homes and most starts do without. Raises Problems."""
    from sidegate.gateway.split.mmdb import networks_of

    return networks_of(path, countries)


def _head(path: Path) -> str:
    """Tells this version of the database from others. Raises Problems."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Problems(Problem(str(path), f"cannot be read: {why}", GIVE_COUNTRY)) from None
    return f"# from {str(path)!r}, {status.st_size} bytes of {status.st_mtime_ns}"


def _first_line(path: Path) -> str:
    """Raises OSError."""
    with path.open("rb") as file:
        return file.readline(4096).decode("utf-8", "replace").rstrip("\n")
