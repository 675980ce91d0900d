"""The named conversations on the kernel; `--regenerate` records what it did for `tests/walk/test_captures.py`."""

from __future__ import annotations

import itertools

import pytest

from bench.walk import Look, arrange, in_new_labs, look
from sidegate.lab.lab import Lab
from sidegate.lab.tracing import Tracer
from sidegate.walk.worlds import World
from tests.walk.cases import Case, Recorded, cases, home_named, write

pytestmark = pytest.mark.kernel


def _lab_of(case: Case) -> tuple[str, str]:
    """A kernel remembers whom it sent a redirect: each such case has labs of its own."""
    return case.home, case.name if case.setting.redirects_sent else ""


def test_the_named_cases(request: pytest.FixtureRequest) -> None:
    seen: list[tuple[Case, Look]] = []
    for (name, alone), group in itertools.groupby(cases(), key=_lab_of):
        home = home_named(name)
        if alone:
            seen += [(case, in_new_labs(World(home, case.setting, ()), case.ask)) for case in group]
            continue
        with Lab.up(home) as lab, Tracer(lab) as tracer:
            for setting, of_setting in itertools.groupby(group, key=lambda case: case.setting):
                network = arrange(tracer, World(home, setting, ()))
                seen += [(case, look(tracer, network, case.ask)) for case in of_setting]
    assert [(case.name, line) for case, it in seen for line in it.lines] == []
    if request.config.getoption("--regenerate"):
        write([Recorded(case, it.kernel) for case, it in seen])
