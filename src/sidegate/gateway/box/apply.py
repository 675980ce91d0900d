"""Desired -> the box, as one journalled, reversible transaction; and back.

The journal is written once before the first change, with all that is about to be done and what was there before, so
`undo` restores the box from wherever the power went. Order: redirects, accepts, routes by mark, our table, then reverse
path and forwarding, so that nothing is steered before it can arrive, nor forwarded before it is masqueraded. `undo`
goes the other way, after it has ended the children: nobody shall be sent to a gateway that forwards no more.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.facts import Facts
from sidegate.gateway.box.journal import STATE_DIR, ChildStep, Journal, SysctlStep, TableStep
from sidegate.gateway.desired import TABLE, Accept, Desired, PolicyRoute, Sysctl
from sidegate.gateway.ruleset.nftchange import differences, fresh, transactions
from sidegate.problems import Problem, Problems

_MAX_COPIES = 8
_REMEDY = "something else sets it at the same time: find it, then run `sidegate down` again"


class Box(Protocol):
    """What touches the system. Every method raises Problems where the system refuses."""

    def read_sysctl(self, path: str) -> str | None:
        """The value; None if there is no such file (the interface is gone)."""

    def write_sysctl(self, path: str, value: str) -> None: ...

    def list_table(self) -> str | None:
        """Our table without its elements; None if it is not there."""

    def check(self, text: str) -> None:
        """Whether nft and this kernel would take the transaction."""

    def nft(self, text: str) -> None: ...

    def has_accept(self, accept: Accept) -> bool: ...

    def insert_accept(self, accept: Accept) -> None: ...

    def delete_accept(self, accept: Accept) -> None:
        """Deletes one of them; there must be one."""

    def has_parts(self, route: PolicyRoute) -> tuple[bool, bool]:
        """Whether its rule is there, and whether the route in its table is."""

    def add_route(self, route: PolicyRoute) -> None:
        """Adds what of it is not there."""

    def delete_route(self, route: PolicyRoute) -> None:
        """Deletes what of it is there."""

    def delete_rule(self, route: PolicyRoute) -> None:
        """Deletes its rule alone, if it is there."""

    def end_child(self, child: ChildStep) -> bool:
        """Ends it if it runs, and removes its files; whether it ran."""


class Change(Struct, frozen=True):
    """what was done, as a person would type it; why: the reason of the desired item."""

    what: str
    why: str


class Changes(Struct, frozen=True):
    """Empty: the box was as desired already, and nothing was written anywhere."""

    changes: tuple[Change, ...] = ()


class Report(Struct, frozen=True):
    """What `undo` did. left_alone: what somebody else changed since, and why it stays. Restored means: verified."""

    restored: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()


def apply(desired: Desired, facts: Facts, box: Box, state_dir: Path = STATE_DIR) -> Changes:
    """Makes the box as desired; a second time changes nothing. Raises Problems.

    Where it fails on a box that we had not changed before, all is put back; else what stood before the failure
    stands, and the journal knows it.
    """
    old = journals.load(state_dir)
    table = _table_texts(desired, facts, old)
    if table:
        box.check(_checkable(table))
    new = _plan(desired, facts, box, old)
    if new != old:
        journals.save(new, state_dir)
    try:
        return _perform(desired, box, old, new, table, state_dir)
    except Problems:
        if old is None:
            undo(box, state_dir)
        raise


def _table_texts(desired: Desired, facts: Facts, old: Journal | None) -> list[str]:
    """What to tell nft; nothing if our table is as it should be. One that is as we left it keeps its sets' elements."""
    known = old.table if old else None
    if known is None or known.listing is None or known.listing != facts.table:
        return fresh(desired.ruleset)
    return transactions(known.ruleset, desired.ruleset) if known.ruleset != desired.ruleset else []


def _checkable(texts: list[str]) -> str:
    """As one: each means something only after those before. Elements are left out, which may be too many for that."""
    return "\n".join(text for text in texts if not text.startswith("add element"))


def rehearse(desired: Desired, facts: Facts, box: Box, state_dir: Path = STATE_DIR) -> Changes:
    """What `apply` would change; changes nothing. Raises Problems, also for a ruleset that nft refuses."""
    old = journals.load(state_dir)
    table = _table_texts(desired, facts, old)
    wrong = [(i, _read(box, i)) for i in desired.sysctls]
    changes = [Change(f"sysctl {i.path}={i.value}", f"{i.reason} (now {v})") for i, v in wrong if v != i.value]
    changes += [Change(f"accept in {a.place}", a.reason) for a in desired.accepts if not box.has_accept(a)]
    changes += [Change(r.place, r.reason) for r in desired.routes if not all(box.has_parts(r))]
    if table:
        box.check(_checkable(table))
        changes.append(Change(_table_change(desired, old), desired.ruleset_reason))
    gone = _obsolete(desired, old) if old else _Obsolete()
    what = [f"sysctl {s.path}={s.before}" for s in gone.sysctls]
    what += [f"accept in {a.place} removed" for a in gone.accepts] + [f"{r.place} removed" for r in gone.routes]
    return Changes((*changes, *(Change(w, "no longer needed") for w in what)))


