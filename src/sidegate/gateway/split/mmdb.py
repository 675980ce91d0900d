"""The networks of countries out of a MaxMind DB file (MMDB, https://maxmind.github.io/MaxMind-DB/).

The reader's own iteration decodes a record and makes an object for every network of the world. Here the search tree is
walked instead, and each record decoded once: most networks share theirs.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import maxminddb

from sidegate.gateway.split.destinations import Gathered
from sidegate.problems import Problem, Problems

_IPV4_DEPTH = 96
"""Where in an IPv6 tree the IPv4 addresses begin."""
_DAMAGED = "is damaged, or no MMDB file"


def networks_of(path: Path, countries: Collection[str]) -> dict[str, Gathered]:
    """countries: upper case. Those that the file does not know are empty. Raises Problems."""
    found = {country: Gathered() for country in countries}
    try:
        with (
            maxminddb.open_database(path) as reader,
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            _gather(_Tree(data, reader.metadata()), _Country(reader), found)
    except OSError as error:
        raise Problems(Problem(str(path), f"cannot be read: {error.strerror or error}")) from None
    except (maxminddb.InvalidDatabaseError, ValueError, IndexError) as error:
        raise Problems(Problem(str(path), _DAMAGED, str(error))) from None
    return found


def _gather(tree: _Tree, country_at: _Country, found: dict[str, Gathered]) -> None:
    for address, length, record in tree.leaves4():
        gathered = found.get(country_at(record, IPv4Address, address))
        if gathered is not None:
            gathered.networks4.append((address, length))
    for address, length, record in tree.leaves6():
        gathered = found.get(country_at(record, IPv6Address, address))
        if gathered is not None:
            gathered.networks6.append((address, length))


class _Country:
    """The country of a record; empty where it has none."""

    def __init__(self, reader: maxminddb.Reader) -> None:
        self._reader = reader
        self._known: dict[int, str] = {}

    def __call__(self, record: int, kind: type[IPv4Address | IPv6Address], address: int) -> str:
        """record: its place in the file. address: the number of one that has it."""
        if record not in self._known:
            self._known[record] = country_of(self._reader.get(kind(address)))
        return self._known[record]


def country_of(record: Any) -> str:
    """Its two letters, upper case; empty where the record names none.

    MaxMind and DB-IP: country.iso_code; IPinfo: country_code or country; sing-geoip: the record itself.
    """
    if isinstance(record, dict):
        country = record.get("country")
        record = country.get("iso_code") if isinstance(country, dict) else record.get("country_code", country)
    return record.upper() if isinstance(record, str) and len(record) == 2 else ""


class _Tree:
    """The binary search tree at the file's beginning ("Binary Search Tree Section")."""

    def __init__(self, data: mmap.mmap, metadata: Any) -> None:
        """Raises ValueError."""
        self._count: int = metadata.node_count
        self._bits = 128 if metadata.ip_version == 6 else 32
        self._read = node_reader(data, metadata.record_size)
        self._left = 2 * self._count + _IPV4_DEPTH
        self._start4 = self._count if self._bits == 128 else 0
        if self._bits == 128:
            self._start4 = self._first4()

    def leaves4(self) -> Iterator[tuple[int, int, int]]:
        """Address, length of the prefix, record: of each IPv4 network with one. Raises ValueError."""
        return self._leaves(self._start4, 32)

    def leaves6(self) -> Iterator[tuple[int, int, int]]:
        """IPv4 addresses, of which an IPv6 tree may hold aliases, left out. Raises ValueError."""
        return self._leaves(0, 128) if self._bits == 128 else iter(())

    def _first4(self) -> int:
        node = 0
        for _ in range(_IPV4_DEPTH):
            if node >= self._count:
                break
            node = self._read(node)[0]
        return node

    def _leaves(self, start: int, bits: int) -> Iterator[tuple[int, int, int]]:
        count, read, skipped = self._count, self._read, self._start4 if bits == 128 else -1
        waiting = [(start, 0, 0)]
        while waiting:
            node, address, depth = waiting.pop()
            if node > count:
                if node != skipped:
                    yield address << (bits - depth), depth, node
            elif node != count and node != skipped:
                self._left -= 1
                if self._left < 0 or depth == bits:
                    raise ValueError("its search tree is no tree")
                left, right = read(node)
                waiting.append((right, address << 1 | 1, depth + 1))
                waiting.append((left, address << 1, depth + 1))


def node_reader(data: mmap.mmap, record_bits: int) -> Callable[[int], tuple[int, int]]:
    """Node -> what lies left and right of it ("Node Layout"). Raises ValueError for a size that does not exist."""
    number = int.from_bytes

    def read24(node: int) -> tuple[int, int]:
        at = node * 6
        return number(data[at : at + 3], "big"), number(data[at + 3 : at + 6], "big")

    def read28(node: int) -> tuple[int, int]:
        at = node * 7
        both = number(data[at : at + 7], "big")
        return (both >> 32) | ((both >> 4) & 0xF000000), both & 0xFFFFFFF

    def read32(node: int) -> tuple[int, int]:
        at = node * 8
        return number(data[at : at + 4], "big"), number(data[at + 4 : at + 8], "big")

    readers = {24: read24, 28: read28, 32: read32}
    if record_bits not in readers:
        raise ValueError(f"records of {record_bits} bits")
    return readers[record_bits]
