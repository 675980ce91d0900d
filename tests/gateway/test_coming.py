"""A plan that is not in force yet: what it waits for, in which order, and for how long at the most."""

from __future__ import annotations

from sidegate.gateway.daemon.coming import FOLLOWS_WITHIN_S, SETTLE_S, SURE_S, Coming
from sidegate.gateway.daemon.splitplan import Plan
from sidegate.gateway.engine.generations import COUNT_S
from tests.gateway.test_decide import facts


def coming(*, awaits_engine: bool = True, is_first: bool = True) -> Coming:
    return Coming(Plan(), facts(), 100.0, awaits_engine, is_first)


def has_engine(it: Coming, now: float, *, serves: bool = False, is_sure: bool = False, fails: bool = False) -> bool:
    return it.has_engine(now, serves=serves, is_sure=is_sure, fails=fails)


def test_what_needs_no_other_engine_waits_for_none() -> None:
    assert has_engine(coming(awaits_engine=False), 100.0)


def test_the_first_engine_is_waited_for_until_its_upstream_has_answered() -> None:
    it = coming()
    assert not has_engine(it, 100.0)
    assert not has_engine(it, 101.0, serves=True)
    assert has_engine(it, 101.1, serves=True, is_sure=True)
    assert has_engine(it, 101.0 + SURE_S, serves=True), "one that does not answer is known as such later"


def test_beside_one_that_serves_it_is_enough_that_the_next_one_does() -> None:
    """The one before ends its connections meanwhile."""
    it = coming(is_first=False)
    assert not has_engine(it, 100.0)
    assert has_engine(it, 100.7, serves=True)


def test_an_engine_that_cannot_start_keeps_no_rule_from_its_place() -> None:
    assert has_engine(coming(), 100.3, fails=True)
    assert not has_engine(coming(), 100.0 + SETTLE_S - 0.1)
    assert has_engine(coming(), 100.0 + SETTLE_S)


def test_names_come_before_the_kernel_and_have_their_own_time() -> None:
    it = coming()
    assert not it.has_names(100.0, have_followed=True), "nobody was told of them yet"
    it.names_s = 103.0
    assert it.has_names(103.0, have_followed=True)
    assert not it.has_names(104.0, have_followed=False)
    assert it.has_names(103.0 + FOLLOWS_WITHIN_S, have_followed=False)
    assert FOLLOWS_WITHIN_S < COUNT_S, "the kernel leads to the engine before until then"
