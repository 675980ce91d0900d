"""What is wanted of the resolver, where something keeps it from being written."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sidegate.gateway.box.apply import Change
from sidegate.gateway.box.places import Places
from sidegate.gateway.config import Config, Dns
from sidegate.gateway.daemon.naming import HOSTS_S, Naming
from sidegate.gateway.daemon.splitplan import Plan
from sidegate.gateway.dhcp.leases import Lease
from sidegate.gateway.dns.resolver import Resolver
from sidegate.problems import Problem, Problems
from tests.gateway.test_decide import facts

PLAN = Plan(Config(dns=Dns(mode="on")))
FULL = Problem("/run/sidegate/resolver", "cannot be written: No space left on device")


class Disk:
    """Where the resolver's files are written; room: how many more times that works."""

    def __init__(self) -> None:
        self.room = 0
        self.names: list[str] = []

    def want(self, it: Resolver | None, names: str = "") -> tuple[Change, ...]:
        if not self.room:
            raise Problems(FULL)
        self.room -= 1
        self.names.append(names)
        return (Change("dnsmasq answers", ""),)


@pytest.fixture
def leases() -> list[Lease]:
    return []


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def naming(tmp_path: Path, leases: list[Lease], disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Naming]:
    made = Naming(Places(tmp_path / "state", tmp_path / "run"), lambda _: None, lambda: leases)
    monkeypatch.setattr(made._resolving, "want", disk.want)
    yield made
    made.close()


def test_what_could_not_be_written_is_wanted_again(naming: Naming, disk: Disk) -> None:
    with pytest.raises(Problems, match="No space left"):
        naming.want(PLAN, facts(), "direct", None)
    disk.room = 2
    assert naming.want(PLAN, facts(), "direct", None) != ()
    assert naming.want(PLAN, facts(), "direct", None) == (), "nothing is new now"


def test_names_of_the_lan_that_could_not_be_written_are_a_fault_until_they_are(
    naming: Naming, disk: Disk, leases: list[Lease]
) -> None:
    disk.room = 1
    naming.want(PLAN, facts(), "direct", None)
    leases.append(Lease(0, "02:00:00:00:00:10", IPv4Address("192.168.1.16"), "printer"))
    naming.turn(1000.0)
    naming.turn(1000.0 + HOSTS_S)
    assert naming.faults() == (FULL,)
    disk.room = 1
    naming.turn(1000.0 + 2 * HOSTS_S)
    assert naming.faults() == ()
    assert "printer" in disk.names[-1]
