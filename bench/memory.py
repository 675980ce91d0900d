"""What all of it takes together: daemon, engine, resolver and DHCP server, with long lists and after traffic.

Files that several programs map (Python's, Xray's) are shared, with programs that are none of ours too: here the lab's
servers run the same Python and the same Xray. So the proportional set size (PSS) of /proc tells too little, and the sum
of what is resident (RSS) too much. Counted is what would be in use if nothing else ran: what is anonymous, and every
page of a file once (Documentation/admin-guide/mm/pagemap.rst, Documentation/filesystems/proc.rst).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from bench import dhcp
from bench.blocks import serve, transfer_s
from bench.figures import Figure
from sidegate.home import load_home
from sidegate.lab.check import sidegate
from sidegate.lab.lab import Lab
from sidegate.probe.dns import ask

LISTED = 10_000
BAR_MB = 110
STREAMS, BLOCK = 16, 400_000_000
NAMES, MANY_NAMES = 300, 2000
DEVICES = 40
_WITHIN_S = 20.0
_TRIES, _PORT = 4, 5201
_CLIENT, _ASKER, _WE = "my-computer", "nas", "192.168.1.2"
_CONF = """
[proxy]
upstream = {link}
check = "http://{domestic}/who"
list = ["/run/listed.txt"]

[dhcp]
mode = "server"
range = "192.168.1.140-192.168.1.190"
"""
_PAGE = os.sysconf("SC_PAGESIZE")
_PRESENT, _OF_FILE = 1 << 63, 1 << 61
"""Bits of an entry of pagemap."""

Pages = set[tuple[str, int]]
"""Of files: device and inode, and number."""


class Taken(Struct, frozen=True):
    """Of one process, in bytes. pages: of files, resident and mapped here."""

    name: str
    anonymous: int
    pss: int
    pages: Pages


def all_processes() -> list[Figure]:
    """At rest, while 16 connections are proxied, and after questions for new names, which the engine leads on."""
    with Lab.up(load_home("split")) as lab:
        _bring_up(lab)
        rest = _taken(lab)
        with ExitStack() as stack:
            connections = _connections(lab, stack)
            took_s = min(transfer_s(connections, way, BLOCK) for way in ("up", "down", "down"))
            meanwhile = _taken(lab)
        _hand_out_addresses(lab)
        _ask_for_names(lab, NAMES)
        after = _taken(lab)
        _ask_for_names(lab, MANY_NAMES)
        flooded = _taken(lab)
    many = f"{LISTED:,} names and {LISTED:,} networks"
    load = f"{BLOCK / 1e6:.0f} MB each way, up to {BLOCK * 8 / 1e6 / took_s:.0f} Mbit/s"
    return [
        Figure(f"memory of all processes, {many}", _mb(rest), "MB", BAR_MB, note=_told(rest)),
        Figure(f"memory of all processes, {STREAMS} streams proxied", _mb(meanwhile), "MB", BAR_MB, note=load),
        Figure(
            f"memory of all processes, after {NAMES} new names and {DEVICES} leases",
            _mb(after),
            "MB",
            BAR_MB,
            note=f"names asked as fast as they are answered; {_told(after)}",
        ),
        Figure("the same by PSS", sum(it.pss for it in after) / 1e6, "MB"),
        Figure(
            f"memory of all processes, after {MANY_NAMES:,} more names at once",
            _mb(flooded),
            "MB",
            BAR_MB,
            note=f"as fast as they are answered, by a server that ends a connection after 100; {_told(flooded)}",
        ),
    ]


def _bring_up(lab: Lab) -> None:
    """Until the engine has its upstream, and the DHCP server and the resolver serve."""
    servers = {s.name: str(s.v4) for s in lab.home.internet.server}
    names = "".join(f"name{n}.foreign.example\n" for n in range(LISTED))
    networks = "".join(f"20.{n // 256}.{n % 256}.0/25\n" for n in range(LISTED - 1)) + f"{servers['foreign']}/32\n"
    lab.run("gateway", "sh", "-c", "cat >/run/listed.txt", text=names + networks)
    config = _CONF.format(link=json.dumps(lab.links()["proxy-socks"]), domestic=servers["domestic"])
    lab.run("gateway", "sh", "-c", "cat >/run/memory.toml", text=config)
    sidegate(lab, "up", "--config", "/run/memory.toml")
    end_s = time.monotonic() + _WITHIN_S
    while not _serves(lab):
        if time.monotonic() > end_s:
            raise TimeoutError(sidegate(lab, "status"))
        time.sleep(0.2)


def _serves(lab: Lab) -> bool:
    status = json.loads(sidegate(lab, "status", "--json"))
    return bool(status["split"]["proxy"]["serves"]) and not status["faults"]


def _connections(lab: Lab, stack: ExitStack) -> list[socket.socket]:
    """To a listed network, with a server of our own: what it says shows no name."""
    foreign = next(str(s.v4) for s in lab.home.internet.server if s.name == "foreign")
    stack.callback(lab.begin("internet", serve, foreign, _PORT, 1).abandon)
    made = [stack.enter_context(lab.socket(_CLIENT, socket.AF_INET, socket.SOCK_STREAM)) for _ in range(STREAMS)]
    for it in made:
        it.settimeout(_WITHIN_S)
        it.connect((foreign, _PORT))
    return made


def _hand_out_addresses(lab: Lab) -> None:
    bound = lab.call(_ASKER, dhcp.crowd, DEVICES, _WITHIN_S, DEVICES)
    if bound.count < DEVICES:
        raise RuntimeError(f"{bound.count} of {DEVICES} leases")


def _ask_for_names(lab: Lab, count: int) -> None:
    answered = lab.call(_CLIENT, ask_for_names, count)
    if answered < count:
        raise RuntimeError(f"{answered} of {count} answers")


def ask_for_names(count: int) -> int:
    """How many were answered, whatever the answer was: each name is a new one, and asked through the engine.

    Asked again as a stub resolver does. Runs at a client.
    """
    names = (f"{secrets.token_hex(8)}.name{n}.foreign.example" for n in range(count))
    return sum(any(ask(_WE, name) is not None for _ in range(_TRIES)) for name in names)


# Counting


def _taken(lab: Lab) -> list[Taken]:
    return lab.call("gateway", taken_here)


def taken_here() -> list[Taken]:
    """Of every process in this network but the machine's own holder. Runs on the gateway."""
    return [it for it in map(_of_process, _processes_here()) if it is not None]


