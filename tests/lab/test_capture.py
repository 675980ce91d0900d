"""What a person reads about a frame, and what another tool reads in a capture file."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from sidegate.lab.capture import Heard, PcapFile, describe
from sidegate.packet import (
    TCP,
    UDP,
    Arp,
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
    frame_of,
    parse,
)
from sidegate.problems import Problems
from tests.conftest import Golden

ICMP, ICMPV6, IGMP = 1, 58, 2
ROUTER, PHONE = "02:5d:00:00:00:01", "02:5d:00:00:00:02"
NOBODY = "00:00:00:00:00:00"
HERE, THERE = IPv4Address("192.168.1.126"), IPv4Address("1.2.3.4")
HERE6, THERE6 = IPv6Address("2001:db8:1:1::126"), IPv6Address("2001:db8:cafe::4")
ASKED = Ipv4(HERE, THERE, TCP, Tcp(40000, 80, 7))
BODIES: tuple[Ipv4 | Ipv6 | Arp, ...] = (
    Arp(False, PHONE, HERE, NOBODY, IPv4Address("192.168.1.2")),
    Arp(True, ROUTER, IPv4Address("192.168.1.1"), PHONE, HERE),
    Ipv4(HERE, THERE, TCP, Tcp(40000, 80, 7, flags=TcpFlags.SYN)),
    Ipv4(THERE, HERE, TCP, Tcp(80, 40000, 9, 8, TcpFlags.SYN | TcpFlags.ACK), ttl=63),
    Ipv4(HERE, THERE, TCP, Tcp(40000, 80, 8, 10, TcpFlags.PSH | TcpFlags.ACK, payload=b"GET /")),
    Ipv4(HERE, THERE, TCP, Tcp(40000, 80, 8)),
    Ipv4(HERE, THERE, UDP, Udp(5353, 53, b"12345")),
    Ipv6(HERE6, THERE6, UDP, Udp(5353, 53, b"12345")),
    Ipv6(HERE6, THERE6, TCP, Tcp(40000, 443, 1, flags=TcpFlags.RST)),
    Ipv4(HERE, THERE, ICMP, Echo(False, 4711, 1), ttl=1),
    Ipv6(THERE6, HERE6, ICMPV6, Echo(True, 4711, 1)),
    Ipv4(IPv4Address("192.168.1.1"), HERE, ICMP, IcmpError("unreachable", 1, ASKED)),
    Ipv4(IPv4Address("192.168.1.1"), HERE, ICMP, IcmpError("time exceeded", 0, b"")),
    Ipv4(IPv4Address("192.168.1.2"), HERE, ICMP, Redirect(1, IPv4Address("192.168.1.1"), ASKED)),
    Ipv4(HERE, IPv4Address("224.0.0.22"), IGMP, b"\x16\x00\x00\x00", ttl=1),
)
LLDP = Frame(ROUTER, PHONE, 0x88CC, b"\x02\x07\x04", ())
TAGGED = Frame(ROUTER, PHONE, 0x0800, ASKED, (7,))


def test_describe(golden: Golden) -> None:
    frames = [*(frame_of(ROUTER, PHONE, body) for body in BODIES), LLDP, TAGGED]
    golden("lab/frames.txt", "".join(f"{describe(frame)}\n" for frame in frames))


@pytest.mark.parametrize("length", range(60))
def test_any_part_of_a_frame_can_be_told(length: int) -> None:
    whole = build(frame_of(ROUTER, PHONE, ASKED))
    assert "\n" not in describe(parse(whole[:length]))


def test_a_capture_file_holds_the_frames_and_their_times(tmp_path: Path) -> None:
    data = [build(frame_of(ROUTER, PHONE, body)) for body in BODIES[:2]]
    file = PcapFile(tmp_path / "x.pcap")
    for at_s, frame in zip((1.25, 2.9999999), data, strict=True):
        file.add(Heard(at_s, "eth0", True, frame))
    file.close()
    read = (tmp_path / "x.pcap").read_bytes()
    assert struct.unpack_from("=IHHiIII", read) == (0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    first, second = (len(frame) for frame in data)
    assert struct.unpack_from("=IIII", read, 24) == (1, 250000, first, first)
    assert read[40 : 40 + first] == data[0]
    assert struct.unpack_from("=IIII", read, 40 + first) == (3, 0, second, second)
    assert read[56 + first :] == data[1]


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(Problems, match="No such file or directory"):
        PcapFile(tmp_path / "no" / "x.pcap")
