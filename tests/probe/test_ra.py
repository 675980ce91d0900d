"""Looking for IPv6 routers: the whole conversation, what a host would ignore, and what to think of the rest."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.packet import Frame, Ipv6, build, parse
from sidegate.probe.ra import MOST_ROUTERS, Opinion, RaResult, addresses6, link_local, opinions, solicit, summary
from sidegate.probe.ra_message import Advert, Preference, Prefix, advert_in, solicitation, withdrawal
from sidegate.probe.talk import flow_of

from .world import ROUTER, US, Answers, World

WE, THEY = IPv6Address("fe80::ce7:2cff:fed7:7895"), IPv6Address("fe80::1")
DNSMASQ = bytes.fromhex(
    "86008849400800b40000000000000000"
    "030440c000000258000002580000000020010db8000000000000000000000000"
    "05010000000005dc"
    "01010ee72cd77895"
    "1903000000000258fe800000000000000ce72cfffed77895"
)
"""What dnsmasq 2.90 sent with `ra-param=…,high,60,180`."""


def said(message: bytes = DNSMASQ, src: IPv6Address = WE, mac: str = ROUTER, ttl: int = 255) -> Frame:
    packet = Ipv6(src, IPv6Address("ff02::1"), 58, message, ttl=ttl)
    return parse(build(Frame("33:33:00:00:00:01", mac, 0x86DD, packet)))


def look(*frames: Frame) -> RaResult:
    """All of them answer the first question."""
    asked: list[Frame] = []

    def rule(frame: Frame, _: float) -> Answers:
        asked.append(frame)
        return [(0.1, f) for f in frames] if len(asked) == 1 else []

    (result,) = World(rule=rule).hold(solicit(US, IPv6Address("fe80::2")))
    assert isinstance(result, RaResult)
    return result


def test_an_advertisement_is_told_whole() -> None:
    prefix = Prefix(IPv6Network("2001:db8::/64"), 600, 600, True)
    assert advert_in(said()) == Advert(WE, ROUTER, "high", 180, (prefix,), (WE,), 600)
    assert flow_of(said()) == ("ra", 0)


@pytest.mark.parametrize(
    "frame",
    [
        said(ttl=254),
        said(src=IPv6Address("2001:db8::1")),
        said(DNSMASQ[:12]),
        said(bytes((134, 1)) + DNSMASQ[2:]),
        said(bytes((133, 0)) + DNSMASQ[2:]),
        said(DNSMASQ[:16] + bytes((3, 0)) + bytes(30)),
        said(DNSMASQ[:-1]),
    ],
    ids=["from afar", "no link-local sender", "cut off", "code", "solicitation", "option of no length", "cut option"],
)
def test_what_a_host_would_ignore(frame: Frame) -> None:
    assert advert_in(frame) is None


def test_what_is_withdrawn_is_not_told() -> None:
    advert = advert_in(parse(build(withdrawal(US, WE))))
    assert advert == Advert(WE, US, "high", 0)
    assert advert.terms() == "no default router, DNS none"


@given(st.binary(max_size=200))
def test_noise_is_no_advertisement_or_a_small_one(noise: bytes) -> None:
    advert = advert_in(said(bytes((134, 0)) + noise))
    assert advert is None or len(advert.prefixes) + len(advert.dns) <= 32


def test_question_has_a_checksum_that_the_kernel_takes() -> None:
    """Over header and body it sums up to nothing (RFC 1071)."""
    for ip in (WE, None):
        packet = solicitation(US, ip).body
        assert isinstance(packet, Ipv6)
        assert isinstance(packet.body, bytes)
        pseudo = packet.src.packed + packet.dst.packed + len(packet.body).to_bytes(4) + (58).to_bytes(4)
        words = [int.from_bytes((pseudo + packet.body)[i : i + 2]) for i in range(0, len(pseudo + packet.body), 2)]
        assert sum(words) % 0xFFFF == 0
        assert len(packet.body) == (16 if ip else 8)


def test_each_router_once_and_not_ourselves() -> None:
    other = said(src=THEY, mac="02:00:00:00:00:77")
    result = look(said(), other, said(), said(mac=US))
    assert [a.router for a in result.adverts] == [WE, THEY]
    assert result.dns == (WE,)
    assert [o.way for o in result.evidence].count("received") == 2
    assert summary(result, ())[0] == "2 routers advertise themselves."
    assert summary(look(), ()) == ["No router advertised itself by IPv6 within 1.6 s."]


def test_a_crowd_that_somebody_made_up_is_bounded() -> None:
    frames = [said(src=IPv6Address(f"fe80::{n:x}")) for n in range(1, 100)]
    assert len(look(*frames).adverts) == MOST_ROUTERS


def test_opinions() -> None:
    router = Advert(THEY, ROUTER, "medium", 1800, (), (THEY,), 600)
    assert opinions([router], Opinion()) == ()
    (dead,) = opinions([router], Opinion(silent=(THEY,), resolves=True))
    assert "which does not answer: Windows asks it before any other" in dead
    (past,) = opinions([router], Opinion(ours=(WE,), resolves=True))
    assert f"DNS server {THEY}, not this box" in past
    assert opinions([Advert(THEY, ROUTER, "medium", 1800, (), (WE,), 60)], Opinion(ours=(WE,), resolves=True)) == ()
    (both,) = opinions([Advert(THEY, ROUTER, "high", 1800)], Opinion(is_gateway=True))
    assert "high preference as this box does" in both
    assert opinions([Advert(THEY, ROUTER, "high", 0)], Opinion(is_gateway=True)) == ()


@pytest.mark.parametrize("preference", ["medium", "low"])
def test_another_router_beside_this_box_is_a_way_round_the_split(preference: Preference) -> None:
    other = Advert(THEY, ROUTER, preference, 1800)
    (said,) = opinions([other], Opinion(is_gateway=True, resolves=True))
    assert "go round this box by IPv6" in said
    assert 'ipv6.mode = "router"' in said
    assert opinions([other], Opinion(is_gateway=True)) == (), "nothing is split"
    assert opinions([other], Opinion(resolves=True)) == (), "IPv6 is the router's"
    assert opinions([Advert(THEY, ROUTER, preference, 0)], Opinion(is_gateway=True, resolves=True)) == ()


def test_addresses_of_the_box() -> None:
    table = (
        "fe80000000000000005dfffe00000002 64 40 20 80     eth0\n"
        "20010db8000000000000000000000002 64 40 00 80     eth0\n"
        "20010db8000000000000000000000009 64 40 00 c8     eth0\n"
        "00000000000000000000000000000001 01 80 10 80       lo\n"
    )
    assert [str(a) for a in addresses6("eth0", table)] == ["fe80::5d:fffe:0:2", "2001:db8::2"]
    assert link_local("eth0", table) == IPv6Address("fe80::5d:fffe:0:2")
    assert link_local("eth1", table) is None
