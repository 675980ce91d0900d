"""What another configuration would change: in its settings, and on this box."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sidegate.gateway.box.apply import Changes, rehearse
from sidegate.gateway.box.facts import observe
from sidegate.gateway.box.livebox import LiveBox
from sidegate.gateway.config import Config
from sidegate.gateway.decide import Situation, decide
from sidegate.reading import encode_address

_SECRET = ("proxy.upstream", "proxy.subscription", ".link")
"""Share links hold passwords, addresses of subscriptions a token."""


class Setting(Struct, frozen=True):
    """One key that differs. before, after: as JSON; empty: it was not, or is no longer, said.

    Of share links, and of addresses of subscriptions, only the kind and the name are told.
    """

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before or 'nothing'} -> {self.after or 'nothing'}"


def settings(before: Config, after: Config) -> tuple[Setting, ...]:
    """Pure. A list's entries with a `mac` or a `name` are told apart by it, rules by what they say."""
    old, new = _flat(before), _flat(after)
    paths = [*new, *(path for path in old if path not in new)]
    changed = (_setting(p, old.get(p, ""), new.get(p, "")) for p in paths if old.get(p) != new.get(p))
    return (*changed, *_rules(_rule_texts(before), _rule_texts(after)))


def _setting(path: str, before: str, after: str) -> Setting:
    if not path.endswith(_SECRET):
        return Setting(path, before, after)
    old, new = _hidden(before), _hidden(after)
    return Setting(path, old, f"{new}, another one" if old == new else new)


def _hidden(text: str) -> str:
    """text: JSON of one link or of several."""
    if not text:
        return ""
    value = msgspec.json.decode(text)
    links = [value] if isinstance(value, str) else value
    return ", ".join(_hidden_link(link) for link in links)


def _hidden_link(link: str) -> str:
    kind, is_link, rest = link.partition("://")
    name = rest.partition("#")[2]
    return f"{kind}://…{'#' + name if name else ''}" if is_link else link


def _rule_texts(config: Config) -> list[str]:
    """As JSON, without what is not said."""
    plain = [msgspec.to_builtins(rule, enc_hook=encode_address) for rule in config.rule]
    return [msgspec.json.encode({key: value for key, value in it.items() if value}).decode() for it in plain]


def _rules(old: Sequence[str], new: Sequence[str]) -> Iterator[Setting]:
    """Those that came, went, or were moved past others: a rule's number alone says nothing."""
    gone: list[int] = []
    come: list[int] = []
    for what, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what != "equal":
            gone += range(i, j)
            come += range(k, m)
    for i in come:
        origin = next((o for o in gone if old[o] == new[i]), None)
        if origin is not None:
            gone.remove(origin)
            yield Setting(f"rule[{i}]", f"rule[{origin}]", new[i])
        elif i in gone:
            gone.remove(i)
            yield Setting(f"rule[{i}]", old[i], new[i])
        else:
            yield Setting(f"rule[{i}]", "", new[i])
    for i in gone:
        yield Setting(f"rule[{i}]", old[i], "")


def _flat(config: Config) -> dict[str, str]:
    found: dict[str, str] = {}
    data = msgspec.to_builtins(config, enc_hook=encode_address)
    del data["rule"]
    _flatten(data, "", found)
    return found


def _flatten(data: Any, path: str, found: dict[str, str]) -> None:
    if isinstance(data, dict):
        for key, value in data.items():
            _flatten(value, f"{path}.{key}" if path else key, found)
    elif isinstance(data, list | tuple) and any(isinstance(item, dict) for item in data):
        for i, item in enumerate(data):
            _flatten(item, f"{path}[{item.get('mac', item.get('name', i))}]", found)
    elif data is not None and data != [] and data != ():
        found[path] = msgspec.json.encode(data).decode()


def on_this_box(config: Config, situation: Situation, state_dir: Path) -> Changes:
    """What taking it would change here, each with its reason. Raises Problems: why it could not be taken."""
    facts = observe(config, state_dir)
    return rehearse(decide(config, facts, situation), facts, LiveBox(), state_dir)
