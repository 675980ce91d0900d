"""Pure: no address that a name had is forgotten while a client may still use it.

dnsmasq adds an address to a set when an answer comes in from outside, not when it answers from its cache; and adding
what is there leaves the old timeout (before Linux 6.12; nft_rhash_insert in net/netfilter/nft_set_hash.c). So an
element that just ends would end although its name was asked for a second ago, and the client's next connection would
go round the proxy. Hence two sets for each rule and family, and the rules ask both (`steer.learned_sets`):

- `names`: dnsmasq adds here. It is never left to its timeout, which lasts for when nobody looks.
- `kept`: what has been in `names` for a while is moved here, in one transaction, and stays KEPT_S.

Whoever is told such an address later than the move is told it from dnsmasq's cache, which keeps it for an hour at most
(CACHE_TTL_S) and lets clients keep it for a minute (CLIENT_TTL_S), or by an answer from outside, which puts it into
`names` again. So what ends in `kept` has been nobody's for long; when the move happens does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from sidegate.gateway.desired import TABLE
from sidegate.gateway.nft import Element
from sidegate.gateway.split.policy import Policy, Rule
from sidegate.gateway.steer import LEARNED_S, LEARNED_SIZE, learned_sets

MOVED_AFTER_S = min(LEARNED_S // 4, 86_400)
KEPT_S = 86_400
LOOK_EVERY_S = 600
"""Between looks for what is to be moved."""
_CROWDED = LEARNED_SIZE * 3 // 4
"""A full set takes no more addresses; from here on the oldest are moved early."""

Sets = Mapping[str, Sequence[Element]]
"""The elements by the name of their set."""


def names_set(rule: int, version: int) -> str:
    """rule: its index in the policy. version: 4 or 6."""
    return f"names{rule}_{version}"


def kept_set(rule: int, version: int) -> str:
    return f"kept{rule}_{version}"


_BOTH: tuple[Callable[[int, int], str], ...] = (names_set, kept_set)


def ageing(sets: Sets) -> str:
    """The transaction that moves what is old, whether or not it is still there then. Empty for nothing to move."""
    return "".join(_move(name, elements) for name, elements in sets.items() if name.startswith("names"))


def _move(name: str, elements: Sequence[Element]) -> str:
    old = [it.key[0] for it in _old(elements)]
    kept = name.replace("names", "kept", 1)
    return _removed(name, old) + _removed(kept, old) + _added(kept, [(key, KEPT_S) for key in old]) if old else ""


def _old(elements: Sequence[Element]) -> list[Element]:
    """Of elements without an end, which our sets do not hold, all."""
    by_age = sorted(elements, key=lambda it: it.expires_s or 0)
    too_many = max(0, len(by_age) - _CROWDED)
    return [it for i, it in enumerate(by_age) if i < too_many or (it.expires_s or 0) <= LEARNED_S - MOVED_AFTER_S]


def carried(old: Policy, new: Policy, sets: Sets, versions: Sequence[int] = (4, 6)) -> str:
    """What follows, in one transaction, the ruleset that puts another policy in force: sets go by a rule's place.

    A rule that only moved takes its addresses along. One that became another, in the same place of the configuration
    and with the same aim, keeps them in `kept`: which of them it still names shows as clients ask. sets: as they were.
    """
    text = "".join(f"flush set inet {TABLE} {name}\n" for name in learned_sets(new, versions))
    for i, rule in enumerate(old.rules):
        for version in versions:
            text += _carried_to(_heirs(rule, old, new), version, sets, i)
    return text


def _carried_to(heirs: tuple[int | None, int | None], version: int, sets: Sets, old: int) -> str:
    same, like = heirs
    held = [(name_of, sets.get(name_of(old, version), ())) for name_of in _BOTH]
    if same is not None:
        return "".join(_added(name_of(same, version), _with_time_left(elements)) for name_of, elements in held)
    if like is not None:
        addresses = dict.fromkeys(it.key[0] for _, elements in held for it in elements)
        return _added(kept_set(like, version), [(key, KEPT_S) for key in addresses])
    return ""


def _heirs(rule: Rule, old: Policy, new: Policy) -> tuple[int | None, int | None]:
    """The same rule, and one that took its place and is no other old one, by their index."""
    named = [(i, it) for i, it in enumerate(new.rules) if it.destination and it.destination.has_names]
    same = (i for i, it in named if _is_same(it, rule))
    like = (
        i
        for i, it in named
        if (it.origin, it.send) == (rule.origin, rule.send) and not any(_is_same(it, other) for other in old.rules)
    )
    return next(same, None), next(like, None)


def _is_same(one: Rule, other: Rule) -> bool:
    """Wherever they stand."""
    return msgspec.structs.replace(one, origin=other.origin) == other


def _with_time_left(elements: Iterable[Element]) -> list[tuple[str, int]]:
    return [(it.key[0], it.expires_s or 1) for it in elements]


def _added(name: str, elements: Iterable[tuple[str, int]]) -> str:
    listed = ", ".join(f"{key} timeout {timeout_s}s" for key, timeout_s in elements)
    return f"add element inet {TABLE} {name} {{ {listed} }}\n" if listed else ""


def _removed(name: str, keys: Sequence[str]) -> str:
    """Adding first makes it work for those that are gone meanwhile: one failure would undo the whole transaction."""
    target = f"element inet {TABLE} {name} {{ {', '.join(keys)} }}"
    return f"add {target}\ndelete {target}\n"
