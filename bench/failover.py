"""The engine killed under load: what direct connections notice, what proxied destinations do, and until when."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from msgspec import Struct

from bench.figures import Figure
from bench.handover import hold_connection
from sidegate.home import load_home
from sidegate.lab.asking import http_get
from sidegate.lab.check import sidegate
from sidegate.lab.lab import Lab

RUNS = 3
EVERY_S = 0.02
WATCHED_S, BEFORE_S = 4.0, 1.0
CLIENT = "my-computer"
CONF = "/run/failover.toml"


class Asked(Struct, frozen=True):
    """One new connection. begun_s: of this machine's monotonic clock. seen: the address the server saw, or empty."""

    begun_s: float
    seen: str


class Run(Struct, frozen=True):
    """killed_s: when it was gone. stream_broke: of the direct connection that was open all the time."""

    killed_s: float
    direct: list[Asked]
    proxied: list[Asked]
    stream_broke: bool

    @property
    def after(self) -> list[Asked]:
        """To proxied destinations, begun after the end of the engine."""
        return [it for it in self.proxied if it.begun_s > self.killed_s]


def ask_on_and_on(server: str, seconds: float) -> list[Asked]:
    """A new connection every 20 ms."""
    end, asked = time.monotonic() + seconds, []
    while (began := time.monotonic()) < end:
        answer = http_get(server, 80, "/who")
        asked.append(Asked(began, answer.detail.split()[0] if answer.ok else ""))
        time.sleep(max(0.0, began + EVERY_S - time.monotonic()))
    return asked


def engine_killed() -> list[Figure]:
    """With on_failure = direct; by address, so that no name plays a part."""
    with Lab.up(load_home("split")) as lab:
        servers = {s.name: str(s.v4) for s in lab.home.internet.server}
        _bring_up(lab, servers)
        runs = [_kill(lab, servers) for _ in range(RUNS)]
    proxied_s = [_proxied_again_s(run, servers["proxy"]) for run in runs]
    straight = [next((it for it in run.after if it.seen), None) for run in runs]
    note = f"{RUNS} runs, a new connection every 20 ms"
    return [
        Figure("engine killed: direct connections lost", sum(_lost(r.direct) for r in runs), "", 0, note=note),
        Figure("engine killed: open direct stream broken", sum(r.stream_broke for r in runs), f"of {RUNS}", 0),
        Figure(
            "engine killed: later connections to proxied destinations lost", sum(_lost(r.after) for r in runs), "", 0
        ),
        Figure(
            "engine killed: the next of them did not go straight",
            sum(it is None or it.seen == servers["proxy"] for it in straight),
            f"of {RUNS}",
            0,
        ),
        Figure("engine killed: proxied again after", max(proxied_s), "s", 2, note=f"worst of {RUNS}"),
    ]


def _bring_up(lab: Lab, servers: dict[str, str]) -> None:
    link, check = json.dumps(lab.links()["proxy-socks"]), f'check = "http://{servers["domestic"]}/who"'
    rule = f'[[rule]]\ncidr = ["{servers["foreign"]}/32"]\nsend = "proxy"\n'
    lab.run("gateway", "sh", "-c", f"cat >{CONF}", text=f"[proxy]\nupstream = {link}\n{check}\n{rule}")
    sidegate(lab, "up", "--config", CONF)


def _kill(lab: Lab, servers: dict[str, str]) -> Run:
    """Once the engine has served steadily, so that it is not punished for its earlier ends (`children.STEADY_S`)."""
    while not _is_steady(lab):
        time.sleep(0.5)
    pid = json.loads(sidegate(lab, "status", "--json"))["split"]["proxy"]["pid"]
    direct = lab.begin(CLIENT, ask_on_and_on, servers["domestic"], WATCHED_S)
    proxied = lab.begin(CLIENT, ask_on_and_on, servers["foreign"], WATCHED_S)
    stream = lab.begin(CLIENT, hold_connection, WATCHED_S)
    time.sleep(BEFORE_S)
    # A process of 50 MB takes some milliseconds to die, and its sockets die last.
    lab.run("gateway", "sh", "-c", f"kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do :; done")
    killed_s = time.monotonic()
    return Run(killed_s, direct.result(), proxied.result(), stream.result().stream_ms is None)


def _is_steady(lab: Lab) -> bool:
    status = json.loads(sidegate(lab, "status", "--json"))
    return bool(status["split"]["proxy"]["serves"]) and not status["faults"]


def _lost(asked: Sequence[Asked]) -> int:
    return sum(not it.seen for it in asked)


def _proxied_again_s(run: Run, proxy: str) -> float:
    """Infinite where it was not, while somebody watched."""
    again = (it.begun_s for it in run.after if it.seen == proxy)
    return next(again, float("inf")) - run.killed_s
