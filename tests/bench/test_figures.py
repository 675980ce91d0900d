"""What a measurement is told to be worth."""

from __future__ import annotations

import random
import statistics

import pytest

from bench.figures import Figure, median_interval, table


@pytest.mark.parametrize(
    ("count", "left_out"),
    [
        (3, 0),
        (5, 0),  # 2 of 32 lie on one side altogether: too many
        (6, 0),
        (9, 1),
        (24, 6),  # the classical table: the 7th and the 18th
        (100, 39),
    ],
)
def test_the_median_lies_between_two_of_the_values(count: int, left_out: int) -> None:
    values = [float(n) for n in reversed(range(count))]
    assert median_interval(values) == (left_out, count - 1 - left_out)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    chance = random.Random(1)  # noqa: S311 (the same numbers each time)
    samples = [[chance.lognormvariate(0, 1) for _ in range(24)] for _ in range(1000)]
    held = statistics.mean(low <= 1 <= high for low, high in map(median_interval, samples))
    assert 0.94 <= held <= 0.99


def test_a_figure_that_misses_its_bar_is_marked() -> None:
    said = table([Figure("speed", 0.9, "×", 1, "least"), Figure("cost", 0.9, "×", 1)])
    assert [line.startswith("MISSED") for line in said.splitlines()[1:]] == [True, False]
