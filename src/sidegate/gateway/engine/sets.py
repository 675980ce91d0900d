"""A policy's domains and networks as the file that Xray reads them from. Pure.

Xray shares one matcher among all routing rules that name the same set of such a file (common/geodata/domain_matcher.go,
buildDomainRulesKey), and no other: with 40 upstreams, 10,000 domains written into the configuration take 140 MB.

It travels as text, one thing a line, and becomes protobuf in the engine's own process (`geodata`), in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidegate.gateway.split.policy import Destination, Policy


def domains_of(rule: int) -> str:
    """The set of rule number so-and-so."""
    return f"D{rule}"


def networks_of(rule: int) -> str:
    return f"N{rule}"


def sets_text(policy: Policy) -> str:
    """`[D0]` begins a set; `.name`: that name and all below it; `=name`: that name alone; the rest are networks."""
    lines: list[str] = []
    for i, rule in enumerate(policy.rules):
        if rule.destination is not None:
            lines += _lines(i, rule.destination)
    return "".join(f"{line}\n" for line in lines)


def _lines(rule: int, it: Destination) -> Iterator[str]:
    if it.has_names:
        yield f"[{domains_of(rule)}]"
        yield from (f"={name}" for name in it.names)
        yield from (f".{name}" for name in it.suffixes)
    if it.networks4 or it.networks6:
        yield f"[{networks_of(rule)}]"
        yield from (str(network) for network in (*it.networks4, *it.networks6))
