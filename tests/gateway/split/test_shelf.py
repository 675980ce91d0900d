"""All that rules refer to, read at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidegate.gateway.config import Config, parse_config
from sidegate.gateway.split.policy import Destination
from sidegate.gateway.split.shelf import Shelf
from sidegate.problems import Problems
from tests.gateway.split.test_lists import rewrite


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "good").write_text("a.example\n")
    (tmp_path / "some").write_text("b.example\nkeyword:x\nregexp:y\n")
    (tmp_path / "cn").write_text("192.0.2.0/24\n192.0.2.7/24\n")
    return parse_config(
        f"""
[proxy]
upstream = "socks5://192.0.2.1:1080"
list = ["{tmp_path}/good", "{tmp_path}/some"]
country = ["cn"]
[[rule]]
list = ["{tmp_path}/good"]
send = "direct"
[lists]
country_files = {{ CN = "{tmp_path}/cn" }}
""",
        "x.toml",
    )


def refusing(config: Config) -> Config:
    from msgspec.structs import replace

    return replace(config, lists=replace(config.lists, bad_lines="refuse"))


def test_bad_lines_are_skipped_and_named(tmp_path: Path, config: Config) -> None:
    found = Shelf().read(config)
    assert {path.rsplit("/", 1)[1]: it.suffixes for path, it in found.lists.items()} == {
        "good": ("a.example",),
        "some": ("b.example",),
    }
    assert [str(n) for n in found.countries["CN"].networks4] == ["192.0.2.0/24"]
    assert [p.where for p in found.warnings] == [f"{tmp_path}/{line}" for line in ("some:2", "some:3", "cn:2")]


def test_briefly_three_lines_of_a_file_and_a_count(tmp_path: Path, config: Config) -> None:
    (tmp_path / "some").write_text("b.example\n" + "keyword:x\n" * 30)
    found = Shelf().read(config)
    assert len(found.warnings) == 20 + 1 + 1
    assert [p.where.rsplit("/", 1)[1] for p in found.brief] == ["some:2", "some:3", "some:4", "some", "cn:2"]
    assert found.brief[3].what == "27 more lines like these: sidegate config check"


@pytest.mark.parametrize(
    ("names", "said"), [((), []), (("cn",), ["cn: "]), (("good", "cn", "some"), ["good: , and so have 2 more"])]
)
def test_files_that_changed_since_are_named(
    tmp_path: Path, config: Config, names: tuple[str, ...], said: list[str]
) -> None:
    shelf = Shelf()
    found = shelf.read(config)
    for name in names:
        with (tmp_path / name).open("a") as file:
            file.write("# more\n")
    told = [f"{Path(p.where).name}: {p.what}" for p in found.changes()]
    assert [it.replace("has changed since it was read", "").replace(": sidegate reload", "") for it in told] == said
    assert shelf.read(config).changes() == ()


def test_a_list_that_is_gone_has_changed(tmp_path: Path, config: Config) -> None:
    found = Shelf().read(config)
    (tmp_path / "good").unlink()
    assert [p.where for p in found.changes()] == [f"{tmp_path}/good"]


def test_or_nothing_is_loaded(tmp_path: Path, config: Config) -> None:
    with pytest.raises(Problems) as caught:
        Shelf().read(refusing(config))
    assert [p.where for p in caught.value.problems] == [f"{tmp_path}/{line}" for line in ("some:2", "some:3", "cn:2")]


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, config: Config) -> None:
    for name in ("good", "cn"):
        (tmp_path / name).unlink()
    with pytest.raises(Problems) as caught:
        Shelf().read(config)
    assert [p.where for p in caught.value.problems] == [f"{tmp_path}/good", f"{tmp_path}/cn"]


def test_without_a_person_what_cannot_be_used_is_empty(tmp_path: Path, config: Config) -> None:
    (tmp_path / "good").unlink()
    found = Shelf().read(refusing(config), is_tolerant=True)
    assert set(found.lists.values()) | set(found.countries.values()) == {Destination()}
    assert [p.where.rsplit("/", 1)[1] for p in found.warnings] == ["good", "some:2", "some:3", "cn:2"]


def test_nothing_is_read_twice(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    before = shelf.read(config)
    monkeypatch.setattr("sidegate.gateway.split.lists._content", lambda path: pytest.fail(f"{path} was read again"))
    assert shelf.read(config) == before


def test_what_is_named_together_is_put_together_once(tmp_path: Path, config: Config) -> None:
    shelf = Shelf()
    both = tuple(f"{tmp_path}/{name}" for name in ("good", "some"))
    before = shelf.read(config).whole(both)
    assert before.suffixes == ("a.example", "b.example")
    assert shelf.read(config).whole(both) is before
    rewrite(tmp_path / "good", "c.example\n")
    assert shelf.read(config).whole(both).suffixes == ("b.example", "c.example")
