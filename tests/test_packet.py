"""Packets: captured bytes in, structs out; and back again for anything that can be said in structs."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv6Address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.packet import (
    ETH_IPV4,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Arp,
    Body,
    Echo,
    Frame,
    IcmpError,
    Ipv4,
    Ipv6,
    Redirect,
    Tcp,
    TcpFlags,
    Udp,
    build,
    build_ip,
    checksum,
    frame_of,
    parse,
    parse_ip,
)
from sidegate.reading import encode_address

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"

# Known bytes, from elsewhere than this code

PING = bytes.fromhex(
    "0242ac1100020242ac110001080045000054000040004001e285ac110001ac11000208001c5f00010001"  # ident 1, seq 1
)


def test_checksum_of_rfc_1071() -> None:
    """The example of RFC 1071 section 3: the sum is ddf2, sent is its complement."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF


def test_checksum_of_a_known_header() -> None:
    """An IPv4 header that sums up correctly has the checksum zero."""
    assert checksum(bytes.fromhex("45000073000040004011b861c0a80001c0a800c7")) == 0
    packet = Ipv4(IPv4Address("192.168.0.1"), IPv4Address("192.168.0.199"), UDP, bytes(95), dont_fragment=True)
    assert build_ip(packet)[:20].hex() == "45000073000040004011b861c0a80001c0a800c7"


def test_known_ping() -> None:
    frame = parse(PING)
    assert (frame.dst, frame.src, frame.ethertype) == ("02:42:ac:11:00:02", "02:42:ac:11:00:01", ETH_IPV4)
    assert isinstance(frame.body, Ipv4)
    assert (frame.body.src, frame.body.dst) == (IPv4Address("172.17.0.1"), IPv4Address("172.17.0.2"))
    assert frame.body.dont_fragment
    assert frame.body.body == Echo(False, 1, 1)


def test_known_tcp_syn() -> None:
    syn = bytes.fromhex(
        "4500003c1c4640004006b1e6c0a80068c0a80001c0aa0050000000010000000 0a002ffff00000000".replace(" ", "")
        + "020405b40402080a0000000000000000 01030307".replace(" ", "")
    )
    packet = parse_ip(syn)
    assert isinstance(packet, Ipv4)
    assert isinstance(packet.body, Tcp)
    assert (packet.body.sport, packet.body.dport, packet.body.seq) == (49322, 80, 1)
    assert packet.body.flags == TcpFlags.SYN
    assert len(packet.body.options) == 20


def test_vlan_tags_are_seen_through() -> None:
    tagged = PING[:12] + bytes.fromhex("88a8006481002007") + PING[12:]
    frame = parse(tagged)
    assert frame.vlans == (100, 7)
    assert frame.body == parse(PING).body


def test_ethernet_padding_is_cut_off() -> None:
    for packet in (
        Ipv4(IPv4Address(1), IPv4Address(2), ICMP, Echo(False, 1, 2, b"x")),
        Ipv6(IPv6Address(1), IPv6Address(2), ICMPV6, Echo(False, 1, 2, b"x")),
    ):
        assert parse(build(frame_of(A, B, packet)) + bytes(17)) == frame_of(A, B, packet)


def test_an_error_quotes_eight_bytes() -> None:
    """What a router quotes by RFC 792: header and 8 bytes: enough for ports, id and seq."""
    asked = Ipv4(IPv4Address(1), IPv4Address(2), TCP, Tcp(1000, 80, 77, flags=TcpFlags.SYN, payload=b"abc"), ttl=1)
    error = Ipv4(IPv4Address(3), IPv4Address(1), ICMP, IcmpError("time exceeded", 0, build_ip(asked)[:28]))
    again = parse_ip(build_ip(error))
    assert isinstance(again, Ipv4)
    assert isinstance(again.body, IcmpError)
    assert isinstance(again.body.inner, Ipv4)
    assert again.body.inner.body == Tcp(1000, 80, 77, window=0)


def test_later_fragments_have_no_ports() -> None:
    packet = Ipv4(IPv4Address(1), IPv4Address(2), UDP, bytes(range(16)), fragment_offset=1480)
    assert parse_ip(build_ip(packet)) == packet


def test_ipv6_extension_headers_are_skipped() -> None:
    inner = build_ip(Ipv6(IPv6Address(1), IPv6Address(2), UDP, Udp(5, 53, b"q")))
    udp = inner[40:]
    hop_by_hop = bytes([60, 0]) + bytes(6)
    destination = bytes([UDP, 1]) + bytes(14)
    payload = hop_by_hop + destination + udp
    packet = parse_ip(inner[:4] + len(payload).to_bytes(2) + bytes([0]) + inner[7:40] + payload)
    assert isinstance(packet, Ipv6)
    assert (packet.protocol, packet.body) == (UDP, Udp(5, 53, b"q"))


def test_icmpv6_checksum_covers_the_addresses() -> None:
    packet = Ipv6(IPv6Address("fe80::1"), IPv6Address("fe80::2"), ICMPV6, Echo(False, 1, 2, b"hello"))
    data = build_ip(packet)
    pseudo = data[8:40] + len(data[40:]).to_bytes(4) + bytes([0, 0, 0, ICMPV6])
    assert checksum(pseudo + data[40:]) == 0


