"""The second act, in a home whose provider lies and blocks, and whose internet has a proxy: what the split does for one
device, and what becomes of it when the engine is killed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from sidegate.demo.result import Split, SplitScene, Visit
from sidegate.home import Client, Gateway, Isp, Server
from sidegate.lab.asking import ANSWERED_WITHIN_S, http_get
from sidegate.lab.check import sidegate
from sidegate.lab.lab import Lab
from sidegate.lab.resolving import resolve
from sidegate.problems import Exit, Problem, Problems

_CONF = "/run/demo.toml"
_WITHIN_S, _AGAIN_S = 20.0, 0.02
_BLOCKED_AFTER_S = 1.5
"""For a page that is to stay away. One that is to come has longer: a machine with other things to do is slow."""
_KILL = """
import os, select, signal, sys
engine = os.pidfd_open(int(sys.argv[1]))
signal.pidfd_send_signal(engine, signal.SIGKILL)
select.select([engine], [], [])
"""
"""Ends when the last thread has (pidfd_open(2)): until then its sockets take connections, which are reset."""


class Listener(Protocol):
    """Who watches."""

    def step(self, text: str) -> None:
        """A line about what happens now."""


class Cast(Struct, frozen=True):
    """Who plays. known: a site that is open to all; lied: one that the provider lies about; blocked: one it blocks.

    client: behind a radio, if there is one: where a filtering bridge would make it hard. link: of the proxy.
    """

    isp: Isp
    gateway: Gateway
    client: Client
    known: Server
    lied: Server
    blocked: Server
    proxy: Server
    link: str

    @property
    def sites(self) -> tuple[Server, ...]:
        return (self.known, self.lied, self.blocked)


def cast(lab: Lab) -> Cast | None:
    """None in a home without a provider that lies and blocks, or without a proxy."""
    home, isp, gateway = lab.home, lab.home.internet.isp, lab.home.gateway
    if isp is None or gateway is None:
        return None
    named = [s for s in home.internet.server if s.domain]
    blocked = [s for s in named if s.v4 in home.internet.blocked]
    lied = [s for s in named if s not in blocked and _is_lied_about(isp, s)]
    known = [s for s in named if s not in blocked and s not in lied and "http" in s.serves]
    proxies = [(s, link) for name, link in lab.links().items() for s in named if name == f"{s.name}-shadowsocks"]
    clients = sorted((c for c in home.client if c.gateway == "gateway"), key=lambda c: c.by == "wifi")
    if not (lied and blocked and proxies and known and clients):
        return None
    return Cast(isp, gateway, clients[-1], known[0], lied[0], blocked[0], *proxies[0])


def _is_lied_about(isp: Isp, server: Server) -> bool:
    return any(f".{server.domain}".endswith(f".{lie.domain}") for lie in isp.lie)


def play(lab: Lab, who: Cast, listener: Listener) -> Split:
    """On a gateway that is up without a configuration. Raises Problems."""
    before = SplitScene("Without a proxy", tuple(_visit_before(lab, who, s) for s in who.sites))
    listener.step(f"The provider lies about {who.lied.domain} and blocks {who.blocked.domain}. So, on the gateway:")
    _configure(lab, who, listener)
    _until_proxied(lambda: _visit(lab, who, who.lied, str(who.gateway.v4)))
    split = SplitScene("With the split", tuple(_visit(lab, who, s, str(who.gateway.v4)) for s in who.sites))
    listener.step("Now its proxy engine is killed (kill -9), and at that moment new connections are opened.")
    engine = str(json.loads(sidegate(lab, "status", "--json"))["split"]["proxy"]["pid"])
    lab.run(who.gateway.name, sys.executable, "-c", _KILL, engine)
    start = time.monotonic()
    cached = (who.lied, who.known)
    killed = SplitScene("Engine killed, that moment", tuple(_get(lab, who, s, str(s.v4)) for s in cached))
    _until_proxied(lambda: _get(lab, who, who.lied, str(who.lied.v4)))
    return Split(who.client.name, (before, split, killed), round((time.monotonic() - start) * 1000, 1))


def _configure(lab: Lab, who: Cast, listener: Listener) -> None:
    """The names that are proxied; whether the proxy works is asked of a site that the lab has."""
    rule = f'[[rule]]\ndomain = ["{who.lied.domain}", "{who.blocked.domain}"]\nsend = "proxy"\n'
    proxy = f'[proxy]\nupstream = {json.dumps(who.link)}\ncheck = "http://{who.known.v4}/"\n\n'
    lab.run(who.gateway.name, "sh", "-ec", f"umask 077; cat >{_CONF}", text=proxy + rule)
    for line in ("[proxy]", 'upstream = "ss://…"', *rule.splitlines()):
        listener.step(f"    {line}")
    sidegate(lab, "up", "--config", _CONF)


def _until_proxied(look: Callable[[], Visit]) -> None:
    """Raises Problems."""
    end = time.monotonic() + _WITHIN_S
    while (seen := look()).outcome != "proxied":
        if time.monotonic() > end:
            what = f"{seen.site} is not proxied after {_WITHIN_S:g} s: {seen.outcome} ({seen.detail})"
            raise Problems(Problem("demo", what, exit_code=Exit.FAULT))
        time.sleep(_AGAIN_S)


def _visit_before(lab: Lab, who: Cast, site: Server) -> Visit:
    return _visit(lab, who, site, str(who.isp.resolver), _BLOCKED_AFTER_S if site == who.blocked else ANSWERED_WITHIN_S)


def _visit(lab: Lab, who: Cast, site: Server, resolver: str, within_s: float = ANSWERED_WITHIN_S) -> Visit:
    """As a browser: the name is looked up there, and the page got."""
    name = site.domain or ""
    found = lab.call(who.client.name, resolve, name, resolver)
    if not found.ok:
        return Visit(name, "dead", f"no address: {found.detail}")
    return _get(lab, who, site, found.detail.partition(" ")[0], within_s)


def _get(lab: Lab, who: Cast, site: Server, address: str, within_s: float = ANSWERED_WITHIN_S) -> Visit:
    """`/who` tells by whom the server was asked: by the proxy, or by the home."""
    name = site.domain or ""
    answer = lab.call(who.client.name, http_get, address, 80, "/who", within_s, "", name)
    if not answer.ok:
        return Visit(name, "dead", answer.detail, answer.ms)
    if address != str(site.v4):
        return Visit(name, "lie", f"a page of {address}", answer.ms)
    asker = answer.detail.split()[0]
    return Visit(name, "proxied" if asker == str(who.proxy.v4) else "straight", f"the server saw {asker}", answer.ms)
