"""The two lower levels of the walk against the kernel: conntrack's hook on a filtered bridge, and one box by itself."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.walk import BoxLab, box_lab, compare_volley
from sidegate.walk.volley import random_volley
from tests.walk.volleys import volleys, write

pytestmark = pytest.mark.kernel

_SOME = settings(
    max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module", params=["hook", "router", "snat", "plain", "gateway", "sidegate", "proved"])
def lab(request: pytest.FixtureRequest) -> Iterator[BoxLab]:
    with box_lab(request.param) as it:
        yield it


@_SOME
@given(st.randoms(use_true_random=False))
def test_random_packets(lab: BoxLab, random: Random) -> None:
    volley = random_volley(random, lab.network, lab.box, lab.level == "hook")
    assert compare_volley(lab, volley) == []


def test_what_once_disagreed(lab: BoxLab, request: pytest.FixtureRequest) -> None:
    named = {name: volley for name, level, volley in volleys() if level == lab.level}
    wrong = {name: compare_volley(lab, volley) for name, volley in named.items()}
    assert wrong == {name: [] for name in named}
    if named and request.config.getoption("--regenerate"):
        write(lab.level, {name: lab.fire(volley) for name, volley in named.items()})
