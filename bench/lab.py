"""How long a lab takes to come and go."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench.figures import Figure, median_ms, spread
from sidegate.home import load_home
from sidegate.lab.lab import Lab

RUNS = 15


def build_and_teardown() -> list[Figure]:
    """The article's home: 11 machines. Teardown ends when the last process is gone."""
    home, built, gone = load_home("velop-mesh"), [], []
    machines = 0
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        lab = Lab.up(home)
        up = time.perf_counter()
        machines = len(lab.machines)
        lab.down()
        built.append((up - start) * 1000)
        gone.append((time.perf_counter() - up) * 1000)
    note = f"{machines} machines, servers answering; "
    return [
        Figure("article's home built", statistics.median(built[1:]), "ms", 300, note=note + spread(built[1:])),
        Figure("article's home torn down", statistics.median(gone[1:]), "ms", 200, note=spread(gone[1:])),
    ]


def help_starts() -> list[Figure]:
    """`sidegate --help` as a whole process."""
    command = [sys.executable, "-m", "sidegate", "--help"]
    value, note = median_ms(lambda: subprocess.run(command, check=True, capture_output=True), 20)
    return [Figure("sidegate --help", value, "ms", 150, note=note)]
