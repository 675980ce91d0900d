"""A direct name that is another name for a proxied one: what its server says of that one is nobody else's answer."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest
from msgspec import structs

from sidegate.gateway.ruleset.nft import Shape, ruleset
from sidegate.gateway.ruleset.services import Services
from sidegate.gateway.split.policy import Destination, Policy, Rule
from sidegate.home import load_home
from sidegate.lab.lab import Lab
from sidegate.packet import UDP, Ipv4, Udp
from tests.kernel.dns_box import LIE, TABLE, TRUTH, DnsBox, end, proxied, resolver
from tests.kernel.gateway_rig import GATEWAY, ROUTER_MAC, SERVER, SHAPE, in_namespaces, shell
from tests.kernel.steer_rig import SplitRig
from tests.kernel.test_steer import LISTED

pytestmark = pytest.mark.kernel

SERVICES = Services(names=True, has_engine=True)
PAIR = ["36.7.7.1", "36.7.7.2"]
LIAR = (
    f"--host-record=www.foreign.example,{LIE}",
    "--cname=alias.domestic.example,www.foreign.example",
    "--host-record=pair.domestic.example,36.7.7.1",
    "--host-record=pair.domestic.example,36.7.7.2",
    "--local=/domestic.example/",
    "--local-ttl=600",
    "--log-queries",
    "--log-facility=/run/liar.log",
    "--host-record=one.domestic.example,36.7.7.3",
)
OPTIONS = ("--conf-file=/dev/null", "--bind-interfaces", "--no-resolv", "--no-hosts", "--user=root", "--group=")
_SIOCETHTOOL, _ETHTOOL_SRXCSUM = 0x8946, 0x14 | 1  # linux/sockios.h, linux/ethtool.h


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(load_home("split")) as up:
        yield up


@pytest.fixture
def box(lab: Lab) -> Iterator[DnsBox]:
    """Where names are split, by rules of the kernel as they are in a home."""
    box = DnsBox(lab)
    nas = _nas(lab)
    lab.run("nas", "dnsmasq", *OPTIONS, f"--listen-address={nas}", "--pid-file=/run/liar.pid", *LIAR)
    box.start_engine()
    mac = lab.plan.wire_of("gateway").near.mac
    box.nft(ruleset(Shape("eth0", mac, (IPv4Network("192.168.1.0/24"),), "never", services=SERVICES)) + TABLE)
    box.want(resolver(proxied("foreign.example"), direct=(nas,)))
    yield box
    box.want(None)
    box.stop_engine()
    end(lab, "nas", "/run/liar.pid")
    lab.run("nas", "rm", "/run/liar.log")


def test_an_alias_does_not_answer_for_a_proxied_name(box: DnsBox) -> None:
    assert box.ask("alias.domestic.example") == LIE, "the alias itself is a direct name"
    assert box.ask("www.foreign.example") == TRUTH
    assert set(box.learned()) == {TRUTH}
    assert _asked(box, "www.foreign.example") == 0


@pytest.mark.parametrize(
    ("answers", "authorities", "kept"),
    [(0, 0, True), (0, 4, True), (1, 0, True), (1, 1, False), (2, 0, False), (300, 0, False)],
)
@in_namespaces
def test_what_is_not_to_be_kept_is_delivered_where_checksums_are_looked_at(
    answers: int, authorities: int, kept: bool
) -> None:
    """At the socket, as where conntrack, which looks before our rules do, was told not to."""
    rig = SplitRig(LISTED, shape=structs.replace(SHAPE, services=SERVICES))
    _look_at_checksums()
    shell("echo 0 >/proc/sys/net/netfilter/nf_conntrack_checksum")
    told = struct.pack("!HBBHHHH", 7, 0x81, 0x80, 1, answers, authorities, 0) + b"\1a\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.bind(("", 40000))
        asker.settimeout(15)
        rig.put(Ipv4(SERVER, GATEWAY, UDP, Udp(53, 40000, told)), ROUTER_MAC)
        heard = asker.recv(512)
    assert heard == told[:3] + bytes([0x80 if kept else 0x90]) + told[4:]


def test_one_record_is_kept_and_more_are_asked_for_again(box: DnsBox) -> None:
    for _ in range(3):
        assert box.ask("one.domestic.example") == "36.7.7.3"
        assert sorted(box.ask("pair.domestic.example").split()) == PAIR
        assert box.ask("nobody.domestic.example") == "no such name"
    assert [_asked(box, f"{name}.domestic.example") for name in ("pair", "one", "nobody")] == [3, 1, 1]


def test_direct_names_are_learned_with_all_their_addresses(box: DnsBox) -> None:
    """As where all but them is proxied."""
    names = Policy((Rule("rule[0]", "direct", Destination(suffixes=("domestic.example",))),), "proxy")
    learned = f"names_{names.rules[0].destination.names_key}_4" if names.rules[0].destination else ""
    box.nft(f"add set inet sidegate {learned} {{ type ipv4_addr; flags timeout; timeout 2h; }}")
    box.want(resolver(names, direct=(_nas(box.lab),)))
    box.ask("pair.domestic.example")
    assert sorted(box.learned(learned)) == PAIR


def _asked(box: DnsBox, name: str) -> int:
    """How often the server for direct names was."""
    return box.lab.run("nas", "cat", "/run/liar.log").stdout.count(f"] {name} from")


def _nas(lab: Lab) -> IPv4Address:
    return next(c.v4 for c in lab.home.client if c.name == "nas")


def _look_at_checksums() -> None:
    """Of what comes in by eth0: a veth takes them for good otherwise (`drivers/net/veth.c` veth_xmit)."""
    off = bytearray(struct.pack("II", _ETHTOOL_SRXCSUM, 0))
    held = (ctypes.c_char * len(off)).from_buffer(off)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sP", b"eth0", ctypes.addressof(held)))
