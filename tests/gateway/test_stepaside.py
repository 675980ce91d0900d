"""Whom to tell what while the router stands in for us: pure conversations."""

from __future__ import annotations

import errno
import os
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.aside import stepaside
from sidegate.gateway.aside.standin_talk import announcement, answer, heard_by
from sidegate.gateway.aside.stepaside import Manner, ruleset
from sidegate.gateway.box import programs
from sidegate.gateway.box.places import Places
from sidegate.packet import BROADCAST, NO_MAC, UDP, Arp, Frame, Ipv4, Udp, build, frame_of, parse
from sidegate.probe.talk import Vantage
from sidegate.probe.wire import assemble
from sidegate.problems import Problems

US, ROUTER, CLIENT = "02:00:00:00:00:02", "02:00:00:00:00:01", "02:00:00:00:00:20"
OUR_IP, ROUTER_IP, CLIENT_IP = (IPv4Address(f"192.168.1.{n}") for n in (2, 1, 20))
AT = Vantage("eth0", US, OUR_IP, ROUTER_IP, ROUTER)
MACS = st.sampled_from([US, ROUTER, CLIENT, BROADCAST, NO_MAC])
IPS = st.sampled_from([OUR_IP, ROUTER_IP, CLIENT_IP, IPv4Address(0), IPv4Address("1.2.3.4")])


def asks(mac: str, ip: IPv4Address, whom: IPv4Address, to: str = BROADCAST) -> Frame:
    return frame_of(to, mac, Arp(False, mac, ip, NO_MAC, whom))


def test_client_that_asks_hears_of_the_router() -> None:
    for to in (BROADCAST, US):
        said = answer(AT, asks(CLIENT, CLIENT_IP, OUR_IP, to))
        assert said == frame_of(CLIENT, US, Arp(True, ROUTER, OUR_IP, CLIENT, CLIENT_IP))


def test_router_is_told_nothing() -> None:
    """Or it would look for us at its own address."""
    assert answer(AT, asks(ROUTER, ROUTER_IP, OUR_IP)) is None


def test_question_for_somebody_else_is_not_ours() -> None:
    assert answer(AT, asks(CLIENT, CLIENT_IP, ROUTER_IP)) is None


def test_client_that_still_sends_to_us_is_told() -> None:
    packet = Ipv4(CLIENT_IP, IPv4Address("1.2.3.4"), UDP, Udp(1, 2))
    said = answer(AT, frame_of(US, CLIENT, packet))
    assert said == announcement(AT, ROUTER, CLIENT)
    for frame in (
        frame_of(US, CLIENT, Ipv4(CLIENT_IP, OUR_IP, UDP, Udp(1, 2))),
        frame_of(US, ROUTER, packet),
        frame_of(BROADCAST, CLIENT, packet),
    ):
        assert answer(AT, frame) is None


@given(MACS, MACS, st.booleans(), MACS, IPS, MACS, IPS)
def test_nothing_ever_goes_to_the_router_or_to_all(
    dst: str, src: str, reply: bool, mac: str, ip: IPv4Address, target: str, whom: IPv4Address
) -> None:
    for body in (Arp(reply, mac, ip, target, whom), Ipv4(ip, whom, UDP, Udp(1, 2))):
        said = answer(AT, frame_of(dst, src, body))
        assert said is None or (said.src == US and said.dst not in (ROUTER, US, BROADCAST, NO_MAC))


@given(st.binary(max_size=80))
def test_noise_is_no_question(noise: bytes) -> None:
    said = answer(AT, parse(noise))
    assert said is None or said.dst not in (ROUTER, US, BROADCAST, NO_MAC)


def test_announcement_is_gratuitous() -> None:
    body = parse(build(announcement(AT, ROUTER, CLIENT))).body
    assert isinstance(body, Arp)
    assert (body.reply, body.sender_ip, body.target_ip, body.sender_mac) == (False, OUR_IP, OUR_IP, ROUTER)


def test_filter_can_be_assembled() -> None:
    assert len(assemble(heard_by(OUR_IP))) % 8 == 0


@pytest.mark.parametrize(
    "rule",
    [
        'iifname "eth0" arp operation request arp daddr ip 192.168.1.2 arp saddr ether != 02:00:00:00:00:01 drop',
        'oifname "eth0" arp operation request arp saddr ip 192.168.1.2 arp daddr ip != 192.168.1.1'
        " arp saddr ip set 0.0.0.0",
    ],
)
def test_kernel_does_not_contradict(rule: str) -> None:
    assert rule in ruleset(AT)


def test_who_looks_while_it_begins_does_not_take_it_for_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Places(state=tmp_path / "state", runtime=tmp_path / "run")
    at.state.mkdir()
    honoured = []

    def look(*_: object, **__: object) -> None:
        honoured.append(stepaside.honour(at))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(programs, "run", look)
    monkeypatch.setattr(stepaside, "_start", look)
    monkeypatch.setattr(programs, "attempt", lambda *_: (0, "", ""))
    stepaside.begin(AT, [], Manner(), at)
    assert honoured == [False, False]
    assert stepaside.is_begun(at)
    assert stepaside.honour(at), "nobody holds it any more"
    assert not stepaside.is_begun(at)


def test_one_that_cannot_be_started_keeps_no_later_one_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = Places(state=tmp_path / "state", runtime=tmp_path / "run")
    at.state.mkdir()
    monkeypatch.setattr(programs, "run", lambda *_, **__: "")
    monkeypatch.setattr(programs, "attempt", lambda *_: (0, "", ""))

    def no_memory(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as short:
        short.setattr(subprocess, "Popen", no_memory)
        with pytest.raises(Problems, match="Cannot allocate memory"):
            stepaside.begin(AT, [], Manner(), at)
    assert not stepaside.is_begun(at)
    monkeypatch.setattr(stepaside, "_start", lambda _: None)
    stepaside.begin(AT, [], Manner(), at)
