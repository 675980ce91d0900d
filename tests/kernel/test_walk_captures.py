"""The named conversations on the kernel; `--regenerate` records what it did for `tests/walk/test_captures.py`."""

from __future__ import annotations

import itertools

import pytest

from bench.walk import arrange
from sidegate.lab.lab import Lab
from sidegate.lab.tracing import Tracer
from sidegate.walk.compare import differences
from sidegate.walk.conversation import Player
from sidegate.walk.worlds import World
from tests.walk.cases import Recorded, cases, home_named, write

pytestmark = pytest.mark.kernel


def test_the_named_cases(request: pytest.FixtureRequest) -> None:
    recorded, wrong = [], []
    for (name, setting), group in itertools.groupby(cases(), key=lambda case: (case.home, case.setting)):
        home = home_named(name)
        with Lab.up(home) as lab, Tracer(lab) as tracer:
            network = arrange(tracer, World(home, setting, ()))
            for case in group:
                recorded.append(Recorded(case, tracer.walk(case.ask)))
                wrong += [(case.name, d) for d in differences(Player(network, case.ask).walk(), recorded[-1].kernel)]
    assert wrong == []
    if request.config.getoption("--regenerate"):
        write(recorded)
