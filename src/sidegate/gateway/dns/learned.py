"""Pure: no address that a name had is forgotten while a client may still use it.

dnsmasq adds an address to a set when an answer comes in from outside, not when it answers from its cache; and adding
what is there leaves the old timeout (before Linux 6.12; nft_rhash_insert in net/netfilter/nft_set_hash.c). So an
element that just ends would end although its name was asked for a second ago, and the client's next connection would
go round the proxy. Hence two sets for each rule's names and family, and the rules ask both (`steer.learned_sets`):

- `names`: dnsmasq adds here. It is never left to its timeout, which lasts for when nobody looks.
- `kept`: what has been in `names` for a while is moved here, in one transaction, and stays KEPT_S.

Whoever is told such an address later than the move is told it from dnsmasq's cache, which keeps it for an hour at most
(CACHE_TTL_S) and lets clients keep it for a minute (CLIENT_TTL_S), or by an answer from outside, which puts it into
`names` again. So what ends in `kept` has been nobody's for long; when the move happens does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sidegate.gateway.desired import TABLE
from sidegate.gateway.ruleset.nft import Element
from sidegate.gateway.ruleset.steer import LEARNED_S, LEARNED_SIZE
from sidegate.gateway.split.policy import Policy, Rule

MOVED_AFTER_S = min(LEARNED_S // 4, 86_400)
KEPT_S = 86_400
LOOK_EVERY_S = 600
"""Between looks for what is to be moved."""
_CROWDED = LEARNED_SIZE * 3 // 4
"""A full set takes no more addresses; from here on the oldest are moved early."""

Sets = Mapping[str, Sequence[Element]]
"""The elements by the name of their set."""


def names_set(key: str, version: int) -> str:
    """key: `Destination.names_key`. version: 4 or 6."""
    return f"names_{key}_{version}"


def kept_set(key: str, version: int) -> str:
    return f"kept_{key}_{version}"


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
    """What follows, in one transaction, the ruleset that puts another policy in force: sets go by a rule's names.

    A rule whose names became others, as when its list is a newer one, keeps the addresses in `kept`: which of them it
    still names shows as clients ask. sets: as they were.
    """
    before = _keys(old)
    places = {(rule.origin, rule.send): key for key, rule in before.items()}
    heirs = {key: places.get((rule.origin, rule.send)) for key, rule in _keys(new).items() if key not in before}
    return "".join(_carried(heir, key, v, sets) for key, heir in heirs.items() if heir is not None for v in versions)


def _keys(policy: Policy) -> dict[str, Rule]:
    """One of the rules of each key."""
    return {r.destination.names_key: r for r in policy.rules if r.destination and r.destination.has_names}


def _carried(old: str, new: str, version: int, sets: Sets) -> str:
    held = (sets.get(name_of(old, version), ()) for name_of in (names_set, kept_set))
    addresses = dict.fromkeys(it.key[0] for elements in held for it in elements)
    return _added(kept_set(new, version), [(key, KEPT_S) for key in addresses])


def _added(name: str, elements: Iterable[tuple[str, int]]) -> str:
    listed = ", ".join(f"{key} timeout {timeout_s}s" for key, timeout_s in elements)
    return f"add element inet {TABLE} {name} {{ {listed} }}\n" if listed else ""


def _removed(name: str, keys: Sequence[str]) -> str:
    """Adding first makes it work for those that are gone meanwhile: one failure would undo the whole transaction."""
    target = f"element inet {TABLE} {name} {{ {', '.join(keys)} }}"
    return f"add {target}\ndelete {target}\n"