def _table_change(desired: Desired, old: Journal | None) -> str:
    if old is None or old.table is None or not (parts := differences(old.table.ruleset, desired.ruleset)):
        return f"nft table inet {TABLE}"
    return f"nft table inet {TABLE}: {', '.join(parts)}"


def _plan(desired: Desired, facts: Facts, box: Box, old: Journal | None) -> Journal:
    """The journal of all that was or will be done. Steps no longer desired stay in it until they are put back."""
    steps = {s.path: s for s in old.sysctls} if old else {}
    for item in desired.sysctls:
        current = _read(box, item)
        if item.path in steps:
            steps[item.path] = msgspec.structs.replace(steps[item.path], wrote=item.value)
        elif current != item.value:
            flips = {path: value for path in item.flips if (value := box.read_sysctl(path)) is not None}
            steps[item.path] = SysctlStep(item.path, current, item.value, flips)
    accepts = [*(old.accepts if old else ()), *desired.accepts]
    unchanged = old.table if old and old.table and old.table.ruleset == desired.ruleset else None
    table = unchanged or TableStep(desired.ruleset)
    unique = {_identity(a): a for a in accepts}
    children = old.children if old else ()
    routes = {r.place: r for r in [*(old.routes if old else ()), *desired.routes]}
    return Journal(
        facts.boot_id, tuple(steps.values()), tuple(unique.values()), table, children, routes=tuple(routes.values())
    )


def _identity(accept: Accept) -> tuple[str, ...]:
    return (accept.backend, accept.family, accept.table, accept.chain, accept.interface, accept.hook)


def _read(box: Box, item: Sysctl) -> str:
    value = box.read_sysctl(item.path)
    if value is None:
        raise Problems(Problem(item.path, "no such setting", "the interface is gone, or this kernel lacks it"))
    return value


def _perform(
    desired: Desired, box: Box, old: Journal | None, new: Journal, table: list[str], state_dir: Path
) -> Changes:
    changes: list[Change] = []
    steps = {s.path: s for s in new.sysctls}
    for item in filter(_is_redirect, desired.sysctls):
        _set(item, steps.get(item.path), box, changes)
    for accept in desired.accepts:
        _admit(accept, box, changes)
    for route in desired.routes:
        _lead(route, box, changes)
    if table:
        for text in table:
            box.nft(text)
        changes.append(Change(f"nft table inet {TABLE}", desired.ruleset_reason))
        new = msgspec.structs.replace(new, table=TableStep(desired.ruleset, box.list_table()))
        journals.save(new, state_dir)
    for item in desired.sysctls:
        if not _is_redirect(item):
            _set(item, steps.get(item.path), box, changes)
    if old is not None:
        _put_back_obsolete(desired, box, new, changes, state_dir)
    return Changes(tuple(changes))


def _is_redirect(item: Sysctl | SysctlStep) -> bool:
    return item.path.endswith("/send_redirects")


def _set(item: Sysctl, step: SysctlStep | None, box: Box, changes: list[Change]) -> None:
    """step: of the journal, which has one for what differs."""
    if _read(box, item) != item.value:
        box.write_sysctl(item.path, item.value)
        changes.append(Change(f"sysctl {item.path}={item.value}", item.reason))
        if step is not None:
            _flip_back(step, box)


def _flip_back(step: SysctlStep, box: Box) -> None:
    """What the kernel has overwritten, as it was before we came."""
    for path, before in step.flips.items():
        if box.read_sysctl(path) not in (None, before):
            box.write_sysctl(path, before)


def _admit(accept: Accept, box: Box, changes: list[Change]) -> None:
    if not box.has_accept(accept):
        box.insert_accept(accept)
        changes.append(Change(f"accept in {accept.place}", accept.reason))


def _lead(route: PolicyRoute, box: Box, changes: list[Change]) -> None:
    if not all(box.has_parts(route)):
        box.add_route(route)
        changes.append(Change(route.place, route.reason))


class _Obsolete(Struct, frozen=True):
    """Steps of the journal that nothing desired needs."""

    sysctls: tuple[SysctlStep, ...] = ()
    accepts: tuple[Accept, ...] = ()
    routes: tuple[PolicyRoute, ...] = ()


def _put_back_obsolete(desired: Desired, box: Box, journal: Journal, changes: list[Change], state_dir: Path) -> None:
    """What an earlier configuration needed and this one does not, as after a change of the interface."""
    gone = _obsolete(desired, journal)
    if gone == _Obsolete():
        return
    done = [_restore(s, box) for s in reversed(gone.sysctls)]
    done += [*(_withdraw(r, box, desired.routes) for r in gone.routes), *(_remove(a, box) for a in gone.accepts)]
    changes.extend(Change(d.what, "no longer needed") for d in done if d.is_restored)
    kept = {
        "sysctls": tuple(s for s in journal.sysctls if s not in gone.sysctls),
        "accepts": tuple(a for a in journal.accepts if a not in gone.accepts),
        "routes": tuple(r for r in journal.routes if r not in gone.routes),
    }
    journals.save(msgspec.structs.replace(journal, **kept), state_dir)


