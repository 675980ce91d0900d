"""What an install made, on disk: written before the first change, so that `uninstall` knows it all."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from sidegate.install import layout
from sidegate.problems import Problem, Problems

VERSION = 1


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """release: the one that is, or is about to be, the current one. is_finished: the install came to its end.

    paths: files and links outside of /opt/sidegate. directories: those that were not there before, the outermost first.
    config_digest: of the configuration as we wrote it, as sha256 in hex; another digest means that a person changed it.
    made_group: whether the group was made by us.
    """

    release: str
    is_finished: bool
    paths: tuple[str, ...]
    directories: tuple[str, ...]
    config_digest: str
    made_group: bool = False
    version: int = VERSION


def encode(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes) -> Manifest:
    """Raises Problems for what is no manifest, or one of another version of this program."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        remedy = "put it back from a backup, or remove what it named by hand: see docs/install.md"
        raise Problems(Problem(layout.MANIFEST, f"damaged: {error}", remedy)) from None
    if manifest.version != VERSION:
        what = f"has version {manifest.version}, this program knows {VERSION}"
        raise Problems(Problem(layout.MANIFEST, what, "use the program that wrote it: sidegate uninstall"))
    return manifest