def _mb(taken: list[Taken]) -> float:
    files: Pages = set().union(*(it.pages for it in taken))
    return (sum(it.anonymous for it in taken) + len(files) * _PAGE) / 1e6


def _told(taken: list[Taken]) -> str:
    """Each one's own, without the files."""
    each = sorted(taken, key=lambda it: -it.anonymous)
    return "anonymous: " + ", ".join(f"{it.name} {it.anonymous / 1e6:.0f}" for it in each)


def _processes_here() -> Iterator[int]:
    """The holder of a machine is the oldest in its network."""
    here, found = os.readlink("/proc/self/ns/net"), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found += [int(name)] if os.readlink(f"/proc/{name}/ns/net") == here else []
    yield from (pid for pid in sorted(found, key=_began)[1:] if pid != os.getpid())


def _began(pid: int) -> int:
    """In ticks since the machine's start (proc_pid_stat(5), field 22)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _of_process(pid: int) -> Taken | None:
    """None for one that ends meanwhile."""
    place = Path(f"/proc/{pid}")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        rollup = dict(line.split(":") for line in (place / "smaps_rollup").read_text().splitlines()[1:])
        size = {key: int(value.split()[0]) * 1024 for key, value in rollup.items()}
        anonymous = size["Pss_Anon"] + size["Pss_Shmem"] + _in_memory_files(place)
        return Taken(_name(place), anonymous, size["Pss"], _file_pages(place))
    return None


def _name(place: Path) -> str:
    words = (place / "cmdline").read_bytes().decode().split("\0")
    modules = [word.rpartition(".")[2] for word in words if word.startswith("sidegate.")]
    return modules[0] if modules else words[0].rpartition("/")[2]


def _in_memory_files(place: Path) -> int:
    """What it keeps in files without a name (memfd_create(2))."""
    size = 0
    for it in (place / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            size += it.stat().st_blocks * 512 if os.readlink(it).startswith("/memfd:") else 0
    return size


def _file_pages(place: Path) -> Pages:
    pages: Pages = set()
    with open(place / "pagemap", "rb", buffering=0) as map_:
        for line in (place / "maps").read_text().splitlines():
            span, _, offset, device, inode, *_ = line.split(maxsplit=5)
            if inode != "0":
                first, end = (int(it, 16) // _PAGE for it in span.split("-"))
                at = int(offset, 16) // _PAGE - first
                pages |= {(f"{device} {inode}", at + page) for page in _mapped(map_.fileno(), first, end)}
    return pages


def _mapped(pagemap: int, first: int, end: int) -> Iterator[int]:
    """The pages of a file that are mapped between two pages of the process; those it has changed are anonymous."""
    entries = array("Q", os.pread(pagemap, (end - first) * 8, first * 8))
    return (first + i for i, entry in enumerate(entries) if entry & _PRESENT and entry & _OF_FILE)
