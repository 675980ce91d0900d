"""Tables and bars for the terminal."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO

from sidegate.render.text import BarRow, CheckRow, bars, checks_table, wants_colour

ROWS = (
    CheckRow("my-computer", "server over IPv4", "good", "direct", "200 OK"),
    CheckRow("tablet", "server over IPv4", "bad", "dead", "no answer \x1b[2Jwithin [bold]1 s"),
)


def test_checks_as_plain_text() -> None:
    assert checks_table(ROWS) == (
        "   client       check             outcome  detail\n"
        "✓  my-computer  server over IPv4  direct   200 OK\n"
        "✗  tablet       server over IPv4  dead     no answer �[2Jwithin [bold]1 s\n"
    )


def test_colour_only_where_asked() -> None:
    assert "\x1b[" in checks_table(ROWS, colour=True)
    assert "\x1b[2J" not in checks_table(ROWS, colour=True)


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
