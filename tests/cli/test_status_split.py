"""The split in `sidegate status`."""

from __future__ import annotations

from msgspec import structs

from sidegate.cli.status_split import split_lines
from sidegate.gateway.view import ProxyView, SplitView, UpstreamView

UP = UpstreamView(
    name="one", kind="socks", server="192.0.2.1:1080", state="up", since_s=200, why="answered 204 in 80 ms",
    latency_ms=81.6, is_chosen=True,
)  # fmt: skip
DOWN = UpstreamView(name="two", kind="ss", server="192.0.2.2:8388", state="down", since_s=3, why="no answer within 5 s")
PROXY = ProxyView(
    engine="xray", serves=True, mode="listed", on_failure="direct", chosen="one", why="it comes first", pid=7,
    upstreams=(UP, DOWN),
)  # fmt: skip
SPLIT = SplitView(rules=2, default="direct", proxy=PROXY, resolves=True, resolver_pid=9, proxied_names="asked")


def test_nothing_to_tell() -> None:
    assert split_lines(None) == []


def test_all_is_well() -> None:
    assert split_lines(SPLIT) == [
        "rules: 2, the rest goes straight",
        "proxy: by one, it comes first (engine process 7)",
        "  UPSTREAM    STATE         LATENCY  SERVER                WHY",
        "  one (used)  up for 3 min  82 ms    socks 192.0.2.1:1080  answered 204 in 80 ms",
        "  two         down for 3 s           ss 192.0.2.2:8388     no answer within 5 s",
        "names: our resolver answers, proxied names by the upstream (process 9)",
    ]


def test_an_engine_that_does_not_serve_is_used_by_nobody() -> None:
    """As where another program holds its ports."""
    split = structs.replace(SPLIT, proxy=structs.replace(PROXY, serves=False, pid=None, upstreams=()))
    assert split_lines(split)[1] == (
        "proxy: by nobody now, the engine does not serve, then by one; meanwhile: direct (no engine process)"
    )


def test_no_upstream_at_all() -> None:
    proxy = structs.replace(PROXY, serves=False, chosen="", why="", pid=None, upstreams=())
    told = split_lines(structs.replace(SPLIT, proxy=proxy))[1]
    assert told == "proxy: by nobody, there is no upstream; meanwhile: direct (no engine process)"


def test_nothing_is_proxied() -> None:
    split = structs.replace(SPLIT, proxy=None, proxied_names="")
    assert split_lines(split) == ["rules: 2, the rest goes straight", "names: our resolver answers (process 9)"]


def test_nothing_works() -> None:
    proxy = structs.replace(PROXY, serves=True, chosen="", why="no upstream works", pid=None, ending=1, upstreams=())
    split = structs.replace(SPLIT, proxy=proxy, resolves=False, default="proxy", next_turn="2026-11-23T08:00:00+00:00")
    assert split_lines(split) == [
        "rules: 2, the rest is proxied; the clock turns one on or off at 2026-11-23T08:00:00+00:00",
        "proxy: no upstream works; meanwhile: direct (no engine process, 1 more to end its connections)",
        "names: our resolver does not answer",
    ]


def test_another_program_and_no_resolver() -> None:
    proxy = structs.replace(PROXY, engine="tproxy", serves=False, upstreams=())
    split = structs.replace(SPLIT, proxy=proxy, resolves=None)
    assert split_lines(split)[1:] == ["proxy: another program, which does not listen"]
