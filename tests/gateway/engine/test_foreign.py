"""Another program as the engine: whether it listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidegate.gateway.engine.foreign import LOOK_S, Foreign, listens
from sidegate.gateway.split.ports import Ports

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTENS = "   0: 00000000:1ED5 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n"
CONNECTED = "   1: 0100007F:1ED5 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2 1\n"


@pytest.mark.parametrize(
    ("table", "port", "is_there"),
    [
        (HEAD + LISTENS, 7893, True),
        (HEAD + LISTENS, 7894, False),
        (HEAD + CONNECTED, 7893, False),
        (HEAD + CONNECTED + LISTENS, 7893, True),
        ("", 7893, False),
        (HEAD + "   0: broken\n", 7893, False),
    ],
)
def test_tables(table: str, port: int, is_there: bool) -> None:
    assert listens(table, port) == is_there


def test_watched(tmp_path: Path) -> None:
    table = tmp_path / "net" / "tcp"
    table.parent.mkdir()
    told: list[str] = []
    foreign = Foreign(told.append, tmp_path)
    assert (foreign.next_deadline(), foreign.faults(), foreign.turn(0.0)) == (None, (), False)
    foreign.want(7893, 10.0)
    assert not foreign.turn(10.0)
    assert "no program listens at port 7893" in foreign.faults()[0].what
    assert foreign.place() is None
    table.write_text(HEAD + LISTENS)
    assert not foreign.turn(10.0 + LOOK_S / 2), "not yet"
    assert foreign.turn(10.0 + LOOK_S)
    assert (foreign.place(), foreign.faults()) == (Ports(7893, 7893, 0), ())
    table.write_text(HEAD)
    assert foreign.turn(10.0 + 2 * LOOK_S)
    assert told == ["the program at port 7893 listens", "the program at port 7893 listens no more"]
    foreign.want(None, 20.0)
    assert (foreign.next_deadline(), foreign.faults()) == (None, ())
