"""A blueprint as text: what the lab will build, machine by machine, for people and for golden files."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from sidegate.lab.blueprint import Blueprint, End, Machine, Wire


def listing(plan: Blueprint) -> str:
    """The usual settings, then each machine with what it has of its own, then every wire."""
    common = _usual(plan)
    blocks = [
        ["every machine that says nothing else", *(_setting(*setting) for setting in common)],
        *([machine.name, *_machine(machine, plan, common)] for machine in plan.machines),
        ["wires", *(f"    {_wire(wire)}" for wire in plan.wires)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _usual(plan: Blueprint) -> list[tuple[str, str]]:
    """Each setting with the value that most machines have; of equals the first."""
    values: dict[str, list[str]] = {}
    for machine in plan.machines:
        for path, value in machine.settings:
            values.setdefault(path, []).append(value)
    return [(path, statistics.mode(found)) for path, found in values.items()]


def _setting(path: str, value: str) -> str:
    return f"    {path.replace('/', '.')} = {value}"


def _machine(machine: Machine, plan: Blueprint, common: list[tuple[str, str]]) -> Iterator[str]:
    for bridge in machine.bridges:
        ports = ", ".join(e.interface for e in _ends(plan) if (e.machine, e.bridge) == (machine.name, bridge.name))
        yield f"    bridge {bridge.name} ({bridge.mac}): {ports}"
    yield from (f"    ip {line}" for line in machine.addresses)
    yield from (_setting(*setting) for setting in machine.settings if setting not in common)
    for rules in machine.rules:
        yield f"    {' '.join(rules.program)}"
        yield from (f"        {line}" for line in rules.text.splitlines())
    yield from (f"    run {' '.join(daemon)}" for daemon in machine.daemons)
    yield from (f"    {service} at {address} port {port}" for service, address, port in machine.listens)
    if machine.resolver:
        yield f"    resolver {machine.resolver}"


def _ends(plan: Blueprint) -> Iterator[End]:
    for wire in plan.wires:
        yield from (wire.near, wire.far)


def _wire(wire: Wire) -> str:
    rate = f", {wire.rate_mbit:g} Mbit/s" if wire.rate_mbit is not None else ""
    return f"{_end(wire.near)} -- {_end(wire.far)}{rate}{', cut' if wire.cut else ''}"


def _end(end: End) -> str:
    bridge = f" in {end.bridge}" if end.bridge else ""
    return f"{end.machine}:{end.interface}{bridge} ({end.mac}, {end.index})"
