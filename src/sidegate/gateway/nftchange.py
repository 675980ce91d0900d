"""From one ruleset of ours to another without losing what the kernel has learned: pure text.

Replacing the table would empty its sets: proofs, counters, and the memory of which datagram flows are masqueraded,
without which a QUIC connection would change its address in mid-flow. So rules go and come in one transaction, and a
set whose definition did not change stays with its elements.

`flush table` removes rules and nothing else (nft(8)); a batch is committed as one generation (nf_tables_api.c,
nf_tables_commit), so that no packet sees the table without its rules.
"""

from __future__ import annotations

import re

from msgspec import Struct

from sidegate.gateway.desired import TABLE

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
        return self.body.replace(self.elements, "")


def blocks(ruleset: str) -> dict[tuple[str, str], Block]:
    """By kind and name, in their order."""
    return {(kind, name): Block(kind, name, body) for kind, name, body in _BLOCK.findall(ruleset)}


def differences(old: str, new: str) -> list[str]:
    """What differs, as `chain source_nat`, in the order of the new ruleset, then what is gone."""
    before, after = blocks(old), blocks(new)
    changed = [f"{b.kind} {b.name}" for key, b in after.items() if before.get(key) != b]
    return changed + [f"{b.kind} {b.name} (gone)" for key, b in before.items() if key not in after]


def transaction(old: str, new: str) -> str:
    """What turns the table that `old` made into the one that `new` makes; sets that stay keep their elements.

    An old one of an unknown shape, as of another version, is replaced as a whole.
    """
    before, after = blocks(old), blocks(new)
    if not before:
        return new
    gone = [b for key, b in before.items() if key not in after or after[key].definition != b.definition]
    # A chain may be gone only when no rule jumps to it, a set only when no rule asks it: first all rules go.
    lines = [f"flush table inet {TABLE}"]
    lines += [f"delete {b.kind} inet {TABLE} {b.name}" for b in gone if b.kind == "chain"]
    lines += [f"delete {b.kind} inet {TABLE} {b.name}" for b in gone if b.kind != "chain"]
    lines += [f"flush set inet {TABLE} {b.name}" for key, b in before.items() if _is_refilled(b, after.get(key))]
    return "\n".join(lines) + "\n" + new[new.index(f"table inet {TABLE} {{") :]


def _is_refilled(before: Block, after: Block | None) -> bool:
    if after is None or before.kind != "set" or after.definition != before.definition:
        return False
    return bool(before.elements) and before.elements != after.elements
