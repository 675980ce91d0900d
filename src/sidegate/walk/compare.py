"""Model against kernel, hop by hop: node, interface, MACs, addresses, ports, TTL, what arrived, and conntrack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from sidegate.walk.data import ANY_PORT, Packet, Sighting, Tracked, Walk, sightings
from sidegate.walk.volley import Outcome

Direction = tuple[str, int, str, int]


def differences(model: Walk, kernel: Walk) -> list[str]:
    """What differs, each as a line; empty where the two agree.

    Sightings are compared interface by interface and direction by direction, each in its order. Between them the
    captured order is not that of the decisions: an arriving packet is stamped when it is queued (net/core/dev.c,
    netif_rx, netdev_tstamp_prequeue).
    """
    return [*_steps(model, kernel), *_paths(sightings(model), sightings(kernel)), *_verdicts(model, kernel),
            *_entries(model.entries, kernel.entries)]  # fmt: skip


def differences_of_volley(model: Outcome, kernel: Outcome) -> list[str]:
    """What differs at the one box."""
    return [*_paths(model.seen, kernel.seen), *_entries(model.entries, kernel.entries)]


def _steps(model: Walk, kernel: Walk) -> Iterator[str]:
    if model.steps != kernel.steps:
        ours, theirs = ([f"{s.title}: {s.arrived}" for s in w.steps] for w in (model, kernel))
        yield f"steps: model {ours}, kernel {theirs}"


def _paths(model: Iterable[Sighting], kernel: Iterable[Sighting]) -> Iterator[str]:
    ours, theirs = _by_interface(model), _by_interface(kernel)
    for key in sorted({*ours, *theirs}):
        mine, yours = ours.get(key, []), theirs.get(key, [])
        for i in range(max(len(mine), len(yours))):
            a, b = mine[i] if i < len(mine) else None, yours[i] if i < len(yours) else None
            if a is None or b is None or not _same(a, b):
                yield f"{key[0]}, {'out' if key[2] else 'in'} by {key[1]}, {i}: model {_text(a)}, kernel {_text(b)}"
                break


def _by_interface(seen: Iterable[Sighting]) -> dict[tuple[str, str, bool], list[Sighting]]:
    found: dict[tuple[str, str, bool], list[Sighting]] = {}
    for it in seen:
        found.setdefault((it.node, it.interface, it.out), []).append(it)
    return found


def _same(model: Sighting, kernel: Sighting) -> bool:
    if model == kernel:
        return True
    packet = _with_known_ports(model.packet, kernel.packet)
    return msgspec.structs.replace(model, packet=packet) == kernel


def _with_known_ports(model: Packet, kernel: Packet) -> Packet:
    """A port that the model calls unknown is whatever the kernel chose, but never 0. Numbers are not compared."""
    sport = kernel.sport if model.sport == ANY_PORT and kernel.sport else model.sport
    dport = kernel.dport if model.dport == ANY_PORT and kernel.dport else model.dport
    inner = _with_known_ports(model.inner, kernel.inner) if model.inner and kernel.inner else model.inner
    return msgspec.structs.replace(model, sport=sport, dport=dport, inner=inner, numbers=kernel.numbers)


def _text(it: Sighting | None) -> str:
    if it is None:
        return "nothing"
    p = it.packet
    inner = (
        f" about [{p.inner.src}:{p.inner.sport} -> {p.inner.dst}:{p.inner.dport} ttl {p.inner.ttl}]" if p.inner else ""
    )
    return (
        f"step {it.step} {p.protocol} {p.kind} {p.src}:{p.sport} -> {p.dst}:{p.dport} ttl {p.ttl} "
        f"{p.src_mac} -> {p.dst_mac}{inner}{' ' + p.gateway if p.gateway else ''}"
    )


def _verdicts(model: Walk, kernel: Walk) -> Iterator[str]:
    """A capture cannot tell every reason; where it says `unknown`, only the fact that nothing arrived is compared."""
    ours, theirs = model.verdict, kernel.verdict
    if theirs.code == "unknown" and ours.code != "delivered":
        if ours.code not in _ELSEWHERE and ours.node != theirs.node:
            yield f"verdict: model {ours.code}, it ends at {ours.node}; kernel: it ends at {theirs.node}"
    elif (_SEEN_AS.get(ours.code, ours.code), ours.return_path) != (theirs.code, theirs.return_path):
        yield f"verdict: model {ours.code} {ours.return_path}, kernel {theirs.code} {theirs.return_path}"


_SEEN_AS = {"masqueraded-mid-stream": "connection-reset"}
_ELSEWHERE = (
    "connection-refused",
    "connection-reset",
    "masqueraded-mid-stream",
    "rst-by-client",
    "ttl-exceeded",
    "loop",
    "unknown",
)
"""Verdicts whose node is where the cause lies, while the last packet seen is somebody's notice of it."""


def _entries(model: tuple[Tracked, ...], kernel: tuple[Tracked, ...]) -> Iterator[str]:
    left = list(kernel)
    for entry in sorted(model, key=lambda e: ANY_PORT in (*e.original, *e.reply)):
        match = next((k for k in left if _same_entry(entry, k)), None)
        if match is None:
            yield f"conntrack: model {[_entry(e) for e in model]}, kernel {[_entry(e) for e in kernel]}"
            return
        left.remove(match)
    if left:
        yield f"conntrack: only the kernel has {[_entry(e) for e in left]}"


def _same_entry(model: Tracked, kernel: Tracked) -> bool:
    if ANY_PORT not in (*model.original, *model.reply):
        return model == kernel
    original, reply = _filled(model.original, kernel.original), _filled(model.reply, kernel.reply)
    return msgspec.structs.replace(model, original=original, reply=reply) == kernel


def _filled(ours: Direction, theirs: Direction) -> Direction:
    """Ours, with whatever the kernel chose where a port is unknown."""
    return (ours[0], theirs[1] if ours[1] == ANY_PORT else ours[1],
            ours[2], theirs[3] if ours[3] == ANY_PORT else ours[3])  # fmt: skip


def _entry(it: Tracked) -> str:
    flags = f"{'' if it.replied else ' [UNREPLIED]'}{' [ASSURED]' if it.assured else ''}"
    return f"{it.node} {it.protocol} {it.state} {it.original} {it.reply}{flags}"
