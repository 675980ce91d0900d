"""Our resolver on the real kernel: who is asked, what is learned, what becomes of it when the engine is gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sidegate.home import load_home
from sidegate.lab.lab import Lab
from sidegate.probe.dns import AAAA
from tests.kernel.dns_box import LIE, TRUTH, DnsBox, proxied, resolver

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(load_home("split")) as up:
        yield up


@pytest.fixture(scope="module")
def box(lab: Lab) -> DnsBox:
    box = DnsBox(lab)
    box.start_engine()
    return box


def test_proxied_names_are_asked_through_the_engine_and_learned(box: DnsBox) -> None:
    said = box.want(resolver(proxied("foreign.example")))
    assert said[0] == "resolver answers DNS on eth0"
    assert box.addresses("www.foreign.example") == [TRUTH]
    assert box.addresses("www.domestic.example") == ["36.1.2.3"]
    assert set(box.learned()) == {TRUTH}


def test_without_a_rule_the_provider_lies(box: DnsBox) -> None:
    box.want(resolver(proxied("other.example")))
    assert box.addresses("www.foreign.example") == [LIE]
    assert box.addresses("www.foreign.example", AAAA) == []
