"""The name that a client's first octets show: of a TLS ClientHello, or of an HTTP request. Pure.

It means the same as Xray's sniffing (app/dispatcher, common/protocol/tls/sniff.go, http/sniff.go), and takes a hello in
several records as well. What is no host name of the internet's is none here: a client may write there what it likes,
and an upstream is given it.
"""

from __future__ import annotations

import re

MOST_SHOWN = 1 << 14
"""Octets that are looked at: a hello with post-quantum keys has 1,800."""
SHARED_ECH_NAMES = frozenset({"cloudflare-ech.com"})
"""The outer name of whatever hides its own (draft-ietf-tls-esni) says nothing of where it goes: it is no name here."""
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9_-]{1,63}", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
"""As the last label: what some take for an address of IPv4 (the URL standard's "ends in a number")."""
_METHODS = (b"get ", b"post ", b"head ", b"put ", b"delete ", b"options ", b"connect ", b"patch ")
_HOST = re.compile(rb"\nhost:([^\r\n]*)\r?\n", re.IGNORECASE)
_END_OF_HEADER = re.compile(rb"\n\r?\n")
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0
_LONGEST_RECORD = 1 << 14
_MOST_PARTS = 512
"""Of records and of extensions: 4,000 of them take ten milliseconds, which all other connections would wait."""


class _Short(Exception):
    """There is less than what is said to be there."""


def shown_name(data: bytes) -> str | None:
    """In small letters; "" where they show none; None where more of them may."""
    if not data:
        return None
    found = _of_hello(data) if data[0] == _HANDSHAKE else _of_request(data)
    if found is None:
        return None if len(data) < MOST_SHOWN else ""
    return host_name(found.decode("latin-1"))


def host_name(text: str) -> str:
    """As upstreams are given it; "" where it is none, or none of the internet's."""
    name = text.lower().removesuffix(".")
    is_name = _NAME.fullmatch(name) and not _NUMBER.fullmatch(name.rpartition(".")[2])
    return name if is_name and name not in SHARED_ECH_NAMES else ""


# HTTP


def _of_request(data: bytes) -> bytes | None:
    """RFC 9112 section 3.2; what has a line without an end is waited for."""
    begin = data[: max(map(len, _METHODS))].lower()
    if not begin.startswith(_METHODS):
        return None if any(method.startswith(begin) for method in _METHODS) else b""
    end = _END_OF_HEADER.search(data)
    found = _HOST.search(data, 0, end.end() if end else len(data))
    if found:
        return _without_port(found[1].strip(b" \t"))
    return b"" if end else None


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    return name if colon and (port.isdigit() or not port) else host


# TLS


def _of_hello(data: bytes) -> bytes | None:
    """RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3. It may show its name before all of it is there."""
    message, may_go_on = _of_records(data)
    if message[:1] not in (b"", bytes([_CLIENT_HELLO])):
        return b""
    length = int.from_bytes(message[1:4], "big")
    is_whole = len(message) >= 4 + length and len(message) >= 4
    try:
        return _server_name(message[4 : 4 + length] if is_whole else message[4:])
    except _Short:
        return b"" if is_whole or not may_go_on else None


def _of_records(data: bytes) -> tuple[bytes, bool]:
    """What the records hold, as far as they are there, and whether more of it may follow."""
    message, at = b"", 0
    for _ in range(_MOST_PARTS):
        header = data[at : at + 5]
        if not header or not _may_begin_record(header):
            return message, not header
        length = int.from_bytes(header[3:], "big")
        message += data[at + 5 : at + 5 + length]
        at += 5 + length
    return message, False


def _may_begin_record(header: bytes) -> bool:
    """Of a handshake; as far as it is there."""
    is_kind = header[0] == _HANDSHAKE and header[1:2] in (b"", b"\3")
    return is_kind and (len(header) < 5 or 0 < int.from_bytes(header[3:], "big") <= _LONGEST_RECORD)


def _server_name(hello: bytes) -> bytes:
    """Raises _Short."""
    at = 2 + 32
    at += 1 + _number(hello, at, 1)
    at += 2 + _number(hello, at, 2)
    at += 1 + _number(hello, at, 1)
    end = at + 2 + _number(hello, at, 2)
    at += 2
    for _ in range(_MOST_PARTS):
        if at >= end:
            break
        kind, length = _number(hello, at, 2), _number(hello, at + 2, 2)
        if kind == _SERVER_NAME:
            return _first_host(_part(hello, at + 4, length))
        at += 4 + length
    return b""


def _first_host(names: bytes) -> bytes:
    """There are no other kinds of names, and one of a kind (RFC 6066 section 3)."""
    length = int.from_bytes(names[3:5], "big")
    is_there = names[2:3] == bytes([_HOST_NAME]) and len(names) >= 5 + length
    return names[5 : 5 + length] if is_there else b""


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(_part(data, at, size), "big")


def _part(data: bytes, at: int, size: int) -> bytes:
    part = data[at : at + size]
    if len(part) < size:
        raise _Short
    return part
