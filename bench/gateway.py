"""The gateway in the lab: how quickly clients are decided, what masquerade costs, what the daemon takes."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import msgspec

from bench.figures import Figure, spread
from sidegate.demo.run import CLIENT_MBIT, GATEWAY_MBIT, with_rates
from sidegate.home import Client, Gateway, Home, load_home
from sidegate.lab.asking import Answer, download_mbit, http_get, udp_echo
from sidegate.lab.check import set_gateway, sidegate
from sidegate.lab.lab import Lab

RUNS = 5
SERVER = "1.2.3.4"
CROWD = 250
IDLE_S = 60.0


def decided_after_up() -> list[Figure]:
    """From the start of `sidegate up` until every client that the box knows is proved or masqueraded by a verdict."""
    times = []
    for _ in range(RUNS):
        with Lab.up(load_home("velop-mesh")) as lab:
            _everybody_asks(lab)
            start = time.perf_counter()
            sidegate(lab, "up")
            _poll(lambda: _undecided(lab) == 0)
            times.append(time.perf_counter() - start)
    return [Figure("sidegate up to every client decided", statistics.median(times), "s", 2, note=_spread_s(times))]


def late_client() -> list[Figure]:
    """A wired client whose neighbour entry is not there yet sends its first packet to a gateway that is up."""
    online, proved, failures = [], [], 0
    for _ in range(RUNS):
        with Lab.up(load_home("velop-mesh")) as lab:
            lab.run("nas", "ip", "link", "set", "eth0", "down")
            sidegate(lab, "up")
            lab.run("nas", "ip", "link", "set", "eth0", "up")
            lab.run("nas", "ip", "route", "add", "default", "via", "192.168.1.2")
            start = time.perf_counter()
            answer = lab.call("nas", http_get, SERVER)
            failures += not answer.ok
            online.append(answer.ms)
            _poll(lambda: _path(lab, "192.168.1.127") == "direct")
            proved.append(time.perf_counter() - start)
    return [
        Figure("late client: first request lost", failures, "of 5", 0),
        Figure("late client: first request answered", statistics.median(online), "ms", note=spread(online)),
        Figure("late client: first packet to proof", statistics.median(proved), "s", 2, note=_spread_s(proved)),
    ]


def roaming_client() -> list[Figure]:
    """A proved wired client turns up on the router's Wi-Fi; a new connection is opened at once."""
    times, failures = [], 0
    for _ in range(RUNS):
        with Lab.up(load_home("velop-mesh")) as lab:
            set_gateway(lab, "sidegate")
            lab.move("my-computer", "router", "wifi")
            start = time.perf_counter()
            answer = lab.call("my-computer", _connect_patiently)
            failures += not answer.ok
            times.append(time.perf_counter() - start)
    return [
        Figure("roamed client: connections lost", failures, "of 5", 0),
        Figure("roamed client: new connection works after", max(times), "s", 3, note="worst; " + _spread_s(times)),
    ]


def _connect_patiently() -> Answer:
    """One connection, as long as the kernel tries: its SYNs go out after 0, 1, 3 s (tcp(7), tcp_syn_retries)."""
    return http_get(SERVER, timeout_s=10)


def masquerade_costs() -> list[Figure]:
    """One download of a wired client, the gateway's port ten times slower than the client's, in one lab."""
    home = with_rates(load_home("velop-mesh"))
    with Lab.up(home) as lab:
        set_gateway(lab, "masquerade")
        masqueraded = lab.call("my-computer", download_mbit, SERVER, 3.0)
        set_gateway(lab, "sidegate")
        direct = lab.call("my-computer", download_mbit, SERVER, 3.0)
    ports = f"client {CLIENT_MBIT:g}, gateway port {GATEWAY_MBIT:g} Mbit/s"
    return [
        Figure("download, masquerade for all", masqueraded, "Mbit/s", note=ports),
        Figure("download, with Sidegate", direct, "Mbit/s", note=ports),
        Figure("ratio", direct / masqueraded, "×", 9, "least"),
    ]


