"""A router that was away, or is another one: what was proved of it is void, and every client is probed anew at once."""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from msgspec import structs

from sidegate.gateway.box import programs
from sidegate.gateway.clients.clientele import Clientele
from sidegate.gateway.config import parse_config
from sidegate.gateway.daemon.eventlog import EventLog
from sidegate.gateway.ruleset.nft import Client
from tests.gateway.test_decide import facts

CLIENT = Client("02:00:00:00:00:20", IPv4Address("192.168.1.20"))


@pytest.fixture
def told_nft(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the kernel was told."""
    told: list[str] = []

    def run(*_: str, text: str = "") -> str:
        told.append(text)
        return ""

    monkeypatch.setattr(programs, "run", run)
    return told


@pytest.fixture
def clientele(tmp_path: Path) -> Clientele:
    it = Clientele(parse_config("", "config"), EventLog(tmp_path / "log"), lambda: None)
    it._facts = facts()
    it.meet(CLIENT, time.monotonic())
    return it


def paths(clientele: Clientele) -> list[str]:
    return [standing.path for standing in clientele]


def test_proofs_of_another_router_are_void(
    clientele: Clientele, told_nft: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(clientele, "_open_prober", lambda _: None)
    clientele._paths.due(now)
    clientele._perform(clientele._paths.probed(CLIENT, "direct", "answered", now))
    same = facts()
    clientele.stand_at(same)
    assert paths(clientele) == ["direct"]
    clientele.stand_at(structs.replace(same, router=structs.replace(same.router, mac="02:00:00:00:00:77")))
    assert paths(clientele) == ["masqueraded"]
    assert "delete element" in told_nft[-1]
    assert CLIENT in clientele._paths.due(time.monotonic())


def test_proofs_are_void_and_probes_come_at_once(clientele: Clientele, told_nft: list[str]) -> None:
    now = time.monotonic()
    clientele._paths.due(now)
    clientele._perform(clientele._paths.probed(CLIENT, "direct", "answered", now))
    clientele.mind_router("up", now)
    assert (paths(clientele), len(told_nft)) == (["direct"], 1)
    clientele.mind_router("down", now)
    assert paths(clientele) == ["masqueraded"]
    assert "delete element" in told_nft[-1]
    assert CLIENT.mac in told_nft[-1]
    for _ in range(5):
        clientele._paths.due(now)
        clientele._paths.probed(CLIENT, "unknown", "nothing answered", now)
    assert clientele._paths.due(now) == [], "later each time"
    clientele.mind_router("up", now)
    assert clientele._paths.due(time.monotonic()) == [CLIENT]
