"""All that a configuration's rules refer to, read from files: what `rules.policy` works with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct, structs

from sidegate.gateway.config import Config
from sidegate.gateway.split.countries import Countries
from sidegate.gateway.split.destinations import merged
from sidegate.gateway.split.lists import ListFile, ListReader, Stamp, changed
from sidegate.gateway.split.policy import Destination
from sidegate.problems import Problem, Problems

Together = tuple[tuple[str, ...], tuple[str, ...]]
"""Lists and countries that a setting names together."""


class Material(Struct, frozen=True):
    """lists: by path, as the configuration writes it. countries: by two letters, upper case.

    warnings: lines that could not be read, and what else could not; brief: such lines, a few of each file. unusable:
    why files count as empty, where reading was to be tolerant. merged: what was put together already. made_of: the
    files, as they were.
    """

    lists: dict[str, Destination] = {}
    countries: dict[str, Destination] = {}
    warnings: tuple[Problem, ...] = ()
    merged: dict[Together, Destination] = {}
    brief: tuple[Problem, ...] = ()
    unusable: tuple[Problem, ...] = ()
    made_of: tuple[tuple[Path, Stamp | None], ...] = ()

    def changes(self) -> tuple[Problem, ...]:
        """Files that are others now, which nobody has read yet."""
        paths = changed(self.made_of)
        more = f", and so have {len(paths) - 1} more" if len(paths) > 1 else ""
        return tuple(Problem(str(it), f"has changed since it was read{more}: sidegate reload") for it in paths[:1])

    def parts(self, together: Together) -> list[Destination]:
        paths, codes = together
        return [*(self.lists[path] for path in paths), *(self.countries[code.upper()] for code in codes)]

    def whole(self, paths: tuple[str, ...], codes: tuple[str, ...] = ()) -> Destination:
        """All that these lists and countries name."""
        found = self.merged.get((paths, codes))
        return found if found is not None else merged(self.parts((paths, codes)))


class Shelf:
    """Remembers what it read, so that the next reading costs nothing where no file changed."""

    def __init__(self, state: Path | None = None) -> None:
        """state: the state directory; None: nothing is kept beyond this process."""
        self._reader = ListReader()
        self._countries = Countries(self._reader, state)
        self._merged: dict[Together, tuple[list[Destination], Destination]] = {}

    def read(self, config: Config, *, is_tolerant: bool = False) -> Material:
        """Raises Problems with all that is wrong with the files; lists.bad_lines says whether bad lines are.

        is_tolerant: a file that cannot be used is empty, and its problems are warnings: for a start without a person.
        """
        paths, codes = list_paths(config), country_codes(config)
        errors: list[Problem] = []
        lists = {path: found for path in paths if (found := self._list(path, errors)) is not None}
        countries = self._countries.read(codes, config.lists, errors)
        self._reader.keep({*map(Path, paths), *self._countries.paths(codes, config.lists)})
        files = (*lists.values(), *countries.values())
        bad, brief = [it for f in files for it in f.warnings], [it for f in files for it in f.brief]
        if config.lists.bad_lines == "refuse" and bad:
            errors += bad
            lists, countries = _faultless(lists), _faultless(countries)
            bad, brief = [], []
        if errors and not is_tolerant:
            raise Problems(*errors)
        material = Material(
            lists=_entries(lists, paths),
            countries=_entries(countries, codes),
            warnings=(*errors, *bad),
            brief=tuple(brief),
            unusable=tuple(errors),
            made_of=tuple({pair: None for file in files for pair in file.made_of}),
        )
        return structs.replace(material, merged=self._together(config, material))

    def _together(self, config: Config, material: Material) -> dict[Together, Destination]:
        """What is of the same files as before is not put together again."""
        before, self._merged = self._merged, {}
        for key in _named_together(config):
            parts = material.parts(key)
            known = before.get(key)
            is_same = known is not None and all(a is b for a, b in zip(known[0], parts, strict=True))
            self._merged[key] = known if known is not None and is_same else (parts, merged(parts))
        return {key: whole for key, (_, whole) in self._merged.items()}

    def _list(self, path: str, errors: list[Problem]) -> ListFile | None:
        try:
            return self._reader.read(Path(path))
        except Problems as error:
            errors += error.problems
            return None


def read_ahead(config: Config, state: Path) -> None:
    """Has the countries of a database read by this process, so that the daemon, whose loop must not stand still for as
    long as that takes (1 s), finds them as text. What is wrong with it is told by whoever reads the rest.

    state: the state directory.
    """
    if config.lists.country_db is not None:
        Countries(ListReader(), state).read(country_codes(config), config.lists, [])


def list_paths(config: Config) -> tuple[str, ...]:
    """Of every list that the configuration names, each once."""
    return tuple(dict.fromkeys((*config.proxy.list, *(path for rule in config.rule for path in rule.list))))


def country_codes(config: Config) -> tuple[str, ...]:
    """Of every country that the configuration names, each once, in upper case."""
    named = (*config.proxy.country, *(code for rule in config.rule for code in rule.country))
    return tuple(dict.fromkeys(code.upper() for code in named))


def _named_together(config: Config) -> set[Together]:
    settings = {(config.proxy.list, ()), ((), config.proxy.country), *((it.list, it.country) for it in config.rule)}
    return {it for it in settings if it != ((), ())}


def _faultless(files: dict[str, ListFile]) -> dict[str, ListFile]:
    return {key: file for key, file in files.items() if not file.bad_count}


def _entries(files: dict[str, ListFile], keys: Iterable[str]) -> dict[str, Destination]:
    return {key: files[key].entries if key in files else Destination() for key in keys}
