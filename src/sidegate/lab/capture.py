"""Listening on a machine's wires, and telling what is heard."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from sidegate.lab.lab import Lab
from sidegate.packet import Arp, Echo, Frame, IcmpError, Ipv4, Ipv6, Redirect, Tcp, TcpFlags, Udp, parse
from sidegate.problems import Problem, Problems

_ETH_P_ALL = 0x0003
_OUTGOING = 4
_PCAP_HEADER = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
"""Of the classic format, microseconds, Ethernet (IETF draft-ietf-opsawg-pcap, section 4)."""


class Heard(Struct, frozen=True):
    """at_s: wall clock. is_outgoing: leaving the machine by this interface."""

    at_s: float
    interface: str
    is_outgoing: bool
    data: bytes

    @property
    def frame(self) -> Frame:
        return parse(self.data)


def capture(lab: Lab, machine: str, interface: str | None = None) -> Iterator[Heard]:
    """Frames as they pass, on one interface or on all but the loopback, without end. Raises Problems."""
    there = lab.call(machine, _interfaces)
    if interface is not None and interface not in there:
        raise Problems(Problem(machine, f'no interface "{interface}"', f"interfaces here: {', '.join(there)}"))
    with lab.socket(machine, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as wire:
        while True:
            data, (name, _, kind, *_) = wire.recvfrom(65536)
            if name == interface or (interface is None and name != "lo"):
                yield Heard(time.time(), name, kind == _OUTGOING, data)


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


class PcapFile:
    """A capture file that other tools read. Raises Problems for a file that cannot be written."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise Problems(Problem(str(path), f"cannot be written: {error.strerror}", "give another file")) from None
        self._file.write(_PCAP_HEADER)

    def add(self, heard: Heard) -> None:
        seconds, micros = divmod(round(heard.at_s * 1e6), 1_000_000)
        size = len(heard.data)
        self._file.write(struct.pack("=IIII", seconds, micros, size, size) + heard.data)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def describe(frame: Frame) -> str:
    """One frame in one line: MACs, then what it carries."""
    vlans = "".join(f"vlan {vlan}  " for vlan in frame.vlans)
    if isinstance(frame.body, bytes):
        return f"{frame.src} > {frame.dst}  {vlans}ethertype {frame.ethertype:#06x}  len {len(frame.body)}"
    return f"{frame.src} > {frame.dst}  {vlans}{_packet(frame.body)}"


def _packet(body: Ipv4 | Ipv6 | Arp) -> str:
    if isinstance(body, Arp):
        if body.reply:
            return f"ARP {body.sender_ip} is at {body.sender_mac}"
        return f"ARP who has {body.target_ip}? tell {body.sender_ip}"
    return f"{_ends(body)}  {_payload(body.body, body.protocol)}  ttl {body.ttl}"


def _ends(packet: Ipv4 | Ipv6) -> str:
    inner = packet.body
    if isinstance(inner, Tcp | Udp):
        return f"{_end(packet.src, inner.sport)} > {_end(packet.dst, inner.dport)}"
    return f"{packet.src} > {packet.dst}"


def _end(address: object, port: int) -> str:
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"


def _payload(inner: object, protocol: int) -> str:
    if isinstance(inner, Tcp):
        flags = "|".join(str(flag.name) for flag in TcpFlags if flag in inner.flags) or "none"
        return f"TCP {flags} seq {inner.seq} len {len(inner.payload)}"
    if isinstance(inner, Udp):
        return f"UDP len {len(inner.payload)}"
    if isinstance(inner, Echo):
        return f"ICMP echo {'reply' if inner.reply else 'request'} id {inner.id} seq {inner.seq}"
    if isinstance(inner, IcmpError):
        return f"ICMP {inner.kind} code {inner.code}{_about(inner.inner)}"
    if isinstance(inner, Redirect):
        return f"ICMP redirect to {inner.gateway}{_about(inner.inner)}"
    return f"protocol {protocol}"


def _about(inner: Ipv4 | Ipv6 | bytes) -> str:
    return "" if isinstance(inner, bytes) else f" about {_ends(inner)}"
