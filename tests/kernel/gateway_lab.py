"""The gateway of a lab's home, worked as its owner would: by the command line, and by looking at the box."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, structs

from sidegate.home import Assumed, Home, load_home
from sidegate.lab.asking import Answer, http_get, ping, udp_echo
from sidegate.lab.check import Receiver, Relayed
from sidegate.lab.lab import Lab
from tests.kernel.looking import look

T = TypeVar("T")

SERVER = "1.2.3.4"
WIRED = {"my-computer", "nas"}
EVERYBODY = {"my-computer", "nas", "desk-computer", "tablet", "phone"}
PATIENCE_S = 15.0
"""For what has to be answered once: a machine that stands still for seconds has lost nothing."""
NOTHING_TOLD = "no target told anything"
"""Why a client is masqueraded of whom the probe could not say anything; it is asked again (probe/bridge.py)."""
_TOTAL_RETRANS = 100
"""Offset of tcpi_total_retrans in struct tcp_info (include/uapi/linux/tcp.h)."""

STATE = r"""
cd /proc/sys/net/ipv4 && grep -rs . conf ip_forward || true
echo; nft --stateless --terse list ruleset; ip -4 route show table all; ip -4 rule; iptables-nft-save 2>/dev/null
test -z "$(cat /proc/net/ip_tables_names 2>/dev/null)" || iptables-legacy-save
"""


HAPPENED = r"""
cat /run/sidegate/daemon.log; date +%T
for it in direct4 stale4 doubted4 retried4 masqueraded4; do
    nft list set inet sidegate $it 2>/dev/null | sed -n '/set .* {/p; /elements/,/}/p'
done
"""


class Reached(Struct, frozen=True):
    """Over which protocols a client reaches the server, and by which return path over TCP."""

    tcp: bool
    udp: bool
    icmp: bool
    path: str


DIRECT = Reached(True, True, True, "direct")
MASQUERADED = Reached(True, True, True, "masqueraded")


def mesh_home(**assumed: Any) -> Home:
    """The article's home, with its router assumed to be otherwise."""
    home = load_home("velop-mesh")
    return structs.replace(home, router=structs.replace(home.router, assume=Assumed(**assumed)))


class Box:
    """The gateway of a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def sidegate(self, *words: str, prefix: tuple[str, ...] = (), check: bool = True) -> Any:
        command = (*prefix, sys.executable, "-m", "sidegate", *words)
        return self.lab.run("gateway", *command, check=check)

    def up(self, *words: str) -> Box:
        self.sidegate("up", *words)
        return self

    def settled(self) -> Box:
        """Everybody has sent something, and a probe has found out about each who uses the box."""
        for waiting in [self.lab.begin(c.name, http_get, SERVER) for c in self.lab.home.client]:
            waiting.result()
        users = {c.name for c in self.lab.home.client if c.gateway == "gateway"}
        wait_for(lambda: users <= {name for name, c in self.clients().items() if c["decided"]})
        for _ in range(3):
            if self._knows(users):
                break
            # Asked at a bad moment, and the next time may be far off.
            self.probe_again()
            with suppress(AssertionError):
                wait_for(lambda: self._knows(users), within_s=15.0)
        assert self._knows(users), self.clients()
        return self

    def _knows(self, users: set[str]) -> bool:
        return users <= {name for name, c in self.clients().items() if is_known(c)}

    def shell(self, script: str, machine: str = "gateway") -> str:
        return self.lab.run(machine, "sh", "-ec", script).stdout

    def write(self, path: str, text: str) -> str:
        self.lab.run("gateway", "sh", "-ec", f"cat >{path}", text=text)
        return path

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = told(self.lab, "status")
        return found

    def clients(self) -> dict[str, dict[str, Any]]:
        """By the names of the home."""
        names = {str(c.v4): c.name for c in self.lab.home.client}
        return {names.get(c["ip"], c["ip"]): c for c in told(self.lab, "clients")["clients"]}

    def paths(self) -> dict[str, str]:
        return {name: c["path"] for name, c in self.clients().items()}

    def events(self) -> str:
        return "\n".join(e["what"] for e in self.status()["events"])

    def probe_again(self) -> None:
        assert look(self.lab, "gateway", "probe", "again").returncode == 0

    def pid(self) -> int:
        """Of the daemon, as this process sees it. One before it lets go of its lock a moment before it is gone."""
        return wait_for(lambda: them if len(them := self._daemons()) == 1 else [])[0]

    def _daemons(self) -> list[int]:
        """A child of one looks like it until it has become nft or ip."""
        network = os.readlink(f"/proc/{self.lab.holder('gateway').outside}/ns/net")
        numbers = map(int, filter(str.isdigit, os.listdir("/proc")))
        parents = {p: parent for p in numbers if (parent := _parent_of_daemon(p, network)) is not None}
        return [p for p, parent in parents.items() if parent not in parents]

    def state(self) -> list[str]:
        """Everything that `down` must restore; counters and times aside, and what a route says of its cable."""
        return re.sub(r"\[\d+:\d+\]| linkdown|^#.*", "", self.shell(STATE), flags=re.MULTILINE).splitlines()

    def nft(self, text: str) -> str:
        return self.lab.run("gateway", "nft", "-f", "-", text=text).stdout

    def in_set(self, name: str) -> int:
        """How many elements it has."""
        done = self.lab.run("gateway", "nft", "-j", "list", "set", "inet", "sidegate", name, check=False)
        objects = [] if done.returncode else json.loads(done.stdout)["nftables"]
        return sum(len(o["set"].get("elem", ())) for o in objects if "set" in o)

    def expire_proofs(self) -> None:
        """Lets every proof lapse, sooner than in life."""
        text = ""
        for name, client in self.clients().items():
            if client["path"] == "direct":
                ip = next(str(c.v4) for c in self.lab.home.client if c.name == name)
                element = f"element inet sidegate direct4 {{ {client['mac']} . {ip}"
                text += f"delete {element} }}\nadd {element} timeout 500ms }}\n"
        self.nft(text)
        wait_for(lambda: self.in_set("direct4") == 0)


def _parent_of_daemon(pid: int, network: str) -> int | None:
    """None if it is no daemon, or ends."""
    try:
        is_there = os.readlink(f"/proc/{pid}/ns/net") == network
        if not is_there or b"sidegate.gateway.daemon.service" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return None
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return int(status.partition("PPid:")[2].split()[0])


@contextmanager
def gateway_in(home: Home) -> Iterator[Box]:
    """Where a test fails in here, it is printed what happened on the box; `conftest.py` does so for fixtures."""
    with Lab.up(home) as lab:
        try:
            yield Box(lab)
        except BaseException:
            print(happened(lab))
            raise


def happened(lab: Lab) -> str:
    """The daemon's own log, and its proofs in the kernel: what explains a failure that is seen once."""
    try:
        return lab.run("gateway", "sh", "-c", HAPPENED, check=False).stdout
    except Exception as error:
        return f"what happened on the gateway is not known: {error!r}"


