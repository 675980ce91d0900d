"""Engine -> the child of the daemon that it is."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from sidegate.gateway.box.children import Child, ChildFile
from sidegate.gateway.engine import lanport
from sidegate.gateway.engine.program import ENVIRONMENT
from sidegate.gateway.engine.sets import sets_text
from sidegate.gateway.engine.xray import Engine, xray_json
from sidegate.gateway.split.ports import GENERATIONS

WITHOUT = "what went through it ends here"


def child_name(generation: int) -> str:
    return f"engine-{generation}"


def refused_file(generation: int, directory: Path) -> Path:
    """Holds the names of the upstreams that Xray refuses, one a line."""
    return directory / f"{child_name(generation)}.refused"


def engine_children(it: Engine, directory: Path) -> list[Child]:
    """It as each of the generations; the text of its sets, which may be large, is in memory once."""
    text = _sets_text(it)
    return [engine_child(msgspec.structs.replace(it, generation=g), directory, text) for g in range(GENERATIONS)]


def _sets_text(it: Engine) -> str:
    return sets_text(it.policy) + (lanport.sets_text() if it.lan else "")


def engine_child(it: Engine, directory: Path, text: str | None = None) -> Child:
    """The process. directory: where its files are, for root alone; its secrets are in the first of them.

    text: of its sets, where it is known.
    """
    name = child_name(it.generation)
    config, sets, ready = (directory / f"{name}.{suffix}" for suffix in ("conf", "sets", "pid"))
    refused = refused_file(it.generation, directory)
    files = (
        ChildFile(str(config), xray_json(it)),
        ChildFile(str(sets), _sets_text(it) if text is None else text),
        ChildFile(str(refused), "", 0o644),
    )
    environment = (f"{key}={value}" for key, value in ENVIRONMENT.items())
    program = (sys.executable, "-I", "-m", "sidegate.gateway.engine.program")
    command = ("env", *environment, *program, str(config), str(sets), str(ready), str(refused))
    return Child(name, command, str(ready), files, WITHOUT)
