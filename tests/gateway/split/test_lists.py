"""List files: every syntax, every bad line, every bad file."""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.split import lists
from sidegate.gateway.split.destinations import Gathered
from sidegate.gateway.split.lines import BadLine, Selection, take_line
from sidegate.gateway.split.lists import ListFile, ListReader, stamp_of
from sidegate.gateway.split.names import is_plain_name
from sidegate.gateway.split.policy import Destination
from sidegate.problems import Problems

GOLDEN = Path(__file__).parents[2] / "golden" / "split"


def told(file: ListFile) -> str:
    it = file.entries
    # Python 3.13 writes the last 32 bits of ::ffff:0:0/96 as an IPv4 address, 3.11 does not.
    networks = [*it.networks4, *(f"{net.network_address.packed.hex(':', 2)}/{net.prefixlen}" for net in it.networks6)]
    kinds = {"name": it.names, "suffix": it.suffixes, "network": networks}
    lines = [f"{kind} {value}" for kind, values in kinds.items() for value in values]
    lines += [f"bad: {str(p).replace(str(file.path.parent) + '/', '')}" for p in file.warnings]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/list.txt")), ids=lambda p: p.parent.name)
def test_golden(path: Path) -> None:
    assert told(ListReader().read(path)) == path.with_name("told").read_text()


def rewrite(path: Path, content: str) -> None:
    """So that it bears another time: a file system's clock may stand still for milliseconds (fs/inode.c)."""
    before = stamp_of(path)
    while stamp_of(path) == before:
        path.write_text(content)


def read(tmp_path: Path, content: str | bytes) -> ListFile:
    path = tmp_path / "list"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ListReader().read(path)


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfa.example\r\nB.Example\r\n", b"a.example\nb.example.", b"\n\n  a.example  # x\n\tb.EXAMPLE\t#\n# c"],
)
def test_what_editors_do(tmp_path: Path, content: bytes) -> None:
    found = read(tmp_path, content)
    assert (found.entries, found.bad_count) == (Destination(suffixes=("a.example", "b.example")), 0)


@pytest.mark.parametrize(
    "bad", [b"\xff.example", b"a\0b.example", b"x" * 100_000, b"\xed\xa0\x80\xc3\x9f.example", b"-"]
)
def test_hostile_bytes(tmp_path: Path, bad: bytes) -> None:
    found = read(tmp_path, b"a.example\n" + bad + b"\nb.example")
    assert found.entries.suffixes == ("a.example", "b.example")
    assert [p.where for p in found.bad] == [f"{tmp_path}/list:2"]
    assert str(found.bad[0]).isascii() or "…" in str(found.bad[0])
    assert "".join(str(found.bad[0]).split("\n    ")).isprintable()
    assert len(str(found.bad[0])) < 500 + len(str(tmp_path))


def test_all_bad_lines_are_counted_and_some_shown(tmp_path: Path) -> None:
    found = read(tmp_path, "a.example\n" + "keyword:x\n" * 30)
    assert (len(found.bad), found.bad_count) == (20, 30)
    assert found.warnings[-1].what == "10 more lines like these"


@pytest.mark.parametrize("content", ["<!DOCTYPE html>\n<p>Not found\n", "\x1f\x8b\b\0\0", "keyword:x"])
def test_no_list_at_all(tmp_path: Path, content: str) -> None:
    with pytest.raises(Problems, match=r"not a list: none of its [12] lines"):
        read(tmp_path, content)


def test_utf16_is_named(tmp_path: Path) -> None:
    with pytest.raises(Problems, match="UTF-16 text\n    save it as UTF-8"):
        read(tmp_path, "a.example\n".encode("utf-16"))