def told(lab: Lab, *words: str) -> Any:
    """What `sidegate WORDS --json` says on the gateway. A daemon that begins may not listen yet: then it is asked
    again, as the command says that one should.
    """

    def said() -> Any:
        found = json.loads(look(lab, "gateway", *words, "--json").stdout)
        problems = found.get("problems", ())
        assert all(it["remedy"] == "try again" for it in problems), problems
        return None if problems else found

    return wait_for(said)


def is_known(client: dict[str, Any]) -> bool:
    """Whether a probe, or the configuration, has said what its return path is."""
    return bool(client["decided"]) and not client["why"].startswith(NOTHING_TOLD)


def wait_for(look: Callable[[], T], within_s: float = 40.0) -> T:
    """What `look` returns once it is true."""
    end = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end, f"not within {within_s:g} s"
        time.sleep(0.05)
    return found


def kill(pid: int) -> None:
    """SIGKILL, and the wait until its sockets are closed. pid: as this process sees it, of a child or not."""
    handle = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        # readable once all its threads are through exit_files (kernel/exit.c, do_exit)
        assert select.select([handle], [], [], 30)[0], f"process {pid} does not end"
    finally:
        os.close(handle)


def reached(lab: Lab, server: str = SERVER, patience_s: float = PATIENCE_S) -> dict[str, Reached]:
    """Every client asks the server, all of them at once."""
    ways = ((http_get, 80, "/", patience_s), (udp_echo, 7, patience_s), (ping, patience_s))
    with Relayed(lab) as relayed:
        asked = {c.name: [lab.begin(c.name, ask, server, *how) for ask, *how in ways] for c in lab.home.client}
        answers = {name: [w.result() for w in waiting] for name, waiting in asked.items()}
        crossed = relayed.receivers()
    return {name: _reached(crossed, *three) for name, three in answers.items()}


def _reached(crossed: set[Receiver], tcp: Answer, udp: Answer, icmp: Answer) -> Reached:
    """Two clients may ask from ports of one number: an answer is known by its address as well."""
    return Reached(tcp.ok, udp.ok, icmp.ok, "masqueraded" if (tcp.address, tcp.port) in crossed else "direct")


def all_of(direct: set[str], everybody: set[str] = EVERYBODY) -> dict[str, Reached]:
    """What `reached` finds when these are answered directly and the others are masqueraded."""
    return {name: DIRECT if name in direct else MASQUERADED for name in everybody}


class Connection:
    """One TCP connection of a client, made by this process: it can be watched and kept."""

    def __init__(self, lab: Lab, who: str, server: str = SERVER, timeout_s: float = PATIENCE_S) -> None:
        self.socket = lab.socket(who, socket.AF_INET, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        self.socket.connect((server, 80))
        self.retransmitted = self._retransmitted()
        self.name: Receiver = self.socket.getsockname()

    def _retransmitted(self) -> int:
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOTAL_RETRANS + 4)
        return int(struct.unpack_from("=I", info, _TOTAL_RETRANS)[0])

    def is_alive(self) -> bool:
        """Whether it answers one more request."""
        self.socket.sendall(b"GET /who HTTP/1.1\r\nHost: lab\r\n\r\n")
        with HTTPResponse(self.socket) as answer:
            answer.begin()
            return answer.status == 200 and bool(answer.read())

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_failed(done: subprocess.CompletedProcess[str]) -> str:
    """A failed command for a golden file. Process ids vary, and so do the words of Python's TOML reader."""
    said = re.sub(r"process \d+", "process N", done.stdout + done.stderr)
    said = re.sub(r"(not a TOML file): .*", r"\1: …", said)
    return f"exit {done.returncode}\n{said}"
