"""Which upstreams would lose a client that says nothing at first, and the way round that. Pure.

Xray's outbounds for these protocols wait 100 ms for a client's first words (proxy/shadowsocks/client.go,
proxy/vmess/outbound/outbound.go: CopyOnceTimeout). What comes straight from an inbound or a loopback answers "nothing
yet" with no words instead of an error (common/buf/io.go, TimeoutWrapperReader.ReadMultiBufferTimeout). They are sent as
an empty chunk, which means the end of the client's words: whoever waits for the server to speak first, or connects
ahead of time, is closed a second later.

What comes out of a pipe answers with the error, and one outbound's `dialerProxy` is another one at the end of a pipe
(transport/internet/dialer.go, redirect). So TCP takes a freedom outbound there first: it opens no socket of its own and
looks up no name. UDP goes to the upstream itself, or it would lose its full cone.
"""

from __future__ import annotations

from sidegate.gateway.engine.upstream import Json, Upstream

_WITH_END_CHUNKS = ("shadowsocks", "vmess")
_WITHOUT = "2022-"
"""Shadowsocks 2022 is another outbound of Xray's (proxy/shadowsocks_2022), without such a chunk."""


def needs_pipe(it: Upstream) -> bool:
    """By its outbound, for in a user's own one the protocol may be written as Xray reads it: in any case of letters."""
    protocol = str(it.outbound.get("protocol")).lower()
    return protocol in _WITH_END_CHUNKS and not _method(it.outbound).startswith(_WITHOUT)


def _method(outbound: Json) -> str:
    """Empty where it does not show; of its settings, or of the one server in them (infra/conf/shadowsocks.go)."""
    settings = outbound.get("settings")
    if isinstance(settings, dict) and "address" not in settings and isinstance(settings.get("servers"), list):
        settings = next(iter(settings["servers"]), None)
    return str(settings.get("method", "")) if isinstance(settings, dict) else ""


def tcp_tag(it: Upstream, i: int) -> str:
    """Of the outbound that takes the TCP for it."""
    return f"tcp-{i}" if needs_pipe(it) else f"to-{i}"


def pipe(i: int) -> Json:
    """The outbound before upstream number so-and-so."""
    stream = {"sockopt": {"dialerProxy": f"to-{i}"}}
    return {"tag": f"tcp-{i}", "protocol": "freedom", "streamSettings": stream}