def test_an_empty_list_is_a_list(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing yet\n").entries == Destination()


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    wanted = {
        "fifo": "is no file",
        "loop": "Too many levels",
        "missing": "No such file",
        ".": "is no file",
        "a\0": "null",
    }
    for name, what in wanted.items():
        with pytest.raises(Problems, match=what):
            ListReader().read(tmp_path / name)


def test_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MOST_ENTRIES", 2)
    with pytest.raises(Problems, match="more than 2 entries"):
        read(tmp_path, "a.example\nb.example\nc.example\n")
    monkeypatch.setattr(lists, "MOST_BYTES", 1 << 20)
    with pytest.raises(Problems, match="larger than 1 MiB"):
        read(tmp_path, b"#" * ((1 << 20) + 1))


def test_a_symlink_to_a_list_is_one(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("a.example")
    (tmp_path / "here").symlink_to("there")
    assert ListReader().read(tmp_path / "here").entries.suffixes == ("a.example",)


# v2fly's include


def test_included_files_and_their_attributes(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("a.example @ads\nb.example @cn\ndomain:c.example @ads @cn\ninclude:two\n")
    (tmp_path / "two").write_text("full:d.example @ads &three\ne.example\n")
    assert read(tmp_path, "include:one @ads @-cn").entries == Destination(names=("d.example",), suffixes=("a.example",))


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/x", "", ".", "..", "link", "a\0b"])
def test_nothing_is_included_from_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("leaked.example")
    home = tmp_path / "lists"
    (home / "sub").mkdir(parents=True)
    (home / "sub" / "x").write_text("leaked.example")
    (home / "link").symlink_to("../outside")
    found = read(home, f"a.example\ninclude:{name}\n")
    assert found.entries.suffixes == ("a.example",)
    assert [(p.where, p.what) for p in found.bad] == [(f"{home}/list:2", "includes a file from elsewhere")]


def test_circles_and_repetition_end(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"l{i}").write_text(f"n{i}.example\ninclude:l{i + 1}\ninclude:l{i + 1}\n")
    (tmp_path / "l40").write_text("include:l7\nfull:end.example")
    found = read(tmp_path, "include:l0\ninclude:list")
    assert len(found.entries.suffixes) == 40
    assert [(p.where, p.what) for p in found.bad] == [
        (f"{tmp_path}/l40:1", "includes itself, by l7"),
        (f"{tmp_path}/list:2", "includes itself, by list"),
    ]


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[31mred", b"a\xc3("])
def test_what_is_told_of_a_list_is_text_whatever_it_includes(tmp_path: Path, name: bytes) -> None:
    """It goes into JSON and onto a terminal."""
    (tmp_path / "list").write_bytes(b"a.example\ninclude:" + name + b"\n")
    found = ListReader().read(tmp_path / "list")
    assert [p.what for p in found.bad] == ["includes a file whose name is no plain text"]
    assert msgspec.json.encode(found.warnings)


def test_a_file_to_include_that_lacks_is_a_bad_line(tmp_path: Path) -> None:
    found = read(tmp_path, "a.example\ninclude:gone")
    assert [str(p) for p in found.bad] == [f"{tmp_path}/list:2: gone cannot be read: No such file or directory"]


# What is remembered


def test_read_again_only_when_a_file_changed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("b.example")
    path = tmp_path / "list"
    path.write_text("a.example\ninclude:other")
    reader = ListReader()
    before = reader.read(path)
    assert reader.read(path) is before
    rewrite(tmp_path / "other", "c.example")
    assert reader.read(path).entries.suffixes == ("a.example", "c.example")
    reader.keep([])
    assert reader.read(path) is not before


def test_a_file_that_came_later_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("a.example\ninclude:other")
    reader = ListReader()
    assert reader.read(path).bad_count == 1
    (tmp_path / "other").write_text("b.example")
    assert reader.read(path).entries.suffixes == ("a.example", "b.example")


def refuse(name: str, selection: Selection) -> None:
    raise BadLine("no files here")


@given(st.text(max_size=300) | st.from_regex(r"[a-z0-9.:/,@# *'\"=_-]{0,60}", fullmatch=True))
def test_any_line_is_names_or_a_bad_line(line: str) -> None:
    found, why = Gathered(), ""
    try:
        take_line(line, found, Selection(), refuse)
    except BadLine as bad:
        why = bad.what
    assert not (why and found)
    assert "\n" not in why
    assert all(is_plain_name(name) and len(name) <= 253 for name in found.names | found.suffixes)
    assert found.destination()


networks4 = st.builds(
    lambda value, length: IPv4Network((value >> (32 - length) << (32 - length) & 0xFFFFFFFF, length)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
networks6 = st.builds(
    lambda value, length: IPv6Network((value >> (128 - length) << (128 - length), length)),
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
)


@given(st.lists(networks4 | networks6, max_size=12))
def test_every_network_is_read_as_it_is_written(networks: list[IPv4Network | IPv6Network]) -> None:
    from ipaddress import collapse_addresses

    found = Gathered()
    for network in networks:
        take_line(str(network), found, Selection(), refuse)
    entries = found.destination()
    assert entries.networks4 == tuple(collapse_addresses(n for n in networks if isinstance(n, IPv4Network)))
    assert entries.networks6 == tuple(collapse_addresses(n for n in networks if isinstance(n, IPv6Network)))
