"""Somebody else uses our address: what is said of it, and how seldom."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from sidegate.packet import BROADCAST, NO_MAC, Arp, Frame, frame_of
from sidegate.probe.conflict import (
    ASK_S,
    DEFEND_INTERVAL_S,
    FORGET_S,
    MOST_RIVALS,
    Rivals,
    announcement,
    asked_for,
    question,
)

WE, THEY = "02:00:00:00:00:01", "02:00:00:00:00:02"
OURS, OTHER = IPv4Address("192.168.1.2"), IPv4Address("192.168.1.9")
ASK, DEFEND = question(OURS, WE), announcement(OURS, WE)


def arp(mac: str = THEY, ip: IPv4Address = OURS, *, reply: bool = False) -> Frame:
    return frame_of(BROADCAST, mac, Arp(reply, mac, ip, NO_MAC, ip))


def test_a_newcomer_is_told_once_and_answered_once() -> None:
    rivals = Rivals(OURS, WE)
    assert rivals.to_say(100.0) == [ASK]
    first = rivals.heard(arp(), 101.0)
    assert first is not None
    assert first.mac == THEY
    assert rivals.to_say(101.0) == [DEFEND]
    assert rivals.heard(arp(reply=True), 101.1) is None
    assert rivals.to_say(101.2) == []
    assert rivals.to_say(101.0 + DEFEND_INTERVAL_S) == [ASK, DEFEND], "it goes on, and so do we: once in ten seconds"
    assert rivals.to_say(102.0 + 2 * DEFEND_INTERVAL_S) == [ASK], "it was not heard again"
    assert rivals.gone(101.1 + FORGET_S) == [first]
    assert list(rivals) == []


def test_what_is_no_conflict() -> None:
    rivals = Rivals(OURS, WE)
    probe = frame_of(BROADCAST, THEY, Arp(False, THEY, IPv4Address(0), NO_MAC, OURS))
    asks_for_us = frame_of(BROADCAST, THEY, Arp(False, THEY, OTHER, NO_MAC, OURS))
    for frame in (arp(WE), arp(ip=OTHER), probe, asks_for_us, ASK, DEFEND):
        assert rivals.heard(frame, 1.0) is None
    assert list(rivals) == []


def test_who_asks_for_its_own_address_is_heard_of() -> None:
    assert asked_for(question(OTHER, THEY)) == (THEY, OTHER)
    assert [asked_for(frame) for frame in (arp(), arp(reply=True), announcement(OTHER, THEY))] == [None] * 3


@given(st.lists(st.floats(0.0, 5.0), max_size=80))
def test_no_war_however_often_the_other_speaks(gaps_s: list[float]) -> None:
    rivals, now, defended = Rivals(OURS, WE), 1000.0, list[float]()
    for gap_s in gaps_s:
        now += gap_s
        rivals.heard(arp(), now)
        defended += [now for frame in rivals.to_say(now) if frame == DEFEND]
    assert all(b - a >= DEFEND_INTERVAL_S for a, b in itertools.pairwise(defended))
    assert len(defended) >= bool(gaps_s)


def test_a_flood_of_made_up_devices_is_bounded() -> None:
    rivals = Rivals(OURS, WE)
    told = [rivals.heard(arp(f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}"), 1.0) for n in range(100, 1000)]
    assert sum(it is not None for it in told) == len(list(rivals)) == MOST_RIVALS


def test_it_wakes_when_something_is_due() -> None:
    rivals = Rivals(OURS, WE)
    assert rivals.next_s() < 0
    rivals.to_say(100.0)
    assert rivals.next_s() == 100.0 + ASK_S
    rivals.heard(arp(), 101.0)
    assert rivals.next_s() <= 101.0
    rivals.to_say(101.0)
    assert rivals.next_s() == 100.0 + ASK_S
    rivals.to_say(115.0)
    assert rivals.next_s() == 115.0 + ASK_S, "who was answered once and is silent wakes nobody"
