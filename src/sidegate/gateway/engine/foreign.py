"""Another program as the engine, which listens for TPROXY: we steer to its port, and watch that it listens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sidegate.gateway.split.ports import Ports
from sidegate.problems import Exit, Problem

LOOK_S = 2.0
_LISTENS = "0A"
"""TCP_LISTEN (include/net/tcp_states.h)."""


class Foreign:
    """For a selectors loop: `turn` when `next_deadline` has come. Times are `time.monotonic()`."""

    def __init__(self, tell: Callable[[str], None], proc: Path = Path("/proc")) -> None:
        self._tell, self._tables = tell, [proc / "net" / name for name in ("tcp", "tcp6")]
        self._port: int | None = None
        self._listens = False
        self._look_at_s: float | None = None

    @property
    def listens(self) -> bool:
        """Whether it did at the last look."""
        return self._listens

    def want(self, port: int | None, now: float) -> None:
        """From now on this port is watched; None: none."""
        if port != self._port:
            self._port, self._listens = port, False
            self._look_at_s = now if port is not None else None

    def place(self) -> Ports | None:
        """All of its traffic goes to one port; it has none that we could ask a page by."""
        return Ports(self._port, self._port, 0) if self._port is not None and self._listens else None

    def next_deadline(self) -> float | None:
        return self._look_at_s

    def turn(self, now: float) -> bool:
        """Whether it listens, and did not before, or the other way."""
        if self._port is None or self._look_at_s is None or now < self._look_at_s:
            return False
        before, self._listens = self._listens, any(listens(_text(table), self._port) for table in self._tables)
        self._look_at_s = now + LOOK_S
        if self._listens != before:
            self._tell(f"the program at port {self._port} {'listens' if self._listens else 'listens no more'}")
        return self._listens != before

    def faults(self) -> tuple[Problem, ...]:
        if self._port is None or self._listens:
            return ()
        remedy = 'start the program that proxy.tproxy_port speaks of, or set proxy.engine = "xray"'
        return (Problem("proxy", f"no program listens at port {self._port}", remedy, Exit.FAULT),)


def listens(table: str, port: int) -> bool:
    """Whether somebody does, by a table such as /proc/net/tcp (proc_pid_net(5)). At which address does not show."""
    rows = (line.split(maxsplit=4) for line in table.splitlines()[1:])
    return any(int(row[1].rpartition(":")[2], 16) == port and row[3] == _LISTENS for row in rows if len(row) > 3)


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        # A kernel without IPv6.
        return ""
