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

Sets go by the names, so a rule whose names become others, as when its list is a newer one, has other sets, which a
resolver that was started for these names fills. The one before fills the sets before as long as it answers, and what
it was asked last it answers late. So the rule asks these as well (`still_asked`) until that one has ended; then what
they hold goes to `kept` (`carried`): which of it the rule still names shows as clients ask.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import structs

from sidegate.gateway.desired import TABLE
from sidegate.gateway.ruleset.nft import Element
from sidegate.gateway.ruleset.nftchange import blocks
from sidegate.gateway.ruleset.steer import LEARNED_S, LEARNED_SIZE
from sidegate.gateway.split.policy import Destination, Policy, Rule

MOVED_AFTER_S = min(LEARNED_S // 4, 86_400)
KEPT_S = 86_400
LOOK_EVERY_S = 600
"""Between looks for what is to be moved."""
_CROWDED = LEARNED_SIZE * 3 // 4
"""A full set takes no more addresses; from here on the oldest are moved early."""

_MOST_FORMER = 3
"""Changes that follow each other sooner than a resolver can be started anew."""

Sets = Mapping[str, Sequence[Element]]
"""The elements by the name of their set."""
Former = Mapping[str, tuple[Destination, ...]]
"""By the key of a rule's names: which it named before, the latest first, as long as these may still be learned."""


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


def former(old: Policy, new: Policy, before: Former) -> Former:
    """Once `new` is in force. before: of `old`. What another rule names now has its sets by that."""
    olds, news = _by_key(old), _by_key(new)
    places = {(rule.origin, rule.send): key for key, (rule, _) in olds.items()}
    found: dict[str, tuple[Destination, ...]] = {}
    for key, (rule, _) in news.items():
        heir = key if key in olds else places.get((rule.origin, rule.send))
        if heir is not None:
            named = [olds[heir][1]] if heir != key else []
            named = [it for it in (*named, *before.get(heir, ())) if it.names_key not in news]
            found[key] = tuple(named[:_MOST_FORMER])
    return {key: named for key, named in found.items() if named}


def still_asked(policy: Policy, before: Former) -> Policy:
    """For the kernel: each rule followed by itself with what it named before."""
    return structs.replace(policy, rules=tuple(it for rule in policy.rules for it in _with_former(rule, before)))


def _with_former(rule: Rule, before: Former) -> Iterator[Rule]:
    yield rule
    if rule.destination is not None and rule.destination.has_names:
        for destination in before.get(rule.destination.names_key, ()):
            yield structs.replace(rule, destination=destination)


def carried(before: Former, sets: Sets, versions: Sequence[int] = (4, 6)) -> str:
    """What follows, in one transaction, the ruleset that asks the sets before no more. sets: as they were."""
    return "".join(_carried(key, named, v, sets) for key, named in before.items() for v in versions)


def _carried(key: str, before: Iterable[Destination], version: int, sets: Sets) -> str:
    held = (sets.get(name_of(it.names_key, version), ()) for it in before for name_of in (names_set, kept_set))
    addresses = dict.fromkeys(it.key[0] for elements in held for it in elements)
    return _added(kept_set(key, version), [(address, KEPT_S) for address in addresses])


def opened(ruleset: str, names: Collection[str]) -> str:
    """The transaction that makes these sets of a ruleset before it is in force, for a resolver that is to fill them."""
    found = (b for (kind, name), b in blocks(ruleset).items() if kind == "set" and name in names)
    return "".join(f"table inet {TABLE} {{\n\tset {b.name} {{\n{b.body}\t}}\n}}\n" for b in found)


def _by_key(policy: Policy) -> dict[str, tuple[Rule, Destination]]:
    """One of the rules of each key, and what it names."""
    named = ((rule, it) for rule in policy.rules if (it := rule.destination) is not None and it.has_names)
    return {it.names_key: (rule, Destination(names=it.names, suffixes=it.suffixes)) for rule, it in named}


def _added(name: str, elements: Iterable[tuple[str, int]]) -> str:
    listed = ", ".join(f"{key} timeout {timeout_s}s" for key, timeout_s in elements)
    return f"add element inet {TABLE} {name} {{ {listed} }}\n" if listed else ""


def _removed(name: str, keys: Sequence[str]) -> str:
    """Adding first makes it work for those that are gone meanwhile: one failure would undo the whole transaction."""
    target = f"element inet {TABLE} {name} {{ {', '.join(keys)} }}"
    return f"add {target}\ndelete {target}\n"
