"""What the daemon answers on its socket, without a network: who may do what."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sidegate.gateway import view
from sidegate.gateway.box.places import Places
from sidegate.gateway.change.history import Chosen
from sidegate.gateway.clients import clientele
from sidegate.gateway.config import Config
from sidegate.gateway.daemon import loop
from sidegate.gateway.daemon.control import Reply, Request
from sidegate.gateway.daemon.loop import Daemon
from sidegate.gateway.daemon.splitplan import Plan
from sidegate.gateway.ruleset.nft import Client
from sidegate.gateway.view import ClientsView, StatusView
from sidegate.problems import Problem, Problems
from tests.gateway import test_decide
from tests.gateway.test_formeraddress import facts

ROOT, SOMEBODY = 0, 1000
TV = Client("02:00:00:00:00:10", IPv4Address("192.168.1.16"))


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setattr(view, "elements", lambda name: ())
    made = Daemon(Chosen(Config(), "", ""), None, Places(tmp_path, tmp_path))
    made._clientele._paths.seen(TV, 0.0, active=True)
    yield made
    # Of what it watches files with a user has few (inotify(7), max_user_instances), and other tests need theirs.
    for part in (made._clientele, made._checkup, made._handout, made._advertising, made._splitter, made._own_address):
        part.close()


def ask(daemon: Daemon, method: str, path: str, uid: int = ROOT, **query: str) -> tuple[int, object]:
    reply = daemon._answers(Request(method, path, query, uid))
    assert isinstance(reply, Reply)
    return reply.status, reply.data


@pytest.mark.parametrize("path", ["/v1/probe", "/v1/reload", "/v1/take-back", "/v1/accept-address"])
def test_only_root_may_change_something(daemon: Daemon, path: str) -> None:
    status, data = ask(daemon, "POST", path, SOMEBODY)
    assert (status, data) == (403, {"error": "only root may change something", "remedy": "use sudo"})


def test_a_person_accepts_the_address_that_the_box_has_now(daemon: Daemon) -> None:
    for last in (2, 77):
        daemon._former_address.stand_at(facts(f"192.168.1.{last}"))
    _, before = ask(daemon, "GET", "/v1/status")
    assert ask(daemon, "POST", "/v1/accept-address")[0] == 200
    _, after = ask(daemon, "GET", "/v1/status")
    assert isinstance(before, StatusView)
    assert isinstance(after, StatusView)
    assert "once they have it: sidegate up" in before.faults[-1]
    assert after.faults == ()


def test_only_root_may_have_a_file_read(daemon: Daemon) -> None:
    status, data = ask(daemon, "GET", "/v1/diff", SOMEBODY, config="/etc/shadow")
    assert (status, data) == (403, {"error": "only root may have a file read", "remedy": "use sudo"})


def test_root_may_have_everybody_probed_again(daemon: Daemon) -> None:
    daemon._clientele._probes[7] = TV
    assert ask(daemon, "POST", "/v1/probe") == (200, {"probing": 1})
    assert daemon._clientele._probes == {}, "what was begun before proves nothing now"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/v1/probe"), ("POST", "/v1/status"), ("GET", "/v1/status/../clients")]
)
def test_nothing_else_is_there(daemon: Daemon, method: str, path: str) -> None:
    assert ask(daemon, method, path)[0] == 404


def test_everybody_who_reaches_the_socket_may_read(daemon: Daemon) -> None:
    status, told = ask(daemon, "GET", "/v1/status", SOMEBODY)
    assert status == 200
    assert isinstance(told, StatusView)
    assert (told.clients, told.direct, told.undecided) == (1, 0, 1)
    for ip, count in (("192.168.1.16", 1), ("192.168.1.17", 0), ("; drop", 0)):
        status, found = ask(daemon, "GET", "/v1/clients", SOMEBODY, ip=ip, evidence="1")
        assert isinstance(found, ClientsView)
        assert (status, len(found.clients)) == (200, count)


def test_what_the_system_has_no_means_for_ends_no_daemon(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can be forked, no file opened: it is told while it is so, and tried again."""
    told: list[tuple[str, ...]] = []

    def turn() -> None:
        told.append(tuple(f"{it.where}: {it.what}" for it in daemon._log.faults))
        if len(told) < 3:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        daemon._stopping = len(told) > 3

    monkeypatch.setattr(loop, "SHORTAGE_S", 0.0)
    monkeypatch.setattr(daemon, "_turn", turn)
    monkeypatch.setattr(daemon, "_next_time", lambda: 0.0)
    monkeypatch.setattr(Daemon, "_parts", ())
    daemon.run()
    fault = "the daemon: Cannot allocate memory: what is due is tried again and again"
    assert told == [(), (fault,), (fault,), ()]


def test_what_does_not_pass_ends_the_daemon(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def turn() -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(loop, "SHORTAGE_S", 0.0)
    monkeypatch.setattr(daemon, "_turn", turn)
    monkeypatch.setattr(daemon, "_next_time", lambda: 0.0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        daemon.run()


def test_a_program_that_hangs_does_not_hold_the_daemon_up_all_the_time(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on with what else there is to do between two tries."""
    clock = [1000.0]

    def hang(*_: object) -> None:
        clock[0] += 10.0
        raise Problems(Problem("nft list tables", "no end after 10 s"))

    monkeypatch.setattr(loop, "bring", hang)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    daemon._reconcile(clock[0], Plan(), "put right")
    assert daemon._observe_at_s == clock[0] + loop.RETRY_S
    assert daemon._log.faults != ()


def test_an_interface_that_goes_between_two_looks_ends_no_daemon(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a USB adapter that is plugged out: what was seen a moment ago is there no more."""

    def gone(*_: object) -> None:
        raise Problems(Problem("eth0", "no such network interface"))

    monkeypatch.setattr(clientele, "Prober", gone)
    daemon._observe_at_s = 1e9
    daemon._clientele.stand_at(test_decide.facts())
    assert [it.what for it in daemon._log.faults] == ["no such network interface"]
    assert daemon._observe_at_s < 1e9, "the next look is soon"
