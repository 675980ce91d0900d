"""What a measurement returns, and how it is told."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from msgspec import Struct


class Figure(Struct, frozen=True):
    """One measured number. bar: what it must not exceed (`most`) or fall below (`least`); None: only reported."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    sense: Literal["most", "least"] = "most"
    note: str = ""

    @property
    def is_met(self) -> bool:
        if self.bar is None:
            return True
        return self.value <= self.bar if self.sense == "most" else self.value >= self.bar


def median_ms(act: Callable[[], object], runs: int) -> tuple[float, str]:
    """The median of several runs after one that is not counted, and a note with the range."""
    act()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        act()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times), spread(times)


def spread(values: Iterable[float]) -> str:
    """How far the runs lie apart."""
    listed = sorted(values)
    return f"median of {len(listed)}, {listed[0]:.0f} to {listed[-1]:.0f}"


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of all such values lies in 95 of 100 cases; of fewer than six values it is their range.

    By their order alone (H. A. David, H. N. Nagaraja, Order Statistics, section 7.1): so many of them are below the
    median as of so many coins show heads.
    """
    listed = sorted(values)
    outside, at = 0.0, 0
    while (outside := outside + math.comb(len(listed), at) / 2 ** len(listed)) <= 0.025:
        at += 1
    last = max(at - 1, 0)
    return listed[last], listed[-1 - last]


def sureness(values: Sequence[float], what: str) -> str:
    """As a note on the median of these, of which there is one for each of `what`."""
    low, high = median_interval(values)
    digits = 0 if low > 10 else 3
    return f"{len(values)} {what}; between {low:.{digits}f} and {high:.{digits}f} in 95 of 100 such runs"


def table(figures: list[Figure]) -> str:
    """The figures in columns; what misses its bar is marked."""
    rows = [("", "FIGURE", "VALUE", "BAR", "NOTE"), *(_row(f) for f in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(figure: Figure) -> tuple[str, str, str, str, str]:
    sign = {"most": "≤", "least": "≥"}[figure.sense]
    bar = "" if figure.bar is None else f"{sign} {figure.bar:g} {figure.unit}"
    return ("" if figure.is_met else "MISSED", figure.name, f"{figure.value:.4g} {figure.unit}", bar, figure.note)
