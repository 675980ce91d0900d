"""Frames on one box that model and kernel once saw differently, each named after what the model lacked.

`tests/kernel/test_walk_box.py` plays them on the kernel and records what it did; `tests/walk/test_volleys.py` holds the
model against the record.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import UNSET

from sidegate.walk.data import Numbers, Packet, Protocol
from sidegate.walk.volley import Outcome, Shot, Volley
from tests.conftest import GOLDEN_ROOT

_WIRED, _PHONE = ("cpu", "192.168.1.123", "02:5d:00:00:00:16"), ("mesh1", "192.168.1.126", "02:5d:00:00:00:1c")
_GATEWAY, _ROUTER, _SERVER = "02:5d:00:00:00:14", "02:5d:00:00:00:03", "1.2.3.4"
Segment = tuple[str, str, int, int, int | None, int]
"""(direction, flags, seq, end, ack, window)"""


def volleys() -> Iterator[tuple[str, str, Volley]]:
    """(name, level, volley)"""
    yield from _bridged()
    yield "a segment too far is believed when it is acknowledged", "gateway", Volley("gateway", tuple(_routed(
        ("<", "SYN", 300_000, 300_001, None, 65535), (">", "SYN ACK", 300_000, 300_001, 300_001, 65535),
        (">", "RST ACK", 300_701, 300_701, 300_001, 65535), ("<", "ACK", 300_001, 300_001, 300_701, 0),
    )))  # fmt: skip
    land = Packet(_WIRED[2], _GATEWAY, _WIRED[1], _WIRED[1], "udp", 5000, 5000, 64, "datagram")
    yield "one tuple for both directions", "gateway", Volley("gateway", (Shot("eth0", land),) * 2)
    yield from _at_sidegate()


def _bridged() -> Iterator[tuple[str, str, Volley]]:
    found: dict[str, tuple[Segment, ...]] = {
        "data after its own FIN, before the other side opened its window": (
            (">", "SYN", 1000, 1001, None, 65535),
            ("<", "SYN ACK", 1000, 1001, 1001, 65535),
            ("<", "FIN ACK", 1001, 1002, 1001, 65535),
            ("<", "PSH ACK", 1002, 1007, 1001, 65535),
        ),
        "a RST in a connection that is not assured": (
            (">", "ACK", 300_000, 300_000, 299_999, 1000), ("<", "ACK", 300_700, 300_700, 299_300, 1000),
            (">", "RST ACK", 300_000, 300_000, 300_700, 1000)),
        "a RST after an own SYN is held to the window": (
            (">", "SYN", 300_000, 300_001, None, 1000),
            ("<", "SYN", 300_000, 300_001, None, 0),
            ("<", "RST", 400_002, 400_002, None, 0),
        ),
        "a RST for an ignored SYN is believed": (
            (">", "SYN", 300_000, 300_001, None, 1000),
            ("<", "SYN ACK", 300_000, 300_001, 300_001, 1000),
            (">", "SYN", 300_500, 300_501, None, 1000),
            ("<", "RST ACK", 400_002, 400_002, 300_501, 1000),
        ),
        "a RST answers a challenge": (
            (">", "SYN", 300_002, 300_003, None, 65535), ("<", "ACK", 300_000, 300_000, 300_004, 0),
            (">", "RST", 300_004, 300_004, None, 65535)),
        "what comes late is ignored, not INVALID": (
            (">", "SYN", 300_000, 300_001, None, 65535), ("<", "SYN ACK", 300_000, 300_001, 400_001, 0),
            (">", "SYN", 299_301, 299_302, None, 0)),
        "one octet goes into a window that is shut": (
            (">", "SYN", 300_700, 300_701, None, 1000), ("<", "SYN ACK", 300_000, 300_001, 300_701, 0),
            (">", "ACK", 300_702, 300_702, 300_001, 65535)),
        "what only be_liberal lets pass does not move the end of the last segment": (
            (">", "PSH ACK", 300_000, 300_005, 300_000, 1000), ("<", "ACK", 200_000, 200_000, 300_005, 0),
            (">", "SYN", 300_005, 300_006, None, 1000), (">", "PSH ACK", 299_306, 299_311, 300_001, 65535),
            (">", "RST", 300_006, 300_006, None, 65535)),
    }  # fmt: skip
    for name, segments in found.items():
        yield name, "hook", Volley("router", tuple(_straight(*segments)))


def _at_sidegate() -> Iterator[tuple[str, str, Volley]]:
    """Of clients whose return path is proved; the port 5000 of some is forwarded."""
    found = {
        "a connection that was answered directly": "41000 SYN, 41000 ACK, 41000 PSH ACK, 41000 FIN ACK, 41000 RST",
        "a connection that was never seen to begin": "41000 PSH ACK, 41000 ACK, 41000 FIN ACK",
        "an answer that is no ACK": "41000 SYN, 41000 RST, 41000 ACK, 41000 PSH ACK",
        "a SYN sent again": "41000 SYN, 41000 SYN, 41000 SYN, 41000 ACK, 41000 PSH ACK",
        "a SYN sent again while others are answered": "41001 SYN, 41001 ACK, 41000 SYN, 41000 SYN, 41000 ACK",
        "a SYN of a tuple that was answered before": "41000 SYN, 41000 ACK, 41000 SYN, 41000 ACK, 41000 SYN",
        "a SYN sent again stays masqueraded when others are answered": "41000 SYN, 41000 SYN, 41001 SYN, 41001 ACK, "
        "41000 SYN",
        "a RST is no answer": "41000 SYN, 41000 RST, 41000 SYN",
        "one doubt is none": "41000 SYN, 41000 SYN, 41000 ACK, 41000 ACK, 41003 SYN",
        "two doubts with a direct handshake between": "41000 SYN, 41001 SYN, 41002 SYN, 41000 SYN, 41001 SYN, "
        "41000 ACK, 41002 ACK, 41001 ACK, 41003 SYN",
        "a tuple that was direct is masqueraded": "41000 SYN, 41001 SYN, 41002 SYN, 41000 SYN, 41001 SYN, 41002 ACK, "
        "41000 ACK, 41001 ACK, 41002 SYN, 41002 < SYN ACK, 41002 ACK",
        "two doubts withdraw the proof": "6000 datagram, 41004 SYN, 41000 SYN, 41000 SYN, 41000 ACK, 41001 SYN, "
        "41001 SYN, 41001 ACK, 41002 SYN, 41004 ACK, 6000 datagram",
        "a forwarded port answers": "5000 datagram, 5000 SYN ACK, 5000 PSH ACK, 5000 SYN",
    }
    for name, said in found.items():
        for host in (_WIRED, _PHONE):
            shots = tuple(_upstream(host, *word.split(" ", 1)) for word in said.split(", "))
            yield f"{name}: {host[1]}", "proved", Volley("gateway", shots)


def _upstream(host: tuple[str, str, str], port: str, kind: str) -> Shot:
    """To a server on the internet; `<`: from it to the gateway's own address."""
    here, there = (host[2], host[1], int(port)), ("", _SERVER, 80)
    if kind.startswith("<"):
        here, there = (_ROUTER, _SERVER, 80), ("", "192.168.1.2", int(port))
    kind = kind.removeprefix("< ")
    protocol: Protocol = "udp" if kind == "datagram" else "tcp"
    end = 1000 + 5 * ("PSH" in kind) + ("SYN" in kind) + ("FIN" in kind)
    numbers = Numbers(1000, end, 1001 if "ACK" in kind else None, 65535) if protocol == "tcp" else UNSET
    return Shot("eth0", Packet(here[0], _GATEWAY, here[1], there[1], protocol, here[2], there[2], 64, kind,
                               numbers=numbers))  # fmt: skip


