"""The report's part about the split: what one device got without it, with it, and as the engine was killed."""

from __future__ import annotations

from collections.abc import Iterator

from sidegate.demo.result import Split, Visit
from sidegate.render.picture import VISITS
from sidegate.render.report_style import ASIDE
from sidegate.render.signs import tone_html
from sidegate.render.words import duration, escape, unbroken


def split_section(split: Split | None) -> Iterator[str]:
    """HTML; nothing for a home in which nothing is proxied."""
    if split is None:
        return
    yield "<h2>What the split does</h2>"
    yield (
        "<p>This home's provider lies about some names and blocks some servers. A rule sends these by a proxy; all "
        f"else goes straight. On <b>{escape(split.client)}</b> nothing is set up but the gateway, which it also asks "
        "for names. Then the proxy engine was killed: from the next packet on, new connections to "
        "addresses that it remembers go straight (what is blocked there was not asked then: straight, it cannot come). "
        f"After {escape(duration(split.back_ms))} they went by the proxy again.</p>"
    )
    yield f'{ASIDE}<div class="scroll" tabindex="0" role="region" aria-label="The split"><table><thead>'
    heads = "".join(f'<th scope="col">{escape(scene.name)}</th>' for scene in split.scenes)
    yield f'<tr><th scope="col">Site</th>{heads}</tr></thead><tbody>'
    for site in split.sites:
        yield f'<tr><th scope="row">{escape(site)}</th>{"".join(_cell(s.visit(site)) for s in split.scenes)}</tr>'
    yield "</tbody></table></div>"


def _cell(visit: Visit | None) -> str:
    if visit is None:
        return '<td class="none">not asked</td>'
    took = f" · {unbroken(duration(visit.took_ms))}" if visit.took_ms is not None else ""
    detail = f"{escape(visit.detail)}{took}".removeprefix(" · ")
    return f"<td>{tone_html(*VISITS[visit.outcome])}{f'<small>{detail}</small>' if detail else ''}</td>"
