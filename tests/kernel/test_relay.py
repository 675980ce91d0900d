"""The engine's relay to plain proxies: whom it asks for, both kinds of ends, and what it does when it cannot."""

from __future__ import annotations

from functools import partial

import pytest

from tests.kernel.engine_stage import playing
from tests.kernel.engine_stage.addresses import OTHER, TARGET, TARGET6
from tests.kernel.engine_stage.addresses import SERVER as PROXIED
from tests.kernel.engine_stage.addresses import SERVER6 as PROXIED6

pytestmark = pytest.mark.kernel

play = partial(playing.play, "relay_plays")


def test_whom_the_proxy_is_asked_for() -> None:
    told = play("wanted")
    assert told.pop("hello") == told.pop("hello in pieces") == "a.example:15000"
    assert told.pop("looked at late") == "a.example"
    assert told.pop("request") == "b.example:15000"
    assert told.pop("others, IPv6") == "::1:15000"
    assert set(told.values()) == {"127.0.0.1:15000"}


def test_both_kinds_of_ends_are_told_each_way() -> None:
    assert play("ends") == {
        "question": "question",
        "answer after the client's end": "late answer",
        "server speaks first": "banner\r\n\r\n",
        "server's end": "",
        "upload after the server's end": "upload goes on",
        "the client breaks off": "ConnectionResetError",
        "the server breaks off": "ConnectionResetError",
        "the client is in a hurry": "abc",
        "the server is in a hurry": "abc",
    }


def test_of_connections_that_ended_in_every_way_nothing_is_left() -> None:
    told = playing.play("relay_endings", "every_ending")
    assert told.pop("joined") > 200
    assert told["sockets"] == 0
    assert told["pipes"] <= 2 * 16, "some are kept for others"


def test_where_the_upstream_does_not_serve_the_client_is_told_at_once() -> None:
    told = play("refusals")
    assert told == dict.fromkeys(told, "ConnectionResetError")
    assert len(told) == 7


def test_many_octets_over_many_connections_both_ways() -> None:
    told = play("many")
    assert len(told) == 32
    assert all(told.values()), told


def test_with_no_files_left_nothing_spins_and_nothing_is_lost() -> None:
    assert play("no_files_left") == {
        "events that are waited for": [0],
        "heard": 0,
        "heard then": "answer",
        "came in then": 6,
    }


def test_beside_xray() -> None:
    told = play("beside_xray")
    assert set(told.pop("wrong").values()) == {"closed"}
    assert told.pop("lasting") == 1, "a generation that leaves waits for its connections' ends"
    assert told.pop("unmarked") == 0, "packets without the engine's mark would be steered again"
    assert told.pop("udp") == f"hello from {PROXIED} by {TARGET}:7"
    serving = {
        "by name": f"{PROXIED} at {OTHER}",
        "by address": f"{PROXIED} at {TARGET}",
        "IPv6": f"{PROXIED6} at {TARGET6}",
    }
    assert told == {"socks": serving, "http": serving}
