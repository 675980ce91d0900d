"""Firewalls of the owner: which of their chains would drop what passes this box or is for it. Looks, changes none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from sidegate.gateway.box import programs
from sidegate.gateway.desired import TABLE, Backend, Hook

_LEGACY: dict[int, tuple[str, Backend]] = {4: ("ip", "iptables-legacy"), 6: ("ip6", "ip6tables-legacy")}
_CT_STATE = {"ct": {"key": "state"}}


class ForeignDrop(Struct, frozen=True):
    """A foreign chain that would drop what we forward, or what is for this box; why: what in it does."""

    backend: Backend
    family: str
    table: str
    chain: str
    why: str


def drops(listing: str, hook: Hook) -> tuple[ForeignDrop, ...]:
    """On this hook now. listing: of `nft --json --terse list ruleset`. Raises Problems."""
    return (*map(_by_iptables, parse_drops(listing, hook)), *_legacy_drop(hook, 4), *_legacy_drop(hook, 6))


def parse_drops(text: str, hook: Hook) -> tuple[ForeignDrop, ...]:
    """Foreign chains on this hook that drop, in what `nft --json --terse list ruleset` printed.

    That is: by policy, by a last rule for everything (firewalld), or, of what is forwarded, by a rule of the chain
    itself that drops `ct state invalid`, which half flows are. What a chain that is jumped to drops is the owner's
    wish.
    """
    objects = json.loads(text)["nftables"]
    rules = [o["rule"] for o in objects if "rule" in o]
    chains = [c for c in (o["chain"] for o in objects if "chain" in o) if _is_foreign(c, hook)]
    judged = [(c, _why_drops(c, [r for r in rules if _belongs(r, c)], hook)) for c in chains]
    return tuple(ForeignDrop("nft", c["family"], c["table"], c["name"], why) for c, why in judged if why)


def _is_foreign(chain: dict[str, Any], hook: Hook) -> bool:
    own = chain["family"] == "inet" and chain["table"] == TABLE
    return chain.get("hook") == hook and chain["family"] in ("ip", "ip6", "inet") and not own


def _belongs(rule: dict[str, Any], chain: dict[str, Any]) -> bool:
    return (rule["family"], rule["table"], rule["chain"]) == (chain["family"], chain["table"], chain["name"])


def _why_drops(chain: dict[str, Any], rules: list[dict[str, Any]], hook: Hook) -> str:
    if chain.get("policy") == "drop":
        return "its policy is drop"
    if rules and _is_final(rules[-1]["expr"]):
        return "its last rule drops everything"
    if hook == "forward" and any(_drops_invalid(r["expr"]) for r in rules):
        return "it drops ct state invalid, which half flows are"
    return ""


def _verdicts(expr: list[dict[str, Any]]) -> set[str]:
    return {key for statement in expr for key in statement}


def _is_final(expr: list[dict[str, Any]]) -> bool:
    kinds = _verdicts(expr)
    return bool(kinds & {"drop", "reject"}) and kinds <= {"drop", "reject", "counter", "log", "limit", "comment"}


def _drops_invalid(expr: list[dict[str, Any]]) -> bool:
    if any(_maps_invalid(s["vmap"]) for s in expr if "vmap" in s):
        return True
    matches = [s["match"] for s in expr if "match" in s] if _verdicts(expr) & {"drop", "reject"} else []
    return any(m["left"] == _CT_STATE and "invalid" in json.dumps(m["right"]) for m in matches)


def _maps_invalid(vmap: dict[str, Any]) -> bool:
    pairs = vmap["data"]["set"] if vmap["key"] == _CT_STATE and isinstance(vmap["data"], dict) else []
    return any(state == "invalid" and "drop" in verdict for state, verdict in pairs)


def _by_iptables(drop: ForeignDrop) -> ForeignDrop:
    """A chain of iptables-nft is best changed by iptables-nft, or iptables-save could no longer print it."""
    programs_of: dict[str, Backend] = {"ip": "iptables-nft", "ip6": "ip6tables-nft"}
    program = programs_of.get(drop.family)
    if program is None or drop.table != "filter" or drop.chain not in ("FORWARD", "INPUT"):
        return drop
    if programs.find(program) is None:
        return drop
    status, _, _ = programs.attempt(program, "-w", "5", "-S", drop.chain)
    return drop if status else ForeignDrop(program, drop.family, "filter", drop.chain, drop.why)


def _legacy_drop(hook: Hook, version: Literal[4, 6]) -> tuple[ForeignDrop, ...]:
    """Asked only where the kernel has the table already: iptables-legacy would create it by asking."""
    family, program = _LEGACY[version]
    names = Path(f"/proc/net/{family}_tables_names")
    if not names.exists() or "filter" not in names.read_text().split() or programs.find(program) is None:
        return ()
    chain = hook.upper()
    if f"-P {chain} DROP" not in programs.run(program, "-w", "5", "-S", chain).splitlines():
        return ()
    return (ForeignDrop(program, family, "filter", chain, "its policy is drop"),)
