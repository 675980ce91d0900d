"""Homes and router profiles from files: those that come with Sidegate, and a user's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import msgspec

from sidegate.home.checks import check_home, check_router
from sidegate.home.data import Home, RouterProfile
from sidegate.problems import Problem, Problems
from sidegate.reading import read


def shipped_homes() -> tuple[str, ...]:
    """Names of the homes that come with Sidegate."""
    return _shipped("homes")


def shipped_routers() -> tuple[str, ...]:
    """Names of the router profiles that come with Sidegate."""
    return _shipped("routers")


def _shipped(folder: str) -> tuple[str, ...]:
    files = resources.files("sidegate").joinpath(folder).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_home(name_or_path: str) -> Home:
    """A shipped home by name, or any home file by path. Raises Problems."""
    text, source = _find("homes", name_or_path, "home", shipped_homes())
    home = read(text, Home, source, check_home)
    return msgspec.structs.replace(home, name=home.name or Path(name_or_path).stem)


def load_router(name_or_path: str) -> RouterProfile:
    """A shipped router profile by name, or any profile file by path. Raises Problems."""
    text, source = _find("routers", name_or_path, "router profile", shipped_routers())
    return read(text, RouterProfile, source, check_router)


def _find(folder: str, name: str, what: str, known: tuple[str, ...]) -> tuple[str, str]:
    if name in known:
        return resources.files("sidegate").joinpath(folder, f"{name}.toml").read_text("utf-8"), f"{name}.toml"
    path = Path(name)
    try:
        if path.suffix != ".toml" and not path.exists():
            remedy = f"shipped: {', '.join(known)}; or the path of a .toml file"
            raise Problems(Problem(name, f"no such {what}", remedy))
        return path.read_text("utf-8"), str(path)
    except UnicodeDecodeError:
        raise Problems(Problem(name, "not UTF-8 text")) from None
    except OSError as error:
        raise Problems(Problem(name, f"cannot be read: {error.strerror}")) from None
