"""What the daemon did and why: the latest events for whoever asks, all of them on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from datetime import datetime
from pathlib import Path

from sidegate.gateway.view import EventView
from sidegate.problems import Problem

_EVENTS_KEPT = 200
_LOG_LARGEST = 1 << 18
"""Bytes of a log file, which is in memory (/run); a service manager keeps its own."""


class EventLog:
    """Events, and the faults of now: told when they come and when they go."""

    def __init__(self, file: Path) -> None:
        """file: where standard error goes when the daemon runs in the background; kept small."""
        self._file = file
        self._events: deque[EventView] = deque(maxlen=_EVENTS_KEPT)
        self._faults: dict[str, tuple[Problem, ...]] = {}

    @property
    def faults(self) -> tuple[Problem, ...]:
        """Each once, however many met it."""
        return tuple(dict.fromkeys(fault for found in self._faults.values() for fault in found))

    @property
    def events(self) -> tuple[EventView, ...]:
        return tuple(self._events)

    def tell(self, what: str) -> None:
        event = EventView(datetime.now().astimezone().isoformat(timespec="seconds"), what)
        self._events.append(event)
        with contextlib.suppress(OSError):
            # A full /run must not end the daemon.
            _keep_small(self._file)
            print(f"{event.at} {what}", file=sys.stderr, flush=True)

    def note_faults(self, problems: tuple[Problem, ...], met_by: str = "the box") -> None:
        """Of what this one meets, these are wrong now, and nothing else is: told when they come and when they go."""
        before, self._faults[met_by] = self.faults, problems
        for fault in self.faults:
            if fault not in before:
                self.tell(f"fault: {fault.where}: {fault.what}")
        for fault in before:
            if fault not in self.faults:
                self.tell(f"over: {fault.where}: {fault.what}")


def _keep_small(path: Path) -> None:
    """Begins the log file anew when it has grown too large; the daemon's standard error appends to it."""
    if path.exists() and path.stat().st_size > _LOG_LARGEST:
        os.truncate(path, 0)
