"""The engine's process: `python -m sidegate.gateway.engine.program CONFIG SETS READY REFUSED`.

Xray runs inside of it (`xray.startFromJSON` returns when the process is asked to end). What Xray does not like it does
not say: it ends the process with exit code 23, or 255 if a port is taken (Xray-core-python, xray-go/main/run.go). So
each upstream is tried first, in a process of its own; one that Xray refuses is named in REFUSED and left out, and the
others work. Beside it two threads of ours lead what Xray would do worse: questions for names (`questions`), and TCP for
plain proxies (`relay`).

It imports as little as it can: all of Sidegate is to fit into a small box. msgspec alone would take 4 MB, pathlib 1.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Never

from sidegate.gateway.engine import geodata, questions, relay
from sidegate.gateway.engine.privileges import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, keep_only

USER = "nobody"
_CAPABILITIES = (CAP_NET_ADMIN, CAP_NET_BIND_SERVICE)
"""SO_MARK and IP_TRANSPARENT; to answer UDP from a foreign port below 1024 (proxy/dokodemo/fakeudp_linux.go)."""
_MOST_FILES = 1 << 16
_FILES_PER_MIB = 24
"""Of the box's memory, a third of which they fill: 12 to 15 kB of the engine's go with each, as measured with 10,000
flows of UDP and 6,000 connections. With none left it takes in no connection until another ends, and loses new flows of
UDP; with no memory left it would lose all of them."""
_LOOK_AGAIN_S = 0.02
_REFUSED = 23
ENVIRONMENT = {"XRAY_LOCATION_ASSET": "/proc/self/fd", "GOGC": "50", "GOMEMLIMIT": "96MiB"}
"""Go takes the environment that the process began with. Where `geodata` is found; a heap that is swept earlier, and
still earlier when it grows beyond what a home needs (Go's package runtime, "Environment Variables")."""
_ENDS_FIRST = "800"
"""Of 1000 (proc_pid_oom_score_adj(5)): with no memory left the kernel takes the engine, without which the home stays
online, and which is started again."""

Json = dict[str, Any]


def main(config_path: str, sets_path: str, ready_path: str, refused_path: str) -> int:
    """The exit code. Reads as root what others may not read, gives that up, and runs until it is asked to end."""
    ready, refused = (
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for path in (ready_path, refused_path)
    )
    _offer_memory()
    with open(config_path, "rb") as file:
        config = json.load(file)
    _load_sets(sets_path)
    _allow_many_files()
    keep_modules_in_reach()
    keep_only(_CAPABILITIES, USER)
    if not _has_ipv6():
        on_ipv4_alone(config)
    taken = _first_taken(config["inbounds"])
    if taken is not None:
        print(f"port {taken} is taken by another program", flush=True)
        return 1
    asked = [_port(i, config["outbounds"]) for i in config["inbounds"] if _is_asked(i)]
    _leave_out_bad_upstreams(config, refused)
    relayed = [relay.port_of(entry) for entry in config.pop("relayed")]
    for lead in (lambda: questions.lead(asked), lambda: relay.lead(relayed)):
        threading.Thread(target=_lead, args=(lead,), daemon=True).start()
    threading.Thread(target=_tell_when_ready, args=(config["inbounds"], ready), daemon=True).start()
    print(f"starts Xray; exit code {_REFUSED} means that it refuses its configuration", flush=True)
    _run(config)
    return 0


def keep_modules_in_reach() -> None:
    """Also where `USER` may not go, as below somebody's home of mode 0700: by descriptors of their directories, which
    /proc leads to without a look at what is above them (proc(5), /proc/pid/fd).
    """
    found = [os.open(path, os.O_PATH) for path in sys.path if os.path.isdir(path)]
    sys.path[:] = [f"/proc/self/fd/{number}" for number in found]


def _load_sets(path: str) -> None:
    """Into a file without a name, at the file descriptor where Xray will look for it."""
    memory = os.memfd_create("sets")
    with open(path, encoding="ascii") as lines, open(memory, "wb", closefd=False) as out:
        out.writelines(geodata.pieces(lines))
    os.dup2(memory, int(geodata.FILE))
    os.close(memory)


def _offer_memory() -> None:
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(_ENDS_FIRST)


def _allow_many_files() -> None:
    """A proxied connection takes two descriptors, and four pipes' ends while the kernel copies for it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open("/proc/meminfo", encoding="ascii") as file:
        wanted = most_files(file.read())
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def most_files(meminfo: str) -> int:
    """How many the engine may have open, on a box of which /proc/meminfo says this."""
    total_kib = next(int(line.split()[1]) for line in meminfo.splitlines() if line.startswith("MemTotal:"))
    return min(_MOST_FILES, _FILES_PER_MIB * total_kib // 1024)


def _has_ipv6() -> bool:
    """Not on a kernel that was started with `ipv6.disable=1` (net/ipv6/af_inet6.c, inet6_init)."""
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        return False
    return True


def on_ipv4_alone(config: Json) -> None:
    """Listeners on all addresses of both families become some on all of IPv4."""
    for it in (*config["inbounds"], *config["relayed"]):
        if it["listen"] == "::":
            it["listen"] = "0.0.0.0"  # noqa: S104 (who may come in is the kernel's, as before)


def _first_taken(inbounds: Sequence[Json]) -> int | None:
    for inbound in inbounds:
        family = socket.AF_INET6 if ":" in inbound["listen"] else socket.AF_INET
        with socket.socket(family) as it:
            it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                it.bind((inbound["listen"], inbound["port"]))
            except OSError:
                return int(inbound["port"])
    return None


def _is_asked(inbound: Json) -> bool:
    """Whether it is for DNS questions."""
    return bool(inbound["settings"].get("network") == "tcp")


def _port(inbound: Json, outbounds: Sequence[Json]) -> questions.Port:
    """Over HTTPS Xray's own module asks, of no server in particular."""
    own = inbound["tag"].replace("asked-", "dns-")
    is_https = any(it["tag"] == own and "rewriteAddress" not in it["settings"] for it in outbounds)
    return questions.Port((inbound["listen"], inbound["port"]), is_alone=is_https)


def _lead(lead: Callable[[], Never]) -> None:
    """Without it no proxied name would be answered, or nobody led to an upstream: better a new process."""
    try:
        lead()
    finally:
        traceback.print_exc()
        os._exit(1)


# Trials


def _leave_out_bad_upstreams(config: Json, refused: int) -> None:
    """What would go to them is refused then."""
    names = config.pop("upstreams")
    for number in _bad_upstreams(config, range(len(names))):
        print(f"upstream {names[number]}: Xray refuses its settings: left out", flush=True)
        os.write(refused, f"{names[number]}\n".encode())
        bad = _outbound(config, number)
        tag = bad["tag"]
        bad.clear()
        bad.update({"tag": tag, "protocol": "blackhole"})
        leave_to_xray(config, number)


def leave_to_xray(config: Json, number: int) -> None:
    """All of what comes in for this upstream."""
    inbound = next(it for it in config["inbounds"] if it["tag"] == f"decided-{number}")
    inbound["settings"]["network"] = "tcp,udp"
    config["relayed"] = [it for it in config["relayed"] if it["port"] != inbound["port"]]


def _outbound(config: Json, number: int) -> Json:
    """Of upstream number so-and-so; another one comes first."""
    outbounds: list[Json] = config["outbounds"]
    return next(it for it in outbounds if it["tag"] == f"to-{number}")


def _bad_upstreams(config: Json, numbers: Sequence[int]) -> list[int]:
    """Those of them that Xray refuses: halves of what is refused as a whole are tried, and so on."""
    if _is_accepted(config, numbers):
        return []
    if len(numbers) == 1:
        return list(numbers)
    half = len(numbers) // 2
    return _bad_upstreams(config, numbers[:half]) + _bad_upstreams(config, numbers[half:])


def _is_accepted(config: Json, numbers: Sequence[int]) -> bool:
    """In a process of its own, whose one port is taken: it ends soon either way, and the exit code tells which."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        inbound = {"listen": "127.0.0.1", "port": taken.getsockname()[1], "protocol": "mixed"}
        outbounds = [_outbound(config, number) for number in numbers]
        pid = os.fork()
        if pid == 0:
            _try({"log": {"loglevel": "none"}, "inbounds": [inbound], "outbounds": outbounds})
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) != _REFUSED


def _try(config: Json) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        _run(config)
    finally:
        os._exit(1)


def _run(config: Json) -> None:
    """Not imported before: Go's threads would not survive a fork, and would have had more capabilities."""
    import xray  # type: ignore[import-untyped]

    xray.startFromJSON(json.dumps(config))


# Ready


def _tell_when_ready(inbounds: Sequence[Json], ready: int) -> None:
    wanted = {("tcp", int(i["port"])) for i in inbounds} | {("udp", int(i["port"])) for i in inbounds if _has_udp(i)}
    while not wanted <= _listening():
        time.sleep(_LOOK_AGAIN_S)
    os.write(ready, f"{os.getpid()}\n".encode())


def _has_udp(inbound: Json) -> bool:
    return bool(inbound["protocol"] != "mixed")


def _listening() -> set[tuple[str, int]]:
    """Protocol and port of what waits here for peers (proc_pid_net(5)): state 0A is LISTEN, 07 an open UDP socket."""
    found = set()
    for protocol, state in (("tcp", "0A"), ("udp", "07")):
        for name in (protocol, f"{protocol}6"):
            try:
                with open(f"/proc/self/net/{name}", encoding="ascii") as lines:
                    rows = [line.split(maxsplit=4) for line in lines]
            except FileNotFoundError:
                # A kernel without IPv6.
                continue
            found |= {(protocol, int(row[1].rpartition(":")[2], 16)) for row in rows[1:] if row[3] == state}
    return found


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
