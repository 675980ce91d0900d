"""What goes through the engine: one client's TCP by TPROXY to a SOCKS5 server, with ours and with what else does it.

All of them run at once on the gateway, with one upstream: a SOCKS5 server, the only protocol that all of them speak.
redsocks is steered to by REDIRECT, which is what it knows. Ours has 10,000 domains in its rules; `named` judges by the
name once more. Xray by hand is the smallest configuration that works: no sniffing, no rules.

They take short turns, each of them first as often as the others, and only who is in turn has connections. A machine's
speed changes from second to second by more than they differ: so a ratio is that of one round's two turns, and the
figure the median of these.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from bench.blocks import Way, serve, transfer_s
from bench.figures import Figure
from bench.gateway import SERVER
from sidegate.gateway.engine.child import engine_child
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.xray import Engine
from sidegate.gateway.split.policy import DIRECT, PROXY, Destination, Policy, Rule
from sidegate.gateway.split.ports import MARK_MASK, STEERED_MARK, TABLE, engine_mark, ports
from sidegate.home import Home, load_home
from sidegate.lab.check import set_gateway
from sidegate.lab.lab import Lab

CLIENT, GATEWAY, INTERNET = "nas", "gateway", "internet"
PORT, SOCKS = 5201, 1080
WAYS: tuple[Way, ...] = ("up", "down")
STREAMS = (1, 16)
ROUNDS, LINE_ROUNDS = 24, 3
BLOCKS, BLOCK, _FIRST = 3, 24_000_000, 8_000_000
LINE_MBIT = 1000.0
_ASKED = 5
_BY_HAND, _REDSOCKS, _V2RAY = 16001, 16002, 16003
_RUN_XRAY = "import sys, xray; xray.startFromJSON(open(sys.argv[1]).read())"
_TIMEOUT_S = 10.0
_TABLE_TEXT = """
table inet steer {{
    chain tproxied {{
        type filter hook prerouting priority raw
        {tproxied}
    }}
    chain redirected {{
        type nat hook prerouting priority dstnat
        {redirected}
    }}
}}
"""
_TICKS_PER_S = 100
"""USER_HZ (proc_pid_stat(5))."""
BARS = {"Xray by hand": 0.97, "redsocks": 1.0, "v2ray": 1.0}


class Engaged(Struct, frozen=True):
    """A proxy. asked: what the client connects to. port: where it takes that in. verdict: how it gets it.

    program: that runs; None for one that is started for each of its turns.
    """

    command: tuple[str, ...]
    program: subprocess.Popen[str] | None
    asked: int
    port: int
    verdict: str = "tproxy"


class Turn(Struct, frozen=True):
    """One block. cpu_s: of the proxy's process alone, to a hundredth."""

    took_s: float
    cpu_s: float

    @property
    def mbit(self) -> float:
        return BLOCK * 8 / 1e6 / self.took_s


Turns = dict[tuple[str, Way, int], list[Turn]]
"""By proxy, way and number of streams; in the order of the rounds."""


def proxied_throughput() -> list[Figure]:
    """Of each, with the ratios of ours to the others': as fast as this machine can, and on a home's line."""
    home = load_home("velop-mesh")
    fastest = _measured(home, STREAMS, ROUNDS)
    line = _measured(_with_line(home), (1,), LINE_ROUNDS)
    return [*_figures(fastest, "proxied"), *_figures(line, f"proxied at {LINE_MBIT:g} Mbit/s")]


def _with_line(home: Home) -> Home:
    return msgspec.structs.replace(home, router=structs.replace(home.router, wan_rate_mbit=LINE_MBIT))


def _measured(home: Home, streams: tuple[int, ...], rounds: int) -> Turns:
    turns: Turns = {}
    with Lab.up(home) as lab, tempfile.TemporaryDirectory() as path, ExitStack() as stack:
        _prepare(lab, stack, Path(path))
        engaged = stack.enter_context(_all_of_them(lab, Path(path)))
        for number, count in product(range(rounds), streams):
            for name in _order(list(engaged), number):
                _sit(lab, engaged[name], name, count, turns)
    return turns


