"""What `sidegate lab show` says of a home: names, lies, and links that are always the same."""

from __future__ import annotations

import pytest

from sidegate.cli import main as cli
from tests.conftest import Golden


@pytest.mark.parametrize("home", ["split", "simple"])
def test_show(home: str, golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["lab", "show", home])
    golden(f"lab/show-{home}.txt", capsys.readouterr().out)
