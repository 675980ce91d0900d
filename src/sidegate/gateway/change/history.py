"""Versions of the configuration: what was in force when, which is in force, and which one to start with.

A version is kept when the box has taken it: whatever is here worked at least as far as that. The user's own file is
never written here; a configuration that was rolled back is remembered as refused, so that a start without a person
(`up --foreground`, as at boot) uses the one before it, although the file still says otherwise.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from sidegate.gateway.box.files import replace_file
from sidegate.gateway.config import Config, config_text, parse_config
from sidegate.problems import Problem, Problems

MOST_VERSIONS = 50
MOST_BYTES = 1 << 20
"""Of all texts together."""
_NAME = "config-history.json"
_FORMAT = 1


class Version(Struct, frozen=True, forbid_unknown_fields=True):
    """number: never given twice. at: when it came into force, RFC 3339, local time. source: the file; empty: none."""

    number: int
    at: str
    source: str
    text: str


class History(Struct, frozen=True, forbid_unknown_fields=True):
    """versions: oldest first. in_force: the number of the last good one. refused: that of one rolled back."""

    versions: tuple[Version, ...] = ()
    in_force: int | None = None
    refused: int | None = None
    format: int = _FORMAT

    @property
    def last_good(self) -> Version | None:
        return self.version(self.in_force) if self.in_force is not None else None

    def version(self, number: int) -> Version | None:
        return next((v for v in self.versions if v.number == number), None)


class Chosen(Struct, frozen=True):
    """A configuration to run with. source: its file; empty: none. faults: why it is not the one in the file."""

    config: Config
    text: str
    source: str
    faults: tuple[Problem, ...] = ()


def load(state_dir: Path) -> History:
    """Empty if there is none. Raises Problems if it cannot be read."""
    path = state_dir / _NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=History)
    except FileNotFoundError:
        return History()
    except (OSError, msgspec.MsgspecError) as error:
        remedy = f"remove {path}: only the versions are lost"
        raise Problems(Problem(str(path), f"cannot be read: {error}", remedy)) from None


def save(history: History, state_dir: Path) -> None:
    """Raises Problems; the old one stands then."""
    path = state_dir / _NAME
    try:
        replace_file(path, msgspec.json.encode(history))
    except OSError as error:
        what = f"the configuration's versions cannot be kept: {error.strerror}"
        raise Problems(Problem(str(path), what, "make room; what is in force stays so")) from None


def taken(history: History, text: str, source: str, at: str) -> History:
    """Pure: this configuration is in force now. The same as before: no new version."""
    good = history.last_good
    if good is not None and (good.text, good.source) == (text, source):
        return structs.replace(history, refused=None)
    number = max((v.number for v in history.versions), default=0) + 1
    fresh = Version(number, at, source, text)
    return History(_bounded((*history.versions, fresh)), number)


def _bounded(versions: tuple[Version, ...]) -> tuple[Version, ...]:
    """The latest, as many as fit; the very last always does."""
    kept = list(versions[-MOST_VERSIONS:])
    while len(kept) > 1 and sum(len(v.text.encode()) for v in kept) > MOST_BYTES:
        kept.pop(0)
    return tuple(kept)


def gone_back(history: History, number: int) -> History:
    """Pure: the version in force is refused, and this one is in force again. A second time changes nothing."""
    if history.in_force == number:
        return history
    return structs.replace(history, in_force=number, refused=history.in_force)


def record(chosen: Chosen, state_dir: Path) -> None:
    """The box has taken it. Raises Problems."""
    before = load(state_dir)
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    after = taken(before, chosen.text, chosen.source, now)
    if chosen.faults:
        # It stands in for the file, which is as refused as it was.
        after = structs.replace(after, refused=before.refused)
    if after != before:
        save(after, state_dir)


def read(path: Path | None) -> Chosen:
    """What is in the file. Raises Problems with every error of it."""
    text, source = config_text(path)
    return Chosen(parse_config(text, source), text, source)


def choose(path: Path | None, state_dir: Path, *, by_person: bool) -> Chosen:
    """What to start with.

    by_person: somebody is there who can mend the file and means what is in it. Otherwise the last good version stands
    in for a file that is broken or was rolled back. Raises Problems: every error of the file, if nothing stands in.
    """
    if by_person:
        return read(path)
    history, damage = _tolerant(state_dir)
    try:
        chosen = read(path)
    except Problems as error:
        return _instead(history, (*error.problems, *damage))
    refused = history.version(history.refused) if history.refused is not None else None
    if refused is not None and refused.text == chosen.text:
        what = "this configuration was rolled back, because nobody confirmed it"
        return _instead(history, (Problem(chosen.source or "configuration", what, "sidegate reload takes it anyway"),))
    return structs.replace(chosen, faults=damage)


def stand_in(chosen: Chosen, state_dir: Path, why: tuple[Problem, ...]) -> Chosen | None:
    """For one that could be read but not used: the last good version; None where that is the same. Raises Problems."""
    history, damage = _tolerant(state_dir)
    good = history.last_good
    if good is None or good.text == chosen.text:
        return None
    return _instead(history, (*chosen.faults, *why, *damage))


def last_good(state_dir: Path) -> Chosen:
    """The version in force, whatever the file says. Raises Problems if there is none."""
    what = "the change was not confirmed and was rolled back"
    return _instead(load(state_dir), (Problem("configuration", what, "sidegate reload takes the file as it is"),))


def in_force(state_dir: Path) -> Config:
    """The last good configuration; the defaults if nothing was in force yet. Raises Problems."""
    good = load(state_dir).last_good
    return parse_config(good.text, good.source) if good else Config()


def _tolerant(state_dir: Path) -> tuple[History, tuple[Problem, ...]]:
    """A damaged history must not keep a good file from being used."""
    try:
        return load(state_dir), ()
    except Problems as error:
        return History(), error.problems


def _instead(history: History, why: tuple[Problem, ...]) -> Chosen:
    good = history.last_good
    if good is None:
        raise Problems(*why)
    stands_in = Problem(good.source or "configuration", f"version {good.number} of {good.at} is used instead")
    return Chosen(parse_config(good.text, good.source), good.text, good.source, (*why, stands_in))
