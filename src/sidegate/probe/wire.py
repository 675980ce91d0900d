"""The one place of the probe room that touches the network: an AF_PACKET socket per interface.

Frames written to it go straight to the device, past the local netfilter output hooks, so this box's own masquerade
never touches a probe (net/packet/af_packet.c, packet_snd). Answers reach our own kernel as well: it ignores echo
replies without a socket (net/ipv4/ping.c, ping_rcv), and a real UDP socket holds each source port, or it would refuse
DNS answers by ICMP.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import random
import selectors
import socket
import struct
import time
from ipaddress import IPv4Address
from typing import Generic, TypeVar

from sidegate.packet import ETH_ARP, ETH_IPV4, ETH_IPV6, ICMP, ICMPV6, UDP, Mac, mac_text, parse
from sidegate.probe.switchboard import Switchboard
from sidegate.probe.talk import ADVERTISEMENT, DHCP_PORTS, DNS_PORT, Talk
from sidegate.problems import Exit, Problem, Problems

R = TypeVar("R")

_ETH_P_ALL = 0x0003
_SO_ATTACH_FILTER = 26
_SIOCGIFADDR = 0x8915
_PACKET_OUTGOING = 4
_LARGEST_FRAME = 65536
_FRAMES_PER_TURN = 256
_QUEUE_REST_S = 0.005
_PORT_REST_S = 180.0
"""nf_ct_udp_timeout keeps a UDP flow with answers up to 120 s (net/netfilter/nf_conntrack_proto_udp.c)."""

Step = tuple[int, int, str, str]
"""Of a classic BPF program: code, operand, block to go on with if true, if false; an empty name is the next step."""

_WORD, _HALF, _BYTE = 0x20, 0x28, 0x30
_WORD_IN_BODY, _HALF_IN_BODY, _BYTE_IN_BODY, _SKIP_IP_HEADER = 0x40, 0x48, 0x50, 0xB1
_IS, _HAS_ANY, _TAKE = 0x15, 0x45, 0x06
_PACKET_TYPE = 0xFFFFF000 + 4
"""SKF_AD_OFF + SKF_AD_PKTTYPE (include/uapi/linux/filter.h)."""
_REPLY, _UNREACHABLE, _REDIRECT, _TIME_EXCEEDED = 0, 3, 5, 11


def answers_only(our_ip: IPv4Address) -> dict[str, list[Step]]:
    """ARP replies; to us: ICMP echo replies and errors, and UDP from port 53. Nothing that we sent ourselves.

    To anybody: what DHCP servers answer, since it is broadcast or goes to an address that nobody has yet, and router
    advertisements, 54 being the ICMPv6 type where no extension header precedes it, as in every one of them.
    Offsets count from the Ethernet header: 12 ethertype, 20 ARP operation or IP fragment, 23 protocol, 30 destination.
    """
    return {
        "direction": [(_WORD, _PACKET_TYPE, "", ""), (_IS, _PACKET_OUTGOING, "drop", "")],
        "ethertype": [
            *((_HALF, 12, "", ""), (_IS, ETH_ARP, "arp", "")),
            *((_IS, ETH_IPV6, "ip6", ""), (_IS, ETH_IPV4, "ip", "drop")),
        ],
        "arp": [(_HALF, 20, "", ""), (_IS, 2, "take", "drop")],
        "ip6": [
            *((_BYTE, 20, "", ""), (_IS, ICMPV6, "", "drop")),
            *((_BYTE, 54, "", ""), (_IS, ADVERTISEMENT, "take", "drop")),
        ],
        "ip": [
            *((_HALF, 20, "", ""), (_HAS_ANY, 0x1FFF, "drop", "")),
            (_SKIP_IP_HEADER, 14, "", ""),
            *((_BYTE, 23, "", ""), (_IS, ICMP, "to us", ""), (_IS, UDP, "udp", "drop")),
        ],
        "udp": [(_WORD_IN_BODY, 14, "", ""), (_IS, DHCP_PORTS[0] << 16 | DHCP_PORTS[1], "take", "to us")],
        "to us": [
            *((_WORD, 30, "", ""), (_IS, int(our_ip), "", "drop")),
            *((_BYTE, 23, "", ""), (_IS, ICMP, "icmp", "dns")),
        ],
        "dns": [(_HALF_IN_BODY, 14, "", ""), (_IS, DNS_PORT, "take", "drop")],
        "icmp": [
            (_BYTE_IN_BODY, 14, "", ""),
            *((_IS, kind, "take", "") for kind in (_REPLY, _UNREACHABLE, _REDIRECT)),
            (_IS, _TIME_EXCEEDED, "take", "drop"),
        ],
        "drop": [(_TAKE, 0, "", "")],
        "take": [(_TAKE, _LARGEST_FRAME, "", "")],
    }


def assemble(blocks: dict[str, list[Step]]) -> bytes:
    """`struct sock_filter` for each step; the names of blocks become distances."""
    steps = [step for block in blocks.values() for step in block]
    starts, at = {"": 0}, 0
    for name, block in blocks.items():
        starts[name], at = at, at + len(block)

    def distance(label: str, here: int) -> int:
        return starts[label] - here - 1 if label else 0

    packed = (struct.pack("HBBI", c, distance(t, i), distance(f, i), k) for i, (c, k, t, f) in enumerate(steps))
    return b"".join(packed)


def attach_filter(sock: socket.socket, program: bytes) -> None:
    """Let the socket hear only what the program takes. Raises OSError if the kernel refuses the program."""
    buffer = ctypes.create_string_buffer(program, len(program))
    # `struct sock_fprog`: a length and a pointer; the kernel copies the program during the call
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    )


def packet_socket(interface: str, our_ip: IPv4Address) -> socket.socket:
    """A non-blocking raw socket on an interface that hears `answers_only`. Raises Problems."""
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError:
        remedy = "run it as root, or give the program CAP_NET_RAW"
        raise Problems(Problem(interface, "no privilege to open a packet socket", remedy, Exit.MISSING)) from None
    try:
        attach_filter(sock, assemble(answers_only(our_ip)))
        sock.setblocking(False)
        # only now: a packet socket bound before its filter would hear everything
        sock.bind((interface, _ETH_P_ALL))
    except OSError as error:
        sock.close()
        raise _wire_problem(interface, error) from None
    return sock


def _wire_problem(interface: str, error: OSError) -> Problems:
    if error.errno == errno.ENODEV:
        return Problems(Problem(interface, "no such network interface", "`ip link` lists those that there are"))
    if error.errno == errno.ENETDOWN:
        return Problems(Problem(interface, "the network interface is down", f"`ip link set {interface} up`"))
    return Problems(Problem(interface, f"cannot be used for probing: {error.strerror}"))


def mac_of(interface: str) -> Mac:
    """The interface's MAC address. Raises Problems."""
    with packet_socket(interface, IPv4Address(0)) as sock:
        return mac_text(sock.getsockname()[4])


