"""From one ruleset of ours to another without losing what the kernel has learned: pure text.

Replacing the table would empty its sets: proofs, counters, and the memory of which datagram flows are masqueraded,
without which a QUIC connection would change its address in mid-flow. So rules go and come in one transaction, and a
set whose definition did not change stays with its elements.

`flush table` removes rules and nothing else (nft(8)); the rules of a batch are committed as one generation
(nf_tables_api.c, nf_tables_commit), so that no packet sees the table without them. Sets of intervals follow a moment
later (see `among`): new ones are made and filled in a transaction of their own, before the one that asks them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct

from sidegate.gateway.desired import TABLE

MOST_AT_ONCE = 2000
"""Elements in one transaction: nft may not widen its socket's buffer without CAP_NET_ADMIN of the machine itself
(socket(7), SO_SNDBUFFORCE), as in a container, and then some 4,000 intervals are "Message too long"."""

_BLOCK = re.compile(r"^\t(set|map|counter|chain) (\S+) \{\n(.*?)^\t\}\n", re.MULTILINE | re.DOTALL)


class Block(Struct, frozen=True):
    """A set or a chain of a ruleset. body: its lines."""

    kind: str
    name: str
    body: str

    @property
    def elements(self) -> str:
        """Of a set that the ruleset fills itself; empty for one that packets fill."""
        return next((line for line in self.body.splitlines() if line.strip().startswith("elements")), "")

    @property
    def definition(self) -> str:
        """What cannot be changed while it stands: all of a set but its elements, a base chain's first line."""
        if self.kind == "chain":
            return next((line for line in self.body.splitlines() if line.strip().startswith("type ")), "")
        return "".join(line for line in self.body.splitlines(keepends=True) if line.strip("\n") != self.elements)


def blocks(ruleset: str) -> dict[tuple[str, str], Block]:
    """By kind and name, in their order."""
    return {(kind, name): Block(kind, name, body) for kind, name, body in _BLOCK.findall(ruleset)}


def differences(old: str, new: str) -> list[str]:
    """What differs, as `chain source_nat`, in the order of the new ruleset, then what is gone."""
    before, after = blocks(old), blocks(new)
    changed = [f"{b.kind} {b.name}" for key, b in after.items() if before.get(key) != b]
    return changed + [f"{b.kind} {b.name} (gone)" for key, b in before.items() if key not in after]


def fresh(ruleset: str) -> list[str]:
    """The transactions that make the table anew: all but the elements of large sets, then these.

    Rules come before their sets hold anything, here alone: a home without masquerade is worse than one that is not
    split for a moment.
    """
    large = [b for b in blocks(ruleset).values() if _is_large(b)]
    for block in large:
        ruleset = ruleset.replace(_text(block), _text(_emptied(block)))
    return [ruleset, *(text for b in large for text in _filling(b))]


def transactions(old: str, new: str) -> list[str]:
    """What turns the table that `old` made into the one that `new` makes; sets that stay keep their elements.

    Sets that are the same are not told of, however many elements they hold; rules are few and all told again. A new
    set that is large or of intervals is filled before the last transaction, which is the one that counts. An old one of
    an unknown shape, as of another version, is replaced as a whole.
    """
    before, after = blocks(old), blocks(new)
    if not before:
        return fresh(new)
    told = [b for key, b in after.items() if b.kind == "chain" or before.get(key) != b]
    early = [b for b in told if (_is_large(b) or _is_of_intervals(b)) and (b.kind, b.name) not in before]
    lines = _clearing(before, after)
    lines += [_table(b for b in told if b not in early)]
    return [*_early(early), "\n".join(lines)]


def _early(sets: list[Block]) -> list[str]:
    if not sets:
        return []
    made = _table(_emptied(b) if _is_large(b) else b for b in sets)
    return [made, *(text for b in sets if _is_large(b) for text in _filling(b))]


def _clearing(before: dict[tuple[str, str], Block], after: dict[tuple[str, str], Block]) -> list[str]:
    """A chain may be gone only when no rule jumps to it, a set only when no rule asks it: first all rules go."""
    gone = [b for key, b in before.items() if key not in after or after[key].definition != b.definition]
    lines = [f"flush table inet {TABLE}"]
    lines += [f"delete {b.kind} inet {TABLE} {b.name}" for b in gone if b.kind == "chain"]
    lines += [f"delete {b.kind} inet {TABLE} {b.name}" for b in gone if b.kind != "chain"]
    return lines + [f"flush set inet {TABLE} {b.name}" for key, b in before.items() if _is_refilled(b, after.get(key))]


def _table(content: Iterable[Block]) -> str:
    return f"table inet {TABLE} {{\n" + "".join(map(_text, content)) + "}\n"


def _text(block: Block) -> str:
    return f"\t{block.kind} {block.name} {{\n{block.body}\t}}\n"


def _is_large(block: Block) -> bool:
    return block.kind == "set" and block.elements.count(",") >= MOST_AT_ONCE


def _is_of_intervals(block: Block) -> bool:
    return block.kind == "set" and bool(block.elements) and "flags interval" in block.body


def _emptied(block: Block) -> Block:
    return Block(block.kind, block.name, block.definition)


def _filling(block: Block) -> Iterator[str]:
    """The text between the braces, in parts."""
    elements = block.elements.partition("{")[2].rpartition("}")[0].split(",")
    for i in range(0, len(elements), MOST_AT_ONCE):
        part = ",".join(elements[i : i + MOST_AT_ONCE])
        yield f"add element inet {TABLE} {block.name} {{{part}}}\n"


def _is_refilled(before: Block, after: Block | None) -> bool:
    if after is None or before.kind != "set" or after.definition != before.definition:
        return False
    return bool(before.elements) and before.elements != after.elements
