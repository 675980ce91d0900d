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
from tests.walk.cases import Case, Recorded, cases, home_named, write

pytestmark = pytest.mark.kernel


def _lab_of(case: Case) -> tuple[str, str]:
    """A kernel remembers whom it sent a redirect: each such case has a lab of its own."""
    return case.home, case.name if case.setting.redirects_sent else ""


def test_the_named_cases(request: pytest.FixtureRequest) -> None:
    recorded, wrong = [], []
    for (name, _), group in itertools.groupby(cases(), key=_lab_of):
        home = home_named(name)
        with Lab.up(home) as lab, Tracer(lab) as tracer:
            for setting, of_setting in itertools.groupby(group, key=lambda case: case.setting):
                network = arrange(tracer, World(home, setting, ()))
                for case in of_setting:
                    recorded.append(Recorded(case, tracer.walk(case.ask)))
                    model = Player(network, case.ask).walk()
                    wrong += [(case.name, d) for d in differences(model, recorded[-1].kernel)]
    assert wrong == []
    if request.config.getoption("--regenerate"):
        write(recorded)
