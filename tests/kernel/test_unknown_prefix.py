"""IPv6 of clients whose prefix this box does not know, or not yet: renumbered, or its own address was taken away."""

from __future__ import annotations

import sys
from ipaddress import IPv6Address, IPv6Network

import pytest
from msgspec import structs

from sidegate.gateway.ruleset.nft import ruleset
from sidegate.gateway.ruleset.nftchange import transactions
from sidegate.gateway.ruleset.services import Services
from sidegate.lab.asking import http_get
from sidegate.lab.wiretap import Wiretap
from sidegate.packet import UDP, Ipv6, Udp
from tests.kernel.gateway_lab import gateway_in, wait_for
from tests.kernel.gateway_rig import CLIENT_MAC, ROUTER_MAC, SHAPE, in_namespaces, shell
from tests.kernel.split_home import CONF, FOREIGN6, HOME, PROXY, PROXY6, conf, seen_from
from tests.kernel.steer_rig import CHOSEN, CLIENT6, LAN6, SERVER6, Engine, SplitRig, datagram, syn
from tests.kernel.test_steer import LISTED

pytestmark = pytest.mark.kernel

NEW = IPv6Network("2001:db8:1:2::/64")
OURS6, ROUTER6 = "2001:db8:1:1::2", "2001:db8:1:1::1"
SENDER = """
import socket, time
while True:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"?", ("{to}", 7))
        except OSError:
            pass
    time.sleep(0.05)
"""


@pytest.mark.parametrize("known", [(), (LAN6,)])
@in_namespaces
def test_a_client_with_another_prefix_is_split_all_the_same(known: tuple[IPv6Network, ...]) -> None:
    rig = _knowing(SplitRig(LISTED), known)
    Engine(CHOSEN)
    for client in (NEW[0x10], IPv6Address("fd00::10"), CLIENT6):
        shell(f"ip neighbour replace {client} lladdr {CLIENT_MAC} dev eth0; ip -6 route replace {client} dev eth0")
        for packet in (syn(40000, SERVER6), datagram(40001, SERVER6)):
            assert rig.went(structs.replace(packet, src=client)) == "engine", client


@in_namespaces
def test_what_comes_from_the_internet_is_not_a_clients() -> None:
    """As to a network behind this box, to which the main router has a route."""
    rig = _knowing(SplitRig(LISTED, shape=structs.replace(SHAPE, router=ROUTER_MAC)), ())
    Engine(CHOSEN)
    packet = structs.replace(datagram(40000, SERVER6), src=IPv6Address("2606:4700::9"))
    assert rig.ask(packet, ROUTER_MAC) == structs.replace(packet, ttl=packet.ttl - 1)


@in_namespaces
def test_names_are_not_asked_past_this_box() -> None:
    services = Services(names=True, redirects=True, has_engine=True, ipv6=True)
    rig = _knowing(SplitRig(LISTED, shape=structs.replace(SHAPE, services=services)), ())
    assert rig.ask(Ipv6(NEW[0x10], SERVER6, UDP, Udp(40000, 53, b"?"))) is None


def test_nothing_goes_past_the_proxy_when_this_box_gets_its_address_back() -> None:
    with gateway_in(HOME) as box:
        text = conf(box, "shadowsocks", rule=f'cidr = ["{FOREIGN6}/128"]') + '\n[ipv6]\nmode = "gateway"\n'
        box.up("--config", box.write(CONF, text))
        box.shell(f"ip -6 route replace default via {OURS6}", "nas")
        wait_for(lambda: seen_from(box.lab.call("nas", http_get, FOREIGN6, 80, "/who")) in (PROXY, PROXY6))
        with Wiretap(box.lab) as tap:
            box.lab.start("nas", sys.executable, "-c", SENDER.format(to=FOREIGN6))
            wait_for(lambda: f" . {FOREIGN6} . 7" in box.shell("nft list ruleset"))
            box.shell("ip -6 address flush dev eth0 scope global")
            wait_for(lambda: "elements" not in box.shell("nft list set inet sidegate lan6"))
            box.shell(f"ip -6 address add {OURS6}/64 dev eth0 nodad; ip -6 route replace default via {ROUTER6}")
            wait_for(lambda: "elements" in box.shell("nft list set inet sidegate lan6"))
            assert [it for it in tap.seen if (it.protocol, it.dst) == ("udp", FOREIGN6)] == []


def _knowing(rig: SplitRig, lan6: tuple[IPv6Network, ...]) -> SplitRig:
    old, rig.shape = rig.shape, structs.replace(rig.shape, lan6=lan6)
    for text in transactions(ruleset(old), ruleset(rig.shape)):
        rig.nft(text)
    return rig
