"""Which upstreams the relay leads to by itself."""

from __future__ import annotations

import pytest

from sidegate.gateway.engine.handshakes import Proxy
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.plain import plain_proxy
from sidegate.gateway.engine.upstream import Json, Upstream

AT: Json = {"address": "192.0.2.1", "port": 1080}


@pytest.mark.parametrize(
    ("link", "proxy"),
    [
        ("socks5://192.0.2.1:1080#x", Proxy("socks", "192.0.2.1", 1080)),
        ("socks5://name:hunter2@192.0.2.1:1080", Proxy("socks", "192.0.2.1", 1080, "name", "hunter2")),
        ("socks5://name:@192.0.2.1:1080", Proxy("socks", "192.0.2.1", 1080, "name")),
        ("http://a%40b:p%3Aw@[2001:db8::1]:3128", Proxy("http", "2001:db8::1", 3128, "a@b", "p:w")),
    ],
)
def test_plain_ones(link: str, proxy: Proxy) -> None:
    found = plain_proxy(upstream_of_link(link, ""))
    assert found is not None
    assert Proxy(**found) == proxy


@pytest.mark.parametrize(
    "link",
    [
        "https://name:hunter2@192.0.2.1:443",
        "socks5://proxy.example:1080",
        "socks5://" + "n" * 256 + ":p@192.0.2.1:1080",
        "socks5://:hunter2@192.0.2.1:1080",
        "ss://aes-128-gcm:pw@192.0.2.1:8388",
    ],
)
def test_others(link: str) -> None:
    assert plain_proxy(upstream_of_link(link, "")) is None


@pytest.mark.parametrize(
    "outbound",
    [
        {"protocol": "socks", "settings": AT, "streamSettings": {"security": "tls"}},
        {"protocol": "socks", "settings": AT, "mux": {"enabled": True}},
        {"protocol": "socks", "settings": AT, "proxySettings": {"tag": "x"}},
        {"protocol": "socks", "settings": {**AT, "headers": {"A": "b"}}},
        {"protocol": "socks", "settings": {"servers": [AT]}},
        {"protocol": "socks", "settings": {**AT, "port": 1081}},
        {"protocol": "socks", "settings": {**AT, "user": 5, "pass": "x"}},
        {"protocol": "http", "settings": AT},
        {"protocol": "socks"},
    ],
)
def test_whoever_says_more_of_it_in_an_outbound_of_his_own(outbound: Json) -> None:
    assert plain_proxy(Upstream("x", "socks", "192.0.2.1", 1080, outbound)) is None
