"""What the internet provider saw: every packet that left the home, to look for what must not have left it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

from msgspec import Struct

from sidegate.lab.lab import Lab
from sidegate.lab.parts import INTERNET
from sidegate.lab.resolving import labels
from sidegate.packet import Ipv4, Ipv6, Tcp, TcpFlags, Udp, parse
from sidegate.problems import Exit, Problem, Problems

_ETH_P_ALL = 0x0003
_OUTGOING = 4
_SOL_PACKET, _PACKET_STATISTICS = 263, 6  # linux/if_packet.h
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_ROOM_BYTES = 1 << 25


class Seen(Struct, frozen=True):
    """One packet from the home. protocol: "tcp", "udp", or its number. payload: what the transport carries.

    is_bare: a segment that neither begins a connection nor says anything. Those go on for minutes after a connection,
    and by another way: each FIN that is sent again, by whoever did not hear it acknowledged, is acknowledged again.
    """

    protocol: str
    src: str
    dst: str
    port: int
    payload: bytes
    is_bare: bool = False

    @property
    def asks_for(self) -> str | None:
        """The name in a plain DNS question, lower case; None for anything else."""
        message = self.payload[2:] if self.protocol == "tcp" else self.payload
        if self.port != 53 or len(message) < 17:
            return None
        return _first_name(message[12:])

    def mentions(self, name: str) -> bool:
        """Whether a name stands in it, as text (TLS, HTTP, SOCKS) or as in a DNS message."""
        seen = self.payload.lower()
        return name.encode() in seen or labels(name)[:-1] in seen


def _first_name(question: bytes) -> str | None:
    parts = []
    while question and question[0]:
        length, question = question[0], question[1:]
        if length > len(question):
            return None
        parts.append(question[:length].decode("ascii", "replace").lower())
        question = question[length:]
    return ".".join(parts)


class Wiretap:
    """Listens where the access line ends, from its making until it is closed.

    A packet is seen in front of everything that the provider does to it. Raises Problems if some were missed.
    """

    def __init__(self, lab: Lab) -> None:
        self._socket = lab.socket(INTERNET, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        with suppress(PermissionError):  # the usual room serves for a while
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM_BYTES)
        self._socket.setblocking(False)
        self._seen: list[Seen] = []

    def __enter__(self) -> Wiretap:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def seen(self) -> list[Seen]:
        """All until now, in order."""
        self._seen += self._fresh()
        _, missed = memoryview(self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)).cast("I")
        if missed:
            raise Problems(Problem("wiretap", f"{missed} packets were missed", exit_code=Exit.FAULT))
        return self._seen

    def leaks(self, name: str) -> list[Seen]:
        """The packets that mention a name."""
        return [packet for packet in self.seen if packet.mentions(name)]

    def asked(self) -> set[tuple[str, str]]:
        """The plain DNS questions, each as the server's address and the name."""
        return {(packet.dst, name) for packet in self.seen if (name := packet.asks_for) is not None}

    def spoken_to(self) -> set[str]:
        """The addresses to which a connection was begun, or something was said."""
        return {packet.dst for packet in self.seen if not packet.is_bare}

    def reached(self) -> set[tuple[str, str, int]]:
        """To whom something was sent, as protocol, address and port."""
        return {(packet.protocol, packet.dst, packet.port) for packet in self.seen}

    def _fresh(self) -> Iterator[Seen]:
        with suppress(BlockingIOError):
            while True:
                frame, (interface, _, kind, *_) = self._socket.recvfrom(65536)
                packet = parse(frame).body
                if interface == "wan" and kind != _OUTGOING and isinstance(packet, Ipv4 | Ipv6):
                    yield _told(packet)


def _told(packet: Ipv4 | Ipv6) -> Seen:
    ends, inner = (str(packet.src), str(packet.dst)), packet.body
    if isinstance(inner, Tcp):
        is_bare = not inner.payload and not inner.flags & TcpFlags.SYN
        return Seen("tcp", *ends, inner.dport, inner.payload, is_bare)
    if isinstance(inner, Udp):
        return Seen("udp", *ends, inner.dport, inner.payload)
    return Seen(str(packet.protocol), *ends, 0, inner if isinstance(inner, bytes) else b"")
