"""Which of two resolvers is to do what, so that somebody answers at any time. Pure.

dnsmasq has to be started anew for almost any change, and does not answer until it has read all names. So a change
comes to a second one first, the relief, at a port of its own; once it serves, the kernel leads clients there
(`services.relieved`), and the one at port 53 is started anew. When that serves, clients are led back, and the relief
ends. Port 53 is where the resolver belongs: there it answers this box itself too, and without our table.

Laws

1. Whom the kernel leads clients to is touched only if it is what is wanted, or has ended.
2. Nor is the other one until it has had time to answer what it was asked before (GRACE_S).
3. While it is not known whom the kernel leads to, as for a daemon that was just started, nobody who runs is touched.
"""

from __future__ import annotations

from msgspec import Struct

from sidegate.gateway.dns.places import NAME, RELIEF, Name

GRACE_S = 2.0
"""In which a server answers that is going to."""


class Seat(Struct, frozen=True):
    """One of the two. is_wanted: whether it runs as it should be now; serves: whether it then answers already.

    fails: whether it was given enough time to serve and does not.
    """

    runs: bool = False
    is_wanted: bool = False
    serves: bool = False
    fails: bool = False


class Seating(Struct, frozen=True):
    """lead: where clients are to be led. start: who is to run as is wanted now. keep: who goes on as it is.

    Whoever is in neither ends.
    """

    lead: Name
    start: tuple[Name, ...] = ()
    keep: tuple[Name, ...] = ()


def seating(home: Seat, relief: Seat, led: Name | None, *, is_over: bool) -> Seating:
    """led: whom the kernel leads clients to; None: not known. is_over: whether it has for GRACE_S."""
    if led is None:
        return _unknown(home, relief)
    if led == RELIEF:
        return _relieved(home, relief, is_over=is_over)
    if home.is_wanted or not home.runs:
        if relief.serves and not home.runs:
            return Seating(RELIEF, (NAME, RELIEF))
        return Seating(NAME, (NAME,), _kept(relief, RELIEF, is_over=is_over))
    if relief.fails:
        return Seating(NAME, (NAME,))
    if relief.runs and not relief.is_wanted and not is_over:
        return Seating(NAME, (), (NAME, RELIEF))
    return Seating(RELIEF if relief.serves else NAME, (RELIEF,), (NAME,))


def _relieved(home: Seat, relief: Seat, *, is_over: bool) -> Seating:
    if home.serves:
        return Seating(NAME, (NAME,), (RELIEF,))
    if not home.runs or home.is_wanted or is_over:
        return Seating(RELIEF, (NAME,), (RELIEF,)) if relief.runs else Seating(NAME, (NAME,))
    return Seating(RELIEF, (), (NAME, RELIEF)) if relief.runs else Seating(NAME, (), (NAME,))


def _unknown(home: Seat, relief: Seat) -> Seating:
    running = tuple(name for name, seat in ((NAME, home), (RELIEF, relief)) if seat.runs)
    if not running:
        return Seating(NAME, (NAME,))
    wanted = tuple(name for name, seat in ((NAME, home), (RELIEF, relief)) if seat.is_wanted)
    is_relieved = not home.runs or (relief.serves and not home.serves)
    return Seating(RELIEF if is_relieved else NAME, wanted, tuple(name for name in running if name not in wanted))


def _kept(seat: Seat, name: Name, *, is_over: bool) -> tuple[Name, ...]:
    return (name,) if seat.runs and not is_over else ()
