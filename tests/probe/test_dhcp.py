"""Looking for DHCP servers: the whole conversation, several servers, and whatever a hostile one may send."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.packet import BROADCAST, UDP, Frame, Ipv4, Udp, build, frame_of, parse
from sidegate.probe import dhcp_message as dhcp
from sidegate.probe.dhcp import MOST_SERVERS, DhcpResult, Offer, Plan, discover, offer_in, serves_here, summary
from sidegate.probe.dhcp import throwaway_mac as made_up

from .world import ROUTER, US, Answers, World

ASKS = "02:aa:bb:cc:dd:ee"
WE, THEY, OTHER = (IPv4Address(f"192.168.1.{n}") for n in (2, 1, 7))


def options(*pairs: tuple[int, bytes]) -> bytes:
    return b"".join(bytes((number, len(body))) + body for number, body in pairs) + b"\xff"


def head(
    xid: int, op: int = 2, mac: str = ASKS, yiaddr: str = "192.168.1.130", cookie: bytes = b"\x63\x82\x53\x63"
) -> bytes:
    link = bytes.fromhex(mac.replace(":", "")).ljust(16, b"\0")
    start = struct.pack("!BBBBIHH", op, 1, 6, 0, xid, 0, 0x8000) + bytes(4) + IPv4Address(yiaddr).packed + bytes(8)
    return start + link + bytes(192) + cookie


def from_server(payload: bytes, src: IPv4Address = THEY, mac: str = ROUTER) -> Frame:
    packet = Ipv4(src, IPv4Address("255.255.255.255"), UDP, Udp(67, 68, payload))
    return parse(build(frame_of(BROADCAST, mac, packet)))


def offered(xid: int, server: IPv4Address = THEY, gateway: IPv4Address = THEY, mac: str = ROUTER) -> Frame:
    said = options(
        (53, b"\2"),
        (54, server.packed),
        (51, (43200).to_bytes(4)),
        (3, gateway.packed),
        (6, THEY.packed + OTHER.packed),
        (15, b"lan"),
    )
    return from_server(head(xid) + said, server, mac)


def asked_xid(frame: Frame) -> int:
    assert isinstance(frame.body, Ipv4)
    assert isinstance(frame.body.body, Udp)
    return int.from_bytes(frame.body.body.payload[4:8])


def look(*answers: tuple[float, Frame], follow: bool = True) -> tuple[DhcpResult, World]:
    """The answers come so long after the first question, with its xid if `follow`."""
    asked: list[int] = []

    def rule(frame: Frame, _: float) -> Answers:
        asked.append(asked_xid(frame))
        return [(after_s, _with_xid(a, asked[0]) if follow else a) for after_s, a in answers] if len(asked) == 1 else []

    world = World(rule=rule)
    (result,) = world.hold(discover(US, ASKS))
    return result, world


def _with_xid(frame: Frame, xid: int) -> Frame:
    assert isinstance(frame.body, Ipv4)
    assert isinstance(frame.body.body, Udp)
    payload = frame.body.body.payload
    return from_server(payload[:4] + xid.to_bytes(4) + payload[8:], frame.body.src, frame.src)


def test_an_offer_is_told_whole() -> None:
    result, _ = look((0.01, offered(0, gateway=WE)))
    assert result.offers == (Offer(THEY, ROUTER, IPv4Address("192.168.1.130"), (WE,), (THEY, OTHER), 43200, "lan"),)
    assert summary(result, [WE], own_server=False) == [
        "One DHCP server answers.",
        "192.168.1.1 (02:00:00:00:00:01) hands out gateway 192.168.1.2 (this box), DNS 192.168.1.1 and 192.168.1.7, "
        "an address such as 192.168.1.130 for 12 h, domain lan.",
        "Clients get gateway 192.168.1.2: that is this box.",
        "Clients get DNS 192.168.1.1 or 192.168.1.7: not this box.",
    ]


def test_the_question_is_a_discover_of_a_stranger_with_the_broadcast_flag() -> None:
    _, world = look()
    assert [round(at_s - 1000, 3) for at_s, _ in world.sent] == [0.0, 0.5]
    frame = world.sent[0][1]
    assert (frame.src, frame.dst) == (US, BROADCAST)
    assert isinstance(frame.body, Ipv4)
    assert (str(frame.body.src), str(frame.body.dst)) == ("0.0.0.0", "255.255.255.255")
    assert isinstance(frame.body.body, Udp)
    payload = frame.body.body.payload
    assert len(payload) == 300
    assert payload[10:12] == b"\x80\0", "answers must come by broadcast: nobody has the address yet"
    message = dhcp.parse_message(payload)
    assert message is not None
    assert (message.is_reply, message.kind, message.mac) == (False, dhcp.DISCOVER, ASKS)


def test_a_slow_second_server_is_heard() -> None:
    """3.1 s: dnsmasq that first looks whether the address is free."""
    result, _ = look((0.01, offered(0)), (3.1, offered(0, OTHER, WE, "02:00:00:00:00:07")))
    assert [o.server for o in result.offers] == [THEY, OTHER]
    assert result.disagree
    lines = summary(result, [WE], own_server=False)
    assert lines[0] == "2 DHCP servers answer."
    assert lines[3:5] == [
        "They disagree: what a client gets depends on who answers first.",
        "Clients get gateway 192.168.1.1 or 192.168.1.2: this box among them.",
    ]


def test_silence_is_said_as_silence() -> None:
    result, _ = look()
    assert summary(result, [WE], own_server=False) == ["No DHCP server answered within 4 s."]
    assert summary(result, [WE], own_server=True)[0].startswith("A DHCP server runs on this box. No other")


def test_repeated_offers_count_once_and_a_liar_with_many_addresses_is_bounded() -> None:
    result, _ = look((0.01, offered(0)), (0.02, offered(0)))
    assert len(result.offers) == 1
    liars = [(0.01, offered(0, IPv4Address(n))) for n in range(1, 100)]
    assert len(look(*liars)[0].offers) == MOST_SERVERS


@pytest.mark.parametrize(
    "frame",
    [
        from_server(head(0) + options((53, b"\5"))),
        from_server(head(0, op=1) + options((53, b"\2"))),
        from_server(head(0, mac="02:00:00:00:00:99") + options((53, b"\2"))),
        from_server(head(0, cookie=b"nope") + options((53, b"\2"))),
        from_server(head(0)[:100]),
    ],
    ids=["an ACK", "a request", "for another device", "BOOTP", "cut off"],
)
def test_what_is_no_offer_to_us_is_none(frame: Frame) -> None:
    assert look((0.01, frame))[0].offers == ()


def test_offers_to_another_question_are_not_heard() -> None:
    assert look((0.01, offered(12345)), follow=False)[0].offers == ()


def test_malformed_fields_are_left_out_not_believed() -> None:
    said = options((53, b"\2"), (54, b"\1\2\3"), (3, b"\1\2\3"), (51, b"\1"), (15, b"\x1b[31mred\0"))
    (offer,) = look((0.01, from_server(head(0) + said)))[0].offers
    assert (offer.server, offer.gateways, offer.lease_s, offer.domain) == (THEY, (), None, "?[31mred")


def test_options_in_the_file_and_name_fields_are_read() -> None:
    start = head(0)
    name, file = options((3, WE.packed)).ljust(64, b"\0"), options((6, OTHER.packed)).ljust(128, b"\0")
    filled = start[:44] + name + file + start[236:]
    (offer,) = look((0.01, from_server(filled + options((53, b"\2"), (52, b"\3")))))[0].offers
    assert (offer.gateways, offer.dns) == ((WE,), (OTHER,))


@given(st.binary(max_size=600))
def test_nothing_crashes_the_parser(data: bytes) -> None:
    assert dhcp.parse_message(data) is None or len(data) >= 240


@given(st.binary(max_size=400), st.lists(st.tuples(st.integers(1, 254), st.binary(max_size=255)), max_size=8))
def test_nothing_after_a_good_beginning_crashes_the_talk(tail: bytes, pairs: list[tuple[int, bytes]]) -> None:
    for said in (tail, options(*pairs), options((53, b"\2"), *pairs), options((53, b"\2"))[:-1] + tail):
        offer = offer_in(from_server(head(0) + said), ASKS)
        if offer is not None:
            assert all(32 <= ord(c) < 127 for c in offer.domain + offer.terms())


@given(st.integers())
def test_throwaway_macs_are_individual_and_locally_administered(seed: int) -> None:
    assert int(made_up(random.Random(seed))[:2], 16) & 3 == 2  # noqa: S311 (a simulation)


def test_a_server_on_this_box_is_known_by_its_port() -> None:
    listing = "  sl  local_address rem_address\n  48: 00000000:0043 00000000:0000 07 00000000:00000000\n"
    assert serves_here(listing)
    assert not serves_here(listing.replace(":0043", ":0044"))


def test_a_look_that_settles_ends_soon_after_the_first_offer() -> None:
    answers: list[tuple[float, Frame]] = [(0.2, offered(0)), (0.4, offered(0, OTHER)), (1.5, offered(0, WE))]

    def rule(frame: Frame, _: float) -> Answers:
        return [(after_s, _with_xid(a, asked_xid(frame))) for after_s, a in answers]

    world = World(rule=rule)
    (result,) = world.hold(discover(US, ASKS, Plan(settle_s=0.5)))
    assert [o.server for o in result.offers] == [THEY, OTHER]
    assert result.waited_s == pytest.approx(0.7)


def test_a_plan_without_a_second_question_ends_in_time() -> None:
    world = World(rule=lambda frame, at_s: [])
    world.hold(discover(US, ASKS, Plan((0.0,), 1.0)))
    assert (len(world.sent), round(world.now - 1000, 3)) == (1, 1.0)