def ip_of(interface: str) -> IPv4Address:
    """The interface's first IPv4 address (ioctl SIOCGIFADDR). Raises Problems."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("16s240x", interface.encode()[:15]))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                remedy = f"`ip address add ADDRESS/PREFIX dev {interface}`"
                raise Problems(Problem(interface, "has no IPv4 address", remedy)) from None
            raise _wire_problem(interface, error) from None
    return IPv4Address(answer[20:24])


class Ports:
    """UDP source ports held by real sockets; none is used again before routers have forgotten it."""

    def __init__(self, our_ip: IPv4Address) -> None:
        self._our_ip = str(our_ip)
        self._held: dict[int, socket.socket] = {}
        self._resting: dict[int, float] = {}

    def reserve(self) -> int:
        """A port that the kernel chose. Raises OSError when it has none left."""
        now = time.monotonic()
        self._resting = {port: until_s for port, until_s in self._resting.items() if until_s > now}
        passed_over = []
        try:
            while True:
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                passed_over.append(sock)
                sock.bind((self._our_ip, 0))
                port: int = sock.getsockname()[1]
                if port not in self._resting:
                    self._held[port] = passed_over.pop()
                    return port
        finally:
            for sock in passed_over:
                sock.close()

    def release(self, port: int) -> None:
        self._held.pop(port).close()
        self._resting[port] = time.monotonic() + _PORT_REST_S


class Wire(Generic[R]):
    """Talks on one interface, for a selectors loop: wait for `fileno` until `next_deadline`, then `turn`.

    All times are `time.monotonic()`. rate: frames per second over all talks. Raises Problems when made, and from
    `turn` when the interface goes away or down; what was running then is lost, and the wire is to be closed.
    """

    def __init__(self, interface: str, our_ip: IPv4Address, *, rate: float = 200, rng: random.Random | None = None):
        self.interface = interface
        self._ports = Ports(our_ip)
        self._socket = packet_socket(interface, our_ip)
        self._board: Switchboard[R] = Switchboard(
            rng or random.SystemRandom(), self._ports.reserve, self._ports.release, rate=rate
        )

    def __enter__(self) -> Wire[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def start(self, talk: Talk[R]) -> int:
        """Begin a talk at the next `turn`; returns its key."""
        return self._board.start(talk)

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although nothing came in; None if never."""
        return self._board.next_deadline()

    def finished(self) -> list[tuple[int, R]]:
        """Results since the last call, with their keys."""
        return self._board.finished()

    def turn(self, now: float) -> None:
        """Take in what arrived, resume whose time has come, send what may go out. Raises Problems."""
        try:
            self._take_in(now)
            self._board.advance(now)
            self._send_out(now)
        except OSError as error:
            raise _wire_problem(self.interface, error) from None

    def close(self) -> None:
        """End what still runs, without results."""
        self._board.close()
        self._socket.close()

    def _take_in(self, now: float) -> None:
        for _ in range(_FRAMES_PER_TURN):
            try:
                frame = self._socket.recv(_LARGEST_FRAME)
            except BlockingIOError:
                return
            self._board.heard(parse(frame), now)

    def _send_out(self, now: float) -> None:
        while (frame := self._board.to_send(now)) is not None:
            try:
                self._socket.send(frame)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                    raise
                # the device's queue is full: the frame stays first in line
                self._board.hold_back(now + _QUEUE_REST_S)
                return
            self._board.sent(now)


def run(wire: Wire[R], *talks: Talk[R]) -> list[R]:
    """Hold talks until all are over; results in the order of the talks. Blocks. Raises Problems."""
    keys = [wire.start(talk) for talk in talks]
    results: dict[int, R] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(wire, selectors.EVENT_READ)
        wire.turn(time.monotonic())
        while len(results) < len(keys):
            deadline = wire.next_deadline()
            selector.select(None if deadline is None else max(0.0, deadline - time.monotonic()))
            wire.turn(time.monotonic())
            results.update(wire.finished())
    return [results[key] for key in keys]