def _sit(lab: Lab, it: Engaged, name: str, count: int, turns: Turns) -> None:
    """Some blocks each way over connections of its own, while nobody else has any: the first finds a pace."""
    with ExitStack() as stack:
        program = it.program or _started(lab, stack, it)
        connections = _connections(lab, stack, it, count)
        transfer_s(connections, "up", _FIRST)
        for _, way in product(range(BLOCKS), WAYS):
            turns.setdefault((name, way, count), []).append(_turn(program.pid, connections, way))


def _started(lab: Lab, stack: ExitStack, it: Engaged) -> subprocess.Popen[str]:
    program = stack.enter_context(_running(lab, GATEWAY, *it.command))
    _await(lab, [it.port])
    return program


def _order(names: list[str], number: int) -> list[str]:
    at = number % len(names)
    return [*names[at:], *names[:at]]


def _connections(lab: Lab, stack: ExitStack, it: Engaged, count: int) -> list[socket.socket]:
    made = [stack.enter_context(lab.socket(CLIENT, socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
    for connection in made:
        connection.settimeout(_TIMEOUT_S)
        connection.connect((SERVER, it.asked))
    return made


def _prepare(lab: Lab, stack: ExitStack, directory: Path) -> None:
    """The way for steered packets, and the servers: both of them the same for all."""
    set_gateway(lab, "masquerade")
    lab.run(GATEWAY, "ip", "rule", "add", "fwmark", f"{STEERED_MARK}/{MARK_MASK}", "lookup", str(TABLE))
    lab.run(GATEWAY, "ip", "route", "add", "local", "default", "dev", "lo", "table", str(TABLE))
    socks = {"listen": SERVER, "port": SOCKS, "protocol": "socks"}
    freedom = {"protocol": "freedom", "settings": {"finalRules": [{"action": "allow"}]}}
    config = directory / "server.json"
    config.write_text(json.dumps({"log": {"loglevel": "none"}, "inbounds": [socks], "outbounds": [freedom]}))
    stack.enter_context(_running(lab, INTERNET, sys.executable, "-c", _RUN_XRAY, str(config)))
    stack.callback(lab.begin(INTERNET, serve, SERVER, PORT, _ASKED).abandon)


@contextmanager
def _running(lab: Lab, machine: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    program = lab.start(machine, *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield program
    finally:
        program.terminate()
        program.wait()


@contextmanager
def _all_of_them(lab: Lab, directory: Path) -> Iterator[dict[str, Engaged]]:
    """redsocks is started for each turn: it spins on connections that have ended, and its next turns would pay."""
    own = ports(0, 0)
    with ExitStack() as stack:

        def started(command: tuple[str, ...], asked: int, port: int) -> Engaged:
            return Engaged(command, stack.enter_context(_running(lab, GATEWAY, *command)), asked, port)

        ours = started(_our_command(directory), PORT, own.decided)
        engaged = {
            "decided": ours,
            "named": structs.replace(ours, asked=PORT + 1, port=own.named),
            "Xray by hand": started(_xray_command(directory), PORT + 2, _BY_HAND),
            "redsocks": Engaged(_redsocks_command(directory), None, PORT + 3, _REDSOCKS, "redirect"),
            "v2ray": started(_v2ray_command(directory), PORT + 4, _V2RAY),
        }
        _steer(lab, engaged)
        _await(lab, [it.port for it in engaged.values() if it.program])
        yield engaged


def _our_command(directory: Path) -> tuple[str, ...]:
    names = tuple(f"site-{i:05}.example" for i in range(10_000))
    policy = Policy((Rule("proxy.list", PROXY, Destination(suffixes=names)),), DIRECT)
    upstream = structs.replace(upstream_of_link(f"socks5://{SERVER}:{SOCKS}", "bench"), name="bench")
    child = engine_child(Engine(policy, (upstream,)), directory)
    for file in child.files:
        Path(file.path).write_text(file.text)
    return child.command


def _xray_command(directory: Path) -> tuple[str, ...]:
    path = directory / "by-hand.json"
    path.write_text(json.dumps(_by_hand(_BY_HAND, {"address": SERVER, "port": SOCKS})))
    return sys.executable, "-c", _RUN_XRAY, str(path)


def _v2ray_command(directory: Path) -> tuple[str, ...]:
    path = directory / "v2ray.json"
    path.write_text(json.dumps(_by_hand(_V2RAY, {"servers": [{"address": SERVER, "port": SOCKS}]})))
    return "v2ray", "-config", str(path)


def _by_hand(port: int, server: Mapping[str, object]) -> dict[str, Any]:
    inbound = {
        "listen": "0.0.0.0",  # noqa: S104 (inside the lab)
        "port": port,
        "protocol": "dokodemo-door",
        "settings": {"network": "tcp,udp", "followRedirect": True},
        "streamSettings": {"sockopt": {"tproxy": "tproxy", "mark": engine_mark(0)}},
    }
    outbound = {"protocol": "socks", "settings": server, "streamSettings": {"sockopt": {"mark": engine_mark(0)}}}
    return {"log": {"loglevel": "warning", "access": "none"}, "inbounds": [inbound], "outbounds": [outbound]}


def _redsocks_command(directory: Path) -> tuple[str, ...]:
    path = directory / "redsocks.conf"
    path.write_text(
        "base { log_info = off; daemon = off; redirector = iptables; }\n"
        f"redsocks {{ local_ip = 0.0.0.0; local_port = {_REDSOCKS}; ip = {SERVER}; port = {SOCKS}; type = socks5; }}\n"
    )
    return "redsocks", "-c", str(path)


def _await(lab: Lab, wanted: list[int]) -> None:
    """Until all of them listen."""
    deadline = time.monotonic() + 10
    while True:
        listening = lab.run(GATEWAY, "ss", "-Hltn").stdout
        if all(f":{port} " in listening for port in wanted):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(listening)
        time.sleep(0.05)


def _steer(lab: Lab, engaged: Mapping[str, Engaged]) -> None:
    """What a client sends to the port of a proxy is that one's."""
    given = [_given(it) for it in engaged.values()]
    tproxied, redirected = ("\n".join(text for kind, text in given if kind == k) for k in ("tproxy", "redirect"))
    lab.run(GATEWAY, "nft", "-f", "-", text=_TABLE_TEXT.format(tproxied=tproxied, redirected=redirected))


def _given(it: Engaged) -> tuple[str, str]:
    matches = f"iifname eth0 ip daddr {SERVER} tcp dport {it.asked}"
    if it.verdict == "redirect":
        return it.verdict, f"{matches} redirect to :{it.port}"
    return it.verdict, f"{matches} tproxy ip to :{it.port} meta mark set {STEERED_MARK} accept"


def _turn(pid: int, connections: list[socket.socket], way: Way) -> Turn:
    before_s = _cpu_s(pid)
    took_s = transfer_s(connections, way, BLOCK)
    return Turn(took_s, _cpu_s(pid) - before_s)


def _cpu_s(pid: int) -> float:
    """Of a process and its children: user and system time. The first of them only waits for the program itself."""
    stats = (Path(f"/proc/{it}/stat").read_text("ascii").rpartition(")")[2].split() for it in _family(pid))
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / _TICKS_PER_S


def _family(pid: int) -> list[int]:
    """A process and its children, and theirs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [pid, *(it for child in children for it in _family(int(child)))]


def _figures(turns: Turns, what: str) -> Iterator[Figure]:
    for (name, way, streams), listed in turns.items():
        case = f"{what} {way}, {streams} streams, {name}"
        yield Figure(case, statistics.median(t.mbit for t in listed), "Mbit/s", note=_spread([t.mbit for t in listed]))
        yield Figure(f"{case}, CPU", sum(t.cpu_s for t in listed) / (len(listed) * BLOCK / 1e9), "s/GB")
    for (name, way, streams), listed in turns.items():
        for ours in ("decided", "named") if name in BARS else ():
            ratios = [theirs.took_s / it.took_s for it, theirs in zip(turns[ours, way, streams], listed, strict=True)]
            bar = BARS[name] if ours == "decided" else None
            case = f"{what} {way}, {streams} streams, {ours} / {name}"
            yield Figure(case, statistics.median(ratios), "×", bar, "least", _spread(ratios))


def _spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    digits = 0 if middle > 10 else 2
    return f"median of {len(values)} turns, half of them {low:.{digits}f} to {high:.{digits}f}"
