"""What the box should look like: pure data, each item with its reason."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

TABLE = "sidegate"
"""Our only table, of family inet."""
COMMENT = "sidegate"
"""The comment of every rule of ours in a table of somebody else's: by it the rule is found again."""

Backend = Literal["nft", "iptables-nft", "iptables-legacy"]


class Sysctl(Struct, frozen=True):
    """path: below /proc/sys, separated by `/`, so that an interface such as eth0.10 works."""

    path: str
    value: str
    reason: str


class Accept(Struct, frozen=True):
    """A rule at the top of a foreign forward chain: what goes in and out by this interface may pass."""

    backend: Backend
    family: str
    table: str
    chain: str
    interface: str
    reason: str

    @property
    def place(self) -> str:
        """The chain, as a person writes it."""
        return f"{self.backend} {self.family} {self.table} {self.chain}"


class Desired(Struct, frozen=True):
    """sysctls and accepts in the order in which they are applied; `forwarding` is the very last.

    ruleset: the transaction that replaces our table. ruleset_reason: what it does, in words.
    """

    sysctls: tuple[Sysctl, ...]
    accepts: tuple[Accept, ...]
    ruleset: str
    ruleset_reason: str
