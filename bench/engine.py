"""What goes through the engine: one client's TCP by TPROXY to a SOCKS5 server, with ours and with what else does it.

All of them run at once on the gateway, with one upstream, and take their turns: a rule says whose the next connection
is. Ours has 10,000 domains in its rules; `named` judges by the name once more. Xray by hand is the smallest
configuration that works: no sniffing, no rules. redsocks is steered to by REDIRECT, which is what it knows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from bench.figures import Figure
from bench.gateway import SERVER
from sidegate.gateway.engine.child import engine_child
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.xray import Engine
from sidegate.gateway.split.policy import DIRECT, PROXY, Destination, Policy, Rule
from sidegate.gateway.split.ports import MARK_MASK, STEERED_MARK, TABLE, engine_mark, ports
from sidegate.home import load_home
from sidegate.lab.check import set_gateway
from sidegate.lab.lab import Lab

CLIENT, GATEWAY, INTERNET = "nas", "gateway", "internet"
ROUNDS = 4
SECONDS = 1
PORT, SOCKS = 5201, 1080
WAYS = {"up": (), "down": ("-R",)}
STREAMS = (1, 16)
_BY_HAND, _REDSOCKS, _V2RAY = 16001, 16002, 16003
_RUN_XRAY = "import sys, xray; xray.startFromJSON(open(sys.argv[1]).read())"
_TRIES = 5
_TICKS_PER_S = 100
"""USER_HZ (proc_pid_stat(5))."""
BARS = {"Xray by hand": 0.97, "redsocks": 1.0, "v2ray": 1.0}


class Engaged(Struct, frozen=True):
    """A proxy that runs. port: where it takes traffic in. verdict: how the kernel hands it over."""

    program: subprocess.Popen[str]
    port: int
    verdict: str = "tproxy"


class Turn(Struct, frozen=True):
    """One test. cpu_s_per_gb: of the proxy's process alone."""

    mbit: float
    cpu_s_per_gb: float


Turns = dict[tuple[str, str, int], list[Turn]]
"""By proxy, way and number of streams."""


def proxied_throughput() -> list[Figure]:
    """Of each, with the ratios of ours to the others'."""
    with Lab.up(load_home("velop-mesh")) as lab, tempfile.TemporaryDirectory() as path, ExitStack() as stack:
        _prepare(lab, stack, Path(path))
        engaged = stack.enter_context(_all_of_them(lab, Path(path)))
        turns: Turns = {}
        for _ in range(ROUNDS):
            for way, options in WAYS.items():
                for streams in STREAMS:
                    for name, it in engaged.items():
                        _steer(lab, it)
                        turns.setdefault((name, way, streams), []).append(_turn(lab, it, streams, options))
    return list(_figures(turns))


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
    stack.enter_context(_running(lab, INTERNET, "iperf3", "-s", "-p", str(PORT)))


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
    with ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[str]:
            return stack.enter_context(_running(lab, GATEWAY, *command))

        ours = start(*_our_command(directory))
        own = ports(0, 0)
        engaged = {
            "decided": Engaged(ours, own.decided),
            "named": Engaged(ours, own.named),
            "Xray by hand": Engaged(start(*_xray_command(directory)), _BY_HAND),
            "redsocks": Engaged(start(*_redsocks_command(directory)), _REDSOCKS, "redirect"),
            "v2ray": Engaged(start(*_v2ray_command(directory)), _V2RAY),
        }
        _await(lab, [it.port for it in engaged.values()])
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


def _steer(lab: Lab, it: Engaged) -> None:
    """The client's next connections are its."""
    if it.verdict == "tproxy":
        hook = "type filter hook prerouting priority raw"
        verdict = f"tproxy ip to :{it.port} meta mark set {STEERED_MARK} accept"
    else:
        hook = "type nat hook prerouting priority dstnat"
        verdict = f"redirect to :{it.port}"
    rule = f"iifname eth0 ip daddr {SERVER} tcp dport {PORT} {verdict}"
    chain = f"chain p {{\n{hook}\n{rule}\n}}"
    text = f"add table inet steer\ndelete table inet steer\ntable inet steer {{\n{chain}\n}}\n"
    lab.run(GATEWAY, "nft", "-f", "-", text=text)


def _turn(lab: Lab, it: Engaged, streams: int, options: tuple[str, ...]) -> Turn:
    before_s = _cpu_s(it.program.pid)
    received = _transfer(lab, ("-P", str(streams), *options))["sum_received"]
    used_s = _cpu_s(it.program.pid) - before_s
    return Turn(received["bits_per_second"] / 1e6, used_s / (received["bytes"] / 1e9))


def _transfer(lab: Lab, options: tuple[str, ...]) -> Any:
    """What iperf3 says at the end. Its server takes one test at a time, and the one before may not be over there."""
    command = ("iperf3", "-c", SERVER, "-p", str(PORT), "-t", str(SECONDS), "-J", *options)
    for _ in range(_TRIES):
        told = json.loads(lab.run(CLIENT, *command, check=False).stdout)
        if "error" not in told:
            return told["end"]
        time.sleep(0.5)
    raise RuntimeError(f"iperf3: {told['error']}")


def _cpu_s(pid: int) -> float:
    """Of a process and its children: user and system time. The first of them only waits for the program itself."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S + sum(_cpu_s(int(child)) for child in children)


def _figures(turns: Turns) -> Iterator[Figure]:
    for (name, way, streams), listed in turns.items():
        what = f"proxied {way}, {streams} streams, {name}"
        yield Figure(what, _best_mbit(listed), "Mbit/s", note=_range(listed))
        yield Figure(f"{what}, CPU", min(t.cpu_s_per_gb for t in listed), "s/GB")
    for (name, way, streams), listed in turns.items():
        for ours in ("decided", "named") if name in BARS else ():
            ratio = _best_mbit(turns[ours, way, streams]) / _best_mbit(listed)
            bar = BARS[name] if ours == "decided" else None
            yield Figure(f"proxied {way}, {streams} streams, {ours} / {name}", ratio, "×", bar, "least")


def _best_mbit(turns: list[Turn]) -> float:
    """Whatever else the machine does slows a turn, and nothing makes it faster."""
    return max(t.mbit for t in turns)


def _range(turns: list[Turn]) -> str:
    return f"best of {len(turns)} turns of {SECONDS} s; the worst {min(t.mbit for t in turns):.0f}"
