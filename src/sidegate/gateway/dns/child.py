"""Our resolvers as children of the daemon: what it reads is written here, and it is told when to forget."""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sidegate.gateway.box.apply import Change
from sidegate.gateway.box.children import Child, ChildFile, Nursery
from sidegate.gateway.box.facts import Facts
from sidegate.gateway.box.files import make_directory, replace_file
from sidegate.gateway.box.places import Places, unwritable
from sidegate.gateway.dhcp.user import dnsmasq_user
from sidegate.gateway.dns import here
from sidegate.gateway.dns.dnsmasq import answers, place
from sidegate.gateway.dns.places import NAME, NAMES, Name, ResolverPlaces
from sidegate.gateway.dns.resolver import Resolver
from sidegate.gateway.dns.seating import GRACE_S, Seat, Seating, seating
from sidegate.problems import Problem, Problems

WITHOUT = "nobody resolves names at this box now: clients that were told to ask it need another DNS server"
_REASONS = {
    "asked": "names tell what is proxied",
    "direct": "the engine cannot be asked: proxied names are resolved as if they were direct",
    "refused": "the engine cannot be asked: proxied names are refused",
}
_NONE_PROXIED = "the LAN's own names are answered here, and rules may ask for names; none is proxied"
_READABLE = 0o644
_LOOK_AGAIN_S = 0.05
_SERVES_WITHIN_S = 10.0
"""A relief that takes longer does not come: then the one at port 53 is started anew without."""


