"""The engine with real servers: every kind of link, TPROXY, names, and what goes wrong. The plays are engine_plays'."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from sidegate.gateway.engine.privileges import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE
from tests.kernel.engine_stage import playing
from tests.kernel.engine_stage.addresses import BOX_OUTSIDE as DIRECT
from tests.kernel.engine_stage.addresses import OTHER, TARGET, TARGET6
from tests.kernel.engine_stage.addresses import SERVER as PROXIED
from tests.kernel.engine_stage.addresses import SERVER6 as PROXIED6

pytestmark = pytest.mark.kernel

NO_UDP = ("http", "https")

play = partial(playing.play, "engine_plays")


def test_every_kind_of_link_carries_web_and_udp() -> None:
    told = play("every_kind")
    assert told.pop("unmarked") == 0, "packets without the engine's mark would be steered again"
    _has_few_rights(told.pop("rights"))
    assert set(told) >= {"socks", "http", "ss", "ss2022", "vmess", "vless-tls", "vless-reality", "trojan", "wireguard"}
    expected = {"web": f"{PROXIED} at {TARGET}", "udp": "hello"}
    assert told == {name: {**expected, "udp": "none"} if name in NO_UDP else expected for name in told}


def _has_few_rights(rights: dict[str, Any]) -> None:
    allowed = 1 << CAP_NET_ADMIN | 1 << CAP_NET_BIND_SERVICE
    command = rights.pop("command")
    assert not [word for word in ("pass", "1111", "pw") if word in command]
    assert rights == {
        "CapInh": 0,
        "CapPrm": allowed,
        "CapEff": allowed,
        "CapBnd": allowed,
        "CapAmb": 0,
        "NoNewPrivs": 1,
        "ends first": True,
    }


def test_who_says_nothing_at_first_is_not_closed() -> None:
    """Xray takes silence for the end of the client's words, with some kinds of upstreams (`engine/silence.py`)."""
    told = playing.play("engine_silence", "silent")
    assert told.pop("unmarked") == 0
    assert {"ss", "ss-chacha20", "vmess zero", "ss, mux", "lan_port, vmess", "steered"} <= set(told)
    assert {name: words for name, words in told.items() if set(words) != {"the same"}} == {}


def test_what_is_steered() -> None:
    """An upstream looks names up itself: `listed.example` is elsewhere for it than the client was told."""
    told = play("steered")
    assert told.pop("unmarked") == 0, "what goes straight from the engine would be steered again"
    decided = {key: told.pop(key) for key in list(told) if not key.startswith("named")}
    assert decided == {
        "decided": f"{PROXIED} at {TARGET}",
        "decided, listed": f"{PROXIED} at {OTHER}",
        "decided, late": "late",
        "decided, IPv6": f"{PROXIED6} at {TARGET6}",
        "udp, IPv6": f"hello from {PROXIED6} by {TARGET6}:7",
        "udp": f"hello from {PROXIED} by {TARGET}:7",
        "udp, other port": f"other port from {PROXIED} by {TARGET}:9",
    }
    assert told == {
        "named, other.example": f"{DIRECT} at {TARGET}",
        "named, listed.example": f"{PROXIED} at {OTHER}",
        "named, www.listed.example": f"{PROXIED} at {OTHER}",
        "named, blocked.example": "closed",
        "named, cloudflare-ech.com": f"{PROXIED} at {TARGET}",
        "named, none": f"{PROXIED} at {TARGET}",
        "named, udp": f"hello from {PROXIED} by {TARGET}:7",
    }


def test_who_is_asked_for_names() -> None:
    """What is answered late may be asked for once more."""
    told = play("names")
    assert set(told.pop("direct")) == {"server.example"}, "the upstream's own server, and nothing else"
    assert list(dict.fromkeys(told.pop("proxied"))) == ["a.example", "b.example", "c.example", "d.example"]
    assert told.pop("https") == "nothing", "a record that would hide names from the rules"
    assert told.pop("web") == f"{PROXIED} at {TARGET}"
    assert set(told.values()) == {"203.0.113.5"}


def test_many_names_take_few_connections() -> None:
    """At a server that keeps connections, and allows three; and, after some of them, at one that does not keep them."""
    told = play("many_names")
    assert told == {"kept": ["203.0.113.5"], "closed": ["203.0.113.5"], "most": 1}


def test_names_over_https_take_one_connection_and_a_silent_server_keeps_nobody_waiting() -> None:
    told = play("names_over_https")
    assert told == {"found": ["203.0.113.5"], "direct": [], "most": 1}


def test_mistakes_do_not_spread() -> None:
    told = play("mistakes")
    assert told.pop("good") == f"{PROXIED} at {TARGET}"
    assert told.pop("left out") == ["refused", "refused-too"], "Xray refuses its settings"
    assert not [name for name, page in told.items() if PROXIED in page]


def test_a_port_that_is_taken() -> None:
    assert play("port_taken") == {"code": 1}
