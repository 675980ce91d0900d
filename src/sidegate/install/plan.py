"""What an installation consists of: every file with its content and mode, every link. Pure; paths are the machine's."""

from __future__ import annotations

import gzip
from importlib import resources

import click
from msgspec import Struct

from sidegate.install import layout
from sidegate.install.completion import completion
from sidegate.install.manual import manual_pages
from sidegate.install.release import Release

_LAUNCHER = """\
#!{python} -I
import sys

from sidegate.cli.main import main

sys.exit(main())
"""
_ENVIRONMENT = """\
home = {home}
include-system-site-packages = false
version = {version}
"""


class File(Struct, frozen=True):
    """path: absolute, on the machine. mode: permission bits. is_config: a person's own once they changed it."""

    path: str
    content: bytes
    mode: int = 0o644
    is_config: bool = False


class Link(Struct, frozen=True):
    """A symbolic link; target: as it stands in the link."""

    path: str
    target: str


class Plan(Struct, frozen=True):
    """program: the release's own directory, files and links; they come first and `current` points to them last.

    around: what lies elsewhere on the machine.
    """

    release: str
    version: str
    program: tuple[File | Link, ...]
    around: tuple[File | Link, ...]

    @property
    def directory(self) -> str:
        return layout.release_dir(self.release)

    @property
    def current(self) -> Link:
        return Link(layout.CURRENT, f"releases/{self.release}")

    @property
    def items(self) -> tuple[File | Link, ...]:
        """Everything, in the order in which it is made."""
        return (*self.program, *self.around, self.current)


def shipped(name: str) -> str:
    """The text of a file that comes with this room: the unit, the example configuration and so on."""
    return (resources.files("sidegate.install") / "data" / name).read_text("utf-8")


def make_plan(release: Release, command: click.Command) -> Plan:
    """The plan for a release. command: the whole command line, for man pages and completion."""
    return Plan(release.id, release.version, _program(release), _around(release, command))


def _program(release: Release) -> tuple[File | Link, ...]:
    python = f"{release.directory}/bin/python"
    home = release.python.executable.rpartition("/")[0]
    environment = _ENVIRONMENT.format(home=home, version=release.python.version)
    modules = (File(f"{release.libraries}/{path}", content) for path, content in sorted(release.modules.items()))
    return (
        File(f"{release.directory}/pyvenv.cfg", environment.encode()),
        Link(python, release.python.executable),
        File(f"{release.directory}/bin/sidegate", _LAUNCHER.format(python=python).encode(), 0o755),
        *modules,
    )


def _around(release: Release, command: click.Command) -> tuple[File | Link, ...]:
    example = shipped("sidegate.toml")
    pages = manual_pages(command, release.version, example)
    return (
        File(layout.UNIT, shipped("sidegate.service").encode()),
        File(layout.SYSUSERS, shipped("sysusers.conf").encode()),
        File(layout.TMPFILES, shipped("tmpfiles.conf").encode()),
        File(layout.CONFIG, example.encode(), 0o600, is_config=True),
        File(f"{layout.DOC}/sidegate.toml", example.encode()),
        *(File(path, completion(command, shell).encode()) for shell, path in layout.COMPLETIONS.items()),
        *(File(_manual_path(name), gzip.compress(text.encode(), mtime=0)) for name, text in sorted(pages.items())),
        Link(layout.COMMAND, f"{layout.CURRENT}/bin/sidegate"),
    )


def _manual_path(name: str) -> str:
    return f"{layout.MAN}/man{name[-1]}/{name}.gz"
