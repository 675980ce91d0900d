"""Pure: ordered rules -> what dnsmasq, which takes the most specific name, has to be told for the same effect.

A name concerns the rules that name it, in order, up to the first one without another condition: that one decides for
everybody, so no later rule matters. Earlier ones, which ask for a client, a port or a protocol too, may decide for
some. So the addresses of a name belong into the learned sets of all of these, and it is asked through the engine if any
of them sends it there, or the default where none is without condition: the provider's answer for a name that is proxied
for one client only would be a lie to that client.

dnsmasq: `server=/x/` and `nftset=/x/` hold for x and all below it, the longest one counts, and `server=/*.x/` for what
is below x only (lookup_domain in src/domain-match.c). nftset knows no such form (domain_find_sets in src/forward.c): a
rule for `full:x` learns the addresses of names below x too, where no rule names those.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TypeVar

from msgspec import Struct

from sidegate.gateway.dns.resolver import Answer, Asked, Learned, NameTable
from sidegate.gateway.split.names import is_plain_name, parents
from sidegate.gateway.split.policy import BLOCK, DIRECT, Policy, Rule
from sidegate.problems import Problem, Problems

T = TypeVar("T")
_LONGEST = 253
_SHOWN = 60
MOST_RULES = 10
"""That may decide about one name: their sets must fit into one line for dnsmasq."""


class Verdict(Struct, frozen=True):
    """What the rules say of one name. rules: those that may decide about it, by their index, in order."""

    answer: Answer
    rules: tuple[int, ...] = ()


@lru_cache(maxsize=2)
def name_table(policy: Policy) -> NameTable:
    """Raises Problems for what is no name, whoever let it pass: dnsmasq would read it as something else.

    And where more than MOST_RULES rules may decide about one name.
    """
    book = _Book(policy)
    asked: dict[str, Answer] = {"": book.default.answer}
    learned: dict[str, tuple[str, ...]] = {"": ()}
    for name in sorted(book.named(), key=lambda n: (n.count("."), n)):
        above = tuple(parents(name))
        itself, below = book.verdicts(name, above)
        if _nearest(asked, above) != itself.answer:
            asked[name] = itself.answer
        if itself.answer != below.answer:
            asked[f"*.{name}"] = below.answer
        if len(itself.rules) > MOST_RULES:
            what = f"{name} is named by more than {MOST_RULES} rules with further conditions"
            raise Problems(Problem(policy.rules[itself.rules[MOST_RULES]].origin, what, "join some of them"))
        keys = book.keys(itself.rules)
        if itself.answer != "blocked" and _nearest(learned, above) != keys:
            learned[name] = keys
    default = asked.pop("")
    del learned[""]
    return NameTable(
        default,
        tuple(Asked(answer, names) for answer, names in _groups(asked)),
        tuple(Learned(keys, names) for keys, names in _groups(learned)),
    )


def is_name(text: str) -> bool:
    """Whether it is a domain name, lower case, in ASCII, without a dot at either end."""
    return len(text) <= _LONGEST and is_plain_name(text) is not None


class _Book:
    """The rules by the names that they name."""

    def __init__(self, policy: Policy) -> None:
        rules, self._default = _effective(policy)
        self._rules = rules
        self._keys: dict[tuple[int, ...], tuple[str, ...]] = {}
        self._verdicts: dict[tuple[int, ...], Verdict] = {}
        self._exact: dict[str, list[int]] = defaultdict(list)
        self._suffix: dict[str, list[int]] = defaultdict(list)
        for i, rule in enumerate(rules):
            if rule.destination is not None:
                _enter(self._exact, rule.destination.names, i)
                _enter(self._suffix, rule.destination.suffixes, i)
        _check(self.named(), policy)

    def named(self) -> set[str]:
        return {*self._exact, *self._suffix}

    @property
    def default(self) -> Verdict:
        return self._verdict(())

    def keys(self, rules: tuple[int, ...]) -> tuple[str, ...]:
        """Of the sets that these rules ask."""
        if rules not in self._keys:
            named = (it.names_key for i in rules if (it := self._rules[i].destination) is not None)
            self._keys[rules] = tuple(dict.fromkeys(named))
        return self._keys[rules]

    def verdicts(self, name: str, above: Iterable[str]) -> tuple[Verdict, Verdict]:
        """For a name, and for any name below it that no rule names. above: its parents."""
        below = {*self._suffix.get(name, ())}
        for parent in above:
            if parent in self._suffix:
                below.update(self._suffix[parent])
        itself = self._verdict(tuple(sorted(below.union(self._exact.get(name, ())))))
        return itself, self._verdict(tuple(sorted(below))) if name in self._exact else itself

    def _verdict(self, rules: tuple[int, ...]) -> Verdict:
        """rules: those that name it. Few combinations are met, each by many names."""
        if rules not in self._verdicts:
            self._verdicts[rules] = self._judge(rules)
        return self._verdicts[rules]

    def _judge(self, rules: Iterable[int]) -> Verdict:
        deciding: list[int] = []
        sends = set()
        for i in rules:
            deciding.append(i)
            sends.add(self._rules[i].send)
            if not _is_partial(self._rules[i]):
                break
        else:
            sends.add(self._default)
        if sends - {DIRECT, BLOCK}:
            return Verdict("proxied", tuple(deciding))
        return Verdict("blocked" if sends == {BLOCK} else "direct", tuple(deciding))


def _effective(policy: Policy) -> tuple[tuple[Rule, ...], str]:
    """The rules before one that matches everything, and what becomes of the rest."""
    for i, rule in enumerate(policy.rules):
        if rule.destination is None and not _is_partial(rule):
            return policy.rules[:i], rule.send
    return policy.rules, policy.default


def _is_partial(rule: Rule) -> bool:
    """Whether it asks for more than the destination."""
    return any(condition is not None for condition in (rule.source, rule.ports, rule.protocol))


def _enter(book: dict[str, list[int]], names: Iterable[str], i: int) -> None:
    for name in names:
        book[name].append(i)


def _nearest(told: Mapping[str, T], above: Iterable[str]) -> T:
    """What holds for a name by what was told of its parents; `""` is told of."""
    for parent in above:
        if (below := f"*.{parent}") in told:
            return told[below]
        if parent in told:
            return told[parent]
    return told[""]


def _groups(told: Mapping[str, T]) -> list[tuple[T, tuple[str, ...]]]:
    groups: dict[T, list[str]] = defaultdict(list)
    for name, value in told.items():
        groups[value].append(name)
    return [(value, tuple(sorted(names))) for value, names in groups.items()]


def _check(names: Iterable[str], policy: Policy) -> None:
    bad = sorted(name for name in names if not is_name(name))
    if bad:
        raise Problems(*(Problem(_origin(policy, name), f"{_shown(name)} is no domain name") for name in bad[:10]))


def _origin(policy: Policy, name: str) -> str:
    destinations = ((r.origin, r.destination) for r in policy.rules if r.destination)
    return next(origin for origin, it in destinations if name in it.names or name in it.suffixes)


def _shown(name: str) -> str:
    return ascii(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")
