"""The demo's report: golden file, plain words, self-contained, everything escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest
from msgspec.structs import replace

from sidegate.demo.result import Bar, ClientReach, Reach, Result, Stage
from sidegate.home import Outcome
from sidegate.render.report import headline, marks_of, report
from tests.conftest import Golden
from tests.render import made

VOID = {"meta", "br", "rect", "circle", "path"}


class Outline(HTMLParser):
    """Which elements there are, and whether each is closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    assert parser.open == []
    return parser


def stage(*outcomes: Outcome) -> Stage:
    return Stage("s", "sidegate", "server", tuple(ClientReach(f"c{i}", Reach(o)) for i, o in enumerate(outcomes)))


def result(before: Stage, after: Stage) -> Result:
    changed: Result = replace(made.demo_result(), stages=(before, after))
    return changed


def test_the_article_s_demo(golden: Golden) -> None:
    golden("render/report.html", report(made.demo_result(), made.article_home()))


def test_well_formed_with_unique_ids() -> None:
    found = outline(report(made.demo_result(), made.article_home()))
    assert len(found.ids) == len(set(found.ids))
    assert {"details", "table", "svg", "figure"} <= found.seen


def test_nothing_is_loaded_and_nothing_runs() -> None:
    text = report(made.demo_result(), made.article_home()).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|url\(|@import|<script|<link|<img|src=", text)


def test_hostile_texts_add_no_elements() -> None:
    plain = made.demo_result()
    evil = msgspec.json.decode(
        msgspec.json.encode(plain).replace(b"tablet", b"<script>x</script><b>").replace(b"answered", b"<img src=x>"),
        type=Result,
    )
    evil = replace(evil, title=made.HOSTILE, command=made.HOSTILE, home=made.HOSTILE)
    evil = replace(evil, throughput=(Bar(made.HOSTILE, 1, made.HOSTILE),))
    assert outline(report(evil, made.odd_home())).seen <= outline(report(plain, made.article_home())).seen


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            stage("direct", "dead"),
            stage("direct", "masqueraded"),
            "1 device of 2 had lost the internet. Now all are online.",
        ),
        (stage("direct"), stage("direct"), "All 1 device were online before, and still are."),
        (stage("dead", "dead"), stage("direct", "dead"), "1 of 2 devices came back online; 1 did not."),
        (stage("direct"), stage("dead"), "1 device of 1 cannot reach the internet over IPv4."),
    ],
)
def test_the_headline_tells_what_happened(before: Stage, after: Stage, expected: str) -> None:
    assert headline(result(before, after)) == expected


def test_marks_tell_ipv4_and_that_ipv6_lives() -> None:
    marks = marks_of(made.demo_result().stages[0])
    assert {name: mark.text for name, mark in marks.items()} == {
        "my-computer": "online, direct",
        "desk-computer": "offline (IPv4)",
        "tablet": "offline (IPv4)",
        "phone": "offline",
    }


def test_one_stage_no_probe_no_throughput_no_split_is_still_a_report() -> None:
    bare = replace(made.demo_result(), stages=(stage("direct"),), probes=(), throughput=(), split=None)
    assert not re.search("What masquerade costs|What the split does", report(bare, made.article_home()))


def test_a_result_without_stages_is_refused() -> None:
    with pytest.raises(ValueError, match="without stages"):
        report(replace(made.demo_result(), stages=()), made.article_home())


def test_a_result_survives_json() -> None:
    there = msgspec.json.encode(made.demo_result())
    assert msgspec.json.decode(there, type=Result) == made.demo_result()
