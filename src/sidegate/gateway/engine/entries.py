"""A subscription's text -> upstreams: share links line by line, all of it in base64 or not, or SIP008's JSON. Pure."""

from __future__ import annotations

import re
from urllib.parse import quote

import msgspec
from msgspec import Struct

from sidegate.gateway.engine.link_parts import Wrong, unbase64
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.upstream import Upstream
from sidegate.problems import Problem, Problems

_CLASH = re.compile(r"^(proxies|proxy-groups|mixed-port|port):", re.MULTILINE)


class Read(Struct, frozen=True):
    """What could be read, and what could not; entries are named by their number, from 1."""

    upstreams: tuple[Upstream, ...] = ()
    problems: tuple[Problem, ...] = ()


class _Sip008Server(Struct):
    server: str
    server_port: int
    password: str
    method: str
    remarks: str = ""
    plugin: str | None = None


class _Sip008(Struct):
    """https://shadowsocks.org/doc/sip008.html"""

    servers: list[_Sip008Server]


def read_entries(text: str, where: str) -> Read:
    """where: begins the messages. Names are as the entries give them. Raises nothing: what is wrong is a problem."""
    try:
        links = _links(_plain(text))
    except Wrong as error:
        return Read(problems=(Problem(where, error.what, error.remedy),))
    found: list[Upstream] = []
    problems: list[Problem] = []
    for number, link in enumerate(links, 1):
        try:
            found.append(upstream_of_link(link, f"{where}, entry {number}"))
        except Problems as error:
            problems += error.problems
    if not links:
        problems.append(Problem(where, "it lists nothing"))
    return Read(tuple(found), tuple(problems))


def _links(text: str) -> list[str]:
    if text.startswith("{"):
        return _of_sip008(text)
    if _CLASH.search(text):
        remedy = "ask for its list of share links (often called v2ray or base64)"
        raise Wrong("", "it is in the format of Clash, which is not read", remedy)
    if text and "://" not in text:
        text = _plain(_of_base64(text))
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "//"))]


def _plain(text: str) -> str:
    return text.strip().removeprefix("\ufeff").strip()


def _of_base64(text: str) -> str:
    try:
        return unbase64("".join(text.split()), "")
    except Wrong:
        remedy = "a subscription is a list of share links, plain or in base64"
        raise Wrong("", "neither share links nor base64 of them", remedy) from None


def _of_sip008(text: str) -> list[str]:
    try:
        servers = msgspec.json.decode(text, type=_Sip008).servers
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise Wrong("", "JSON, but not a list of Shadowsocks servers (SIP008)") from None
    return [_link(it) for it in servers]


def _link(it: _Sip008Server) -> str:
    host = f"[{it.server}]" if ":" in it.server else quote(it.server, safe="")
    user = f"{quote(it.method, safe='')}:{quote(it.password, safe='')}"
    plugin = f"?plugin={quote(it.plugin, safe='')}" if it.plugin else ""
    return f"ss://{user}@{host}:{it.server_port}{plugin}#{quote(it.remarks, safe='')}"
