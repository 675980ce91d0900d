"""Clients handed to the router and taken back, or left alone: what one notices that opens a connection every 50 ms."""

from __future__ import annotations

import http.client
import json
import os
import select
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from bench.figures import Figure
from sidegate.home import load_home
from sidegate.lab.asking import http_get
from sidegate.lab.check import set_gateway, sidegate
from sidegate.lab.lab import Lab

RUNS, ENGINE_RUNS = 20, 5
SERVER = "1.2.3.4"
EVERY_S = 0.05
WIRED, WIFI = "my-computer", "tablet"
HANDOVER_S, DEAD_S = 4.0, 2.0
_BEFORE_S, _BETWEEN_S, _AFTER_S = 0.5, 0.7, 0.5
NO_FORWARDING = """
cd /proc/sys/net/ipv4/conf/eth0; echo 0 >forwarding; echo 0 >/run/zero
mount --bind /run/zero forwarding; mount -o remount,bind,ro forwarding
"""
"""As if something else kept it off: what is written there fails."""


class Seen(Struct, frozen=True):
    """By one client. lost: connections that `http_get` did not wait for any more. slowest_ms: of those with an answer.

    stream_ms: the longest wait of one connection that was open all the time; None: it broke.
    """

    asked: int
    lost: int
    slowest_ms: float
    stream_ms: float | None = None


def _goes_on(end_s: float, over: int | None) -> bool:
    return time.monotonic() < end_s or (over is not None and not select.select([over], [], [], 0)[0])


def open_connections(seconds: float, server: str = SERVER, over: int | None = None) -> Seen:
    """A new one every 50 ms, each with a request and its answer.

    over: a file descriptor that can be read once it is over; not before the seconds are.
    """
    end_s, asked, lost, slowest_ms = time.monotonic() + seconds, 0, 0, 0.0
    while _goes_on(end_s, over):
        began = time.monotonic()
        answer = http_get(server)
        asked += 1
        lost += not answer.ok
        slowest_ms = max(slowest_ms, answer.ms if answer.ok else 0.0)
        time.sleep(max(0.0, began + EVERY_S - time.monotonic()))
    return Seen(asked, lost, slowest_ms)


def hold_connection(seconds: float, over: int | None = None) -> Seen:
    """One connection, a request and its answer every 50 ms. over: as in `open_connections`."""
    connection = http.client.HTTPConnection(SERVER, timeout=10)
    end_s, asked, slowest_ms = time.monotonic() + seconds, 0, 0.0
    try:
        while _goes_on(end_s, over):
            began = time.monotonic()
            connection.request("GET", "/")
            connection.getresponse().read()
            asked += 1
            slowest_ms = max(slowest_ms, (time.monotonic() - began) * 1000)
            time.sleep(EVERY_S)
    except (OSError, http.client.HTTPException):
        return Seen(asked, 1, slowest_ms)
    return Seen(asked, 0, slowest_ms, slowest_ms)


def asking(lab: Lab, clients: Sequence[str], seconds: float, act: Callable[[], object]) -> dict[str, Seen]:
    """What clients see that ask while something is done, however long that takes, and for so many seconds at least."""
    over = os.eventfd(0)
    try:
        begun = {
            c: (lab.begin(c, open_connections, seconds, SERVER, over), lab.begin(c, hold_connection, seconds, over))
            for c in clients
        }
        time.sleep(_BEFORE_S)
        act()
        time.sleep(_AFTER_S)
        os.eventfd_write(over, 1)
        return {name: _together(opens.result(), holds.result()) for name, (opens, holds) in begun.items()}
    finally:
        os.close(over)


def _together(opens: Seen, holds: Seen) -> Seen:
    return Seen(opens.asked, opens.lost, opens.slowest_ms, holds.stream_ms)


def down_and_up(lab: Lab, *down: str) -> Callable[[], None]:
    def act() -> None:
        sidegate(lab, "down", *down)
        time.sleep(_BETWEEN_S)
        sidegate(lab, "up")

    return act


def kill_daemon_and_up(lab: Lab) -> Callable[[], None]:
    def act() -> None:
        lab.run("gateway", "sh", "-c", "kill -9 $(cat /run/sidegate/daemon.pid)")
        time.sleep(_BETWEEN_S)
        sidegate(lab, "up")

    return act


def handed_over(home: str, clients: Sequence[str], *down: str) -> dict[str, Seen]:
    """One run: `down` and then `up` under clients that ask all the time."""
    with Lab.up(load_home(home)) as lab:
        set_gateway(lab, "sidegate")
        return asking(lab, clients, HANDOVER_S, down_and_up(lab, *down))


