"""A walk as text, with the article's ①②③; what a device changed stands between asterisks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sidegate.render.walk_legs import Ending, Journey, Leg, changed, circled, end_of
from sidegate.walk.data import ANY_PORT, Decision, Packet, Tracked
from sidegate.walk.laws import LAWS

_QUIET = {"neighbour", "hardware", "fdb", "up", "route", "ttl", "local", "socket"}
"""Laws that say nothing surprising; told only in the long text."""


def walk_text(it: Journey, why: bool = False) -> str:
    """The journey step by step, the verdict, and what conntrack holds. why: every decision, with its kernel source."""
    lines = [it.walk.title, ""]
    for number, step in enumerate(it.walk.steps):
        lines.append(f"{step.title}{'' if step.arrived else ': fails'}")
        for part in it.parts:
            if part.step == number:
                lines += _leg(part, why) if isinstance(part, Leg) else _ending(part, why)
        lines.append("")
    lines += _verdict(it)
    if it.walk.entries:
        lines += ["", "conntrack afterwards", *(f"  {entry_text(entry)}" for entry in it.walk.entries)]
    return "\n".join(lines).rstrip() + "\n"


def _verdict(it: Journey) -> Iterator[str]:
    verdict = it.walk.verdict
    where = f" (at {verdict.node})" if verdict.node else ""
    yield f"{verdict.code}{where}: {verdict.says}"
    if verdict.remedy:
        yield f"  remedy: {verdict.remedy}"


def _leg(leg: Leg, why: bool) -> Iterator[str]:
    yield from _decisions(leg.start, leg.decisions, why)
    yield f"  {circled(leg.number)} {leg.start} → {leg.end}  {packet_text(leg.packet, *changed(leg))}"


def _ending(ending: Ending, why: bool) -> Iterator[str]:
    if ending.begun and ending.packet is not None:
        yield f"  ✗ {ending.device} cannot send {packet_text(ending.packet)}"
    yield from _decisions(ending.device, ending.decisions, why, quiet=frozenset() if ending.begun else _QUIET)


def _decisions(
    device: str, decisions: Sequence[Decision], why: bool, quiet: frozenset[str] | set[str] = _QUIET
) -> Iterator[str]:
    for decision in decisions:
        if why or decision.law not in quiet:
            source = f"  [{LAWS[decision.law].source}]" if why else ""
            yield f"      {device}: {sentence(decision)}{source}"


def sentence(decision: Decision) -> str:
    """A decision in words."""
    return LAWS[decision.law].says.format(*decision.about)


def packet_text(packet: Packet, new_source: bool = False, new_destination: bool = False) -> str:
    """kind, source → destination, TTL; what is new stands between asterisks."""
    source = _starred(end_of(packet.src, packet.sport, packet.protocol), new_source)
    destination = _starred(end_of(packet.dst, packet.dport, packet.protocol), new_destination)
    kind = packet.kind if packet.protocol != "udp" else "UDP"
    about = f", about {packet_text(packet.inner)}" if packet.inner else ""
    gateway = f", use {packet.gateway}" if packet.gateway else ""
    return f"{kind} {source} → {destination}  ttl {packet.ttl}{gateway}{about}"


def _starred(text: str, star: bool) -> str:
    return f"**{text}**" if star else text


def entry_text(entry: Tracked) -> str:
    """A conntrack entry, nearly as `conntrack -L` prints it."""
    state = f" {entry.state}" if entry.state else ""
    unreplied = "" if entry.replied else " [UNREPLIED]"
    assured = " [ASSURED]" if entry.assured else ""
    return (
        f"{entry.node}: {entry.protocol}{state} {_direction(entry.protocol, entry.original)}{unreplied}"
        f" {_direction(entry.protocol, entry.reply)}{assured}"
    )


def _direction(protocol: str, it: tuple[str, int, str, int]) -> str:
    src, sport, dst, dport = it
    shown = "?" if sport == ANY_PORT else sport
    if protocol == "icmp":
        return f"src={src} dst={dst} id={shown}"
    return f"src={src} dst={dst} sport={shown} dport={'?' if dport == ANY_PORT else dport}"