def _straight(*segments: Segment) -> Iterator[Shot]:
    """Between a wired computer and the phone, through the router's bridge."""
    for way, kind, *numbers in segments:
        here, there = (_WIRED, _PHONE) if way == ">" else (_PHONE, _WIRED)
        yield Shot(here[0], _segment(here, there, there[2], kind, numbers))


def _routed(*segments: Segment) -> Iterator[Shot]:
    """Between the two by way of the gateway."""
    for way, kind, *numbers in segments:
        here, there = (_WIRED, _PHONE) if way == ">" else (_PHONE, _WIRED)
        yield Shot("eth0", _segment(here, there, _GATEWAY, kind, numbers))


def _segment(here: tuple[str, str, str], there: tuple[str, str, str], mac: str, kind: str,
             numbers: list[int | None]) -> Packet:  # fmt: skip
    sport, dport = (41000, 5000) if here is _WIRED else (5000, 41000)
    return Packet(here[2], mac, here[1], there[1], "tcp", sport, dport, 64, kind, numbers=Numbers(*numbers))  # type: ignore[arg-type]


def write(level: str, outcomes: dict[str, Outcome]) -> None:
    """What the kernel did, by name."""
    path = GOLDEN_ROOT / f"walk/volleys-{level}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes), indent=1) + b"\n")


def read(level: str) -> dict[str, Outcome]:
    """Raises FileNotFoundError where nothing was recorded yet."""
    path = GOLDEN_ROOT / f"walk/volleys-{level}.json"
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Outcome])
