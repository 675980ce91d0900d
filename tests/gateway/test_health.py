"""k-of-n with hysteresis, and what depends on what."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.box import programs
from sidegate.gateway.health.checkup import Checkup, Place
from sidegate.gateway.health.table import REST_S, TABLE, Check, Health, Name, Turned
from sidegate.probe.talk import Vantage
from sidegate.problems import Problem, Problems

ROUTER = Check("router", "", "", every_s=10, failures=3, of=4, successes=2)
INTERNET = Check("internet", "", "", every_s=10, failures=1, of=1, successes=1, needs="router")


def states(results: str, check: Check = ROUTER) -> str:
    """Of results (`.` good, `x` bad) the state after each: u(p), d(own), ? unknown."""
    health = Health(0, (check,))
    told = ""
    for i, result in enumerate(results):
        health.result(check.name, result == ".", "", i)
        told += {"up": "u", "down": "d", "unknown": "?"}[health[check.name].state]
    return told


def test_conversations() -> None:
    assert states(".") == "u"
    assert states("xxx") == "??d"
    assert states(".xx.x") == "uuuud"
    assert states(".xx..x.x.xx") == "uuuuuuuuuud"
    assert states("xxx.x..") == "??ddddu"[:7]
    assert states("...xxx.xx..") == "uuuuudddddu"


@given(st.text(".x", min_size=1, max_size=60))
def test_turns_are_earned(results: str) -> None:
    told = states(results)
    for i in range(1, len(results)):
        if (told[i - 1], told[i]) == ("u", "d"):
            assert results[max(0, i - 3) : i + 1].count("x") >= 3
        if (told[i - 1], told[i]) == ("d", "u"):
            assert results[i - 1 : i + 1] == ".."
        assert told[i] != "?" or "." not in results[: i + 1]


def test_what_lies_behind_a_broken_router_is_unknown() -> None:
    health = Health(0, (ROUTER, INTERNET))
    assert health.due(0) == ["router", "internet"]
    assert health.result("internet", True, "answered", 0) == Turned("internet", "up", "answered")
    for _ in range(3):
        health.result("router", False, "silent", 1)
    assert health.next_due_s() == 1
    assert (health["router"].state, health["router"].why, health["router"].since_s) == ("down", "silent", 1)
    assert health.due(10) == ["router"]
    assert (health["internet"].state, health["internet"].why) == ("unknown", "not asked while the router is down")
    for _ in range(2):
        health.result("router", True, "there", 11)
    assert health.due(11) == ["internet"], "at once"
    assert health.due(20) == ["router"]


def test_what_lies_behind_what_is_not_asked_is_not_asked_either() -> None:
    behind = Check("forwarding", "", "", every_s=5, failures=1, of=1, successes=1, needs="internet")
    health = Health(0, (ROUTER, INTERNET, behind))
    for _ in range(3):
        health.result("router", False, "silent", 1)
    assert health.due(10) == ["router"]


def test_only_some_rows_are_checked() -> None:
    health = Health(0, (ROUTER, INTERNET))
    health.result("router", True, "there", 1)
    health.check_only([ROUTER.name], 2, (ROUTER, INTERNET))
    assert ("internet" in health, health["router"].state, health.due(20)) == (False, "up", ["router"])
    health.check_only([ROUTER.name, INTERNET.name], 30, (ROUTER, INTERNET))
    assert health["internet"].state == "unknown"


def test_nothing_is_asked_twice_at_once() -> None:
    health = Health(0, (ROUTER,))
    assert (health.next_due_s(), health.due(5), health.due(100), health.next_due_s()) == (0, ["router"], [], None)
    health.unasked()
    assert health.due(100) == ["router"]


def test_all_are_asked_for_whoever_wants_to_know_now() -> None:
    health = Health(0, (ROUTER, INTERNET))
    health.due(0)
    health.result("router", True, "is there", 0)
    health.ask_all(1)
    assert health.due(1) == ["router"], "the internet is being asked already"


def test_why_is_of_the_state_that_holds() -> None:
    health = Health(0, (ROUTER,))
    health.result("router", True, "is there", 0)
    health.result("router", False, "one was lost", 1)
    assert (health["router"].state, health["router"].why) == ("up", "is there")


def test_what_cannot_be_asked_is_unknown_and_moves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that hangs, or is being upgraded, says nothing of what the kernel does with packets."""

    def hang(*_: str) -> tuple[int, str, str]:
        raise Problems(Problem("ip route get", "no end after 10 s"))

    told: list[str] = []
    repaired: list[str] = []
    checkup = Checkup(1000.0, told.append, lambda: repaired.append("box"))
    ours, router, target = (IPv4Address(it) for it in ("192.168.1.2", "192.168.1.1", "1.1.1.1"))
    at = Place(Vantage("eth0", "02:00:00:00:00:02", ours, router, "02:00:00:00:00:01"), (target,))
    checkup._note(checkup._health.result("forwarding", True, "it would", 1000.0))
    monkeypatch.setattr(programs, "attempt", hang)
    for now in (1010.0, 1020.0, 1030.0, 1040.0):
        checkup._ask_box("forwarding", at, now)
        assert checkup._health["forwarding"].due_s == now + REST_S, "it would hold the daemon all the time"
    assert (checkup.states()["forwarding"], checkup.faults(), repaired) == ("unknown", (), [])
    assert told[1:] == ["forwarding: unknown: cannot be asked: ip route get: no end after 10 s"]
    checkup._note(checkup._health.result("forwarding", True, "it would", 1050.0))
    assert checkup.states()["forwarding"] == "up"
    checkup.close()


def test_table_is_complete() -> None:
    assert {c.name for c in TABLE} == set(get_args(Name))
    for check in TABLE:
        assert check.asks
        assert check.on_failure.startswith("put right" if check.steps_aside else "told")
        assert 0 < check.failures <= check.of


def test_table_is_in_the_docs() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    for check in TABLE:
        assert f"| {check.name} | {check.asks} | {check.on_failure} |" in docs