def crowd(clients: int) -> Home:
    """A home with that many Wi-Fi clients, behind a router without filtering."""
    home = load_home("velop-mesh")
    first = int(IPv4Address("10.0.1.0"))
    people = tuple(Client(name=f"c{i}", v4=IPv4Address(first + i), by="wifi") for i in range(1, clients + 1))
    router = msgspec.structs.replace(
        home.router,
        lan=IPv4Interface("10.0.0.1/16"),
        lan6=None,
        wan6=None,
        assume=msgspec.structs.replace(home.router.assume, bridge_filter="off"),
        port_forward=(),
    )
    gateway = Gateway(IPv4Address("10.0.0.2"))
    plain = msgspec.structs.replace(home, node=(), expect=(), name="crowd")
    return msgspec.structs.replace(plain, router=router, gateway=gateway, client=people)


def daemon_with_a_crowd() -> list[Figure]:
    """250 clients, each proved; then a minute of silence, then a second `up`."""
    with Lab.up(crowd(CROWD)) as lab:
        start = time.perf_counter()
        sidegate(lab, "up")
        for client in lab.home.client:
            lab.call(client.name, udp_echo, SERVER)
        _poll(lambda: _undecided(lab, CROWD) == 0, within_s=60)
        decided_s = time.perf_counter() - start
        pid = _daemon_pid(lab)
        before_s = _cpu_s(pid)
        time.sleep(IDLE_S)
        idle = (_cpu_s(pid) - before_s) / IDLE_S * 100
        memory_mb = _resident_mb(pid)
        changes = json.loads(sidegate(lab, "up", "--json"))["changes"]
    return [
        Figure(f"daemon memory, {CROWD} clients", memory_mb, "MB", 40, note="resident, its largest"),
        Figure(
            f"daemon CPU, {CROWD} silent clients", idle, "%", 0.5, note=f"over {IDLE_S:g} s, programs it runs included"
        ),
        Figure(f"up to {CROWD} clients decided", decided_s, "s", note="paced at 200 frames/s; clients ask one by one"),
        Figure("changes by a second up", len(changes), "", 0),
    ]


def _everybody_asks(lab: Lab) -> None:
    """So that the box has met them: their requests die, because nothing forwards yet."""
    for waiting in [lab.begin(c.name, http_get, SERVER, 80, "/", 0.2) for c in lab.home.client]:
        waiting.result()


def _undecided(lab: Lab, expected: int | None = None) -> int:
    clients = json.loads(sidegate(lab, "clients", "--json"))["clients"]
    expected = expected or len(lab.home.client)
    return expected - len([c for c in clients if c["decided"]])


def _path(lab: Lab, ip: str) -> str:
    clients = json.loads(sidegate(lab, "clients", "--json"))["clients"]
    return next((str(c["path"]) for c in clients if c["ip"] == ip), "")


def _poll(is_so: Callable[[], bool], within_s: float = 20) -> None:
    end = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"not so within {within_s:g} s")


def _daemon_pid(lab: Lab) -> int:
    """As this process sees it: in the lab it has another id."""
    network = os.readlink(f"/proc/{lab.machines['gateway'].outside}/ns/net")
    found = [
        p
        for p in _processes_in(network)
        if b"sidegate.gateway.daemon.service" in Path(f"/proc/{p}/cmdline").read_bytes()
    ]
    if len(found) != 1:
        raise LookupError(f"{len(found)} daemons on the gateway")
    return found[0]


def _processes_in(network: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found += [int(entry.name)] if os.readlink(entry / "ns/net") == network else []
    return found


def _cpu_s(pid: int) -> float:
    """User and system time, that of ended children included (proc_pid_stat(5), fields 14 to 17)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(f) for f in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def _spread_s(times: list[float]) -> str:
    return f"median of {len(times)}, {min(times):.2f} to {max(times):.2f}"
