"""`sidegate config check` on a configuration with rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sidegate.cli.main import sidegate
from sidegate.gateway.config import parse_config
from sidegate.gateway.split.review import review
from sidegate.problems import Problems

TEXT = """
[proxy]
upstream = "socks5://192.0.2.1:1080#first"
list = ["{0}/list"]
[[rule]]
domain = ["example.org"]
send = "{1}"
[[rule]]
domain = ["www.example.org"]
send = "direct"
"""


def test_bad_lines_and_idle_rules_are_worth_knowing(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a.example\nkeyword:x\n")
    hints = review(parse_config(TEXT.format(tmp_path, "first"), "x"))
    assert [(p.where, p.what) for p in hints] == [
        (f"{tmp_path}/list:2", 'keyword is not supported: "x"'),
        ("rule[1]", "never matches: rule[0] takes all of it"),
    ]


@pytest.mark.parametrize("rest", ["", '[[rule]]\ndomain = ["a.example"]\nsend = "direct"\n'])
def test_an_upstream_and_nothing_to_proxy_is_worth_knowing(rest: str) -> None:
    upstream = '[proxy]\nupstream = ["socks5://192.0.2.1:1080"]\n'
    assert [(p.where, p.what) for p in review(parse_config(upstream + rest, "x"))] == [
        ("proxy.upstream", "is never used: nothing is to be proxied")
    ]
    for used in ('mode = "all"\n', 'mode = "all-but"\n', rest.replace("direct", "proxy")):
        more = rest if "rule" not in used else ""
        if used:
            assert review(parse_config(upstream + used + more, "x")) == ()


def test_a_rule_for_a_device_says_nothing_of_its_names() -> None:
    """What that means is said to who writes it."""
    upstream = 'upstream = ["socks5://192.0.2.1:1080"]\n'
    rule = '[[rule]]\nclient = ["192.168.1.9"]\nsend = "proxy"\n'
    (hint,) = review(parse_config(f"[proxy]\n{upstream}{rule}", "x"))
    assert hint.where == "rule[0]"
    assert "the provider sees it and may lie" in hint.what
    assert "domain or list" in hint.remedy
    for text in (
        f'[proxy]\nmode = "all-but"\n{upstream}{rule}',
        f'[proxy]\n{upstream}{rule}domain = ["a.example"]\n',
        f'[dns]\nmode = "off"\n[proxy]\n{upstream}{rule}',
    ):
        assert review(parse_config(text, "x")) == ()


def test_every_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(Problems) as caught:
        review(parse_config(TEXT.format(tmp_path, "second").replace("socks5:", "socks9:"), "x"))
    assert [p.where for p in caught.value.problems] == ["proxy.upstream", f"{tmp_path}/list"]
    with pytest.raises(Problems, match=r"proxy.check"):
        review(parse_config('[proxy]\ncheck = "ftp://x"\n', "x"))
    (tmp_path / "list").write_text("a.example\n")
    with pytest.raises(Problems, match=r'rule\[0\].send: "second" is the name of no upstream'):
        review(parse_config(TEXT.format(tmp_path, "second"), "x"))


def test_a_subscription_that_is_a_file_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "links").write_text("hysteria2://hunter2@a.example:443\nsocks5://192.0.2.1:1080#tokyo\n")
    sources = f'["{tmp_path}/links", "{tmp_path}/gone", "https://example.org/links"]'
    told = review(parse_config(f'[proxy]\nmode = "all"\nsubscription = {sources}\n', "x"))
    assert [p.where for p in told] == ["proxy.subscription[1]", "proxy.subscription[0], entry 1"]
    assert "cannot be read" in told[0].what
    assert "hunter2" not in str(told)


def test_names_of_subscriptions_are_taken_on_trust() -> None:
    text = '[proxy]\nsubscription = "https://example.org/s"\n[[rule]]\nport = [22]\nsend = "tokyo"\n'
    assert review(parse_config(text, "x")) == ()


def test_the_command_says_so(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a.example\nkeyword:x\n")
    (tmp_path / "x.toml").write_text(TEXT.format(tmp_path, "proxy"))
    told = CliRunner().invoke(sidegate, ["config", "check", str(tmp_path / "x.toml")], standalone_mode=False)
    assert told.output.splitlines()[:3] == [
        f"{tmp_path}/x.toml: fine.",
        "to know:",
        f'    {tmp_path}/list:2: keyword is not supported: "x"',
    ]
    words = ["config", "check", "--json", str(tmp_path / "x.toml")]
    machine = CliRunner().invoke(sidegate, words, standalone_mode=False)
    assert [hint["where"] for hint in json.loads(machine.output)["hints"]] == [f"{tmp_path}/list:2", "rule[1]"]