def _obsolete(desired: Desired, journal: Journal) -> _Obsolete:
    paths, places = {s.path for s in desired.sysctls}, {_identity(a) for a in desired.accepts}
    routes = {r.place for r in desired.routes}
    return _Obsolete(
        tuple(s for s in journal.sysctls if s.path not in paths),
        tuple(a for a in journal.accepts if _identity(a) not in places),
        tuple(r for r in journal.routes if r.place not in routes),
    )


class _Done(Struct, frozen=True):
    """One step back. what: empty if nothing was left to do. is_restored: else it was left alone."""

    what: str = ""
    is_restored: bool = False
    is_left_alone: bool = False


def undo(box: Box, state_dir: Path = STATE_DIR, kept: Collection[str] = ()) -> Report:
    """Puts back all that the journal speaks of, looks whether it is back, then removes the journal.

    Values that somebody else changed since stay and are reported. No journal, or one of another boot: nothing to do.
    kept: names of children that go on; somebody else has written down that they do.
    Raises Problems, with the journal kept, for all that cannot be put back or is not back afterwards.
    """
    journal = journals.load(state_dir)
    if journal is None:
        journals.discard(state_dir)
        return Report()
    problems: list[Problem] = []
    children = tuple(c for c in journal.children if c.name not in kept)
    done = _step_back(msgspec.structs.replace(journal, children=children), box, problems)
    problems = problems or _not_back(journal, box)
    if problems:
        raise Problems(*problems)
    journals.discard(state_dir)
    return Report(
        restored=tuple(d.what for d in done if d.is_restored),
        left_alone=tuple(d.what for d in done if d.is_left_alone),
    )


def _step_back(journal: Journal, box: Box, problems: list[Problem]) -> list[_Done]:
    """Tries every step, the later ones too if one fails."""
    early = [s for s in journal.sysctls if not _is_redirect(s)]
    late = [s for s in journal.sysctls if _is_redirect(s)]
    steps = [
        *(partial(_end_child, c, box) for c in reversed(journal.children)),
        *(partial(_restore, s, box) for s in reversed(early)),
        partial(_drop_table, journal, box),
        *(partial(_withdraw, r, box) for r in reversed(journal.routes)),
        *(partial(_remove, a, box) for a in reversed(journal.accepts)),
        *(partial(_restore, s, box) for s in reversed(late)),
    ]
    done = []
    for step in steps:
        try:
            done.append(step())
        except Problems as found:
            problems.extend(found.problems)
    return done


def _end_child(step: ChildStep, box: Box) -> _Done:
    what = f"{step.name} ended" + (f"; {step.without}" if step.without else "")
    return _Done(what, is_restored=True) if box.end_child(step) else _Done()


def _restore(step: SysctlStep, box: Box) -> _Done:
    current = box.read_sysctl(step.path)
    if current is None:
        return _Done(f"{step.path}: gone, with its interface", is_left_alone=True)
    if current == step.before:
        _flip_back(step, box)
        return _Done()
    if current != step.wrote:
        what = f"{step.path}: {current}, neither what we wrote ({step.wrote}) nor what was there before ({step.before})"
        return _Done(what, is_left_alone=True)
    box.write_sysctl(step.path, step.before)
    _flip_back(step, box)
    return _Done(f"sysctl {step.path}={step.before}", is_restored=True)


def _drop_table(journal: Journal, box: Box) -> _Done:
    if journal.table is None or box.list_table() is None:
        return _Done()
    box.nft(f"delete table inet {TABLE}\n")
    return _Done(f"nft table inet {TABLE} removed", is_restored=True)


def _withdraw(route: PolicyRoute, box: Box, kept: Collection[PolicyRoute] = ()) -> _Done:
    """kept: others that stay; what their rules lead to stays too."""
    has_rule, has_route = box.has_parts(route)
    is_shared = any((it.family, it.table) == (route.family, route.table) for it in kept)
    if not has_rule and (is_shared or not has_route):
        return _Done()
    (box.delete_rule if is_shared else box.delete_route)(route)
    return _Done(f"{route.place} removed", is_restored=True)


def _remove(accept: Accept, box: Box) -> _Done:
    """Bounded: whoever inserts it as fast as we delete it shall not hold us here."""
    copies = 0
    while copies < _MAX_COPIES and box.has_accept(accept):
        box.delete_accept(accept)
        copies += 1
    return _Done(f"accept in {accept.place} removed", is_restored=True) if copies else _Done()


def _not_back(journal: Journal, box: Box) -> list[Problem]:
    problems = [
        Problem(step.path, f"still {step.wrote}, it was {step.before} before", _REMEDY)
        for step in journal.sysctls
        if box.read_sysctl(step.path) == step.wrote != step.before
    ]
    if journal.table is not None and box.list_table() is not None:
        problems.append(Problem(f"nft table inet {TABLE}", "still there after it was removed", _REMEDY))
    still = [a.place for a in journal.accepts if box.has_accept(a)]
    still += [r.place for r in journal.routes if any(box.has_parts(r))]
    return problems + [Problem(place, "our rule is still there after it was removed", _REMEDY) for place in still]
