"""A plan as text for a terminal: what to do first, what to expect, every way, what is not known."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from sidegate.plan.data import KINDS, Ground, Kind, Path, Plan, Prediction, Question, Way, Wish
from sidegate.plan.making import capital
from sidegate.render.words import clean

WIDTH = 110
_PATH_WORDS: dict[Path, str] = {
    "direct": "direct",
    "masqueraded": "masquerade",
    "none": "OFFLINE",
    "unknown": "unknown",
}
_HEADS: dict[Kind, str] = {"wired": "cable", "wifi": "Wi-Fi", "mesh-wired": "mesh cable", "mesh-wifi": "mesh Wi-Fi"}
_PROXY_WORDS = {"all": "a proxy for all devices", "some": "a proxy for some devices", "none": "no proxy"}


def plan_text(plan: Plan) -> str:
    """The whole plan: the best way in full, the others in a table."""
    best = plan.best
    parts = [
        _title(plan),
        _section("In short", _items(plan.conclusion)),
        _section("What to do, in this order", _numbered(_first_steps(plan))),
        _section("What to expect", _expectations(best, plan.wish)),
        _section("Your devices, as their probes found them", _devices(best)),
        _section("What will not work as before", _items(best.breaks)),
        _section("If the box dies", _numbered(best.back)),
        _section(f"Who is masqueraded: the choices, with {best.id}", _table(plan.nat_choices)),
        _section("All ways, best first", _all_ways(plan)),
        _section("Not known of this router", _questions(plan.questions)),
        _section("Known of this router", _known(plan)),
        _section("Advice of the catalogue for this router", _items(plan.remedies)),
        _section("Notes", _items(plan.notes)),
        _next(plan),
    ]
    return "\n".join(part for part in parts if part)


def way_text(plan: Plan, way: Way) -> str:
    """One way in full."""
    parts = [
        f"{clean(plan.title)}: {way.title} ({way.id})\n",
        _section(f"Possible with this router: {way.possible}", _items(map(_full_ground, way.grounds))),
        _section("What to do, in this order", _numbered(way.steps)),
        _section("What to expect", _expectations(way, plan.wish)),
        _section("Your devices, as their probes found them", _devices(way)),
        _section("What will not work as before", _items(way.breaks)),
        _section("If the box dies", _numbered(way.back)),
        _section("Advice of the catalogue for this router", _items(plan.remedies)),
        _section("Notes", _items(plan.notes if way.nat else ())),
        _section("Why it stands where it does", _items(p.why for p in way.points)),
    ]
    return "\n".join(part for part in parts if part)


def _title(plan: Plan) -> str:
    wish = [_PROXY_WORDS[plan.wish.proxy]]
    wish += ["IPv6 too"] if plan.wish.ipv6 else []
    wish += ["a standby box"] if plan.wish.standby else []
    return f"{clean(plan.title)}: {', '.join(wish)}\n"


def _first_steps(plan: Plan) -> tuple[str, ...]:
    """A question that could put another way first comes before everything that has to be done."""
    asked = [q for field in plan.ask_first for q in plan.questions if q.field == field]
    questions = (
        f"Find out: {q.ask} {capital(q.find_out)}. Then: {plan.command} --answer {q.field}=yes (or no)" for q in asked
    )
    return (*questions, *plan.best.steps)


def _section(title: str, lines: Iterable[str]) -> str:
    body = list(lines)
    return "\n".join([title.upper(), *body, ""]) if body else ""


def _items(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from _wrapped(text, "  - ")


def _numbered(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts, start=1):
        yield from _wrapped(text, f"  {number}. ")


def _wrapped(text: str, start: str) -> Iterator[str]:
    indent = " " * len(start)
    yield from textwrap.wrap(
        clean(text),
        WIDTH,
        initial_indent=start,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


# What to expect


def _expectations(way: Way, wish: Wish) -> Iterator[str]:
    """A line for each kind of device; twice where the router's bridge filter is unknown."""
    if not way.predictions:
        return
    unknown = _filter_is_unknown(way)
    head = ("DEVICE", *(["ROUTER'S BRIDGE"] if unknown else []), "IPv4", "UP", "DOWN", "PORT LOAD", "PORT FORWARDS")
    rows = [_expectation(p, unknown) for p in way.predictions]
    yield from _columns(head, rows)
    yield from _legend(way, wish)


def _filter_is_unknown(way: Way) -> bool:
    return len({p.bridge_filter for p in way.predictions}) == 2


def _expectation(prediction: Prediction, unknown: bool) -> tuple[str, ...]:
    bridge = ["filters" if prediction.bridge_filter else "does not filter"] if unknown else []
    load = f"{prediction.port_up} up, {prediction.port_down} down" if prediction.path != "none" else "-"
    path = _PATH_WORDS[prediction.path] + ("*" if prediction.undecided else "")
    return (
        _HEADS[prediction.kind],
        *bridge,
        path,
        _way_of(prediction.up),
        _way_of(prediction.down),
        load,
        " and ".join(p.upper() for p in prediction.port_forwards) or "broken",
    )


