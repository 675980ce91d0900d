"""The networks that a rule names, as sets of nft: of thousands, and asked for every connection that begins. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Literal

from msgspec import Struct

from sidegate.gateway.ruleset.among import digest
from sidegate.gateway.ruleset.nfttext import constant

_AROUND_BITS = 16
_AROUND_MASK = "255.255.0.0"
_MOST_AROUND = 16384
"""A quarter of all that there are: with more of them too few addresses would be spared the longer look."""


class Listed(Struct, frozen=True):
    """The networks of one rule and family. name: of their set, by what it holds, so that it stays when rules before it
    come or go. around: see `surroundings`.

    With every protocol beside each network: by that it is no plain set of intervals, all of which libnftables reads
    whenever anybody adds an element to any set (`cache.c` netlink_list_setelems, NFT_CACHE_SETELEM_MAYBE), as our
    resolver does for each new address of a name: 23 ms and 14 MB with 10,000 networks.
    """

    version: Literal[4, 6]
    name: str
    elements: tuple[str, ...]
    around: tuple[str, ...]

    def sets(self) -> Iterator[tuple[str, str]]:
        """Name and text of each."""
        kind = f"ipv{self.version}_addr"
        yield self.name, constant(self.name, f"{kind} . inet_proto", self.elements, "flags interval")
        if self.around:
            yield self._surrounding, constant(self._surrounding, kind, self.around, f"size {len(self.around)}")

    @property
    def conditions(self) -> list[str]:
        """What matches a packet to an address that one of them holds; the first spares most others the second."""
        near = [f"ip daddr & {_AROUND_MASK} @{self._surrounding}"] if self.around else []
        return [*near, f"{'ip' if self.version == 4 else 'ip6'} daddr . meta l4proto @{self.name}"]

    @property
    def _surrounding(self) -> str:
        return f"around_{self.name}"


@lru_cache(maxsize=16)
def listed(version: Literal[4, 6], networks: tuple[IPv4Network | IPv6Network, ...]) -> Listed:
    """Kept: the same lists come again with every look at the box. networks: all of this version."""
    elements = tuple(f"{network} . 0-255" for network in networks)
    around = surroundings(it for it in networks if isinstance(it, IPv4Network))
    return Listed(version, f"networks_{digest(elements)}_{version}", elements, around)


def surroundings(networks: Iterable[IPv4Network]) -> tuple[str, ...]:
    """The first address of each /16 in which any of these networks lies, or a part of one; none for too many.

    The look into the networks costs half a microsecond, since the kernel saves the vector registers for it
    (`nft_set_pipapo_avx2.c` nft_pipapo_avx2_lookup, kernel_fpu_begin), the one for the /16 a tenth (`nft_set_hash.c`
    nft_hash_lookup_fast, which needs a set's size). Most of what goes straight has nothing listed near it.
    """
    found: set[int] = set()
    for network in networks:
        first, last = (int(a) >> _AROUND_BITS for a in (network.network_address, network.broadcast_address))
        found.update(range(first, last + 1))
        if len(found) > _MOST_AROUND:
            return ()
    return tuple(str(IPv4Address(it << _AROUND_BITS)) for it in sorted(found))
