"""Our resolver as a child of the daemon: what it reads is written here, and it is told when to forget."""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

from sidegate.gateway.apply import Change
from sidegate.gateway.children import Child, ChildFile, Nursery
from sidegate.gateway.dhcp.user import dnsmasq_user
from sidegate.gateway.dns import here
from sidegate.gateway.dns.dnsmasq import dnsmasq_conf
from sidegate.gateway.dns.places import NAME, ResolverPlaces
from sidegate.gateway.dns.resolver import Resolver
from sidegate.gateway.facts import Facts
from sidegate.gateway.files import make_directory, replace_file
from sidegate.gateway.places import Places, unwritable
from sidegate.problems import Problem, Problems

WITHOUT = "nobody resolves names at this box now: clients that were told to ask it need another DNS server"
_REASONS = {
    "asked": "names tell what is proxied",
    "direct": "the engine cannot be asked: proxied names are resolved as if they were direct",
    "refused": "the engine cannot be asked: proxied names are refused",
}
_READABLE = 0o644
_LOOK_AGAIN_S = 0.05


class Resolving:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`."""

    def __init__(self, at: Places, tell: Callable[[str], None]) -> None:
        self._at = ResolverPlaces(at.runtime)
        self._tell = tell
        self._nursery = Nursery(self._at.directory, at.state, tell, self._prepare)
        self._resolver: Resolver | None = None
        self._child: Child | None = None
        self._names = ""
        self._is_due = False
        self._poll = select.epoll()
        self._poll.register(self._nursery, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although nothing came in; None: never."""
        again_s = time.monotonic() + _LOOK_AGAIN_S if self._is_due else None
        return min((t for t in (self._nursery.next_deadline(), again_s) if t is not None), default=None)

    def ask_first(self, facts: Facts) -> None:
        """Before it starts: is port 53 free? Raises Problems that say who holds it."""
        if self._nursery.runs(NAME):
            return
        problems = [here.port_problem(it.ip) for it in facts.interface.addresses]
        if found := next((p for p in problems if p is not None), None):
            raise Problems(found)

    def want(self, it: Resolver | None, names: str = "") -> tuple[Change, ...]:
        """From the next `turn` on this is answered. names: the LAN's own, as a hosts file.

        What that will change: nothing where just this is answered. Raises Problems where a file cannot be written.
        """
        if it is None:
            self._resolver, self._child, self._is_due = None, None, False
            self._nursery.want(())
            return (Change(f"{NAME} ends", "this box answers no DNS"),) if self._nursery.runs(NAME) else ()
        if self._child is None or it != self._resolver:
            self._child = resolver_child(dnsmasq_conf(it, self._at, dnsmasq_user()), self._at)
        self._resolver, self._names = it, names
        self._nursery.want((self._child,))
        if self._nursery.runs(NAME, self._child.digest):
            self._write()
            return ()
        return (Change(f"{NAME} answers DNS on {it.interface}", _REASONS[it.proxied]),)

    def forget(self) -> None:
        """Empties the cache, as where the kernel's sets were lost: every name is asked for, and learned, again."""
        self._is_due = self._child is not None

    def settle(self) -> None:
        """Waits until it serves. Raises Problems."""
        self._nursery.settle()
        self.turn(time.monotonic())

    def turn(self, now: float) -> None:
        self._nursery.turn(now)
        if self._is_due and self._child is not None and self._nursery.serves(self._child):
            # Not before it serves: until then SIGHUP would end it, and what it is to read it reads anyway.
            self._is_due = False
            self._nursery.signal(NAME, signal.SIGHUP)

    def serves(self) -> bool:
        """Whether it answers what is wanted now."""
        return self._child is not None and self._nursery.serves(self._child)

    def pid(self) -> int | None:
        return self._nursery.pid(NAME)

    def faults(self) -> tuple[Problem, ...]:
        """What is wrong now."""
        said = _text(self._at.log) if self._child is not None else None
        return (*self._nursery.faults(), *here.loops(said or ""))

    def close(self) -> None:
        """Lets go; it goes on."""
        self._nursery.close()
        self._poll.close()

    def _prepare(self, _: str) -> None:
        self._write()
        self._is_due = False

    def _write(self) -> None:
        """The LAN's own names, which dnsmasq reads again by itself. Raises Problems."""
        try:
            # dnsmasq's own user reads below them.
            for directory in (self._at.directory, self._at.hosts):
                make_directory(directory, 0o755)
            if _text(self._at.names) != self._names:
                # Written next door: of this directory dnsmasq reads every file, a half one too (src/inotify.c).
                replace_file(self._at.fresh_names, self._names.encode(), _READABLE)
                self._at.fresh_names.rename(self._at.names)
        except OSError as error:
            raise Problems(unwritable(self._at.directory, error)) from None


def resolver_child(conf: str, at: ResolverPlaces) -> Child:
    """By this configuration, which `dnsmasq_conf` made."""
    command = ("dnsmasq", "--keep-in-foreground", f"--conf-file={at.conf}")
    return Child(NAME, command, str(at.pid), (ChildFile(str(at.conf), conf),), WITHOUT)


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None
