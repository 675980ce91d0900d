"""The text of `sets` as the file that Xray reads: protobuf. Pure, and small: the engine's process imports it.

The messages are those of common/geodata/geodat.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network

FILE = "100"
"""Its name, below the directory that XRAY_LOCATION_ASSET names: a file descriptor of the engine's process."""
_SUFFIX, _FULL = 2, 3
"""Domain.Type."""


def pieces(lines: Iterable[str]) -> Iterator[bytes]:
    """The lines of `sets_text` -> pieces of a file: GeoSiteList or GeoIPList, whose framing is the same."""
    entry = bytearray()
    for line in (raw.rstrip("\n") for raw in lines):
        if line.startswith("["):
            yield from _framed(entry)
            entry = bytearray(_bytes(1, line[1:-1].encode()))
        else:
            entry += _bytes(2, _item(line))
    yield from _framed(entry)


def _framed(entry: bytearray) -> Iterator[bytes]:
    if entry:
        yield _bytes(1, bytes(entry))


def _item(line: str) -> bytes:
    if line[0] in ".=":
        kind = _SUFFIX if line[0] == "." else _FULL
        return b"\x08" + _varint(kind) + _bytes(2, line[1:].encode())
    network = ip_network(line)
    return _bytes(1, network.network_address.packed) + b"\x10" + _varint(network.prefixlen)


def _bytes(field: int, data: bytes) -> bytes:
    """A length-delimited field (protobuf's "Encoding", wire type 2)."""
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
