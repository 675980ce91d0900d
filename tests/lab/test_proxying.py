"""The share links of a home's proxies, and the Xray server that answers to them."""

from __future__ import annotations

import json
import sys

import msgspec
import pytest

from sidegate.home import load_home, load_router
from sidegate.lab.blueprint import blueprint
from sidegate.lab.papers import _authority, papers
from sidegate.lab.proxying import links, server_config
from sidegate.problems import Exit, Problems
from tests.conftest import Golden

HOME = load_home("split")
PLAN = blueprint(HOME, load_router(HOME.router.profile))
PINS = {"proxy.example": "5d" * 32}


def test_links(golden: Golden) -> None:
    lines = [*links(HOME, PINS).values(), *links(HOME, PINS, by_name=True).values()]
    golden("lab/links.txt", "\n".join(lines) + "\n")


def test_server(golden: Golden) -> None:
    internet = next(machine for machine in PLAN.machines if machine.proxies)
    golden("lab/xray.json", json.dumps(server_config(internet, None), indent=2) + "\n")


def test_every_certificate_is_for_its_name_and_addresses() -> None:
    issued = papers(PLAN)
    assert issued is not None
    named = {s.domain: s for s in HOME.internet.server}
    for certificate in issued.certificates:
        server = named[certificate.domain]
        assert certificate.addresses == (str(server.v4), str(server.v6))
        assert issued.of(str(server.v6)) == certificate
    assert len(set(issued.pins.values())) == len(issued.certificates) == 5


def test_a_home_that_shows_no_certificate_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    simple = load_home("simple")
    assert papers(blueprint(simple, load_router(simple.router.profile))) is None


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    _authority.cache_clear()
    with pytest.raises(Problems) as raised:
        papers(PLAN)
    assert raised.value.problems[0].exit_code == Exit.MISSING
    assert str(raised.value) == (
        "trustme: this home's servers show certificates, and the library that makes them is missing\n"
        "    in a checkout of Sidegate: make setup, then .venv/bin/sidegate"
    )


def test_papers_are_kept_as_json() -> None:
    issued = papers(PLAN)
    assert msgspec.json.decode(msgspec.json.encode(issued), type=type(issued)) == issued
