"""Cleaning, measuring and fitting of texts that may be hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.render.words import clean, duration, escape, fit, rate, text_width, unusual, wrap


def test_clean_takes_out_what_reorders_hides_or_breaks() -> None:
    assert clean("a\x00b\u202ec\ud800d\x1b[31m") == "a�b�c�d�[31m"


def test_clean_makes_one_line() -> None:
    assert clean(" a\n\t b\r\nc ") == "a b c"


def test_escape_serves_elements_and_attributes() -> None:
    assert escape("<a href='x'>&\"") == "&lt;a href=&#x27;x&#x27;&gt;&amp;&quot;"


@pytest.mark.parametrize(
    ("text", "expected"), [("plain", False), ("Шлюз", False), ("旁路由", False), ("﷽", True), ("🏠", True)]
)
def test_unusual_texts_are_known(text: str, expected: bool) -> None:
    assert unusual(text) is expected


@given(st.text(max_size=60), st.floats(-10, 300), st.sampled_from([11, 14, 19]), st.booleans(), st.booleans())
def test_fitted_text_is_never_wider_than_asked(text: str, width: float, size: float, mono: bool, bold: bool) -> None:
    fitted = fit(text, width, size, mono, bold)
    assert not fitted or text_width(fitted, size, mono, bold) <= width


@given(st.text(max_size=200), st.floats(40, 300), st.integers(1, 4))
def test_wrapped_text_keeps_to_width_and_lines(text: str, width: float, lines: int) -> None:
    wrapped = wrap(text, width, 14, lines)
    assert len(wrapped) <= lines
    assert all(text_width(line, 14) <= width for line in wrapped)


def test_wrap_loses_nothing_where_there_is_room() -> None:
    text = "one two three four five six seven"
    assert " ".join(wrap(text, 120, 14, 10)) == text


@pytest.mark.parametrize(
    ("mbit", "text"), [(0.5, "0.5 Mbit/s"), (95.23, "95.2 Mbit/s"), (949, "949 Mbit/s"), (2500, "2.5 Gbit/s")]
)
def test_rate(mbit: float, text: str) -> None:
    assert rate(mbit) == text


@pytest.mark.parametrize(("ms", "text"), [(0.4, "0 ms"), (999.4, "999 ms"), (1840, "1.84 s")])
def test_duration(ms: float, text: str) -> None:
    assert duration(ms) == text
