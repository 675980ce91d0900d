"""A play on the stage, in namespaces of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[3]


def play(module: str, name: str) -> Any:
    """What it tells, as its last line. It ends before the test would."""
    command = ("unshare", "-Urn", sys.executable, "-m", f"tests.kernel.{module}", name)
    done = subprocess.run(command, capture_output=True, text=True, timeout=160, cwd=_ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
