"""What is said of an upstream that gives no answers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sidegate.gateway.engine.hints import hint
from sidegate.gateway.engine.links import upstream_of_link

ID = "11111111-2222-4333-8444-555555555555"
NOW = datetime(2026, 11, 22, 19, 17, tzinfo=UTC)
KEY = "SbVKOEMjK0sIlbwg4akyBg5mL5KZwwB-ed4eEE7YnRc"


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (
            "socks5://a:hunter2@b.example:1080",
            "look at whether b.example:1080 is reachable and its user name and password",
        ),
        (
            "ss://2022-blake3-aes-128-gcm:YctPZ6U7xPPcU+gp3u+0tw==@b.example:1",
            "look at whether b.example:1 is reachable, its password and cipher "
            "and this box's clock, which says 2026-11-22 19:17 UTC and may be off by 30 s at most",
        ),
        (
            f"vmess://{ID}@b.example:443?security=tls",
            "look at whether b.example:443 is reachable, its id, the name in its certificate "
            "and this box's clock, which says 2026-11-22 19:17 UTC and may be off by 120 s at most",
        ),
        (
            f"vless://{ID}@b.example:443?security=reality&pbk={KEY}",
            "look at whether b.example:443 is reachable, its id and flow and its public key, short id and server name",
        ),
    ],
)
def test_each_kind_has_its_causes(link: str, words: str) -> None:
    assert hint(upstream_of_link(link, "here"), NOW) == words


def test_what_is_there_need_not_be_looked_for() -> None:
    it = upstream_of_link("socks5://a:hunter2@b.example:1080", "here")
    assert hint(it, NOW, is_there=True) == "look at its user name and password"
