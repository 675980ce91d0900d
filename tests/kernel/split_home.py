"""The shipped home `split`, whose provider lies and blocks: its parts by name, and pages as its clients get them."""

from __future__ import annotations

import json
from typing import Any

from sidegate.home import load_home
from sidegate.lab.asking import Answer
from sidegate.lab.visiting import visit
from tests.kernel.gateway_lab import Box

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
    return seen_from(box.lab.call(who, visit, scheme, name, OURS, "/who", box.lab.ca, kind))


def upstreams(box: Box) -> dict[str, dict[str, Any]]:
    return {it["name"]: it for it in box.status()["split"]["proxy"]["upstreams"]}


def states(box: Box) -> dict[str, str]:
    return {name: it["state"] for name, it in upstreams(box).items()}
