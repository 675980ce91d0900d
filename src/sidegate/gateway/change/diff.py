"""What another configuration would change: in its settings, and on this box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sidegate.gateway.apply import Changes, LiveBox, rehearse
from sidegate.gateway.config import Config
from sidegate.gateway.decide import decide
from sidegate.gateway.facts import observe
from sidegate.reading import encode_address


class Setting(Struct, frozen=True):
    """One key that differs. before, after: as JSON; empty: it was not, or is no longer, said."""

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before or 'nothing'} -> {self.after or 'nothing'}"


def settings(before: Config, after: Config) -> tuple[Setting, ...]:
    """Pure. A list's entries with a `mac` are told apart by it, others by their place."""
    old, new = _flat(before), _flat(after)
    paths = [*new, *(path for path in old if path not in new)]
    return tuple(Setting(p, old.get(p, ""), new.get(p, "")) for p in paths if old.get(p) != new.get(p))


def _flat(config: Config) -> dict[str, str]:
    found: dict[str, str] = {}
    _flatten(msgspec.to_builtins(config, enc_hook=encode_address), "", found)
    return found


def _flatten(data: Any, path: str, found: dict[str, str]) -> None:
    if isinstance(data, dict):
        for key, value in data.items():
            _flatten(value, f"{path}.{key}" if path else key, found)
    elif isinstance(data, list | tuple) and any(isinstance(item, dict) for item in data):
        for i, item in enumerate(data):
            _flatten(item, f"{path}[{item.get('mac', i)}]", found)
    elif data is not None:
        found[path] = msgspec.json.encode(data).decode()


def on_this_box(config: Config, state_dir: Path) -> Changes:
    """What taking it would change here, each with its reason. Raises Problems: why it could not be taken."""
    facts = observe(config, state_dir)
    return rehearse(decide(config, facts), facts, LiveBox(), state_dir)
