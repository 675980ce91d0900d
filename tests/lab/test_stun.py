"""STUN, told to itself and as RFC 5769 has it."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from sidegate.lab.stun import answer, mapped, question

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
XOR_MAPPED_V4 = bytes.fromhex("0020 0008 0001a147e112a643")
XOR_MAPPED_V6 = bytes.fromhex("0020 0014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9")


def said(attribute: bytes) -> bytes:
    return b"\1\1" + len(attribute).to_bytes(2) + bytes.fromhex("2112a442") + TRANSACTION + attribute


def test_the_addresses_of_rfc_5769_are_read() -> None:
    """Sections 2.2 and 2.3: the same transaction, the XOR-MAPPED-ADDRESS of each."""
    assert mapped(said(XOR_MAPPED_V4)) == ("192.0.2.1", 32853)
    assert mapped(said(XOR_MAPPED_V6)) == ("2001:db8:1234:5678:11:2233:4455:6677", 32853)


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(addresses, st.integers(0, 65535))
def test_what_is_answered_is_read_again(address: IPv4Address | IPv6Address, port: int) -> None:
    asked = question()
    reply = answer(asked, (str(address), port))
    assert mapped(reply) == (str(address), port)
    assert reply[8:20] == asked[8:20]


@given(st.binary(max_size=60))
def test_anything_else_is_not_answered_and_not_read(data: bytes) -> None:
    assert answer(data, ("1.2.3.4", 5)) == b""
    assert mapped(data) is None
    assert mapped(said(XOR_MAPPED_V6[:4] + data[:19])) is None


def test_our_own_question_is_no_answer() -> None:
    assert mapped(question()) is None
    assert socket.inet_aton("33.18.164.66") == question()[4:8]
