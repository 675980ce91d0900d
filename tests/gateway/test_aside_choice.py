"""When clients are handed to the router, and when not: conversations and properties; and what this box asks itself."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.aside.choice import CAUSES, FIRST_STAY_S, LONGEST_STAY_S, AsideChoice
from sidegate.gateway.aside.watch import StandingAside, pointed_to_router
from sidegate.gateway.box import programs
from sidegate.gateway.box.places import Places
from sidegate.gateway.desired import Advertiser, Desired, DhcpServer
from sidegate.gateway.health.selfcheck import Answer, takes_questions, would_forward
from sidegate.gateway.health.table import Name, State
from sidegate.probe.talk import Vantage

WELL: dict[Name, State] = {"router": "up", "internet": "up", "forwarding": "up", "daemon": "up"}
BROKEN: dict[Name, State] = {**WELL, "forwarding": "down"}
STATES = st.sampled_from(["unknown", "up", "down"])
UDP = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"


def test_one_that_does_not_forward_steps_aside_and_comes_back() -> None:
    choice = AsideChoice()
    assert choice.move(WELL, 0, is_aside=False) is None
    assert (choice.move(BROKEN, 1, is_aside=False), choice.cause(BROKEN)) == ("step aside", "forwarding")
    choice.stepped(1)
    assert choice.move(BROKEN, 1e6, is_aside=True) is None
    assert choice.move(WELL, FIRST_STAY_S, is_aside=True) is None
    assert choice.move(WELL, FIRST_STAY_S + 1, is_aside=True) == "take back"


def test_person_need_not_wait_but_for_the_check() -> None:
    choice = AsideChoice()
    choice.stepped(1)
    assert choice.move(WELL, 2, is_aside=True, is_told_to=True) == "take back"
    assert choice.move(BROKEN, 2, is_aside=True, is_told_to=True) is None


@given(STATES, STATES, STATES, st.booleans(), st.booleans())
def test_where_what_is_proxied_may_not_go_straight_nobody_is_there(
    router: State, internet: State, forwarding: State, is_aside: bool, is_told_to: bool
) -> None:
    states: dict[Name, State] = {"router": router, "internet": internet, "forwarding": forwarding}
    move = AsideChoice().move(states, 0, is_aside=is_aside, is_told_to=is_told_to, must_stay=True)
    assert move == ("take back" if is_aside else None)


def test_whoever_stays_although_the_router_could_have_them_is_a_fault(tmp_path: Path) -> None:
    told: list[str] = []
    aside = StandingAside(Places(tmp_path, tmp_path), told.append)
    assert (aside.due(BROKEN, 1, must_stay=True), aside.cause) == (None, "")
    assert [fault.what[:18] for fault in aside.faults()] == ["forwarding is down"]
    assert (aside.due(WELL, 2, must_stay=True), aside.faults()) == (None, ())
    assert (aside.due(BROKEN, 3, must_stay=False), aside.faults()) == ("step aside", ())
    aside.decide("step aside", BROKEN, 3)
    assert aside.due(BROKEN, 4, must_stay=True) == "take back"
    aside.decide("take back", BROKEN, 4)
    assert (aside.cause, told[-1]) == ("", "what is proxied may not go straight: clients are taken back")


@given(STATES, STATES, STATES)
def test_nobody_is_handed_to_a_dead_router(router: State, internet: State, forwarding: State) -> None:
    states: dict[Name, State] = {"router": router, "internet": internet, "forwarding": forwarding}
    moved = AsideChoice().move(states, 0, is_aside=False)
    assert (moved is not None) == ((router, internet, forwarding) == ("up", "up", "down"))


@given(st.lists(st.sampled_from([True, False]), min_size=200, max_size=2000))
def test_nothing_flaps(is_broken: list[bool]) -> None:
    """Whatever the check says, every ten seconds: each stay is four times the last one, up to an hour."""
    choice, is_aside, stepped_s = AsideChoice(), False, 0.0
    stays: list[float] = []
    for i, broken in enumerate(is_broken):
        now_s = i * 10.0
        move = choice.move(BROKEN if broken else WELL, now_s, is_aside=is_aside)
        if move == "step aside":
            choice.stepped(now_s)
            is_aside, stepped_s = True, now_s
        elif move == "take back":
            stays.append(now_s - stepped_s)
            is_aside = False
    for n, stay_s in enumerate(stays):
        assert stay_s >= min(FIRST_STAY_S * 4.0**n, LONGEST_STAY_S)


def test_clients_that_ask_hear_of_the_router() -> None:
    ours, router = IPv4Address("192.168.1.2"), IPv4Address("192.168.1.1")
    lan = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.199")
    server = DhcpServer("eth0", IPv4Network("192.168.1.0/24"), *lan, 600, ours, router, (router,))
    desired = Desired((), (), "", "", dhcp=server, advertiser=Advertiser("eth0", True))
    told = pointed_to_router(desired)
    assert (told.dhcp and told.dhcp.gateway, told.advertiser) == (router, None)
    assert pointed_to_router(Desired((), (), "", "")).dhcp is None


def test_server_that_leaves_questions_unread_is_found() -> None:
    line = "  1: 00000000:0043 00000000:0000 07 00000000:{} 00:00000000 00000000     0 0 1 2 0 0\n"
    assert takes_questions(UDP + line.format("00000000")).is_good
    assert takes_questions(UDP + line.format("00000300")).why.endswith("unread (768 bytes)")
    assert not takes_questions(UDP).is_good


def test_an_address_of_our_own_is_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the addresses that are tried one will do; where none does, the kernel's words for the first are told."""
    ours = {"192.168.1.2", "192.168.1.3"}

    def ip(*words: str) -> tuple[int, str, str]:
        is_martian = words[words.index("from") + 1] in ours
        return (2, "", "RTNETLINK answers: Invalid argument\n") if is_martian else (0, '[{"dev": "eth0"}]', "")

    at = Vantage("eth0", "02:00:00:00:00:02", IPv4Address("192.168.1.2"), IPv4Address("192.168.1.1"), "")
    monkeypatch.setattr(programs, "attempt", ip)
    assert would_forward(at, IPv4Address("1.1.1.1")) == Answer(
        True, "the kernel would forward a client's packet to its target by eth0", "eth0"
    )
    monkeypatch.setattr(programs, "attempt", lambda *_: (2, "", "RTNETLINK answers: No route to host\n"))
    assert would_forward(at, IPv4Address("1.1.1.1")).why.endswith("it does not forward what comes in there")


def test_table_names_the_causes() -> None:
    assert CAUSES == ("forwarding",)
