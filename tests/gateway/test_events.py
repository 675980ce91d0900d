"""What the kernel tells: bytes as a kernel sent them, and bytes as nobody should."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.gateway.box.events import Changed, Met, parse
from sidegate.gateway.ruleset.nft import Client

# As `ip neigh`, `ip addr`, `ip route`, `nft` caused them on Linux 6.18; v0 has index 77. An address brings a route.
CAPTURED = {
    "reachable": (
        "4c0000001c0000000000000032050000020000004d00000002000001080001000a0900020a00020002000000009900000800"
        "0400000000001400030000000000000000000000000002000000"
    ),
    "stale": (
        "4c0000001c0000000000000034050000020000004d00000004000001080001000a0900020a00020002000000009900000800"
        "0400000000001400030005000000050000000000000001000000"
    ),
    "failed": (
        "400000001c0000000000000036050000020000004d00000020000001080001000a0900020800040000000000140003000a00"
        "00000a0000000500000001000000"
    ),
    "deleted": (
        "400000001d0000000000000000000000020000004d00000020000001080001000a0900020800040000000000140003000f00"
        "00000f0000000a00000000000000"
    ),
    "v6": (
        "580000001c000000000000003a0500000a0000004d0000008000000114000100fd0000000000000000000000000000020a00"
        "0200020000000099000008000400000000001400030000000000000000000000000001000000"
    ),
    "address": (
        "4c000000140000000211036b3c050000022080004d000000080001000a090101080002000a09010107000300763000000800"
        "08008000000014000600ffffffffffffffffe43e0600e43e06003c00000018000006000000000000000002200000ff02fe02"
        "0000000008000f00ff000000080001000a090101080007000a090101080004004d000000"
    ),
    "route": (
        "3c000000180000060211036b3e05000002100000fe0300010000000008000f00fe000000080001000a080000080005000a09"
        "004d080004004d000000"
    ),
    "table": (
        "38000000000a0000010000004005000001000002060001007400000008000300000000000c00040000000000000000010800"
        "0200000000002c0000000f0a000001000000400500000000000208000100000000020800020000000540080003006e667400"
    ),
    "set": (
        "70000000090a0004010000004205000001000003060001007400000006000200730000000c00100000000000000000010800"
        "04000000000708000500000000040a000d000004020000000000040009001700130030786666666666666666383235303766"
        "3430000008001400000000002c0000000f0a0000010000004205000000000003080001000000000308000200000005420800"
        "03006e667400"
    ),
    "element": (
        "380000000c0a00040000000044050000010000040600010074000000060002007300000014000300100001000c0001000800"
        "0100010203042c0000000f0a000001000000440500000000000408000100000000040800020000000544080003006e667400"
    ),
    "flush": (
        "300000000b0a0000010000004605000001000005060001007400000006000200730000000c00100000000000000000013000"
        "0000020a0000010000004605000001000005060001007400000008000300000000000c00040000000000000000012c000000"
        "0f0a000001000000460500000000000508000100000000050800020000000546080003006e667400"
    ),
}
MET = Met(Client("02:00:00:00:00:99", IPv4Address("10.9.0.2")), 77)


def test_captured_messages() -> None:
    told = {what: parse(bytes.fromhex(data), set()) for what, data in CAPTURED.items()}
    assert told == {
        "reachable": [MET],
        "stale": [MET],
        "failed": [],
        "deleted": [],
        "v6": [],
        "address": [Changed(), Changed()],
        "route": [Changed()],
        "table": [Changed()],
        "set": [],
        "element": [],
        "flush": [Changed()],
    }


def test_several_messages_at_once() -> None:
    both = bytes.fromhex(CAPTURED["reachable"] + CAPTURED["deleted"] + CAPTURED["address"])
    assert parse(both, set()) == [MET, Changed(), Changed()]


@pytest.mark.parametrize("size", range(1, 76, 5))
def test_truncated_message_ends_the_list(size: int) -> None:
    whole = bytes.fromhex(CAPTURED["reachable"])
    assert parse(whole + whole[:size], set()) == [MET]


def test_message_shorter_than_its_own_header_ends_the_list() -> None:
    for length in range(16):
        assert parse(struct.pack("=IHHII", length, 28, 0, 0, 0) + bytes(64), set()) == []


def test_attribute_without_a_length_ends_the_message() -> None:
    head = struct.pack("=BxxxiHBB", 2, 2, 2, 0, 0)
    body = head + struct.pack("=HH", 0, 1) * 4
    assert parse(struct.pack("=IHHII", 16 + len(body), 28, 0, 0, 0) + body, set()) == []


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_any_bytes_are_survived(data: bytes) -> None:
    parse(data, set())


@given(st.data())
@settings(deadline=None)
def test_damaged_messages_are_survived(data: st.DataObject) -> None:
    whole = bytearray(b"".join(map(bytes.fromhex, CAPTURED.values())))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)):
        whole[at] = data.draw(st.integers(0, 255))
    for event in parse(bytes(whole), set()):
        assert isinstance(event, Changed | Met)
