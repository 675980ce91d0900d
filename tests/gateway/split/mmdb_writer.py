"""A writer of MMDB files, after https://maxmind.github.io/MaxMind-DB/: as much as the tests need."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any, NamedTuple

Network = IPv4Network | IPv6Network


class Number(NamedTuple):
    """kind: 5, 6 and 9 are of 16, 32 and 64 bits at the most."""

    kind: int
    value: int


def mmdb(records: Mapping[Network, Any], record_bits: int = 24, ip_version: int = 6, *, aliased: bool = True) -> bytes:
    """aliased: in a tree of IPv6, 2002::/16 leads to the IPv4 addresses, as in MaxMind's own files."""
    tree = _tree(records, ip_version)
    if aliased and ip_version == 6:
        _graft(tree, 0x2002, 16, _descend(tree, 0, 96))
    nodes = _numbered(tree)
    data, places = b"", {}
    for record in records.values():
        encoded = _encode(record)
        if encoded not in places:
            places[encoded] = len(data)
            data += encoded
    index = {id(node): number for number, node in enumerate(nodes)}

    def value(it: Any) -> int:
        if it is None:
            return len(nodes)
        return index[id(it)] if isinstance(it, list) else len(nodes) + 16 + places[_encode(it[0])]

    search = b"".join(_node(value(left), value(right), record_bits) for left, right in nodes)
    about = {
        "node_count": Number(6, len(nodes)),
        "record_size": Number(5, record_bits),
        "ip_version": Number(5, ip_version),
        "database_type": "Test",
        "languages": [],
        "binary_format_major_version": Number(5, 2),
        "binary_format_minor_version": Number(5, 0),
        "build_epoch": Number(9, 1),
        "description": {},
    }
    return search + b"\0" * 16 + data + b"\xab\xcd\xefMaxMind.com" + _encode(about)


def _tree(records: Mapping[Network, Any], ip_version: int) -> list[Any]:
    """Nodes are lists of two: a node, None, or a leaf: a tuple of its record."""
    root: list[Any] = [None, None]
    for network, record in records.items():
        bits, address = network.max_prefixlen, int(network.network_address)
        ahead = 96 if network.version == 4 and ip_version == 6 else 0
        _graft(root, address >> (bits - network.prefixlen), ahead + network.prefixlen, (record,))
    return root


def _graft(root: list[Any], path: int, length: int, what: Any) -> None:
    node = root
    for i in range(length - 1, 0, -1):
        bit = path >> i & 1
        if node[bit] is None:
            node[bit] = [None, None]
        node = node[bit]
    node[path & 1] = what


def _descend(node: Any, path: int, length: int) -> Any:
    for i in range(length - 1, -1, -1):
        node = node[path >> i & 1] if isinstance(node, list) else None
    return node


def _numbered(root: list[Any]) -> list[list[Any]]:
    found, waiting, seen = [], [root], {id(root)}
    while waiting:
        node = waiting.pop()
        found.append(node)
        for child in node:
            if isinstance(child, list) and id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)
    return found


def _node(left: int, right: int, record_bits: int) -> bytes:
    if record_bits == 28:
        high = (left >> 24) << 4 | right >> 24
        return (left & 0xFFFFFF).to_bytes(3, "big") + bytes([high]) + (right & 0xFFFFFF).to_bytes(3, "big")
    return left.to_bytes(record_bits // 8, "big") + right.to_bytes(record_bits // 8, "big")


def _encode(value: Any) -> bytes:
    if isinstance(value, str):
        return _head(2, len(value.encode())) + value.encode()
    if isinstance(value, Number):
        raw = value.value.to_bytes((value.value.bit_length() + 7) // 8, "big")
        return _head(value.kind, len(raw)) + raw
    if isinstance(value, dict):
        return _head(7, len(value)) + b"".join(_encode(k) + _encode(v) for k, v in value.items())
    return _head(11, len(value)) + b"".join(_encode(v) for v in value)


def _head(kind: int, size: int) -> bytes:
    first = (kind << 5 if kind < 8 else 0) | min(size, 29)
    extended = bytes([kind - 7]) if kind >= 8 else b""
    return bytes([first]) + extended + (bytes([size - 29]) if size >= 29 else b"")
