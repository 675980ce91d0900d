"""The model against what a kernel was once seen to do: runs where namespaces are not allowed."""

from __future__ import annotations

import pytest

from sidegate.home import load_router
from sidegate.walk.compare import differences
from sidegate.walk.conversation import Player
from sidegate.walk.network import Network
from tests.walk.cases import Recorded, cases, home_named, read


@pytest.mark.parametrize("recorded", read(), ids=lambda it: it.case.name)
def test_the_model_agrees_with_the_record(recorded: Recorded) -> None:
    case = recorded.case
    home = home_named(case.home)
    network = Network(home, load_router(home.router.profile), case.setting)
    assert differences(Player(network, case.ask).walk(), recorded.kernel) == []


def test_every_case_is_recorded() -> None:
    assert [it.case for it in read()] == list(cases())
