"""The drawing: golden files, well-formed for hostile texts, self-contained, readable without colours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sidegate.home import Behaviour
from sidegate.render.palette import DARK, LIGHT, Palette
from sidegate.render.picture import Mark
from sidegate.render.svg import svg
from tests.conftest import Golden
from tests.render import made

NS = "{http://www.w3.org/2000/svg}"
MARKS = {
    "my-computer": Mark("good", "online, direct"),
    "tablet": Mark("bad", "offline (IPv4)"),
    "phone": Mark("costly", "online, masqueraded"),
    "desk-computer": Mark("unknown", "not asked"),
}


def parse(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own output


def test_article_home(golden: Golden) -> None:
    behaviour = Behaviour(True, "masquerade", "nft", False, False)
    golden("render/velop-mesh.svg", svg(made.article_home(), MARKS, behaviour))


def test_odd_home(golden: Golden) -> None:
    golden("render/odd.svg", svg(made.odd_home(), made.odd_marks()))


@settings(max_examples=60, deadline=None)
@given(st.text(), st.text(max_size=40))
def test_well_formed_whatever_the_texts_are(title: str, text: str) -> None:
    home = replace(made.article_home(), title=title)
    root = parse(svg(home, {"tablet": Mark("bad", text)}))
    assert root.find(f"{NS}title") is not None


def test_hostile_texts_add_no_elements() -> None:
    root = parse(svg(made.odd_home(), made.odd_marks(), title=made.HOSTILE, ident='"><x>'))
    tags = {element.tag.removeprefix(NS) for element in root.iter()}
    assert tags == {"svg", "title", "desc", "style", "rect", "g", "text", "path", "circle"}


def test_named_for_those_who_do_not_see_it() -> None:
    root = parse(svg(made.article_home(), MARKS, ident="before"))
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "before-title before-desc"
    described = root.findtext(f"{NS}desc") or ""
    assert "tablet (Wi-Fi at router): offline (IPv4)" in described


def test_a_mark_has_words_and_a_sign_of_its_own() -> None:
    root = parse(svg(made.article_home(), MARKS))
    signs = {path.get("d") for path in root.iter(f"{NS}path") if path.get("class") == "sign"}
    assert len(signs) == 4
    assert {t.text for t in root.iter(f"{NS}text") if t.get("class") == "mark"} == {m.text for m in MARKS.values()}


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = svg(made.article_home(), MARKS).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|url\(|@import|href|<script|<image|<foreignObject", text)


def test_a_cut_text_can_be_read_in_full() -> None:
    home = replace(made.article_home(), client=(replace(made.article_home().client[0], name="w" * 60),))
    root = parse(svg(home))
    full = [t.findtext(f"{NS}title") for t in root.iter(f"{NS}text") if (t.text or "").startswith("www")]
    assert full == ["w" * 60]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("p", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read_on_its_ground(p: Palette) -> None:
    pairs = [(ink, ground) for ink in (p.text, p.muted) for ground in (p.page, p.card, p.box, p.kernel, p.gateway)]
    pairs += [(p.bridge_text, p.bridge), (p.chip_text, p.chip), (p.radio_text, p.radio)]
    pairs += [(ink, ground) for ink in (p.good, p.costly, p.bad, p.unknown) for ground in (p.card, p.page, p.gateway)]
    assert [(ink, ground) for ink, ground in pairs if contrast(ink, ground) < 4.5] == []
