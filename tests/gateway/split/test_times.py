"""Times of day, with clocks that are put forward and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.split.times import Span, is_on, local_now, next_change, span_of

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


def at(day: int, time: str) -> datetime:
    hours, minutes = map(int, time.split(":"))
    return MONDAY + timedelta(days=day, hours=hours, minutes=minutes)


@pytest.mark.parametrize(
    ("span", "on", "off"),
    [
        ("08:00-15:30", [(0, "08:00"), (6, "15:29")], [(0, "07:59"), (0, "15:30")]),
        ("22:00-06:00", [(0, "22:00"), (0, "23:59"), (0, "00:00"), (3, "05:59")], [(0, "06:00"), (0, "21:59")]),
        ("Fri 22:00-06:00", [(4, "22:00"), (5, "05:59")], [(4, "05:59"), (5, "06:00"), (5, "22:00")]),
        ("Sun 22:00-06:00", [(6, "22:00"), (0, "05:59")], [(6, "05:00"), (0, "22:00")]),
        ("Sat-Mon 00:00-24:00", [(5, "00:00"), (6, "12:00"), (0, "23:59")], [(4, "23:59"), (1, "00:00")]),
        ("Mon-Fri 20:00-00:00", [(4, "23:59")], [(5, "00:00"), (5, "20:00")]),
    ],
)
def test_on_and_off(span: str, on: list[tuple[int, str]], off: list[tuple[int, str]]) -> None:
    assert [is_on(span_of(span), at(*it)) for it in on] == [True] * len(on)
    assert [is_on(span_of(span), at(*it)) for it in off] == [False] * len(off)


def test_a_span_without_length() -> None:
    with pytest.raises(ValueError, match="ends when it begins"):
        span_of("08:00-08:00")


def change(span: str, now: datetime) -> str:
    found = next_change([span_of(span)], now, BERLIN)
    return found.astimezone(BERLIN).strftime("%a %H:%M %z") if found else "never"


@pytest.mark.parametrize(
    ("span", "now", "wanted"),
    [
        ("08:00-15:30", "2026-11-23 07:00", "Mon 08:00 +0100"),
        ("08:00-15:30", "2026-11-23 08:00", "Mon 15:30 +0100"),
        ("Mon 08:00-15:30", "2026-11-23 15:30", "Mon 08:00 +0100"),
        ("00:00-24:00", "2026-11-23 15:30", "never"),
        ("Mon-Fri 00:00-24:00", "2026-11-23 15:30", "Sat 00:00 +0100"),
        ("02:30-05:00", "2026-03-29 00:00", "Sun 03:00 +0200"),  # there is no 02:30 that night
        ("01:00-02:30", "2026-03-29 01:30", "Sun 03:00 +0200"),
        ("02:15-02:45", "2026-03-29 00:00", "Mon 02:15 +0200"),
        ("02:30-05:00", "2026-10-25 00:00", "Sun 02:30 +0200"),  # it comes twice
        ("01:00-02:30", "2026-10-25 01:00", "Sun 02:30 +0200"),
    ],
)
def test_the_next_change(span: str, now: str, wanted: str) -> None:
    assert change(span, datetime.fromisoformat(now).replace(tzinfo=BERLIN)) == wanted


def test_what_ends_in_the_hour_that_comes_twice_is_on_twice() -> None:
    ends = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)
    assert change("01:00-02:30", ends) == "Sun 02:00 +0100"
    assert change("01:00-02:30", datetime(2026, 10, 25, 2, 0, tzinfo=BERLIN, fold=1)) == "Sun 02:30 +0100"


def test_without_spans_nothing_changes() -> None:
    assert next_change([], MONDAY, BERLIN) is None


minutes = st.integers(0, 24 * 60 - 1)
spans = st.builds(
    lambda days, begin, length: Span(days, begin, begin + length),
    st.frozensets(st.integers(0, 6), min_size=1),
    minutes,
    st.integers(1, 24 * 60),
)


@given(
    st.lists(spans, min_size=1, max_size=3),
    st.sampled_from([datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 10, 23, tzinfo=UTC)]),
    st.integers(0, 4 * 24 * 60),
    st.sampled_from([BERLIN, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Asia/Kathmandu"), UTC]),
)
def test_nothing_changes_before_the_next_change(
    spans: list[Span], begin: datetime, ahead_min: int, zone: ZoneInfo
) -> None:
    now = begin + timedelta(minutes=ahead_min)
    found = next_change(spans, now, zone)

    def which(moment: datetime) -> list[bool]:
        return [is_on(span, moment.astimezone(zone)) for span in spans]

    end = found or now + timedelta(days=8)
    steps = int((end - now) / timedelta(minutes=15))
    assert all(which(now + timedelta(minutes=15 * i)) == which(now) for i in range(1, steps))
    if found is not None:
        assert which(found) != which(now) == which(found - timedelta(minutes=1))


def test_the_local_clock_knows_its_zone() -> None:
    assert local_now().tzinfo is not None
