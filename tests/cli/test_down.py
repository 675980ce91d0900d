"""`down` says the same to a person and to a program."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from sidegate.cli.main import sidegate
from sidegate.gateway import lifecycle
from sidegate.gateway.box.apply import Report


@pytest.mark.parametrize(
    ("unblocks", "serves_alone", "noted"),
    [
        (False, False, []),
        (True, False, ["what was proxied goes straight from now on"]),
        (True, True, ["what was proxied goes straight from now on", "this box hands out addresses until then"]),
    ],
)
def test_what_is_otherwise_from_now_on(
    unblocks: bool, serves_alone: bool, noted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = lifecycle.Ended(Report(("a",)), 60.0, serves_alone, unblocks=unblocks)
    monkeypatch.setattr(lifecycle, "end", lambda *_, **__: ended)
    told = json.loads(CliRunner().invoke(sidegate, ["down", "--json"]).output)["notes"]
    assert [it[: len(start)] for it, start in zip(told, noted, strict=True)] == noted
    text = CliRunner().invoke(sidegate, ["down"]).output
    assert all(it[1:] + ".\n" in text for it in told)
