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


RULES = {
    "mail": 'port = [25]\nsend = "block"\n',
    "work": 'domain = ["example.org"]\nsend = "direct"\n',
    "tv": 'client = ["192.168.1.30"]\nsend = "block"\n',
}
AS_JSON = {
    "mail": '{"send":"block","port":[25]}',
    "work": '{"send":"direct","domain":["example.org"]}',
    "tv": '{"send":"block","client":["192.168.1.30"]}',
}


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ("mail work", "tv mail work", [f"rule[0]: nothing -> {AS_JSON['tv']}"]),
        ("mail work tv", "mail tv", [f"rule[1]: {AS_JSON['work']} -> nothing"]),
        ("mail work tv", "tv mail work", [f"rule[0]: rule[2] -> {AS_JSON['tv']}"]),
        ("mail work", "tv work", [f"rule[0]: {AS_JSON['mail']} -> {AS_JSON['tv']}"]),
        ("mail tv", "tv work", [f"rule[1]: nothing -> {AS_JSON['work']}", f"rule[0]: {AS_JSON['mail']} -> nothing"]),
    ],
)
def test_rules_are_compared_by_what_they_say(before: str, after: str, wanted: list[str]) -> None:
    old, new = (parse_config("".join(f"[[rule]]\n{RULES[n]}" for n in it.split()), "file") for it in (before, after))
    assert [str(s) for s in settings(old, new)] == wanted


def test_share_links_are_not_told() -> None:
    def parsed(links: str, link: str) -> Config:
        section = f'[[upstream]]\nname = "office"\nlink = "{link}"\n'
        return parse_config(
            f'[proxy]\nupstream = {links}\nsubscription = "https://sub.example/t0ken"\n{section}', "file"
        )

    before = parsed('"ss://aaaa@192.0.2.1:1#one"', "trojan://s3cret@192.0.2.1:1")
    after = parsed('["ss://bbbb@192.0.2.1:1#one", "vless://id@192.0.2.1:1"]', "trojan://0ther@192.0.2.1:1")
    assert [str(s) for s in settings(before, after)] == [
        "proxy.upstream: ss://…#one -> ss://…#one, vless://…",
        "upstream[office].link: trojan://… -> trojan://…, another one",
    ]
    assert "t0ken" not in "".join(map(str, settings(Config(), after)))