def stepping_aside() -> list[Figure]:
    """The article's home: a wired client, un-NATed; one on the Wi-Fi of a router that filters its bridge."""
    with Lab.up(load_home("velop-mesh")) as lab:
        set_gateway(lab, "sidegate")
        runs = [asking(lab, (WIRED, WIFI), HANDOVER_S, down_and_up(lab)) for _ in range(RUNS)]
        dead = [asking(lab, (WIRED, WIFI), DEAD_S, kill_daemon_and_up(lab)) for _ in range(RUNS)]
        plain = asking(lab, (WIRED,), HANDOVER_S, down_and_up(lab, "--now"))[WIRED]
        outage_s = outage_without_forwarding(lab)
    wired, wifi = ([run[name] for run in runs] for name in (WIRED, WIFI))
    orphans = [seen for run in dead for seen in run.values()]
    note = f"worst of {RUNS} runs of down and up, about {wired[0].asked} connections each"
    return [
        *engine_killed(),
        Figure("planned handover, wired: connections lost", max(s.lost for s in wired), "", 0, note=note),
        Figure("planned handover, wired: open stream broken", _broken(wired), f"of {RUNS}", 0),
        Figure("planned handover, wired: slowest connection", max(s.slowest_ms for s in wired), "ms"),
        Figure("planned handover, Wi-Fi masqueraded: connections lost", max(s.lost for s in wifi), "", note="worst"),
        Figure("planned handover, Wi-Fi masqueraded: open stream broken", _broken(wifi), f"of {RUNS}"),
        Figure("down --now, wired: connections lost", plain.lost, "", note="for comparison"),
        Figure("daemon killed and started: connections lost", max(s.lost for s in orphans), "", 0, note=f"of {RUNS}"),
        Figure("daemon killed and started: open stream broken", _broken(orphans), f"of {len(orphans)}", 0),
        Figure("forwarding kept off: offline until the router stands in", outage_s, "s", 12, note="one run, wired"),
    ]


def engine_killed() -> list[Figure]:
    """What one client opens through the proxy while the engine is killed; it goes straight meanwhile."""
    with Lab.up(load_home("split")) as lab:
        abroad = next(str(s.v4) for s in lab.home.internet.server if s.name == "foreign")
        link = json.dumps(lab.links()["proxy-socks"])
        check = f'check = "http://{abroad}/who"'
        text = f'[proxy]\nupstream = {link}\n{check}\n[[rule]]\ncidr = ["{abroad}/32"]\nsend = "proxy"\n'
        lab.run("gateway", "sh", "-c", "cat >/run/split.toml", text=text)
        sidegate(lab, "up", "--config", "/run/split.toml")
        lost = [_lost_with_the_engine(lab, abroad) for _ in range(ENGINE_RUNS)]
        sidegate(lab, "down", "--now")
    note = f"worst of {ENGINE_RUNS} runs, on_failure = direct: the one that the engine held ends with it"
    return [Figure("engine killed: connections lost that were to be proxied", max(lost), "", 1, note=note)]


def _lost_with_the_engine(lab: Lab, abroad: str) -> int:
    """Kills the one that serves, once one does."""
    while (pid := _engine(lab)) is None or not _is_proxied(lab, abroad):
        time.sleep(0.1)
    asks = lab.begin("nas", open_connections, DEAD_S, abroad)
    time.sleep(_BEFORE_S)
    lab.run("gateway", "kill", "-9", str(pid))
    return asks.result().lost


def _engine(lab: Lab) -> int | None:
    proxy = json.loads(sidegate(lab, "status", "--json"))["split"]["proxy"]
    return int(proxy["pid"]) if proxy["serves"] and proxy["chosen"] and proxy["pid"] else None


def _is_proxied(lab: Lab, abroad: str) -> bool:
    """The server sees somebody else than the router."""
    seen = lab.call("nas", http_get, abroad, 80, "/who")
    return seen.ok and not seen.detail.startswith(str(lab.home.router.wan.ip))


def _broken(seen: Sequence[Seen]) -> int:
    return sum(s.stream_ms is None for s in seen)


def outage_without_forwarding(lab: Lab) -> float:
    """Something keeps forwarding off: seconds until the wired client is online again, by the router."""
    began_s = time.monotonic()
    lab.run("gateway", "sh", "-ec", NO_FORWARDING)
    while not lab.call(WIRED, http_get, SERVER).ok:
        if time.monotonic() > began_s + 60:
            break
    return time.monotonic() - began_s
