"""`clients` and `status` where nobody is here yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidegate.cli import gateway
from sidegate.cli.main import main
from sidegate.gateway import lifecycle
from sidegate.gateway.box.places import Places
from sidegate.gateway.view import ClientsView, StatusView


@pytest.fixture(autouse=True)
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(state=tmp_path, runtime=tmp_path)
    monkeypatch.setattr(gateway, "places", lambda: places)
    monkeypatch.setattr("sidegate.cli.on_the_box.places", lambda: places)


@pytest.mark.parametrize(
    ("daemon", "told"), [(True, ["no clients yet", "sidegate plan"]), (False, ["no daemon is running", "sidegate up"])]
)
def test_nobody_is_here_yet_and_what_to_do(
    daemon: bool, told: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lifecycle, "clients", lambda *_, **__: ClientsView((), daemon))
    for words in ([], ["--evidence"]):
        with pytest.raises(SystemExit):
            main(["clients", *words])
        said = capsys.readouterr().out
        assert [text for text in told if text not in said] == []


def test_status_says_which_address_is_to_be_their_gateway(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = StatusView(up=True, daemon=True, pid=7, since_s=3, interface="eth0", address="192.168.1.2/24")
    monkeypatch.setattr(lifecycle, "status", lambda _: found)
    with pytest.raises(SystemExit):
        main(["status"])
    assert "clients: none yet: one is met when it sends to the internet with 192.168.1.2 as its gateway" in (
        capsys.readouterr().out.splitlines()
    )
