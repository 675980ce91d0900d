"""Tables and bars for the terminal."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO

from sidegate.demo.result import ClientReach, Reach, Stage
from sidegate.render.text import BarRow, bars, reach_table, split_table, wants_colour
from tests.render import made

STAGE = Stage(
    "forwards",
    "forwarding",
    "server",
    (
        ClientReach("my-computer", Reach("direct", "200 OK"), Reach("masqueraded", "200 OK")),
        ClientReach("tablet", Reach("dead", "no answer \x1b[2Jwithin [bold]1 s")),
    ),
)


def test_reach_as_plain_text() -> None:
    assert [line.rstrip() for line in reach_table(STAGE).splitlines()] == [
        "client        IPv4                                         IPv6",
        "my-computer   ✓ online, direct                             ⇄ online, masqueraded",
        "tablet        ✗ offline (no answer �[2Jwithin [bold]1 s)   not asked",
    ]


def test_the_split_as_plain_text() -> None:
    assert [line.rstrip() for line in split_table(made.SPLIT).splitlines()] == [
        "site          Without a proxy        Engine killed",
        "www.example   ✗ the provider's lie   ✓ by the proxy",
        "a.example     ✗ nothing (lost)       not asked",
    ]


def test_colour_only_where_asked() -> None:
    assert "\x1b[" in reach_table(STAGE, colour=True)
    assert "\x1b[2J" not in reach_table(STAGE, colour=True)


def test_bars_share_one_scale() -> None:
    text = bars((BarRow("masquerade", 95, "for all"), BarRow("sidegate", 950)), width=20)
    assert text == f"masquerade  ██                    95 Mbit/s   for all\nsidegate    {'█' * 20}  950 Mbit/s\n"


def test_bars_of_nothing() -> None:
    assert bars((BarRow("dead", 0.0),)) == "dead    0 Mbit/s\n"


def test_a_file_wants_no_colour() -> None:
    assert not wants_colour(StringIO())


def test_importing_this_room_does_not_import_rich() -> None:
    code = "import sys, sidegate.render.text; sys.exit(any(m.split('.')[0] == 'rich' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
