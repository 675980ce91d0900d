"""Names and networks gathered from many places -> one Destination without anything said twice."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from sidegate.gateway.split.names import is_below, parents
from sidegate.gateway.split.policy import Destination


class Gathered:
    """What was found so far. Networks: address as a number, length of the prefix; no bits behind the prefix."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.suffixes: set[str] = set()
        self.networks4: list[tuple[int, int]] = []
        self.networks6: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.names) + len(self.suffixes) + len(self.networks4) + len(self.networks6)

    def add_network(self, network: IPv4Network | IPv6Network) -> None:
        found = self.networks4 if network.version == 4 else self.networks6
        found.append((int(network.network_address), network.prefixlen))

    def destination(self) -> Destination:
        suffixes = {name for name in self.suffixes if not is_below(name, self.suffixes)}
        names = {name for name in self.names if name not in suffixes and not is_below(name, suffixes)}
        return Destination(
            names=tuple(sorted(names)),
            suffixes=tuple(sorted(suffixes)),
            networks4=tuple(map(IPv4Network, _collapsed(self.networks4, 32))),
            networks6=tuple(map(IPv6Network, _collapsed(self.networks6, 128))),
        )


def merged(parts: Iterable[Destination]) -> Destination:
    """All of them as one. What only one of them has is taken as it is: thousands of networks take their time."""
    parts = list(parts)
    named = [it for it in parts if it.has_names]
    nets4, nets6 = [it.networks4 for it in parts if it.networks4], [it.networks6 for it in parts if it.networks6]
    return Destination(
        *((named[0].names, named[0].suffixes) if len(named) == 1 else _names_of(named)),
        nets4[0] if len(nets4) == 1 else _gathered(parts, 4).networks4,
        nets6[0] if len(nets6) == 1 else _gathered(parts, 6).networks6,
    )


def _names_of(parts: Iterable[Destination]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    gathered = Gathered()
    for part in parts:
        gathered.names.update(part.names)
        gathered.suffixes.update(part.suffixes)
    found = gathered.destination()
    return found.names, found.suffixes


def _gathered(parts: Iterable[Destination], version: int) -> Destination:
    gathered = Gathered()
    for part in parts:
        for network in part.networks4 if version == 4 else part.networks6:
            gathered.add_network(network)
    return gathered.destination()


def holds_address(destination: Destination, address: IPv4Address | IPv6Address) -> bool:
    """Whether one of its networks does."""
    networks: Sequence[IPv4Network | IPv6Network] = (
        destination.networks4 if isinstance(address, IPv4Address) else destination.networks6
    )
    before = bisect_right(networks, int(address), key=lambda n: int(n.network_address)) - 1
    return before >= 0 and int(address) <= int(networks[before].broadcast_address)


def holds_name(destination: Destination, name: str) -> bool:
    """name: as `ascii_name` gives it."""
    return (
        _is_in(name, destination.names)
        or _is_in(name, destination.suffixes)
        or any(_is_in(parent, destination.suffixes) for parent in parents(name))
    )


def covers(wide: Destination, narrow: Destination) -> bool:
    """Whether everything of the narrow one is in the wide one."""
    if wide is narrow:
        return True
    names, suffixes = set(wide.names), set(wide.suffixes)
    return (
        all(n in names or n in suffixes or is_below(n, suffixes) for n in narrow.names)
        and all(s in suffixes or is_below(s, suffixes) for s in narrow.suffixes)
        and all(_holds_network(wide.networks4, n) for n in narrow.networks4)
        and all(_holds_network(wide.networks6, n) for n in narrow.networks6)
    )


def _holds_network(networks: Sequence[IPv4Network | IPv6Network], narrow: IPv4Network | IPv6Network) -> bool:
    """networks: sorted, of the same version."""
    before = bisect_right(networks, int(narrow.network_address), key=lambda n: int(n.network_address)) - 1
    return before >= 0 and int(networks[before].broadcast_address) >= int(narrow.broadcast_address)


def _is_in(name: str, sorted_names: tuple[str, ...]) -> bool:
    before = bisect_right(sorted_names, name) - 1
    return before >= 0 and sorted_names[before] == name


def _collapsed(networks: Iterable[tuple[int, int]], bits: int) -> list[tuple[int, int]]:
    """Sorted, none inside another, no two halves of one. Of two networks, one holds the other or they are apart."""
    found: list[tuple[int, int]] = []
    end = -1
    for address, length in sorted(networks):
        if address < end:
            continue
        end = address + (1 << (bits - length))
        while length and found and found[-1] == (address ^ (1 << (bits - length)), length):
            address, length = found.pop()[0], length - 1
        found.append((address, length))
    return found
