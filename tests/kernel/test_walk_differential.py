"""The walk against the kernel, hop by hop: the same homes, the same conversations, every interface."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.walk import Tally, arrange, compare, differential
from sidegate.home import Home, load_home
from sidegate.lab.lab import Lab
from sidegate.lab.tracing import Tracer
from sidegate.walk.conversation import Ask
from sidegate.walk.setting import Setting
from sidegate.walk.worlds import World, matrix, random_world

pytestmark = pytest.mark.kernel

_SAMPLE_WORLDS = 40
_SAMPLE_QUESTIONS = 5


def told(tally: Tally) -> str:
    """What disagreed, readable in a failing test."""
    return "\n".join(f"{d.home} {d.setting}\n  {d.ask}\n    " + "\n    ".join(d.lines) for d in tally.disagreements[:5])


@pytest.fixture(scope="module")
def articles_home() -> Home:
    return load_home("velop-mesh")


@pytest.fixture(scope="module")
def tracer(articles_home: Home) -> Iterator[Tracer]:
    with Lab.up(articles_home) as lab, Tracer(lab) as it:
        yield it


@pytest.mark.parametrize("setting", [Setting("nothing"), Setting("forwarding"), Setting("masquerade"),
                                     Setting("sidegate", ("my-computer", "nas"))], ids=lambda s: s.runs)  # fmt: skip
def test_the_articles_home(tracer: Tracer, articles_home: Home, setting: Setting) -> None:
    network = arrange(tracer, World(articles_home, setting, ()))
    for i, client in enumerate(articles_home.client):
        for protocol in ("tcp", "udp", "icmp"):
            port = 0 if protocol == "icmp" else 5000
            ask = Ask(client.name, str(client.v4), "1.2.3.4", protocol, port, 41000 + i)
            assert compare(tracer, network, ask) == []


def test_ipv6_is_untouched_by_it_all(tracer: Tracer, articles_home: Home) -> None:
    network = arrange(tracer, World(articles_home, Setting("forwarding"), ()))
    for i, client in enumerate(articles_home.client):
        assert (
            compare(tracer, network, Ask(client.name, str(client.v6), "2001:db8:cafe::4", sport=41100 + i, port=5000))
            == []
        )


def test_a_sample_of_the_matrix() -> None:
    worlds, random = list(matrix()), Random(2)  # noqa: S311
    chosen = sorted(random.sample(range(len(worlds)), _SAMPLE_WORLDS))
    sample = [
        World(worlds[i].home, worlds[i].setting, tuple(random.sample(worlds[i].asks, _SAMPLE_QUESTIONS)))
        for i in chosen
    ]
    tally = differential(sample)
    assert not tally.disagreements, told(tally)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_random_homes(random: Random) -> None:
    tally = differential([random_world(random, questions=8)])
    assert not tally.disagreements, told(tally)
