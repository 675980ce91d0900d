"""All that can be said of a configuration's split without a daemon: reads its files, changes nothing."""

from __future__ import annotations

from pathlib import Path

from sidegate.gateway.config import Config
from sidegate.gateway.engine.upstreams import upstreams
from sidegate.gateway.split.rules import hints, policy
from sidegate.gateway.split.shelf import Shelf
from sidegate.gateway.split.times import local_now
from sidegate.problems import Problem, Problems


def review(config: Config) -> tuple[Problem, ...]:
    """What is no error and yet worth knowing: bad lines of lists, rules that never match.

    Raises Problems with all that is wrong with lists, country databases, share links and what rules send to.
    """
    errors: list[Problem] = []
    names: tuple[str, ...] | None = None
    try:
        names = upstreams(config, _text).names
    except Problems as error:
        errors += error.problems
    try:
        material = Shelf().read(config)
        if names is not None:
            policy(config, material, names, local_now())
    except Problems as error:
        errors += error.problems
    if errors:
        raise Problems(*errors)
    return (*material.warnings, *hints(config, material, names or ()))


def _text(path: str) -> str:
    """Raises OSError, UnicodeDecodeError."""
    return Path(path).read_text("utf-8")
