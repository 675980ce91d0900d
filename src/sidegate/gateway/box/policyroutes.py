"""Routes by mark, through `ip`: a rule, and the table that it leads to."""

from __future__ import annotations

import json

from sidegate.gateway.box import programs
from sidegate.gateway.desired import PolicyRoute
from sidegate.problems import Problem, Problems


def has_parts(route: PolicyRoute) -> tuple[bool, bool]:
    """Whether its rule is there, and whether the route in its table is. Raises Problems."""
    return _has_rule(route), _has_route(route)


def add(route: PolicyRoute) -> None:
    """Adds what of it is not there, the route first. Raises Problems."""
    if not _has_route(route):
        programs.run("ip", f"-{route.family}", "route", "add", *_route(route))
    if not _has_rule(route):
        programs.run("ip", f"-{route.family}", "rule", "add", *_rule(route))


def delete(route: PolicyRoute) -> None:
    """Deletes what of it is there, the rule first. Raises Problems."""
    if _has_rule(route):
        programs.run("ip", f"-{route.family}", "rule", "delete", *_rule(route))
    if _has_route(route):
        programs.run("ip", f"-{route.family}", "route", "delete", *_route(route))


def _rule(route: PolicyRoute) -> list[str]:
    table = str(route.table)
    return ["priority", table, "fwmark", f"{route.mark:#x}/{route.mask:#x}", "lookup", table]


def _route(route: PolicyRoute) -> list[str]:
    return ["local", "default", "dev", "lo", "table", str(route.table)]


def _has_rule(route: PolicyRoute) -> bool:
    listed = programs.run("ip", "-json", f"-{route.family}", "rule", "show", "priority", str(route.table))
    wanted = {"fwmark": f"{route.mark:#x}", "fwmask": f"{route.mask:#x}", "table": str(route.table)}
    return any(rule.items() >= wanted.items() for rule in json.loads(listed or "[]"))


def _has_route(route: PolicyRoute) -> bool:
    """A table that was never filled is none (`fib_frontend.c` inet_dump_fib)."""
    arguments = ("ip", "-json", f"-{route.family}", "route", "show", "table", str(route.table))
    status, listed, err = programs.attempt(*arguments)
    if status and "does not exist" not in err:
        raise Problems(Problem(" ".join(arguments), err.strip()))
    wanted = {"type": "local", "dst": "default", "dev": "lo"}
    return not status and any(found.items() >= wanted.items() for found in json.loads(listed or "[]"))
