"""Conversations with names: those of the article, and every one that model and kernel once saw differently.

`tests/kernel/test_walk_captures.py` plays them on the kernel and records what it saw; `tests/walk/test_captures.py`
holds the model against the record where no namespaces are allowed.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from sidegate.home import Home, load_home
from sidegate.walk.conversation import Ask
from sidegate.walk.data import Walk
from sidegate.walk.setting import Setting
from sidegate.walk.worlds import matrix
from tests.conftest import GOLDEN_ROOT

RECORD = GOLDEN_ROOT / "walk/captures.jsonl.gz"


class Case(Struct, frozen=True):
    """home: a shipped home, or one of the matrix."""

    name: str
    home: str
    setting: Setting
    ask: Ask


class Recorded(Struct, frozen=True):
    case: Case
    kernel: Walk


def home_named(name: str) -> Home:
    """A shipped home, or one of the matrix."""
    if name == "velop-mesh":
        return load_home(name)
    return next(world.home for world in matrix() if world.home.name == name)


def cases() -> tuple[Case, ...]:
    """All of them, those of one home and setting together."""
    return (*_articles(), *_found())


def _articles() -> Iterator[Case]:
    for setting in (Setting("forwarding"), Setting("masquerade"), Setting("sidegate", ("my-computer", "nas"))):
        for i, (client, address) in enumerate((("my-computer", 123), ("desk-computer", 124), ("phone", 126))):
            for j, protocol in enumerate(("tcp", "udp", "icmp")):
                port, sport = 0 if protocol == "icmp" else 5000, 43000 + 10 * i + j
                ask = Ask(client, f"192.168.1.{address}", "1.2.3.4", protocol, port, sport)  # type: ignore[arg-type]
                yield Case(f"{client} {protocol} {setting.runs}", "velop-mesh", setting, ask)


_PHONE, _NAS, _SERVER = ("phone", "192.168.1.126"), ("nas", "192.168.1.127"), "1.2.3.4"


def _found() -> Iterator[Case]:
    """Disagreements, each named after the law that the model lacked or the lab's property that it did not know."""
    plain, proxied = Setting("forwarding"), Setting("forwarding", proxied=True)
    redirects = Setting("forwarding", redirects_sent=True, instant=True)
    wired = "plain-chip-masquerade-0"
    yield Case("no way back for a port unreachable either", "velop-mesh", plain,
               Ask(*_PHONE, _SERVER, "udp", 5000, 43101, "closed"))  # fmt: skip
    for ttl in (1, 2):
        yield Case(f"time exceeded after {ttl} hops", "velop-mesh", plain,
                   Ask(*_NAS, _SERVER, "udp", 5000, 43110 + ttl, ttl=ttl))  # fmt: skip
    yield Case("a port that another host has taken", "velop-mesh", Setting("masquerade"),
               Ask(*_PHONE, _SERVER, "tcp", 5000, 43102, rival=_NAS))  # fmt: skip
    yield Case("a stray segment meets a living engine", "velop-mesh", proxied,
               Ask(*_NAS, _SERVER, "tcp", 5000, 43103, "stray"))  # fmt: skip
    direct = Setting("sidegate", ("nas",))
    yield Case("a direct connection that all boxes forgot", "velop-mesh", direct,
               Ask(*_NAS, _SERVER, "tcp", 5000, 43109, "forgotten"))  # fmt: skip
    yield Case("a direct connection that nobody knew", "velop-mesh", direct,
               Ask(*_NAS, _SERVER, "tcp", 5000, 43120, "stray"))  # fmt: skip
    yield Case("masquerade for all breaks the port forward of a wired client", wired, Setting("masquerade"),
               Ask("internet", _SERVER, "123.100.101.102", "tcp", 6000, 43104))  # fmt: skip
    yield Case("a reset socket says nothing more", wired, Setting("masquerade"),
               Ask("internet", _SERVER, "123.100.101.102", "tcp", 6000, 43105, "forgotten", 3))  # fmt: skip
    yield Case("a redirect arrives during connect and is lost", wired, redirects,
               Ask("wired-tcp", "192.168.1.100", _SERVER, "tcp", 5000, 43106))  # fmt: skip
    yield Case("a redirect is taken by a datagram socket", wired, redirects,
               Ask("wired-udp", "192.168.1.101", _SERVER, "udp", 5000, 43107))  # fmt: skip
    yield Case("a redirect overtaken in the capture", "filter-radio-masquerade-0", redirects,
               Ask("wifi-udp", "192.168.1.111", _SERVER, "udp", 5000, 43108))  # fmt: skip


def write(recorded: list[Recorded], path: Path = RECORD) -> None:
    """One JSON document a line; the same record gives the same bytes."""
    lines = b"".join(msgspec.json.encode(it) + b"\n" for it in recorded)
    path.write_bytes(gzip.compress(lines, mtime=0))


def read(path: Path = RECORD) -> tuple[Recorded, ...]:
    """Raises FileNotFoundError where nothing was recorded yet."""
    lines = gzip.decompress(path.read_bytes()).splitlines()
    return tuple(msgspec.json.decode(line, type=Recorded) for line in lines)
