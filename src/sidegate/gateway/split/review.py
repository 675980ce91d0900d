"""All that can be said of a configuration's split without a daemon: reads its files, changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sidegate.gateway.config import Config
from sidegate.gateway.config.split import TARGETS
from sidegate.gateway.decide import Situation
from sidegate.gateway.engine.subscription import file_copies
from sidegate.gateway.engine.trial import question
from sidegate.gateway.engine.upstreams import upstreams
from sidegate.gateway.split.policy import PROXY
from sidegate.gateway.split.ports import Ports, lan_port, ports
from sidegate.gateway.split.rules import hints, is_proxied, is_split, policy
from sidegate.gateway.split.shelf import Shelf
from sidegate.gateway.split.times import local_now
from sidegate.problems import Problem, Problems

T = TypeVar("T")


def review(config: Config) -> tuple[Problem, ...]:
    """What is no error and yet worth knowing: bad lines of lists, rules that never match, subscriptions' files.

    Nobody is asked for subscriptions: that a rule sends to an upstream of theirs is taken on trust. Raises Problems
    with all that is wrong with lists, country databases, share links, the address to check by, what rules send to.
    """
    errors: list[Problem] = []
    copies = file_copies(config.proxy.subscriptions)
    listed = [(it.where, it.text) for it in copies if it.text is not None]
    found = _tried(lambda: upstreams(config, _text, listed), errors)
    material = _tried(lambda: Shelf().read(config), errors)
    _tried(lambda: question(config.proxy.check), errors)
    names = (*(found.names if found else ()), *_trusted(config))
    if found is not None and material is not None:
        _tried(lambda: policy(config, material, names, local_now()), errors)
    if errors or material is None or found is None:
        raise Problems(*errors)
    unread = [it.problem for it in copies if it.problem is not None]
    return (*unread, *found.problems, *material.warnings, *hints(config, material, names))


def _tried(make: Callable[[], T], errors: list[Problem]) -> T | None:
    try:
        return make()
    except Problems as error:
        errors += error.problems
        return None


def _trusted(config: Config) -> tuple[str, ...]:
    return tuple(rule.send for rule in config.rule) if config.proxy.subscriptions else ()


def foreseen(config: Config) -> Situation:
    """What the kernel's rules will be decided for, once engine and resolver serve on a box that was down.

    Raises Problems with all that is wrong with the files that the configuration names.
    """
    names = upstreams(config, _text).names
    held = policy(config, Shelf().read(config), names, local_now())
    if not is_split(held) and not config.resolves:
        return Situation()
    aims = [PROXY, *dict.fromkeys(r.send for r in held.rules if r.send not in TARGETS)] if is_proxied(held) else []
    targets = tuple((aim, _place(config, names, aim)) for aim in aims)
    has_port = config.proxy.engine == "xray" and config.proxy.lan_port is not None and bool(names)
    return Situation(held, targets, answers_names=config.resolves, lan_port=lan_port(0, 0) if has_port else None)


def _place(config: Config, names: tuple[str, ...], aim: str) -> Ports | None:
    if config.proxy.engine == "tproxy":
        port = config.proxy.tproxy_port
        return Ports(port, port, port)
    number = 0 if aim == PROXY else names.index(aim) if aim in names else None
    return None if number is None or not names else ports(0, number)


def _text(path: str) -> str:
    """Raises OSError, UnicodeDecodeError."""
    return Path(path).read_text("utf-8")
