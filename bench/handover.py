"""Clients handed to the router and taken back: what a client notices that opens a connection every 50 ms."""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence

from msgspec import Struct

from bench.figures import Figure
from sidegate.home import load_home
from sidegate.lab.asking import http_get
from sidegate.lab.check import set_gateway, sidegate
from sidegate.lab.lab import Lab

RUNS = 20
SERVER = "1.2.3.4"
EVERY_S = 0.05
WIRED, WIFI = "my-computer", "tablet"
_PHASE_S = 1.5


class Seen(Struct, frozen=True):
    """By one client. lost: connections without an answer within 1.5 s. slowest_ms: of those with one.

    stream_ms: the longest wait of one connection that was open all the time; None: it broke.
    """

    asked: int
    lost: int
    slowest_ms: float
    stream_ms: float | None = None


def open_connections(seconds: float) -> Seen:
    """A new one every 50 ms, each with a request and its answer."""
    end, asked, lost, slowest_ms = time.monotonic() + seconds, 0, 0, 0.0
    while (began := time.monotonic()) < end:
        answer = http_get(SERVER)
        asked += 1
        lost += not answer.ok
        slowest_ms = max(slowest_ms, answer.ms if answer.ok else 0.0)
        time.sleep(max(0.0, began + EVERY_S - time.monotonic()))
    return Seen(asked, lost, slowest_ms)


def hold_connection(seconds: float) -> Seen:
    """One connection, a request and its answer every 50 ms."""
    connection = http.client.HTTPConnection(SERVER, timeout=10)
    end, asked, slowest_ms = time.monotonic() + seconds, 0, 0.0
    try:
        while (began := time.monotonic()) < end:
            connection.request("GET", "/")
            connection.getresponse().read()
            asked += 1
            slowest_ms = max(slowest_ms, (time.monotonic() - began) * 1000)
            time.sleep(EVERY_S)
    except (OSError, http.client.HTTPException):
        return Seen(asked, 1, slowest_ms)
    return Seen(asked, 0, slowest_ms, slowest_ms)


def handed_over(home: str, clients: Sequence[str], *down: str) -> dict[str, Seen]:
    """One run: `down` and then `up` under clients that ask all the time."""
    with Lab.up(load_home(home)) as lab:
        set_gateway(lab, "sidegate")
        seconds = 2 * _PHASE_S + 3.0
        asking = {c: (lab.begin(c, open_connections, seconds), lab.begin(c, hold_connection, seconds)) for c in clients}
        time.sleep(_PHASE_S)
        sidegate(lab, "down", *down)
        time.sleep(_PHASE_S)
        sidegate(lab, "up")
        return {name: _together(opens.result(), holds.result()) for name, (opens, holds) in asking.items()}


def _together(opens: Seen, holds: Seen) -> Seen:
    return Seen(opens.asked, opens.lost, opens.slowest_ms, holds.stream_ms)


def stepping_aside() -> list[Figure]:
    """The article's home: a wired client, un-NATed; one on the Wi-Fi of a router that filters its bridge."""
    runs = [handed_over("velop-mesh", (WIRED, WIFI)) for _ in range(RUNS)]
    plain = handed_over("velop-mesh", (WIRED,), "--now")[WIRED]
    wired, wifi = ([run[name] for run in runs] for name in (WIRED, WIFI))
    note = f"worst of {RUNS} runs of down and up, about {wired[0].asked} connections each"
    return [
        Figure("planned handover, wired: connections lost", max(s.lost for s in wired), "", 0, note=note),
        Figure("planned handover, wired: open stream broken", sum(s.stream_ms is None for s in wired), "of 20", 0),
        Figure("planned handover, wired: slowest connection", max(s.slowest_ms for s in wired), "ms"),
        Figure("planned handover, Wi-Fi masqueraded: connections lost", max(s.lost for s in wifi), "", note="worst"),
        Figure(
            "planned handover, Wi-Fi masqueraded: open stream broken", sum(s.stream_ms is None for s in wifi), "of 20"
        ),
        Figure("down --now, wired: connections lost", plain.lost, "", note="for comparison"),
    ]
