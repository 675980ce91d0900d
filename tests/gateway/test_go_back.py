"""A rollback is verified: what is in force then is asked, and never taken for granted."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidegate.gateway import lifecycle
from sidegate.gateway.box.places import Places
from sidegate.gateway.change import history, pending, rollback
from sidegate.gateway.config import digest, parse_config
from sidegate.gateway.daemon import control
from sidegate.problems import Problems

BEFORE, AFTER = "", '[nat]\nmasquerade = "always"\n'


class Daemon:
    """One that takes what it is told, or not. asked: what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, in_force: str | None) -> None:
        self.asked: list[str] = []
        told = None if in_force is None else {"config_digest": digest(parse_config(in_force, "file"))}
        monkeypatch.setattr(lifecycle, "running_pid", lambda _: 1)
        monkeypatch.setattr(control, "ask", lambda _, method, target: self.asked.append(f"{method} {target}"))
        monkeypatch.setattr(lifecycle, "_ask_daemon", lambda *_: told)


@pytest.fixture
def at(tmp_path: Path) -> Places:
    """The second version is in force."""
    found = Places(tmp_path / "state", tmp_path / "run")
    for text in (BEFORE, AFTER):
        history.record(history.Chosen(parse_config(text, "file"), text, "file"), found.state)
    return found


def test_the_version_before_is_in_force_again(at: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon(monkeypatch, in_force=BEFORE)
    lifecycle.go_back(1, at)
    assert daemon.asked == ["POST /v1/reload?use=last-good"]
    assert history.last_good(at.state).text == BEFORE


@pytest.mark.parametrize("in_force", [AFTER, None], ids=["the same as before", "nothing"])
def test_a_daemon_that_did_not_take_it_is_no_rollback(
    at: Places, monkeypatch: pytest.MonkeyPatch, in_force: str | None
) -> None:
    """Then the box is put back as it was without Sidegate, which is the safe place."""
    Daemon(monkeypatch, in_force=in_force)
    with pytest.raises(Problems, match="version 1 of the configuration is not in force"):
        lifecycle.go_back(1, at)
    ended: list[Places] = []
    monkeypatch.setattr(lifecycle, "end_alone", ended.append)
    told = rollback._back(pending.fresh(60, 1, ""), at)
    assert ended == [at]
    assert told.startswith("everything was put back as it was (version 1 of the configuration could not be used")