def test_udp_sum_of_zero_is_sent_as_ones() -> None:
    """RFC 768: zero would mean that there is no checksum."""
    bare = build_ip(Ipv4(IPv4Address(0), IPv4Address(0), UDP, Udp(0, 0, b"\0\0")))
    missing = int.from_bytes(bare[26:28])
    filled = build_ip(Ipv4(IPv4Address(0), IPv4Address(0), UDP, Udp(0, 0, missing.to_bytes(2))))
    assert filled[26:28] == b"\xff\xff"


def test_a_nest_of_errors_stays_shallow() -> None:
    """64 KB of ICMP errors in each other's bodies must not exhaust the stack."""
    four = six = b"x" * 8
    for _ in range(1000):
        four = build_ip(Ipv4(IPv4Address(1), IPv4Address(2), ICMP, IcmpError("unreachable", 0, four)))
        six = build_ip(Ipv6(IPv6Address(1), IPv6Address(2), ICMPV6, IcmpError("unreachable", 0, six)))
    assert isinstance(parse_ip(four), Ipv4)
    assert isinstance(parse_ip(six), Ipv6)


def test_packets_become_json() -> None:
    text = msgspec.json.encode(parse(PING), enc_hook=encode_address).decode()
    assert '"src":"172.17.0.1"' in text
    assert '"type":"Echo"' in text


def test_ports_out_of_range_are_refused() -> None:
    with pytest.raises(Exception, match="format requires"):
        build_ip(Ipv4(IPv4Address(1), IPv4Address(2), UDP, Udp(65536, 1)))


# Properties

u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
octets = st.binary(max_size=40)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
v4, v6 = st.builds(IPv4Address, u32), st.builds(IPv6Address, st.integers(0, 2**128 - 1))
words = st.integers(0, 10).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
echoes = st.builds(Echo, st.booleans(), u16, u16, octets)
udps = st.builds(Udp, u16, u16, octets)
flags = st.builds(TcpFlags, u8)
tcps = st.builds(Tcp, u16, u16, u32, u32, flags, u16, words, octets)


def packets(body: st.SearchStrategy[Body], protocol: int, icmp: int) -> st.SearchStrategy[Ipv4 | Ipv6]:
    def both(protocol4: int, protocol6: int) -> st.SearchStrategy[Ipv4 | Ipv6]:
        return st.builds(
            Ipv4, v4, v4, st.just(protocol4), body, u8, u16, u8, st.booleans(), st.booleans(), options=words
        ) | st.builds(Ipv6, v6, v6, st.just(protocol6), body, u8, u8, st.integers(0, 2**20 - 1))

    return both(icmp or protocol, ICMPV6 if icmp else protocol)


simple = packets(udps, UDP, 0) | packets(tcps, TCP, 0) | packets(echoes, 0, ICMP)
errors = packets(st.builds(IcmpError, st.sampled_from(["unreachable", "time exceeded"]), u8, simple), 0, ICMP)
redirects = st.builds(Ipv4, v4, v4, st.just(ICMP), st.builds(Redirect, u8, v4, simple))
arps = st.builds(Arp, st.booleans(), macs, v4, macs, v4)
frames = st.builds(frame_of, macs, macs, simple | errors | redirects | arps)
vlans = st.lists(st.integers(0, 4095), max_size=2).map(tuple)


@given(frames, vlans)
def test_parse_is_the_inverse_of_build(frame: Frame, tags: tuple[int, ...]) -> None:
    frame = msgspec.structs.replace(frame, vlans=tags)
    assert parse(build(frame)) == frame


@given(simple)
def test_every_built_checksum_sums_to_zero(packet: Ipv4 | Ipv6) -> None:
    data = build_ip(packet)
    head = 20 + len(packet.options) if isinstance(packet, Ipv4) else 40
    pseudo = packet.src.packed + packet.dst.packed + len(data[head:]).to_bytes(4) + packet.protocol.to_bytes(4)
    if isinstance(packet, Ipv4):
        assert checksum(data[:head]) == 0
        pseudo = b"" if packet.protocol == ICMP else pseudo
    assert checksum(pseudo + data[head:]) == 0


@given(st.binary(max_size=200))
def test_noise_never_raises(noise: bytes) -> None:
    assert build(parse(noise)) is not None


@given(frames, st.data())
def test_damaged_frames_never_raise(frame: Frame, data: st.DataObject) -> None:
    raw = bytearray(build(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(u8)
    cut = data.draw(st.integers(0, len(raw)))
    build(parse(bytes(raw[:cut])))


def test_every_cut_of_every_kind_is_a_frame() -> None:
    """Truncation at each byte of one frame of each kind."""
    error = IcmpError("unreachable", 3, Ipv4(IPv4Address(1), IPv4Address(2), UDP, Udp(1, 2, b"x")))
    bodies: list[tuple[int, Body]] = [(TCP, Tcp(1, 2, 3, options=bytes(8))), (ICMP, error), (ICMP, Echo(True, 1, 2))]
    for protocol, body in bodies:
        whole = build(frame_of(A, B, Ipv4(IPv4Address(1), IPv4Address(2), protocol, body)))
        for cut in itertools.count():
            assert isinstance(parse(whole[:cut]), Frame)
            if cut == len(whole):
                break
