"""Mermaid: golden files, and texts that cannot break out of their label."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sidegate.render.mermaid import mermaid
from tests.conftest import Golden
from tests.render import made


def test_article_home(golden: Golden) -> None:
    golden("render/velop-mesh.mmd", mermaid(made.article_home()))


def test_odd_home(golden: Golden) -> None:
    golden("render/odd.mmd", mermaid(made.odd_home()))


@given(st.text(min_size=1))
def test_a_name_stays_within_its_label(name: str) -> None:
    home = made.article_home()
    drawn = mermaid(replace(home, client=(replace(home.client[0], name=name),)))
    plain = mermaid(replace(home, client=(replace(home.client[0], name="plain"),)))
    for syntax in ('"', "`", "[", "\n"):
        assert drawn.count(syntax) == plain.count(syntax)


def test_names_that_mermaid_knows_or_that_collide_get_ids_of_their_own() -> None:
    home = made.article_home()
    clients = tuple(replace(home.client[0], name=name) for name in ("end", "a-b", "a_b", "9lives"))
    drawn = mermaid(replace(home, client=clients))
    ids = [line.split(" ")[-1] for line in drawn.splitlines() if "Wired Network" in line and "gateway" not in line]
    assert len(set(ids)) == 4
    assert "end" not in ids
    assert all(ident[0].isalpha() for ident in ids)
