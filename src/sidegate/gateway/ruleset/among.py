"""Values of which a packet is to have one, as nft asks for them. Pure.

Ranges among them are in a set with a name, which `nftchange` fills before any rule asks for it. The kernel goes over to
new rules in one moment and brings their sets of intervals up to date in the next (`nf_tables_api.c` nf_tables_commit:
the generation first, nft_set_commit_update last): in between, such a set that came with its rules holds nothing, and
neither does one in the rules themselves. At some ten thousand packets a second one to three of each change met that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec import Struct

from sidegate.gateway.ruleset.nfttext import constant


class Among(Struct, frozen=True):
    """what: of the packet, as `th dport`. kind: the set's type. values: one at least; ranges as `1-2` or networks."""

    what: str
    kind: str
    values: tuple[str, ...]

    @property
    def condition(self) -> str:
        if len(self.values) == 1:
            return f"{self.what} {self.values[0]}"
        return f"{self.what} @{self._name}" if self._is_named else f"{self.what} {{ {', '.join(self.values)} }}"

    @property
    def sets(self) -> dict[str, str]:
        """Name and text of the one that it needs, if any."""
        if not self._is_named:
            return {}
        return {self._name: constant(self._name, self.kind, self.values, "flags interval", "auto-merge")}

    @property
    def _is_named(self) -> bool:
        return len(self.values) > 1 and any("-" in value or "/" in value for value in self.values)

    @property
    def _name(self) -> str:
        """By what it holds: another set is made beside it, never this one filled anew."""
        return f"among_{digest(self.values)}"


def digest(elements: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(elements).encode()).hexdigest()[:12]