class Resolving:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    `lead` says where clients are to be led, and `led` is to be called when they are. grace_s: see `seating`.
    """

    def __init__(self, at: Places, tell: Callable[[str], None], grace_s: float = GRACE_S) -> None:
        self._at = {name: ResolverPlaces(at.runtime, name) for name in NAMES}
        self._tell, self._grace_s = tell, grace_s
        self._nursery = Nursery(self._at[NAME].directory, at.state, tell, self._prepare)
        self._resolver: Resolver | None = None
        self._children: dict[Name, Child] = {}
        self._names = ""
        self._forgetful: set[Name] = set()
        self._seating = Seating(NAME)
        self._led: Name | None = None
        self._led_s = self._wanted_s = 0.0
        self._poll = select.epoll()
        self._poll.register(self._nursery, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although nothing came in; None: never."""
        now = time.monotonic()
        times = [self._nursery.next_deadline(), now + _LOOK_AGAIN_S if self._forgetful or self._is_starting() else None]
        if all(self._nursery.runs(name) for name in NAMES) and now < self._led_s + self._grace_s:
            times.append(self._led_s + self._grace_s)
        return min((t for t in times if t is not None), default=None)

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
            runs = any(self._nursery.runs(name) for name in NAMES)
            self._resolver, self._children, self._led, self._seating = None, {}, None, Seating(NAME)
            self._nursery.want(())
            return (Change(f"{NAME} ends", "this box answers no DNS"),) if runs else ()
        is_other = it != self._resolver
        if is_other:
            self._children = resolver_children(it, self._at.values())
            self._wanted_s = time.monotonic()
        self._resolver, self._names = it, names
        self._sit(time.monotonic())
        if any(self._runs_as_wanted(name) for name in NAMES):
            self._write()
            return ()
        why = _REASONS[it.proxied] if it.names.proxies else _NONE_PROXIED
        return (Change(f"{NAME} answers DNS on {it.interface}", why),) if is_other else ()

    def forget(self) -> None:
        """Empties the cache, as where the kernel's sets were lost: every name is asked for, and learned, again."""
        self._forgetful = {name for name in NAMES if self._nursery.runs(name)}

    @property
    def lead(self) -> Name:
        """Who is to be asked for names."""
        return self._seating.lead

    def led(self, name: Name) -> None:
        """Clients are led to this one now."""
        if name != self._led:
            self._led, self._led_s = name, time.monotonic()

    def turn(self, now: float) -> None:
        self._sit(now)
        self._nursery.turn(now)
        self._sit(now)
        for name in [it for it in self._forgetful if not self._nursery.runs(it) or self._is_up(it)]:
            # Not before it serves: until then SIGHUP would end it, and what it is to read it reads anyway.
            self._forgetful.discard(name)
            if self._nursery.runs(name):
                self._nursery.signal(name, signal.SIGHUP)

    def answers(self) -> bool:
        """Whether whoever is to be asked for names answers, if not as is wanted now."""
        return self._is_up(self.lead)

    def is_ready(self) -> bool:
        """Whether one who answers what is wanted now is there to be asked."""
        return bool(self._children) and self._seat(self.lead, time.monotonic()).serves

    def has_followed(self) -> bool:
        """Whether nobody is left who answers anything else than is wanted now."""
        return not any(self._nursery.runs(name) and not self._runs_as_wanted(name) for name in NAMES)

    def is_settled(self) -> bool:
        """Whether what is wanted now is answered at port 53, and clients are led there."""
        return self._led == NAME and self._seat(NAME, time.monotonic()).serves

    def pid(self) -> int | None:
        return self._nursery.pid(self.lead)

    def faults(self) -> tuple[Problem, ...]:
        """What is wrong now."""
        said = _text(self._at[self.lead].log) if self._children else None
        return (*self._nursery.faults(), *here.loops(said or ""))

    def close(self) -> None:
        """Lets go; it goes on."""
        self._nursery.close()
        self._poll.close()

    def _sit(self, now: float) -> None:
        """Who is to run as what, by who does now."""
        if not self._children:
            return
        home, relief = (self._seat(name, now) for name in NAMES)
        self._seating = seating(home, relief, self._led, is_over=now >= self._led_s + self._grace_s)
        self._nursery.want(tuple(self._children[name] for name in self._seating.start), self._seating.keep)

    def _seat(self, name: Name, now: float) -> Seat:
        child = self._children[name]
        serves = self._nursery.serves(child)
        is_late = not serves and now >= self._wanted_s + _SERVES_WITHIN_S
        return Seat(self._nursery.runs(name), self._runs_as_wanted(name), serves, is_late)

    def _runs_as_wanted(self, name: Name) -> bool:
        return name in self._children and self._nursery.runs(name, self._children[name].digest)

    def _is_up(self, name: Name) -> bool:
        """Whether it answers, whatever it was told."""
        pid = self._nursery.pid(name)
        return pid is not None and (_text(self._at[name].pid) or "").strip() == str(pid)

    def _is_starting(self) -> bool:
        return any(self._nursery.runs(name) and not self._is_up(name) for name in NAMES)

    def _prepare(self, name: str) -> None:
        self._write()
        self._forgetful -= {name}

    def _write(self) -> None:
        """The LAN's own names, which dnsmasq reads again by itself. Raises Problems."""
        at = self._at[NAME]
        try:
            # dnsmasq's own user reads below them.
            for directory in (at.directory, at.hosts):
                make_directory(directory, 0o755)
            if _text(at.names) != self._names:
                # Written next door: of this directory dnsmasq reads every file, a half one too (src/inotify.c).
                replace_file(at.fresh_names, self._names.encode(), _READABLE)
                at.fresh_names.rename(at.names)
        except OSError as error:
            raise Problems(unwritable(at.directory, error)) from None


def resolver_children(it: Resolver, places: Iterable[ResolverPlaces]) -> dict[Name, Child]:
    """For each place one that answers the same."""
    user, told = dnsmasq_user(), answers(it)
    return {at.name: resolver_child(place(it, at, user) + told, at) for at in places}


def resolver_child(conf: str, at: ResolverPlaces) -> Child:
    """By this configuration, which `dnsmasq_conf` made."""
    command = ("dnsmasq", "--keep-in-foreground", f"--conf-file={at.conf}")
    more = (str(at.names), str(at.fresh_names)) if at.name == NAME else ()
    return Child(at.name, command, str(at.pid), (ChildFile(str(at.conf), conf),), WITHOUT, more)


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None
