"""Versions of the configuration: which is in force, and what stands in for a file that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.change import history
from sidegate.gateway.change.diff import settings
from sidegate.gateway.change.history import History, choose, gone_back, record, taken
from sidegate.gateway.config import Config, parse_config
from sidegate.problems import Problems

ALWAYS, NEVER = '[nat]\nmasquerade = "always"\n', '[nat]\nmasquerade = "never"\n'
AT = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sidegate.toml"


def take(file: Path, text: str, state: Path, by_person: bool = True) -> history.Chosen:
    file.write_text(text)
    chosen = choose(file, state, by_person=by_person)
    record(chosen, state)
    return chosen


def test_versions_are_kept_in_order(file: Path, tmp_path: Path) -> None:
    for text in ("", ALWAYS, ALWAYS, ""):
        take(file, text, tmp_path / "state")
    kept = history.load(tmp_path / "state")
    assert [(v.number, v.text) for v in kept.versions] == [(1, ""), (2, ALWAYS), (3, "")]
    assert (kept.in_force, kept.refused) == (3, None)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=200))
def test_history_is_bounded_and_keeps_what_is_in_force(texts: list[str]) -> None:
    kept = History()
    for text in texts:
        kept = taken(kept, text, "file", AT)
    assert kept.last_good is not None
    assert kept.last_good.text == texts[-1]
    assert len(kept.versions) <= history.MOST_VERSIONS
    numbers = [v.number for v in kept.versions]
    assert numbers == sorted(set(numbers))


def test_large_texts_push_out_old_ones() -> None:
    kept = History()
    for i in range(5):
        kept = taken(kept, str(i) * (history.MOST_BYTES // 2), "file", AT)
    assert [v.number for v in kept.versions] == [4, 5]


def test_broken_file_is_replaced_by_the_last_good_one(file: Path, tmp_path: Path) -> None:
    take(file, ALWAYS, tmp_path)
    file.write_text("[nat]\nmasquerade = 7\nfoo = 1\n")
    chosen = choose(file, tmp_path, by_person=False)
    assert chosen.config.nat.masquerade == "always"
    assert [f.what for f in chosen.faults][-1].startswith("version 1 of")
    assert len(chosen.faults) == 3
    with pytest.raises(Problems, match="unknown key"):
        choose(file, tmp_path, by_person=True)


def test_broken_file_without_any_version(file: Path, tmp_path: Path) -> None:
    file.write_text("nonsense")
    with pytest.raises(Problems, match="not a TOML file"):
        choose(file, tmp_path, by_person=False)


def test_rolled_back_configuration_is_used_only_for_a_person(file: Path, tmp_path: Path) -> None:
    take(file, "", tmp_path)
    take(file, ALWAYS, tmp_path)
    history.save(gone_back(history.load(tmp_path), 1), tmp_path)
    for _ in range(2):
        stood_in = take(file, ALWAYS, tmp_path, by_person=False)
        assert (stood_in.config.nat.masquerade, len(stood_in.faults)) == ("auto", 2)
    assert history.last_good(tmp_path).config == Config()
    assert take(file, ALWAYS, tmp_path).config.nat.masquerade == "always"
    assert not take(file, ALWAYS, tmp_path, by_person=False).faults


def test_going_back_twice_is_going_back_once() -> None:
    kept = taken(taken(History(), "", "f", AT), ALWAYS, "f", AT)
    assert gone_back(gone_back(kept, 1), 1) == gone_back(kept, 1)
    assert gone_back(kept, 1).refused == 2


def test_damaged_history_keeps_no_good_file_from_being_used(file: Path, tmp_path: Path) -> None:
    (tmp_path / "config-history.json").write_text("{")
    file.write_text(ALWAYS)
    chosen = choose(file, tmp_path, by_person=False)
    assert (chosen.config.nat.masquerade, "cannot be read" in chosen.faults[0].what) == ("always", True)


def test_settings_are_compared_key_by_key() -> None:
    def parsed(text: str) -> Config:
        return parse_config(text, "file")

    client = '[[client]]\nmac = "02:00:00:00:00:1{}"\nname = "{}"\n'
    before = parsed(ALWAYS + client.format(0, "tv") + client.format(1, "nas"))
    after = parsed(NEVER + client.format(1, "disk"))
    told = [str(s) for s in settings(before, after)]
    assert [t for t in told if "gateway" not in t] == [
        'nat.masquerade: "always" -> "never"',
        'client[02:00:00:00:00:11].name: "nas" -> "disk"',
        'client[02:00:00:00:00:10].mac: "02:00:00:00:00:10" -> nothing',
        'client[02:00:00:00:00:10].name: "tv" -> nothing',
    ]
    assert settings(before, before) == ()
