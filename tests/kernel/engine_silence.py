"""Clients of the engine that say nothing at first: `unshare -Urn python -m tests.kernel.engine_silence silent`."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from msgspec import structs

from sidegate.gateway.engine.lanport import LanPort
from sidegate.gateway.engine.upstream import Upstream
from sidegate.gateway.engine.xray import Engine
from sidegate.gateway.split.policy import PROXY, Policy
from sidegate.gateway.split.ports import lan_port, ports
from tests.kernel.engine_plays import lan, steer_to, unmarked_packets, watch_marks
from tests.kernel.engine_stage.addresses import TARGET
from tests.kernel.engine_stage.clients import greeted_then_asks, over_socks, silent_then_asks
from tests.kernel.engine_stage.kinds import Json
from tests.kernel.engine_stage.networks import Inside
from tests.kernel.engine_stage.programs import engine
from tests.kernel.engine_stage.stage import stage, upstreams_of

Way = Callable[[int], socket.socket]
"""To this port of the target."""
_TALKS: dict[int, Callable[[socket.socket], str]] = {7: silent_then_asks, 82: greeted_then_asks}
_FIRST_WORDS_ARE_THE_CLIENTS = ("http", "https")
"""Xray asks an HTTP proxy for nothing before the client's first words are there (proxy/http/client.go, Process)."""
_WITHIN_S = 60.0
_STEERED = "ss"


def silent() -> Json:
    """What comes of those that are silent for a while, and of those that let the server speak first; all at a time."""
    with stage() as it, lan() as inside:
        watch_marks()
        linked = upstreams_of(it.links)
        upstreams = (*linked, *_variants({u.name: u for u in linked}))
        number = [u.name for u in upstreams].index(_STEERED)
        with engine(Engine(Policy(), upstreams, lan=LanPort("block", PROXY)), it.directory):
            ways = _ways(upstreams)
            steer_to(ports(0, number).decided, **{"tcp dport 82": ports(0, number).named})
            ways["steered"] = partial(_steered, inside)
            told = _all_told(ways)
        return {**told, "unmarked": unmarked_packets()}


def _variants(linked: dict[str, Upstream]) -> Iterator[Upstream]:
    """As people's own outbounds may have them."""
    for security in ("none", "zero", "chacha20-poly1305"):
        it = linked["vmess"]
        settings = {**it.outbound["settings"], "security": security}
        yield _other(it, f"vmess {security}", protocol="VMess", settings=settings)
    for name in ("ss", "ss2022", "vmess", "vless-grpc", "trojan"):
        yield _other(linked[name], f"{name}, mux", mux={"enabled": True})


def _other(it: Upstream, name: str, **changes: object) -> Upstream:
    return structs.replace(it, name=name, outbound={**it.outbound, **changes})


def _ways(upstreams: Sequence[Upstream]) -> dict[str, Way]:
    ways: dict[str, Way] = {}
    for i, upstream in enumerate(upstreams):
        ways[upstream.name] = partial(over_socks, ports(0, i).socks, TARGET)
        ways[f"lan_port, {upstream.name}"] = partial(over_socks, lan_port(0, i), TARGET)
    return ways


def _steered(inside: Inside, port: int) -> socket.socket:
    made: socket.socket = inside(lambda: socket.create_connection((TARGET, port), _WITHIN_S))
    return made


def _all_told(ways: dict[str, Way]) -> dict[str, list[str]]:
    with ThreadPoolExecutor(len(_TALKS) * len(ways)) as pool:
        under_way = {name: [pool.submit(_told, way, port) for port in _ports(name)] for name, way in ways.items()}
        return {name: [it.result() for it in listed] for name, listed in under_way.items()}


def _ports(name: str) -> list[int]:
    return [7] if name.endswith(_FIRST_WORDS_ARE_THE_CLIENTS) else list(_TALKS)


def _told(way: Way, port: int) -> str:
    try:
        with way(port) as it:
            it.settimeout(_WITHIN_S)
            return _TALKS[port](it)
    except OSError as error:
        return type(error).__name__


if __name__ == "__main__":
    print(json.dumps({it.__name__: it for it in (silent,)}[sys.argv[1]]()))
