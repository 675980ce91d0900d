"""Starting and ending, as far as it needs no kernel: who waits for whom, and what is said when it goes wrong."""

from __future__ import annotations

import errno
import io
import threading
import time
from ipaddress import IPv4Network
from pathlib import Path

import msgspec
import pytest

from sidegate.gateway import lifecycle
from sidegate.gateway.box.apply import Changes
from sidegate.gateway.box.places import Lock, Places
from sidegate.gateway.clients.clientele import transaction
from sidegate.gateway.clients.returnpath import Prove, Withdraw
from sidegate.gateway.config import Config, digest
from sidegate.gateway.daemon import refusal, service
from sidegate.gateway.daemon.control import ControlSocket, Reply, Request
from sidegate.gateway.daemon.eventlog import EventLog
from sidegate.gateway.daemon.service import NotStarted, Started, Use
from sidegate.gateway.ruleset.nft import Client
from sidegate.install.plan import shipped
from sidegate.problems import Exit, Problem, Problems
from tests.gateway.split.mmdb_writer import mmdb


@pytest.fixture
def at(tmp_path: Path) -> Places:
    return Places(tmp_path / "state", tmp_path / "run")


def test_daemon_that_is_starting_is_waited_for(at: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the lock before it listens: `status` in between must neither fail nor call it dead."""
    monkeypatch.setattr(lifecycle, "_STARTS_WITHIN_S", 60.0)
    monkeypatch.setattr("sidegate.gateway.daemon.control._ANSWER_WITHIN_S", 60.0)
    lock = Lock(at.lock)
    lock.take()
    answers = []
    asker = threading.Thread(target=lambda: answers.append(lifecycle._ask_daemon(at, "/v1/status")))
    asker.start()
    server = ControlSocket(at.control, lambda request: Reply(200, {"asked": request.path}))
    while asker.is_alive():
        server.turn(time.monotonic())
        asker.join(0.01)
    server.close()
    lock.release()
    assert answers == [{"asked": "/v1/status"}]


@pytest.mark.parametrize(("use", "code"), [("file", Exit.USAGE), ("file-or-last-good", Exit.SETTINGS)])
def test_configuration_that_cannot_be_used_is_not_tried_again(
    at: Places, tmp_path: Path, use: Use, code: Exit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By nobody but a person; the unit says so too. What nobody read `status` says."""
    monkeypatch.setattr(lifecycle, "list_table", lambda: None)
    monkeypatch.setattr(lifecycle, "_check_privileges", lambda: None)
    config = tmp_path / "bad.toml"
    config.write_text("[nonsense]\n")
    told: list[object] = []
    assert service.start(config, at, told.append, use) == code
    assert isinstance(told[0], NotStarted)
    faults = lifecycle.status(at).faults
    if use == "file":
        assert faults == ()
    else:
        assert f"{config}: nonsense" in faults[0]
        assert faults[-1] == "once that is mended: sidegate up, or systemctl restart sidegate"
    refusal.forget(at.state)
    assert lifecycle.status(at).faults == ()
    assert f"RestartPreventExitStatus={int(Exit.SETTINGS)}\n" in shipped("sidegate.service")


def test_without_a_daemon_nobody_is_asked(at: Places) -> None:
    assert lifecycle._ask_daemon(at, "/v1/status") is None


def test_daemon_that_never_listens(at: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_STARTS_WITHIN_S", 0.0)
    lock = Lock(at.lock)
    lock.take()
    with pytest.raises(Problems, match="does not listen") as found:
        lifecycle._ask_daemon(at, "/v1/status")
    assert found.value.exit_code == Exit.FAULT
    lock.release()


def test_commands_work_one_after_the_other(at: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_COMMAND_WAITS_S", 0.0)
    with lifecycle.alone(at), pytest.raises(Problems, match="another command is at work"):
        lifecycle.end(at)
    with lifecycle.alone(at):
        pass


def test_what_a_daemon_says_of_its_start(at: Places) -> None:
    problem = Problem("network", "no default route", "mend the route", Exit.USAGE)
    with pytest.raises(Problems) as found:
        lifecycle._started(msgspec.json.encode(NotStarted((problem,))), at)
    assert found.value.problems == (problem,)
    assert lifecycle._started(b'{"type":"started","pid":7,"changes":{"changes":[]}}', at) == Started(7, Changes())
    with pytest.raises(Problems, match="ended while starting") as found:
        lifecycle._started(b"", at)
    assert found.value.exit_code == Exit.FAULT


def test_configuration_is_named_from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The daemon works in /."""
    monkeypatch.chdir(tmp_path)
    assert lifecycle._daemon_command(Path("my.toml"))[-2:] == ["--config", str(tmp_path / "my.toml")]
    assert lifecycle._daemon_command(None, "--report-fd", "3")[-2:] == ["--report-fd", "3"]


@pytest.mark.parametrize(
    ("has_table", "has_journal", "words"),
    [(True, True, "no daemon"), (False, True, "interrupted"), (True, False, "not ours")],
)
def test_faults_without_a_daemon(has_table: bool, has_journal: bool, words: str) -> None:
    assert words in lifecycle._faults_without_daemon(has_table, has_journal)[0]
    assert lifecycle._faults_without_daemon(False, False) == ()


def test_one_transaction_for_all_commands() -> None:
    a, b, c = (Client(f"02:00:00:00:00:1{n}", f"192.168.1.{n}") for n in range(3))  # type: ignore[arg-type]
    text = transaction([Prove(a), Withdraw(c), Prove(b, 7)])
    added = [line for line in text.splitlines() if "timeout" in line]
    assert added == [
        "add element inet sidegate direct4 { 02:00:00:00:00:11 . 192.168.1.1 timeout 7s }",
        "add element inet sidegate direct4 { 02:00:00:00:00:10 . 192.168.1.0 timeout 300s }",
    ]
    assert text.splitlines()[-2] == "delete element inet sidegate direct4 { 02:00:00:00:00:12 . 192.168.1.2 }"
    assert transaction([]) == ""


def test_digest_tells_configurations_apart() -> None:
    assert digest(Config()) == digest(Config())
    assert digest(Config()) != digest(Config(nat=msgspec.structs.replace(Config().nat, masquerade="always")))


def test_faults_are_told_when_they_come_and_when_they_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = EventLog(tmp_path / "log")
    fault = Problem("eth0", "the interface is down")
    for faults in ((fault,), (fault,), (), ()):
        log.note_faults(faults)
    told = ["fault: eth0: the interface is down", "over: eth0: the interface is down"]
    assert [e.what for e in log.events] == told
    assert [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()] == told


def test_a_fault_that_another_one_joins_is_not_told_again(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    first, second = Problem("eth0", "the interface is down"), Problem("timer", "it dies")
    for met, met_by in (((first,), "the box"), ((second,), "the timer"), ((), "the box"), ((second,), "the timer")):
        log.note_faults(met, met_by)
    assert log.faults == (second,)
    assert [e.what for e in log.events] == [
        "fault: eth0: the interface is down",
        "fault: timer: it dies",
        "over: eth0: the interface is down",
    ]


def test_full_disk_under_the_log_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    log = EventLog(tmp_path / "log")
    log.tell("met somebody")
    assert [e.what for e in log.events] == ["met somebody"]


def test_log_file_stays_small(tmp_path: Path) -> None:
    """It is in memory, and a daemon runs for years."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * 300_000)
    EventLog(path).tell("met somebody")
    assert path.stat().st_size == 0


def test_countries_are_read_before_the_daemon_is_asked_to(at: Places, tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(mmdb({IPv4Network("192.0.2.0/24"): {"country": {"iso_code": "CN"}}}))
    config = tmp_path / "sidegate.toml"
    config.write_text(f'[[rule]]\ncountry = ["cn"]\nsend = "block"\n[lists]\ncountry_db = "{tmp_path}/db"\n')
    at.runtime.mkdir()
    found = []

    def daemon(request: Request) -> Reply:
        found.append((at.state / "countries" / "CN.txt").is_file())
        return Reply(200, Changes())

    server = ControlSocket(at.control, daemon)
    changing = threading.Thread(target=lifecycle._change, args=(None, {"pid": 1, "config": str(config)}, at))
    changing.start()
    while changing.is_alive():
        server.turn(time.monotonic())
        changing.join(0.01)
    server.close()
    assert found == [True]
