"""Keeps a copy of dnsmasq's lease file that is whole at any moment, and sees when the wall clock is set.

dnsmasq could call a script for every lease instead (dhcp-script); measured, that costs a sixth of its leases a second.
So while the daemon is dead nothing is copied. dnsmasq itself writes every lease to the disk before it goes on
(lease_update_file in its src/lease.c ends with fsync(2)): what is then at stake is the moment in which it writes.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from sidegate.gateway.box.files import replace_file
from sidegate.gateway.dhcp.leases import Lease, parse_leases, text_in

SETTLE_S = 0.2
"""After the first change: a crowd passes first, which may need the CPU."""
AGAIN_S = 1.0
_MODIFIED, _ONCE = 0x2, 0x80000000
"""IN_MODIFY, IN_ONESHOT (inotify(7)): one event wakes us, however often the file is written meanwhile."""
_LARGEST_READ = 4096


class LeaseCopy:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`."""

    def __init__(self, live: Path, copy: Path) -> None:
        self._live, self._copy = live, copy
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._due_s: float | None = None
        self._is_on = False
        self._seen = ""
        self.trouble = ""
        """Why the leases are not copied, in words; empty when they are."""

    def fileno(self) -> int:
        return int(self._fd)

    def next_deadline(self) -> float | None:
        return self._due_s

    def begin(self, now: float) -> None:
        """There is something to copy from now on. A second time changes nothing."""
        if not self._is_on:
            self._is_on, self._due_s = True, now

    def end(self) -> None:
        """There is nothing to copy any more."""
        self._is_on, self._due_s, self._seen, self.trouble = False, None, "", ""

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Those copied last."""
        return parse_leases(self._seen)[0]

    def turn(self, now: float) -> None:
        """Copies, if it is time and there is something new."""
        if self._was_written() and self._is_on and self._due_s is None:
            self._due_s = now + SETTLE_S
        if self._due_s is not None and now >= self._due_s:
            # Watched before it is read: what is written meanwhile is an event, and read again.
            is_watched = self._watch()
            is_copied = self._keep()
            self._due_s = None if is_watched and is_copied else now + AGAIN_S

    def close(self) -> None:
        os.close(self._fd)

    def _was_written(self) -> bool:
        try:
            return bool(os.read(self._fd, _LARGEST_READ))
        except BlockingIOError:
            return False

    def _watch(self) -> bool:
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(self._live), _MODIFIED | _ONCE)
        return bool(watch >= 0)

    def _keep(self) -> bool:
        """Whether the copy is as the file is. An empty or cut file is never copied: it is being written, or is lost."""
        text = text_in(self._live)
        is_whole = bool(text) and parse_leases(text)[1]
        if text == self._seen:
            return True
        # Written again although nothing is new: it may be the full disk that cut the live file, and this says so.
        kept = text if is_whole else self._seen
        if not kept:
            return False
        try:
            replace_file(self._copy, kept.encode(), 0o600)
        except OSError as error:
            self.trouble = error.strerror or str(error)
            return False
        self._seen, self.trouble = kept, ""
        return is_whole


class WallClock:
    """Sees when somebody sets the clock, by the one that nobody can set (CLOCK_BOOTTIME goes on in sleep as well)."""

    LEAST_S = 5.0
    """What a clock that is only put right slowly never moves between two looks."""
    ONE_MOMENT_S = 1.0

    def __init__(self) -> None:
        self._ahead_s = self._ahead()

    def jump(self) -> tuple[float, float] | None:
        """From what to what the clock was set since the last look, both as of now; None if it was not."""
        before_s, self._ahead_s = self._ahead_s, self._ahead()
        if abs(self._ahead_s - before_s) < self.LEAST_S:
            return None
        boottime_s = self._boottime()
        return boottime_s + before_s, boottime_s + self._ahead_s

    def _ahead(self) -> float:
        """Both clocks at one moment: whoever is held up between the two looks again."""
        while True:
            before_s = self._boottime()
            ahead_s = time.time() - before_s
            if self._boottime() - before_s < self.ONE_MOMENT_S:
                return ahead_s

    @staticmethod
    def _boottime() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
