"""One box in the model: against what a kernel was once seen to do, and by itself."""

from __future__ import annotations

from random import Random

import pytest

from bench.walk import BOX_LEVELS, box_world, network_of
from sidegate.walk.compare import differences_of_volley
from sidegate.walk.volley import Volley, carried, random_volley
from tests.walk.volleys import read, volleys


@pytest.mark.parametrize(("name", "level", "volley"), list(volleys()), ids=lambda it: it if isinstance(it, str) else "")
def test_the_model_agrees_with_the_record(name: str, level: str, volley: Volley) -> None:
    assert differences_of_volley(carried(network_of(box_world(level)[0]), volley), read(level)[name]) == []


@pytest.mark.parametrize("level", BOX_LEVELS)
def test_a_box_has_forgotten_everything_before_a_volley(level: str) -> None:
    world, box = box_world(level)
    network, random = network_of(world), Random(4)  # noqa: S311
    fired = [random_volley(random, network, box, level == "hook") for _ in range(50)]
    alone = [carried(network_of(world), volley) for volley in fired]
    assert [carried(network, volley) for volley in fired] == alone
