"""The one question of STUN that a NAT must answer: from which address does what I send arrive? (RFC 8489)"""

from __future__ import annotations

import os
import struct
from ipaddress import ip_address

_COOKIE = 0x2112A442  # section 5
_REQUEST, _SUCCESS = 0x0001, 0x0101
_XOR_MAPPED_ADDRESS = 0x0020  # section 14.2
_HEADER = struct.Struct("!HHI12s")


def question() -> bytes:
    """A binding request."""
    return _HEADER.pack(_REQUEST, 0, _COOKIE, os.urandom(12))


def answer(asked: bytes, asker: tuple[str, int]) -> bytes:
    """What the server says to a binding request that came from `asker`; nothing to anything else."""
    if len(asked) < _HEADER.size:
        return b""
    kind, _, cookie, transaction = _HEADER.unpack_from(asked)
    if (kind, cookie) != (_REQUEST, _COOKIE):
        return b""
    address, port = ip_address(asker[0]), asker[1]
    pad = struct.pack("!I", _COOKIE) + transaction
    value = struct.pack("!BBH", 0, 1 if address.version == 4 else 2, port ^ (_COOKIE >> 16))
    value += bytes(a ^ b for a, b in zip(address.packed, pad, strict=False))
    attribute = struct.pack("!HH", _XOR_MAPPED_ADDRESS, len(value)) + value
    return _HEADER.pack(_SUCCESS, len(attribute), _COOKIE, transaction) + attribute


def mapped(said: bytes) -> tuple[str, int] | None:
    """The address and port in an answer that begins with it, as `answer` makes them; None for anything else."""
    if len(said) < _HEADER.size + 12:
        return None
    kind, _, cookie, transaction = _HEADER.unpack_from(said)
    attribute, length = struct.unpack_from("!HH", said, _HEADER.size)
    if (kind, cookie, attribute) != (_SUCCESS, _COOKIE, _XOR_MAPPED_ADDRESS) or length not in (8, 20):
        return None
    if len(said) < _HEADER.size + 4 + length:
        return None
    port = struct.unpack_from("!H", said, _HEADER.size + 6)[0] ^ (_COOKIE >> 16)
    pad = struct.pack("!I", _COOKIE) + transaction
    packed = said[_HEADER.size + 8 : _HEADER.size + 4 + length]
    return str(ip_address(bytes(a ^ b for a, b in zip(packed, pad, strict=False)))), port
