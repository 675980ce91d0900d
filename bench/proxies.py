"""What `engine` compares: ours, Xray and v2ray by hand, and redsocks, on the gateway, with their upstreams' servers.

Xray and v2ray have the smallest configuration that works: no sniffing, no rules. redsocks is steered to by REDIRECT,
which is what it knows, and has a user of its own, as Debian's redsocks.conf gives it. That matters: all pipes of a user
are counted together, and past 16384 pages a new one gets 2 of them instead of 16 (fs/pipe.c, alloc_pipe_info,
pipe-user-pages-soft). Go takes 256 for each of its own (internal/poll/splice_linux.go, newPipe), and keeps them for
the next connection: an Xray server of the same user, which splices on 64 of them, leaves redsocks pipes of 8 KiB, and
so eight times as many calls (redsocks.c, redsplice_read_cb): 3 to 6 s of CPU per GB instead of 0.3 to 0.6 s.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, structs

from bench.blocks import serve
from bench.dataplane import GATEWAY
from bench.gateway import SERVER
from sidegate.gateway.engine.child import engine_child
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.xray import Engine
from sidegate.gateway.split.policy import DIRECT, PROXY, Destination, Policy, Rule
from sidegate.gateway.split.ports import MARK_MASK, STEERED_MARK, TABLE, engine_mark, ports
from sidegate.lab.check import set_gateway
from sidegate.lab.lab import Lab

Kind = Literal["socks", "shadowsocks"]

INTERNET = "internet"
KINDS: tuple[Kind, ...] = ("socks", "shadowsocks")
BY_HAND, REDSOCKS, V2RAY = "Xray by hand", "redsocks", "v2ray"
_FIRST_PORT, _ASKED = 5201, 9
_AT: dict[Kind, int] = {"socks": 1080, "shadowsocks": 8388}
_BY_HAND_PORT, _V2RAY_PORT, _REDSOCKS_PORT = 16001, 16011, 16021
_CIPHER, _PASSWORD = "aes-256-gcm", "bench"
_RUN_XRAY = "import sys, xray; xray.startFromJSON(open(sys.argv[1]).read())"
_WITHIN_S = 15.0
_TABLE_TEXT = """
table inet steer {{
    chain tproxied {{
        type filter hook prerouting priority raw
        {tproxy}
    }}
    chain redirected {{
        type nat hook prerouting priority dstnat
        {redirect}
    }}
}}
"""


class Engaged(Struct, frozen=True):
    """A proxy, with one kind of upstream. asked: what the client connects to, at the port where it takes that in."""

    name: str
    kind: Kind
    program: subprocess.Popen[str]
    asked: int
    port: int
    verdict: Literal["tproxy", "redirect"] = "tproxy"


@contextmanager
def all_of_them(lab: Lab, directory: Path) -> Iterator[list[Engaged]]:
    """Until they and their servers listen. Ours has 10,000 domains in its rules. Raises TimeoutError."""
    with ExitStack() as stack:
        _serve(lab, stack, directory)
        listed = list(_started(lab, stack, directory))
        engaged = [structs.replace(it, asked=_FIRST_PORT + number) for number, it in enumerate(listed)]
        _steer(lab, engaged)
        _await(lab, GATEWAY, [it.port for it in engaged])
        yield engaged


def _serve(lab: Lab, stack: ExitStack, directory: Path) -> None:
    """The way for steered packets, and the servers: both of them the same for all."""
    set_gateway(lab, "masquerade")
    lab.run(GATEWAY, "ip", "rule", "add", "fwmark", f"{STEERED_MARK}/{MARK_MASK}", "lookup", str(TABLE))
    lab.run(GATEWAY, "ip", "route", "add", "local", "default", "dev", "lo", "table", str(TABLE))
    at = {"listen": SERVER, "port": _AT["shadowsocks"], "protocol": "shadowsocks"}
    inbound = {**at, "settings": {"method": _CIPHER, "password": _PASSWORD, "network": "tcp"}}
    freedom = {"protocol": "freedom", "settings": {"finalRules": [{"action": "allow"}]}}
    config = {"log": {"loglevel": "none"}, "inbounds": [inbound], "outbounds": [freedom]}
    stack.enter_context(_running(lab, INTERNET, *_xray(directory / "server.json", config)))
    stack.callback(lab.begin(INTERNET, serve, SERVER, _FIRST_PORT, _ASKED, _AT["socks"]).abandon)
    _await(lab, INTERNET, [_FIRST_PORT, *_AT.values()])


def _started(lab: Lab, stack: ExitStack, directory: Path) -> Iterator[Engaged]:
    """Each of them, without what the client is to ask for."""

    def running(command: Sequence[str]) -> subprocess.Popen[str]:
        return stack.enter_context(_running(lab, GATEWAY, *command))

    ours = running(_our_command(directory))
    for number, kind in enumerate(KINDS):
        own = ports(0, number)
        yield Engaged("decided", kind, ours, 0, own.decided)
        yield Engaged("named", kind, ours, 0, own.named)
        config = _by_hand(_BY_HAND_PORT + number, kind, _server(kind))
        by_hand = running(_xray(directory / f"by-hand-{kind}.json", config))
        yield Engaged(BY_HAND, kind, by_hand, 0, _BY_HAND_PORT + number)
        path = directory / f"v2ray-{kind}.json"
        path.write_text(json.dumps(_by_hand(_V2RAY_PORT + number, kind, {"servers": [_server(kind)]})))
        yield Engaged(V2RAY, kind, running(("v2ray", "-config", str(path))), 0, _V2RAY_PORT + number)
    yield Engaged(REDSOCKS, "socks", running(_redsocks_command(directory)), 0, _REDSOCKS_PORT, "redirect")


@contextmanager
def _running(lab: Lab, machine: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    program = lab.start(machine, *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield program
    finally:
        program.terminate()
        program.wait()


def _our_command(directory: Path) -> tuple[str, ...]:
    names = tuple(f"site-{i:05}.example" for i in range(10_000))
    policy = Policy((Rule("proxy.list", PROXY, Destination(suffixes=names)),), DIRECT)
    upstreams = tuple(structs.replace(upstream_of_link(_link(kind), "bench"), name=kind) for kind in KINDS)
    child = engine_child(Engine(policy, upstreams), directory)
    for file in child.files:
        Path(file.path).write_text(file.text)
    return child.command


def _link(kind: Kind) -> str:
    if kind == "socks":
        return f"socks5://{SERVER}:{_AT[kind]}"
    return f"ss://{b64encode(f'{_CIPHER}:{_PASSWORD}'.encode()).decode()}@{SERVER}:{_AT[kind]}"


def _server(kind: Kind) -> dict[str, Any]:
    secret = {"method": _CIPHER, "password": _PASSWORD} if kind == "shadowsocks" else {}
    return {"address": SERVER, "port": _AT[kind], **secret}


def _xray(path: Path, config: Mapping[str, object]) -> tuple[str, ...]:
    path.write_text(json.dumps(config))
    return sys.executable, "-c", _RUN_XRAY, str(path)


def _by_hand(port: int, kind: Kind, server: Mapping[str, object]) -> dict[str, Any]:
    inbound = {
        "listen": "0.0.0.0",  # noqa: S104 (inside the lab)
        "port": port,
        "protocol": "dokodemo-door",
        "settings": {"network": "tcp,udp", "followRedirect": True},
        "streamSettings": {"sockopt": {"tproxy": "tproxy", "mark": engine_mark(0)}},
    }
    outbound = {"protocol": kind, "settings": server, "streamSettings": {"sockopt": {"mark": engine_mark(0)}}}
    return {"log": {"loglevel": "warning", "access": "none"}, "inbounds": [inbound], "outbounds": [outbound]}


def _redsocks_command(directory: Path) -> tuple[str, ...]:
    path, at = directory / "redsocks.conf", f"ip = {SERVER}; port = {_AT['socks']}; type = socks5;"
    path.write_text(
        f"base {{ log_info = off; daemon = off; redirector = iptables; {_own_user()} }}\n"
        f"redsocks {{ local_ip = 0.0.0.0; local_port = {_REDSOCKS_PORT}; {at} }}\n"
    )
    return "redsocks", "-c", str(path)


def _own_user() -> str:
    """The one that Debian's package makes. A lab that root did not build knows no users (`namespaces.map_ids`)."""
    is_known = any(it.pw_name == "redsocks" for it in pwd.getpwall())
    return "user = redsocks; group = redsocks;" if is_known and os.geteuid() == 0 else ""


def _await(lab: Lab, machine: str, wanted: Sequence[int]) -> None:
    """Until all of them listen."""
    deadline = time.monotonic() + _WITHIN_S
    while True:
        listening = lab.run(machine, "ss", "-Hltn").stdout
        if all(f":{port} " in listening for port in wanted):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(listening)
        time.sleep(0.05)


def _steer(lab: Lab, engaged: Sequence[Engaged]) -> None:
    """What a client sends to the port of a proxy is that one's."""
    rules: dict[str, list[str]] = {"tproxy": [], "redirect": []}
    for it in engaged:
        does = f"tproxy ip to :{it.port} meta mark set {STEERED_MARK} accept"
        does = does if it.verdict == "tproxy" else f"redirect to :{it.port}"
        rules[it.verdict].append(f"iifname eth0 ip daddr {SERVER} tcp dport {it.asked} {does}")
    text = _TABLE_TEXT.format(**{verdict: "\n".join(listed) for verdict, listed in rules.items()})
    lab.run(GATEWAY, "nft", "-f", "-", text=text)
