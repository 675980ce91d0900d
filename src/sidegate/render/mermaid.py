"""Home -> Mermaid text, drawn like the diagrams of the article: `graph LR`, for documents that render Mermaid."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sidegate.home import Attached, Client, Gateway, Home, Node, Router
from sidegate.render.words import clean

_RESERVED = {"end", "graph", "subgraph", "flowchart", "style", "class", "click", "default", "call", "href", "direction"}
_SPECIAL = re.compile(r"[^\w\s.,:/()'·-]|_")


def mermaid(home: Home) -> str:
    """The home as a Mermaid graph: cables solid, radio and a pulled-out gateway dashed."""
    ids = _ids(home)
    lines = ["graph LR", f"    accTitle: {_title(home)}", *_nodes(home, ids), ""]
    return "\n".join([*lines, *_edges(home, ids)]) + "\n"


def _title(home: Home) -> str:
    """On one line; an accTitle knows no entity codes, so what could be syntax is left out."""
    return " ".join(_SPECIAL.sub(" ", clean(home.title or home.name)).split()) or "A home"


def _ids(home: Home) -> dict[str, str]:
    """A Mermaid id for each name: unique, and none of Mermaid's own words."""
    ids: dict[str, str] = {}
    for name in ("internet", "modem", home.router.name, *(it.name for it in home.attached)):
        ident = re.sub(r"\W", "_", name, flags=re.ASCII)
        taken = ident in ids.values() or ident in _RESERVED or not ident[:1].isalpha()
        ids.setdefault(name, f"n{len(ids)}_{ident}" if taken else ident)
    return ids


def _nodes(home: Home, ids: dict[str, str]) -> Iterator[str]:
    yield "    internet((Internet))"
    if home.modem:
        yield _box(ids["modem"], "modem with router function", str(home.modem.lan.ip))
    yield _box(ids[home.router.name], *_router_lines(home.router))
    for it in home.attached:
        if isinstance(it, Client):
            yield f'    {ids[it.name]}("{_text(*_client_lines(home, it))}")'
        elif isinstance(it, Gateway):
            yield _box(ids[it.name], f"{it.name} (bypass gateway)", str(it.v4), f"Gateway: {home.router.lan.ip}")
        else:
            yield _box(ids[it.name], it.name, "mesh node" if it.by == "wifi" else "access point")


def _router_lines(router: Router) -> list[str]:
    dhcp = "DHCP: off" if router.dhcp.off else f"DHCP Default Gateway: {router.dhcp.gateway or router.lan.ip}"
    return [router.name, str(router.lan.ip), dhcp]


def _client_lines(home: Home, client: Client) -> list[str]:
    gateway = home.gateway.v4 if home.gateway and client.gateway == "gateway" else home.router.lan.ip
    return [client.name, str(client.v4), f"Gateway: {'none' if client.gateway == 'none' else gateway}"]


def _box(ident: str, *lines: str) -> str:
    return f'    {ident}[["{_text(*lines)}"]]'


def _text(*lines: str) -> str:
    """A Markdown string of Mermaid, one line of it per line."""
    return "`" + "\n    ".join(_escaped(line) for line in lines) + "`"


def _escaped(text: str) -> str:
    """Everything that Mermaid or Markdown could read as syntax becomes an entity code (`#quot;` style, by number)."""
    return _SPECIAL.sub(lambda found: f"#{ord(found.group())};", clean(text))


def _edges(home: Home, ids: dict[str, str]) -> Iterator[str]:
    uplink = ids["modem"] if home.modem else "internet"
    if home.modem:
        yield f"    internet --- {uplink}"
    yield f"    {uplink} --- {ids[home.router.name]}"
    for it in home.attached:
        if it.at in ids:
            yield f"    {ids[it.at]} {_edge(it)} {ids[it.name]}"


def _edge(it: Attached) -> str:
    if isinstance(it, Gateway) and not it.plugged:
        return '-.-|"`**(Disconnected)**`"|'
    if it.by == "wire":
        return "---|Wired Network|"
    return "-.-|Mesh|" if isinstance(it, Node) else "-.-|WiFi|"