def _way_of(nodes: Sequence[str]) -> str:
    names = {"gateway": "box"}
    return f"{len(nodes)}: {', '.join(names.get(n, n) for n in nodes)}" if nodes else "-"


def _legend(way: Way, wish: Wish) -> Iterator[str]:
    legend = (
        "UP, DOWN: who forwards each packet. PORT LOAD: bytes through the box's port for each byte up- or downloaded."
        if way.nat
        else "UP, DOWN: who forwards each packet."
    )
    yield ""
    yield from _wrapped(legend, "  ")
    if way.nat and wish.proxy != "none" and all(p.proxied for p in way.predictions):
        yield from _wrapped("Proxied connections work for every kind, and come back by the box.", "  ")
    if all(p.ipv6 == "direct" for p in way.predictions):
        yield from _wrapped(_ipv6(way, wish), "  ")
    undecided = sorted({field for p in way.predictions for field in p.undecided})
    if undecided:
        yield from _wrapped(f"* the worst case; it depends on what is not known: {', '.join(undecided)}", "  ")


def _ipv6(way: Way, wish: Wish) -> str:
    if way.nat and wish.ipv6:
        return "IPv6, where your provider gives it, goes out by the box; answers come by the router directly."
    if way.nat and wish.proxy != "none":
        return "IPv6 is not used by devices that ask the box for names; for all others it works, by the router itself."
    return "IPv6, where your provider gives it, works for every kind, by the router itself."


def _devices(way: Way) -> Iterator[str]:
    if way.devices:
        rows = [(d.ip, clean(d.name), _PATH_WORDS[d.path], clean(d.why)) for d in way.devices]
        yield from _columns(("ADDRESS", "NAME", "IPv4", "WHY"), rows)


# All ways


def _all_ways(plan: Plan) -> Iterator[str]:
    yield from _table(plan.ways)
    yield ""
    for number, way in enumerate(plan.ways, start=1):
        yield from _wrapped(f"{way.id}: {way.title}.", f"  {number}. ")
        yield from _wrapped(f"{capital(_telling(way))}.", "     ")


def _telling(way: Way) -> str:
    """Why a way stands where it does; of an impossible one only why it is."""
    grounds = "; ".join(_ground(g) for g in way.grounds)
    if way.possible == "no":
        return f"not possible with this router: {grounds}"
    return "; ".join([*(p.why for p in way.points), *([grounds] if way.possible == "unknown" else [])])


def _table(ways: Sequence[Way]) -> Iterator[str]:
    if not ways:
        return
    head = ("WAY", "POSSIBLE", *(_HEADS[kind].upper() for kind in KINDS), "FORWARDS UP+DOWN")
    yield from _columns(head, [_row(way) for way in ways])


def _row(way: Way) -> tuple[str, ...]:
    if way.possible == "no":
        return (way.id, way.possible, *("-" for _ in KINDS), "-")
    cells = [_either(_PATH_WORDS[p.path] for p in way.predictions if p.kind == kind) for kind in KINDS]
    forwards = sorted({(len(p.up), len(p.down)) for p in way.predictions if p.path != "none"})
    return (way.id, way.possible, *cells, " or ".join(f"{up}+{down}" for up, down in forwards) or "-")


def _either(words: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(words))


# What is known


def _questions(questions: Iterable[Question]) -> Iterator[str]:
    for question in questions:
        yield from _wrapped(f"{question.ask} Decides {question.decides}.", "  ? ")
        yield from _wrapped(
            f"{capital(question.find_out)}{f': `{question.probe}` answers this' if question.probe else ''}.", "    "
        )
        yield f"    {question.answer}"


def _known(plan: Plan) -> Iterator[str]:
    yield from _items(capital(_ground(g)) for g in plan.known)
    sources = dict.fromkeys(g.source for g in plan.known if g.source.startswith("http"))
    yield from _items(f"Source: {source}" for source in sources)


def _ground(ground: Ground) -> str:
    """What it says, with the class of its evidence."""
    evidence = f" [{ground.evidence}]" if ground.evidence else ""
    return clean(ground.says) + evidence


def _full_ground(ground: Ground) -> str:
    """With source and note."""
    more = ". ".join(clean(part) for part in (ground.source, ground.note) if part)
    return capital(_ground(ground)) + (f": {more}" if more else "")


def _next(plan: Plan) -> str:
    lines = [f"One way in full: {plan.command} --way WAY"]
    if plan.best.nat is not None:
        lines.insert(0, f"Its config file: {plan.command} --config-for {plan.best.id}")
    return "\n".join(lines) + "\n"


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
