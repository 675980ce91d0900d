"""What goes through the engine: one client's TCP to a proxy server, with ours and with what else does it.

All of them (`proxies`) run at once on the gateway, with one upstream: a SOCKS5 server, which all of them speak to, and
where nobody has anything to encrypt; and a Shadowsocks server, where everybody has. `named` is ours when it judges by
the name once more.

Each in turn sends a block, and has one sent, over connections that last for some blocks, while nobody else's do
anything; each of them is first as often as the others. A machine's speed changes from second to second by more than
they differ: so a ratio is that of one round's blocks, and the figure the median of these. With the interval in which
it lies, the note tells how sure that is. On a line that all of them fill the throughputs say nothing: there CPU does.
"""

from __future__ import annotations

import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from msgspec import Struct, structs

from bench.blocks import Way, transfer_s
from bench.dataplane import CLIENT
from bench.figures import Figure, sureness
from bench.gateway import SERVER
from bench.proxies import BY_HAND, KINDS, REDSOCKS, V2RAY, Engaged, Kind, all_of_them
from sidegate.home import Home, load_home
from sidegate.lab.lab import Lab

WAYS: tuple[Way, ...] = ("up", "down")
STREAMS = (1, 16)
ROUNDS, LINE_ROUNDS = 24, 6
"""In one round on two cores a ratio of throughputs lies 12 % or more from its median (standard deviation), so that the
one of 24 rounds is known to 4 to 20 %; to know it to 1 % takes 860 rounds, or two hours. Of CPU it is 3 to 15 %."""
BLOCKS, LINE_BLOCKS = 4, 1
BLOCK, _FIRST = 24_000_000, 8_000_000
LINE_MBIT = 1000.0
BARS = {BY_HAND: 0.97, REDSOCKS: 1.0, V2RAY: 1.0}
"""Of throughput; of CPU, of which less is better, the reciprocals."""
_TIMEOUT_S = 10.0
_CPUCLOCK_SCHED = 2
"""include/linux/posix-timers_types.h"""


class Case(Struct, frozen=True):
    kind: Kind
    streams: int
    way: Way

    def __str__(self) -> str:
        return f"{self.kind} {self.way}, {self.streams} streams"


class Turn(Struct, frozen=True):
    """The blocks of one round. cpu_s: of the proxy's processes alone."""

    size: int = 0
    took_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def mbit(self) -> float:
        return self.size * 8 / 1e6 / self.took_s

    @property
    def cpu_s_per_gb(self) -> float:
        return self.cpu_s / (self.size / 1e9)


Turns = dict[Case, dict[str, list[Turn]]]
"""By the proxy's name; in the order of the rounds."""


def proxied_throughput() -> list[Figure]:
    """Of each, with the ratios of ours to the others': as fast as this machine can, and on a home's line."""
    home = load_home("velop-mesh")
    fastest = measured(home, STREAMS, ROUNDS, BLOCKS)
    line = measured(_with_line(home), (1,), LINE_ROUNDS, LINE_BLOCKS)
    at_line = f"proxied at {LINE_MBIT:g} Mbit/s,"
    return [*_figures(fastest, "proxied,", is_line=False), *_figures(line, at_line, is_line=True)]


def _with_line(home: Home) -> Home:
    return structs.replace(home, router=structs.replace(home.router, wan_rate_mbit=LINE_MBIT))


def measured(home: Home, streams: Sequence[int], rounds: int, blocks: int, kinds: Sequence[Kind] = KINDS) -> Turns:
    turns: Turns = {}
    with Lab.up(home) as lab, tempfile.TemporaryDirectory() as path, all_of_them(lab, Path(path)) as engaged:
        for number, kind, count in product(range(rounds), kinds, streams):
            listed = [it for it in engaged if it.kind == kind]
            at = number % len(listed)
            for (way, name), turn in _round(lab, [*listed[at:], *listed[:at]], count, blocks).items():
                turns.setdefault(Case(kind, count, way), {}).setdefault(name, []).append(turn)
    return turns


def _round(lab: Lab, engaged: Sequence[Engaged], count: int, blocks: int) -> dict[tuple[Way, str], Turn]:
    """Over connections of its own."""
    made: dict[tuple[Way, str], Turn] = {}
    with ExitStack() as stack:
        connections = {it.name: _connections(lab, stack, it, count) for it in engaged}
        for _, way, it in product(range(blocks), WAYS, engaged):
            before = made.get((way, it.name), Turn())
            made[way, it.name] = _and_a_block(before, it.program.pid, connections[it.name], way)
    return made


def _connections(lab: Lab, stack: ExitStack, it: Engaged, count: int) -> list[socket.socket]:
    """They find a pace at once: Xray ends one by Shadowsocks over which nothing goes in the first half second."""
    made = [stack.enter_context(lab.socket(CLIENT, socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
    for connection in made:
        connection.settimeout(_TIMEOUT_S)
        # The end of a block is no full segment: it would wait for the ACK of what is before it (RFC 896).
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect((SERVER, it.asked))
    for way in WAYS:
        transfer_s(made, way, _FIRST)
    return made


def _and_a_block(before: Turn, pid: int, connections: Sequence[socket.socket], way: Way) -> Turn:
    began_s = _cpu_s(pid)
    took_s = transfer_s(connections, way, BLOCK)
    return Turn(before.size + BLOCK, before.took_s + took_s, before.cpu_s + _cpu_s(pid) - began_s)


def _cpu_s(pid: int) -> float:
    """Of a process and its children, as the scheduler has counted it (clock_getcpuclockid(3)): the number of the clock
    is made of the process's, as kernel/time/posix-cpu-timers.c reads it. The first only waits for the program itself.
    """
    return sum(time.clock_gettime(~it << 3 | _CPUCLOCK_SCHED) for it in _family(pid))


def _family(pid: int) -> list[int]:
    """A process and its children, and theirs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [pid, *(it for child in children for it in _family(int(child)))]


# Figures


def _figures(turns: Turns, what: str, *, is_line: bool) -> Iterator[Figure]:
    """What each of them did, then the ratios. On a line there is no bar for throughput."""
    for case, by_name in turns.items():
        for name, listed in by_name.items():
            yield _median(f"{what} {case}, {name}", [t.mbit for t in listed], "Mbit/s")
            yield _median(f"{what} {case}, {name}, CPU", [t.cpu_s_per_gb for t in listed], "s/GB")
    for case, by_name in turns.items():
        for ours, theirs in _pairs(by_name):
            pairs = list(zip(by_name[ours], by_name[theirs], strict=True))
            bar = BARS[theirs] if ours == "decided" else None
            told = f"{what} {case}, {ours} / {theirs}"
            speed = _median(told, [b.took_s / a.took_s for a, b in pairs], "×")
            cost = _median(f"{told}, CPU", [a.cpu_s / b.cpu_s for a, b in pairs], "×")
            yield structs.replace(speed, bar=None if is_line else bar, sense="least")
            yield structs.replace(cost, bar=bar and round(1 / bar, 3))


def _median(name: str, values: Sequence[float], unit: str) -> Figure:
    return Figure(name, statistics.median(values), unit, note=sureness(values, "rounds"))


def _pairs(by_name: dict[str, list[Turn]]) -> Iterator[tuple[str, str]]:
    """The name of one of ours, and of one that it is compared with."""
    yield from (("decided", theirs) for theirs in BARS if theirs in by_name)
    yield "named", BY_HAND
