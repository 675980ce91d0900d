"""Configuration, files and subscriptions -> upstreams with names: all that is wrong at once, and nothing secret."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.config import parse_config
from sidegate.gateway.engine.entries import read_entries
from sidegate.gateway.engine.upstreams import Upstreams, safe_name, upstreams
from sidegate.gateway.split.ports import MOST_UPSTREAMS
from sidegate.problems import Problems
from tests.conftest import Golden

ONE, TWO = "socks5://192.0.2.1:1080", "http://192.0.2.2:3128"
SECRET = "hunter2"  # noqa: S105


def made(config: str, files: dict[str, str] | None = None, lists: tuple[tuple[str, str], ...] = ()) -> Upstreams:
    def read(path: str) -> str:
        if path not in (files or {}):
            raise FileNotFoundError(2, "No such file or directory")
        return (files or {})[path]

    return upstreams(parse_config(config, "sidegate.toml"), read, lists)


def test_order_and_names() -> None:
    config = f"""
        [proxy]
        upstream = ["{ONE}#一号 %2F 香港", "{ONE}#proxy", "{TWO}", "{TWO}#office"]
        [[upstream]]
        name = "office"
        link = "{ONE}#ignored"
        [[upstream]]
        name = "file"
        link_file = "/link"
        [[upstream]]
        name = "own"
        outbound_file = "/own.json"
    """
    own = {"protocol": "vless", "settings": {"vnext": [{"address": "A.example", "port": 443}]}, "tag": "x"}
    files = {"/link": f"# mine\n{TWO}\n", "/own.json": json.dumps(own)}
    found = made(config, files, (("proxy.subscription[0]", f"{ONE}#office\n{ONE}#office\n"),)).found
    assert [it.name for it in found] == [
        "一号-香港", "proxy-2", "192.0.2.2", "office-2", "office", "file", "own", "office-3", "office-4",
    ]  # fmt: skip
    assert found[6].outbound == own
    assert (found[6].kind, found[6].where) == ("vless", "a.example:443")


def test_all_that_is_wrong_at_once(golden: Golden) -> None:
    config = f"""
        [proxy]
        upstream = ["socks5://a:{SECRET}@nowhere", "{ONE}", "what://{SECRET}"]
        [[upstream]]
        name = "a"
        link = "trojan://{SECRET}@b.example"
        [[upstream]]
        name = "b"
        link_file = "/missing"
        [[upstream]]
        name = "c"
        link_file = "/two"
        [[upstream]]
        name = "d"
        outbound_file = "/list.json"
        [[upstream]]
        name = "e"
        outbound_file = "/config.json"
        [[upstream]]
        name = "f"
        outbound_file = "/long.json"
    """
    files = {
        "/two": f"{ONE}\n{TWO}",
        "/list.json": "[]",
        "/config.json": f'{{"outbounds": [], "protocol": "{SECRET}"}}',
        "/long.json": "x" * (1 << 17),
    }
    with pytest.raises(Problems) as caught:
        made(config, files)
    assert SECRET not in str(caught.value)
    golden("engine/upstreams.problems", f"{caught.value}\n")


def test_one_link_needs_no_number() -> None:
    with pytest.raises(Problems, match=r"^proxy\.upstream: the share link's port"):
        made('[proxy]\nupstream = "socks5://a:0"')


def test_no_more_than_there_are_ports_for() -> None:
    text = "\n".join(f"{ONE}#{i}" for i in range(MOST_UPSTREAMS + 3))
    found = made("", lists=(("proxy.subscription[0]", text),))
    assert len(found.found) == MOST_UPSTREAMS
    assert [p.what for p in found.problems] == ["67 upstreams, of which the first 64 are used"]


LINES = f"\ufeff# a comment\n\n{ONE}#one\nss://{SECRET}@nowhere\n{TWO}#two\n{SECRET}\n"
SIP008 = {
    "version": 1,
    "servers": [
        {"remarks": "a #1", "server": "2001:db8::1", "server_port": 8388, "password": "p:@/%", "method": "aes-128-gcm"},
        {"server": "b.example", "server_port": 0, "password": SECRET, "method": "aes-128-gcm"},
        {"server": "c.example", "server_port": 1, "password": SECRET, "method": "aes-128-gcm", "plugin": "obfs"},
    ],
}


@pytest.mark.parametrize("text", [LINES, base64.b64encode(LINES.encode()).decode()], ids=["plain", "base64"])
def test_the_bad_entries_are_named_and_the_rest_is_used(text: str) -> None:
    read = read_entries(text, "list")
    assert [it.name for it in read.upstreams] == ["one", "two"]
    assert [p.where for p in read.problems] == ["list, entry 2", "list, entry 4"]
    assert SECRET not in "".join(map(str, read.problems))


def test_sip008() -> None:
    read = read_entries(json.dumps(SIP008), "list")
    (only,) = read.upstreams
    assert (only.name, only.where, only.outbound["settings"]["password"]) == ("a #1", "[2001:db8::1]:8388", "p:@/%")
    assert [p.where for p in read.problems] == ["list, entry 2", "list, entry 3"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "it lists nothing"),
        ("<!DOCTYPE html><title>Log in</title>", "neither share links nor base64 of them"),
        ("port: 7890\nproxies:\n  - {name: a, type: ss}\n", "it is in the format of Clash, which is not read"),
        ('{"servers": 1}', "JSON, but not a list of Shadowsocks servers (SIP008)"),
        ("{" * 100_000, "JSON, but not a list of Shadowsocks servers (SIP008)"),
        (base64.b64encode(b"\xff\xfe").decode(), "neither share links nor base64 of them"),
    ],
)
def test_what_is_no_subscription(text: str, what: str) -> None:
    read = read_entries(text, "list")
    assert not read.upstreams
    assert [(p.where, p.what) for p in read.problems] == [("list", what)]


@given(st.text() | st.binary().map(lambda b: base64.b64encode(b).decode()) | st.text().map(lambda t: "{" + t))
def test_any_text_is_read(text: str) -> None:
    read = read_entries(text, "list")
    assert read.upstreams or read.problems


@given(st.lists(st.text(), max_size=20))
def test_names_are_safe_and_each_has_its_own(names: list[str]) -> None:
    links = [f"{ONE}#{name}" for name in (safe_name(n) for n in names)]
    found = made("", lists=(("list", "\n".join(links) or ONE),)).found
    assert len({it.name for it in found}) == len(found)
    assert all(1 <= len(it.name) <= 32 and it.name == safe_name(it.name) for it in found)
    assert not {it.name for it in found} & {"proxy", "direct", "block"}
