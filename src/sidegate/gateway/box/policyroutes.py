"""Routes by mark, through `ip`: a rule, and the table that it leads to."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from msgspec import Struct

from sidegate.gateway.box import programs
from sidegate.gateway.desired import PolicyRoute
from sidegate.problems import Problem, Problems

_Listed = dict[str, Any]
_LOCAL = {"priority": 0, "src": "all", "table": "local"}


class Rival(Struct, frozen=True):
    """A rule of somebody else's that is asked before ours. source, destination: None for any. text: as `ip` prints."""

    text: str
    source: IPv4Network | IPv6Network | None = None
    destination: IPv4Network | IPv6Network | None = None


def has_parts(route: PolicyRoute) -> tuple[bool, bool]:
    """Whether its rule is there, and whether the route in its table is. Raises Problems."""
    return _has_rule(route), _has_route(route)


def add(route: PolicyRoute) -> None:
    """Adds what of it is not there, the route first. Raises Problems, also where the table is somebody else's."""
    if not _has_route(route):
        _check_table(route)
        programs.run("ip", f"-{route.family}", "route", "add", *_route(route))
    if not _has_rule(route):
        programs.run("ip", f"-{route.family}", "rule", "add", *_rule(route))


def delete(route: PolicyRoute) -> None:
    """Deletes what of it is there, the rule first. Raises Problems."""
    delete_rule(route)
    if _has_route(route):
        programs.run("ip", f"-{route.family}", "route", "delete", *_route(route))


def delete_rule(route: PolicyRoute) -> None:
    """Deletes the rule alone, if it is there. Raises Problems."""
    if _has_rule(route):
        programs.run("ip", f"-{route.family}", "rule", "delete", *_rule(route))


def rivals(route: PolicyRoute) -> list[Rival] | None:
    """Those that the kernel asks before our rule, in order; None where ours is not there. Raises Problems."""
    listed = _rules(route)
    places = [place for place, rule in enumerate(listed) if _is_ours(rule, route)]
    return [_rival(rule) for rule in listed[: places[0]] if rule != _LOCAL] if places else None


def _rule(route: PolicyRoute) -> list[str]:
    """Never the priority alone: at priority 0 there are others, that of the table `local` too."""
    return ["priority", str(route.rank), "fwmark", f"{route.mark:#x}/{route.mask:#x}", "lookup", str(route.table)]


def _route(route: PolicyRoute) -> list[str]:
    return ["local", "default", "dev", "lo", "table", str(route.table)]


def _has_rule(route: PolicyRoute) -> bool:
    return any(_is_ours(rule, route) for rule in _rules(route))


def _rules(route: PolicyRoute) -> list[_Listed]:
    listed: list[_Listed] = json.loads(programs.run("ip", "-json", f"-{route.family}", "rule", "show") or "[]")
    return listed


def _is_ours(rule: _Listed, route: PolicyRoute) -> bool:
    """Nothing but that: a rule with one more condition is another one."""
    mark = {"fwmark": f"{route.mark:#x}", "fwmask": f"{route.mask:#x}"}
    return rule == {"priority": route.rank, "src": "all", **mark, "table": str(route.table)}


def _rival(rule: _Listed) -> Rival:
    """As iproute2 prints it (ip/iprule.c print_rule), but for conditions that are rare."""
    source, destination = _side(rule, "src"), _side(rule, "dst")
    words = ["not"] if "not" in rule else []
    words += ["from", source or "all", *(["to", destination] if destination else [])]
    words += [f"{key} {rule[key]}" for key in ("fwmark", "iif", "oif") if key in rule]
    words.append(f"lookup {rule['table']}" if "table" in rule else str(rule.get("action", "")))
    if "not" in rule:
        # Its networks are those that it does not take.
        return Rival(" ".join(words))
    return Rival(" ".join(words), _network(source), _network(destination))


def _side(rule: _Listed, side: str) -> str:
    """Empty for any address."""
    address = rule.get(side, "all")
    if address == "all":
        return ""
    return f"{address}/{rule[f'{side}len']}" if f"{side}len" in rule else str(address)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    return ip_network(text, strict=False) if text else None


def _check_table(route: PolicyRoute) -> None:
    others = [it for it in _routes(route) if not _is_our_route(it)]
    if others:
        where = f"ip -{route.family} route show table {route.table}"
        what = f"routing table {route.table} is somebody else's: it has a route to {others[0].get('dst', '?')}"
        remedy = f"see `{where}`: let whoever made them use another table, or delete them"
        raise Problems(Problem(f"IPv{route.family}", what, remedy))


def _has_route(route: PolicyRoute) -> bool:
    return any(_is_our_route(it) for it in _routes(route))


def _is_our_route(found: _Listed) -> bool:
    return found.items() >= {"type": "local", "dst": "default", "dev": "lo"}.items()


def _routes(route: PolicyRoute) -> list[_Listed]:
    """Of its table. One that was never filled is none (`fib_frontend.c` inet_dump_fib)."""
    arguments = ("ip", "-json", f"-{route.family}", "route", "show", "table", str(route.table))
    status, out, err = programs.attempt(*arguments)
    if status and "does not exist" not in err:
        raise Problems(Problem(" ".join(arguments), err.strip()))
    listed: list[_Listed] = [] if status else json.loads(out or "[]")
    return listed
