"""The home around a running gateway, as far as it can know it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

import pytest

from sidegate.home import RouterProfile, check_home
from sidegate.walk.conversation import Player
from sidegate.walk.known import CLIENT, DESTINATION, Known, Tracked, known_home
from sidegate.walk.network import Network
from sidegate.walk.question import question
from sidegate.walk.setting import Setting


def known(tracked: Tracked) -> Known:
    own, router = IPv4Interface("10.1.2.3/23"), IPv4Address("10.1.2.1")
    return Known(own, router, IPv4Address("10.1.3.200"), IPv4Address("198.51.100.7"), tracked)


def test_without_a_verdict_there_is_no_home() -> None:
    assert known_home(known("unknown")) is None


@pytest.mark.parametrize(
    ("tracked", "proved", "verdict"),
    [
        ("direct", (CLIENT,), "delivered"),
        ("direct", (), "delivered"),
        ("masquerade", (), "delivered"),
        ("masquerade", (CLIENT,), "reply-lost-private-source"),
    ],
)
def test_the_walk_of_what_is_known(tracked: Tracked, proved: tuple[str, ...], verdict: str) -> None:
    home = known_home(known(tracked))
    assert home is not None
    assert check_home(home) == []
    network = Network(home, RouterProfile(title="unknown"), Setting("sidegate", proved))
    assert Player(network, question(network, CLIENT, DESTINATION)).walk().verdict.code == verdict
