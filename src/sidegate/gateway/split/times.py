"""Pure: times of day by the local clock: is a span on, and when does that change next.

A span that ends before it begins goes on after midnight: `Fri 22:00-06:00` ends on Saturday. Where the clock is put
forward, what begins in the hour that is left out begins with the next one; where it is put back, what lies in the hour
that comes twice is on twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo

from msgspec import Struct

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_MIN = 24 * 60
_LOOKED_AHEAD_DAYS = 9
"""A span of one day of the week is off for less than that, and a clock is not put back by more than hours."""


class Span(Struct, frozen=True):
    """days: those it begins on, Monday is 0. Minutes since midnight; the end may lie after the next midnight."""

    days: frozenset[int]
    begin_min: int
    end_min: int


def span_of(text: str) -> Span:
    """text: as `config.fields.TimeSpan`. Raises ValueError for one that ends when it begins."""
    days, _, hours = text.rpartition(" ")
    begin, end = (_minutes(part) for part in hours.split("-"))
    if begin == end:
        raise ValueError('ends when it begins; the whole day is "00:00-24:00"')
    return Span(_days(days), begin, end if end > begin else end + _DAY_MIN)


def local_now() -> datetime:
    """By this box's clock and the time zone that is set now, even if it was another one a moment ago."""
    time.tzset()
    return datetime.now(UTC).astimezone()


def is_on(span: Span, wall: datetime) -> bool:
    """wall: what the clock on the wall shows."""
    minute = wall.hour * 60 + wall.minute
    today, yesterday = wall.weekday(), (wall.weekday() - 1) % 7
    return (today in span.days and span.begin_min <= minute < span.end_min) or (
        yesterday in span.days and minute + _DAY_MIN < span.end_min
    )


def next_change(spans: Sequence[Span], now: datetime, zone: tzinfo | None = None) -> datetime | None:
    """When one of them turns on or off next; in UTC. zone: None: this box's. None: never."""
    at = now.timestamp()
    before = _which(spans, at, zone)
    moments = {*_boundaries(spans, at, zone), *_clock_changes(at, zone)}
    later = sorted(m for m in moments if m > at)
    found = next((m for m in later if _which(spans, m, zone) != before), None)
    return None if found is None else datetime.fromtimestamp(found, UTC)


def _which(spans: Iterable[Span], at: float, zone: tzinfo | None) -> list[bool]:
    wall = datetime.fromtimestamp(at, zone)
    return [is_on(span, wall) for span in spans]


def _boundaries(spans: Iterable[Span], at: float, zone: tzinfo | None) -> Iterator[float]:
    """Beginnings and ends, those that come twice twice (PEP 495)."""
    today = datetime.fromtimestamp(at, zone).date()
    minutes = {m % _DAY_MIN for span in spans for m in (span.begin_min, span.end_min)}
    for ahead in range(_LOOKED_AHEAD_DAYS):
        for minute in minutes:
            for fold in (0, 1):
                yield _moment(today + timedelta(ahead), minute, zone, fold)


def _moment(day: date, minute: int, zone: tzinfo | None, fold: int) -> float:
    return datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=zone, fold=fold).timestamp()


def _clock_changes(at: float, zone: tzinfo | None) -> Iterator[float]:
    """The moments, to the minute, at which clocks are put forward or back in the days to come."""
    begin = at - at % 60
    for day in range(_LOOKED_AHEAD_DAYS):
        low, high = begin + day * 86400, begin + (day + 1) * 86400
        if _offset(low, zone) == _offset(high, zone):
            continue
        while high - low > 60:
            middle = low + (high - low) // 120 * 60
            low, high = (middle, high) if _offset(middle, zone) == _offset(low, zone) else (low, middle)
        yield high


def _offset(at: float, zone: tzinfo | None) -> timedelta | None:
    return datetime.fromtimestamp(at, UTC).astimezone(zone).utcoffset()


def _days(text: str) -> frozenset[int]:
    if not text:
        return frozenset(range(7))
    first, _, last = text.partition("-")
    begin, end = _DAYS.index(first), _DAYS.index(last or first)
    return frozenset((begin + i) % 7 for i in range((end - begin) % 7 + 1))


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)
