"""The list of laws against the code that quotes them."""

from __future__ import annotations

import re
from pathlib import Path

import sidegate.walk
from sidegate.walk.judge import REMEDIES, SENTENCES
from sidegate.walk.laws import LAWS

_SOURCE = Path(sidegate.walk.__file__).parent
_CODE = "".join((_SOURCE / f"{name}.py").read_text() for name in ("engine", "conntrack", "conversation"))


def test_every_law_names_where_the_kernel_says_so() -> None:
    assert all(
        re.search(r"\.[ch] \w+|blueprint|gateway/ruleset/nft\.py|home file", law.source) for law in LAWS.values()
    )


def test_every_law_is_quoted_somewhere() -> None:
    assert [key for key in LAWS if f'"{key}"' not in _CODE] == []


def test_every_quoted_law_exists() -> None:
    quoted = re.findall(r'(?:Decision|note|_end)\(\s*(?:node, )?"([a-z-]+)"', _CODE)
    assert len(quoted) > 20
    assert set(quoted) <= set(LAWS)


def test_every_verdict_has_a_sentence_and_only_verdicts_have_remedies() -> None:
    assert set(REMEDIES) <= set(SENTENCES)
    assert all(SENTENCES.values())
