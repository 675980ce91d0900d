"""Two devices with one address, and a device whose MAC address changes: as conversations."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.clients.sharedaddresses import IDLE_S, MOST_NAMED, MOST_TOLD, SharedAddresses
from sidegate.gateway.ruleset.nft import Client

EVERY_S = 10.0
IP = IPv4Address("192.168.1.50")
MACS = {letter: f"02:00:00:00:00:0{letter}" for letter in "abc"}


def looked(looks: list[str], *, every_s: float = EVERY_S) -> tuple[SharedAddresses, list[str]]:
    """looks: at each, who has sent something; letters are MAC addresses."""
    told: list[str] = []
    shared = SharedAddresses(told.append, lambda mac: "nas" if mac == MACS["a"] else "")
    for i, active in enumerate(looks):
        shared.look([Client(MACS[letter], IP) for letter in active], i * every_s)
    return shared, told


@pytest.mark.parametrize(
    ("looks", "is_shared"),
    [
        ("ab ab", True),
        ("a b a b", True),
        ("a ab b", False),
        ("a a ab ab", True),
        ("a b b b b", False),
        ("a a ab b b", False),
        ("ab b b", False),
        ("a ab", False),
        ("a - - - - - - - b - - - - - - - a", False),
        ("a a a a", False),
        ("abc b c", True),
    ],
)
def test_each_after_the_other_are_two_devices(looks: str, is_shared: bool) -> None:
    shared, told = looked([it.strip("-") for it in looks.split()])
    assert (bool(shared.hints()), bool(told)) == (is_shared, is_shared)


@given(st.lists(st.sampled_from(["a", ""])), st.sampled_from(["ab", "a", "b"]), st.lists(st.sampled_from(["b", ""])))
def test_a_new_mac_address_is_no_second_device(before: list[str], between: str, after: list[str]) -> None:
    assert looked([*before, between, *after])[0].hints() == ()


def test_it_is_told_once_and_hinted_at_while_it_goes_on() -> None:
    shared, told = looked(["ab", "ab", "ab", "ab"])
    assert told == list(shared.hints())
    assert told[0].startswith(f"{IP} is used by 2 devices at once, {MACS['a']} (nas) and {MACS['b']}: answers")
    shared.look([Client(MACS["a"], IP)], 30.0 + IDLE_S)
    assert (shared.hints(), len(told)) == ((), 1)


def test_made_up_addresses_do_not_fill_the_status() -> None:
    told: list[str] = []
    shared = SharedAddresses(told.append, lambda _: "")
    macs = [f"02:00:00:00:00:{n:02x}" for n in range(MOST_NAMED + 2)]
    crowd = [Client(mac, IP + n) for n in range(MOST_TOLD + 3) for mac in macs]
    for now in (0.0, EVERY_S):
        shared.look(crowd, now)
    assert (len(told), shared.hints()[-1]) == (MOST_TOLD, "3 more addresses are used by several devices at once")
    assert shared.hints()[0].count("02:00:") == MOST_NAMED
