"""The shipped home `split`, whose provider lies and blocks: its parts by name, and pages as its clients get them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from sidegate.gateway.daemon.coming import SETTLE_S
from sidegate.home import load_home
from sidegate.lab.asking import NO_ANSWER, Answer, http_get
from sidegate.lab.visiting import visit
from tests.kernel.gateway_lab import PATIENCE_S, Box, wait_for

HOME = load_home("split")
SERVERS = {server.name: server for server in HOME.internet.server}
WAN, OURS = "123.100.101.102", "192.168.1.2"
PROXY, PROXY6 = str(SERVERS["proxy"].v4), str(SERVERS["proxy"].v6)
FOREIGN, BLOCKED, DOMESTIC = "www.foreign.example", "blocked.example", "www.domestic.example"
FOREIGN4, BLOCKED4, DOMESTIC4 = (str(SERVERS[name].v4) for name in ("foreign", "blocked-site", "domestic"))
LIE = str(SERVERS["lie"].v4)
FOREIGN6 = str(SERVERS["foreign"].v6)

CONF = "/run/split.toml"
CHECK = f"http://{DOMESTIC}/who"
NAMED = 'domain = ["foreign.example", "blocked.example"]'


def conf(box: Box, *upstreams: str, rule: str = NAMED, more: str = "") -> str:
    """A configuration that sends what is abroad through the upstreams."""
    links = box.lab.links()
    listed = json.dumps([links[f"proxy-{name}"] for name in upstreams])
    return f"""
[proxy]
upstream = {listed}
check = "{CHECK}"
{more}

[[rule]]
{rule}
send = "proxy"
"""


def seen_from(answer: Answer) -> str:
    """The address that the server saw, or why there is no answer."""
    return answer.detail.split()[0] if answer.ok else answer.detail


def page(box: Box, who: str, name: str, scheme: Any = "http", kind: Any = "A") -> str:
    """A page by name, as `seen_from` tells it."""
    return seen_from(box.lab.call(who, visit, scheme, name, OURS, "/who", box.lab.ca, kind, PATIENCE_S))


def bare(box: Box, who: str, address: str) -> str:
    """A page by address, as `seen_from` tells it."""
    return seen_from(box.lab.call(who, http_get, address, 80, "/who", PATIENCE_S))


def insisting(box: Box, who: str, ask: Callable[..., Answer], *args: Any) -> Answer:
    """What comes of asking again where nothing comes: of a datagram, or of an ICMP error, nobody sends a second one."""
    for _ in range(3):
        answer = box.lab.call(who, ask, *args)
        if answer.detail != NO_ANSWER:
            break
    return answer


def proxy_state(box: Box) -> dict[str, Any]:
    found: dict[str, Any] = box.status()["split"]["proxy"]
    return found


def served(box: Box) -> Box:
    """The engine serves, and what is to be proxied is led there: `up` waits only so long for it (SETTLE_S)."""
    wait_for(lambda: proxy_state(box)["serves"])
    return box


def in_time(box: Box, bring_up: Callable[[], object], is_so: Callable[[], bool]) -> None:
    """Brings it up anew until it is so when that returns: an engine that starts in more than SETTLE_S is not waited
    for, and what is steered goes straight until then.

    bring_up: may be in vain only where it took at least that long.
    """
    for _ in range(5):
        began_s = time.monotonic()
        bring_up()
        took_s = time.monotonic() - began_s
        if is_so():
            return
        assert took_s >= SETTLE_S, "it did not wait"
        box.sidegate("down", "--now")
    raise AssertionError("never in time")


def upstreams(box: Box) -> dict[str, dict[str, Any]]:
    return {it["name"]: it for it in proxy_state(box)["upstreams"]}


def states(box: Box) -> dict[str, str]:
    return {name: it["state"] for name, it in upstreams(box).items()}
