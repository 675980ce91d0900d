"""What a client of the engine does, and what comes of it as words."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.kernel.engine_stage.addresses import TARGET
from tests.kernel.engine_stage.target import GREETING

WITHIN_S = 15.0
"""An answer takes milliseconds, and seconds where all who take part share a loaded machine."""
_IPV6 = 4
"""What listens on all addresses tells one of this type."""


def over_socks(port: int, host: str, to_port: int) -> socket.socket:
    """RFC 1928. Raises OSError."""
    it = socket.create_connection(("127.0.0.1", port), WITHIN_S)
    it.sendall(b"\x05\x01\x00")
    assert exactly(it, 2) == b"\x05\x00"
    name = host.encode()
    it.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack("!H", to_port))
    reply = exactly(it, 4)
    if reply[:2] != b"\x05\x00":
        raise OSError(f"SOCKS says {reply!r}")
    exactly(it, 18 if reply[3] == _IPV6 else 6)
    return it


def exactly(it: socket.socket, octets: int) -> bytes:
    """So many of what comes; fewer where the connection ends. With a time limit MSG_WAITALL waits for none of them."""
    heard = b""
    while len(heard) < octets and (more := it.recv(octets - len(heard))):
        heard += more
    return heard


def talking(at: tuple[str, int], words: bytes) -> socket.socket:
    """A connection whose first words the kernel sends as soon as it can, where `lan` is: who takes it in listens for a
    name for a fifth of a second, and who speaks once it is connected may be kept from the processor for longer.
    """
    it = socket.socket(socket.AF_INET6 if ":" in at[0] else socket.AF_INET)
    it.settimeout(WITHIN_S)
    assert it.sendto(words, socket.MSG_FASTOPEN, at) == len(words)
    return it


def silent_then_asks(it: socket.socket) -> str:
    """To who hears and says the same (port 7)."""
    time.sleep(1.5)
    return _mirrored(it)


def greeted_then_asks(it: socket.socket) -> str:
    """By who speaks first (port 82)."""
    heard = exactly(it, len(GREETING))
    return _mirrored(it) if heard == GREETING else f"greeted with {heard!r}"


def _mirrored(it: socket.socket) -> str:
    """Whether the same comes back, octet by octet."""
    said, heard = os.urandom(50_000), b""
    it.sendall(said)
    while len(heard) < len(said):
        more = it.recv(1 << 16)
        if not more:
            return f"closed after {len(heard)}"
        heard += more
    return "the same" if heard == said else "not the same"


def dns_answer(at: tuple[str, int], name: str, kind: int = 1) -> str:
    """The address, or why there is none."""
    question = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    question += b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.settimeout(WITHIN_S)
        it.sendto(question + struct.pack("!HH", kind, 1), at)
        try:
            reply = it.recv(2048)
        except OSError as error:
            return type(error).__name__
    return socket.inet_ntoa(reply[-4:]) if reply[6:8] != b"\0\0" else "nothing"


def dns_answers(at: tuple[str, int], names: Sequence[str]) -> tuple[list[str], float]:
    """As `dns_answer`, many of them at a time; and how long the slowest took."""

    def timed(name: str) -> tuple[str, float]:
        began_s = time.monotonic()
        return dns_answer(at, name), time.monotonic() - began_s

    with ThreadPoolExecutor(20) as pool:
        answers, took_s = zip(*pool.map(timed, names), strict=True)
    return list(answers), max(took_s)


def web_answer(port: int, host: str = TARGET) -> str:
    """What the page says, or why there is none."""
    try:
        with over_socks(port, host, 80) as it:
            it.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            return read_page(it)
    except OSError as error:
        return f"{type(error).__name__}"


def read_page(it: socket.socket) -> str:
    """Up to its end, or that of the connection: Xray tells the end of a server's words a second late."""
    answer = b""
    while not _is_whole(answer) and (more := it.recv(4096)):
        answer += more
    return answer.rpartition(b"\r\n\r\n")[2].decode().strip() or "closed"


def _is_whole(answer: bytes) -> bool:
    """A line, which follows a head unless the question was of HTTP 0.9."""
    _, end, page = answer.rpartition(b"\r\n\r\n")
    return page.endswith(b"\n") and (bool(end) or not answer.startswith(b"HTTP/"))


def udp_answer(port: int) -> str:
    """Of the echo server, over a UDP association."""
    try:
        with socket.create_connection(("127.0.0.1", port), WITHIN_S) as control:
            control.sendall(b"\x05\x01\x00")
            exactly(control, 2)
            control.sendall(b"\x05\x03\x00\x01" + bytes(6))
            reply = exactly(control, 10)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
                it.settimeout(WITHIN_S)
                header = b"\x00\x00\x00\x01" + socket.inet_aton(TARGET) + struct.pack("!H", 7)
                it.sendto(header + b"hello", ("127.0.0.1", struct.unpack("!H", reply[8:10])[0]))
                return it.recv(2048)[10:].split()[0].decode()
    except OSError as error:
        return f"{type(error).__name__}"
    except IndexError:
        return "refused"
