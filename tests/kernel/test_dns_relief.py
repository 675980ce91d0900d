"""Names while the resolver at port 53 is started anew: the second one answers in its place, and nobody notices."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from sidegate.gateway.dns.places import NAME as RESOLVER
from sidegate.gateway.ruleset.nft import ruleset
from sidegate.gateway.ruleset.nftchange import transactions
from sidegate.gateway.ruleset.services import Services
from sidegate.gateway.split.ports import RELIEF_PORT
from sidegate.lab.resolving import labels, resolve
from sidegate.packet import TCP, UDP, IpAddress, Ipv4, Ipv6, Tcp, Udp
from tests.kernel.gateway_lab import PATIENCE_S, Box, gateway_in, wait_for
from tests.kernel.gateway_rig import (
    CLIENT,
    CLIENT_MAC,
    GATEWAY,
    ROUTER_MAC,
    SERVER,
    SHAPE,
    SYN,
    in_namespaces,
)
from tests.kernel.split_home import CONF, HOME, OURS, conf
from tests.kernel.steer_rig import CLIENT6, GATEWAY6, SERVER6, Packet, SplitRig
from tests.kernel.test_steer import ALL
from tests.kernel.test_steer_services import OUTSIDE, answered, has_something, is_heard, listening

pytestmark = pytest.mark.kernel

ALONE = structs.replace(SHAPE, services=Services(names=True, redirects=True, ipv6=True))


def lead(rig: SplitRig, *, relief: bool) -> None:
    old = rig.shape
    rig.shape = structs.replace(old, services=structs.replace(old.services, relief=relief))
    for text in transactions(ruleset(old), ruleset(rig.shape)):
        rig.nft(text)


def question(to: IpAddress, port: int = 40000) -> Packet:
    return _from_client(to, UDP, Udp(port, 53, b"?"))


def opening(to: IpAddress, port: int = 40000, dport: int = 53) -> Packet:
    return _from_client(to, TCP, Tcp(port, dport, 1000, 0, SYN))


def _from_client(to: IpAddress, protocol: int, body: Tcp | Udp) -> Packet:
    return Ipv4(CLIENT, to, protocol, body) if to.version == 4 else Ipv6(CLIENT6, to, protocol, body)


def answers(rig: SplitRig, resolver: socket.socket, asked: Packet) -> bool:
    """Whether this resolver hears the question, and its answer comes from where it was asked."""
    rig.put(asked)
    if not has_something(resolver):
        return False
    _, asker = resolver.recvfrom(100)
    resolver.sendto(b"!", asker)
    seen = next_datagram(rig)
    assert isinstance(asked.body, Udp)
    return seen is not None and (seen.src, seen.dst, seen.body) == (
        asked.dst,
        asked.src,
        Udp(53, asked.body.sport, b"!"),
    )


def next_datagram(rig: SplitRig) -> Packet | None:
    """That the gateway has sent."""
    return next((it for it in rig.heard_so_far() if isinstance(it, Ipv4 | Ipv6) and isinstance(it.body, Udp)), None)


@pytest.mark.parametrize("to", [GATEWAY, SERVER, GATEWAY6, SERVER6])
@in_namespaces
def test_one_flow_is_answered_by_whoever_serves(to: IpAddress) -> None:
    """From one port of the client, without a pause that conntrack would forget it in."""
    rig = SplitRig(ALL, shape=ALONE)
    home, relief = listening(53, socket.SOCK_DGRAM), listening(RELIEF_PORT, socket.SOCK_DGRAM)
    for serving in (home, relief, home, relief):
        lead(rig, relief=serving is relief)
        assert answers(rig, serving, question(to))


@in_namespaces
def test_what_the_relief_was_asked_it_answers_after_its_time() -> None:
    rig = SplitRig(ALL, shape=ALONE)
    relief = listening(RELIEF_PORT, socket.SOCK_DGRAM)
    lead(rig, relief=True)
    rig.put(question(SERVER))
    _, asker = relief.recvfrom(100)
    lead(rig, relief=False)
    relief.sendto(b"!", asker)
    seen = next_datagram(rig)
    assert seen is not None
    assert (seen.src, seen.body) == (SERVER, Udp(53, 40000, b"!"))


@pytest.mark.parametrize("to", [GATEWAY, SERVER, GATEWAY6, SERVER6])
@in_namespaces
def test_connections_go_to_whoever_serves(to: IpAddress) -> None:
    rig = SplitRig(ALL, shape=ALONE)
    _relief = listening(RELIEF_PORT, socket.SOCK_STREAM)
    assert not answered(rig, opening(to, 40001))
    lead(rig, relief=True)
    assert answered(rig, opening(to, 40002))


@in_namespaces
def test_port_of_the_relief_is_shut() -> None:
    rig = SplitRig(ALL, shape=ALONE)
    lead(rig, relief=True)
    by_udp, _by_tcp = listening(RELIEF_PORT, socket.SOCK_DGRAM), listening(RELIEF_PORT, socket.SOCK_STREAM)
    for to in (GATEWAY, GATEWAY6):
        assert rig.ask(opening(to, dport=RELIEF_PORT)) is None
        asked = _from_client(to, UDP, Udp(40000, RELIEF_PORT, b"?"))
        assert not is_heard(by_udp, lambda packet=asked: rig.ask(packet))  # type: ignore[misc]
    stranger = Ipv4(OUTSIDE, GATEWAY, UDP, Udp(40000, 53, b"?"))
    assert not is_heard(by_udp, lambda: rig.ask(stranger, ROUTER_MAC))
    assert rig.ask(Ipv4(OUTSIDE, GATEWAY, TCP, Tcp(40000, 53, 1, 0, SYN)), ROUTER_MAC) is None


@pytest.mark.parametrize("to", [GATEWAY, SERVER])
@in_namespaces
def test_who_asks_for_names_is_known(to: IpAddress) -> None:
    """Whomever a client asks: with dns.redirect it is answered here."""
    rig = SplitRig(ALL, shape=ALONE)
    for is_relieved, port in ((False, 40001), (True, 40002)):
        lead(rig, relief=is_relieved)
        rig.nft("flush set inet sidegate askers4\n")
        rig.put(_from_client(to, UDP, Udp(port, 54, b"?")))
        assert not rig.holds("askers4")
        rig.put(question(to, port))
        assert rig.holds("askers4", f"{CLIENT_MAC} . {CLIENT}")


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with gateway_in(HOME) as box:
        yield box
        box.sidegate("down", "--now")


def asked_all_the_time(port: int, end: str) -> tuple[int, int, list[float]]:
    """Questions every 10 ms and their answers, and when, from the start, those were asked that had none.

    port: from this one; 0: from one of its own for each question. end: a file; once it is there, 50 are enough. Runs at
    a client.
    """
    asked = heard = 0
    kept = _asker(port) if port else None
    began_s = time.monotonic()
    lost: list[float] = []
    while asked <= 50 or not os.path.exists(end):
        asker = kept or _asker(0)
        asked += 1
        try:
            asker.send(
                struct.pack("!6H", asked & 0xFFFF, 0x100, 1, 0, 0, 0) + labels("www.domestic.example") + b"\0\1\0\1"
            )
            while asker.recv(512)[:2] != struct.pack("!H", asked & 0xFFFF):
                pass
            heard += 1
        except OSError:
            lost.append(round(time.monotonic() - began_s, 3))
        if kept is None:
            asker.close()
        time.sleep(0.01)
    return asked, heard, lost


def _asker(port: int) -> socket.socket:
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.bind(("", port))
    asker.connect((OURS, 53))
    asker.settimeout(PATIENCE_S)
    return asker


def resolver_pids(box: Box) -> dict[str, str]:
    """Of those that serve, by name. One that ends takes its file away."""
    script = "for f in /run/sidegate/resolver/*.pid; do p=$(cat $f 2>/dev/null) && kill -0 $p 2>/dev/null && echo $f $p"
    lines = [line.split() for line in box.shell(f"{script}; done; true").splitlines()]
    return {Path(file).stem: pid for file, pid in lines}


def wait_for_one(box: Box, before: dict[str, str]) -> None:
    """Until another resolver than before is at port 53, and no other one is left."""
    wait_for(lambda: [*(now := resolver_pids(box))] == [RESOLVER] and now != before, 60)


def reload(box: Box, names: str) -> None:
    before = resolver_pids(box)
    box.write(CONF, conf(box, "socks", rule=f'domain = ["foreign.example", "{names}"]'))
    box.sidegate("reload")
    wait_for_one(box, before)


def test_no_question_is_lost_while_rules_change(box: Box, tmp_path: Path) -> None:
    end = tmp_path / "end"
    box.write(CONF, conf(box, "socks"))
    box.up("--config", CONF)
    assert box.lab.call("phone", resolve, "www.domestic.example", OURS).ok
    askers = [box.lab.begin(who, asked_all_the_time, port, str(end)) for who, port in (("phone", 40053), ("nas", 0))]
    for names in ("one.example", "two.example"):
        reload(box, names)
    end.touch()
    for asker in askers:
        asked, heard, lost = asker.result()
        assert asked > 50
        assert (heard, lost) == (asked, [])
