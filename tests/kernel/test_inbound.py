"""Services that the router forwards from the internet to a client whose gateway is this box."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from msgspec import structs

from sidegate.gateway.ruleset.inbound import Forwarded
from sidegate.home import Home, PortForward, load_home
from sidegate.lab.asking import http_get, udp_echo
from sidegate.packet import Ipv4
from tests.kernel.gateway_lab import Box, gateway_in, mesh_home, wait_for
from tests.kernel.gateway_rig import CLIENT, CLIENT_MAC, PHONE, ROUTER_MAC, SERVER, SHAPE, in_namespaces, shell, udp
from tests.kernel.steer_rig import CHOSEN, SERVER6, Engine, Packet, SplitRig, datagram, syn
from tests.kernel.test_steer import ALL

pytestmark = pytest.mark.kernel

WAN, TO_DESK, TO_NAS = "123.100.101.102", 25565, 8080
CONF = "/run/inbound.toml"
ANSWERS = structs.replace(SHAPE, router=ROUTER_MAC, forwarded=(Forwarded(CLIENT_MAC, "udp", 27015),))


def forwarding(home: Home, *forwards: PortForward) -> Home:
    return structs.replace(home, router=structs.replace(home.router, port_forward=forwards))


def suspects(box: Box) -> list[str]:
    return [hint for hint in box.status()["hints"] if "port forwards" in hint]


def device(box: Box, name: str, *settings: str) -> str:
    mac = box.lab.plan.wire_of(name).near.mac
    return "\n".join(["[[client]]", f'mac = "{mac}"', f'name = "my-{name}"', *settings]) + "\n"


def test_a_forward_that_a_filtering_bridge_breaks_is_found_and_the_remedy_mends_it() -> None:
    """The one to a wired client works, and nothing is said of it."""
    forwards = (PortForward(port=TO_DESK, to="desk-computer"), PortForward(port=TO_NAS, to="nas"))

    def is_reached(port: int, patience_s: float = 15.0) -> bool:
        return box.lab.call("internet", http_get, WAN, port, "/", patience_s).ok

    with gateway_in(forwarding(mesh_home(), *forwards)) as box:
        box.up("--config", box.write(CONF, device(box, "desk-computer")))
        assert [is_reached(TO_NAS), is_reached(TO_DESK, 0.7)] == [True, False]
        box.probe_again()
        (found,) = wait_for(lambda: suspects(box))
        assert found.startswith("192.168.1.124 (")
        assert all(word in found for word in ("my-desk-computer", WAN, 'gateway = "router"'))
        box.shell("ip route replace default via 192.168.1.1", "desk-computer")
        assert is_reached(TO_DESK)
        box.write(CONF, device(box, "desk-computer", 'gateway = "router"'))
        box.sidegate("reload")
        wait_for(lambda: not suspects(box))


def test_datagrams_of_a_forwarded_service_reach_whoever_asked() -> None:
    """Of one that is masqueraded, and where everything is proxied; the answers come from the service's own port."""
    home = forwarding(load_home("split"), PortForward(port=27015, to="nas", to_port=7, protocol="udp"))
    with gateway_in(home) as box:
        proxy = f'[proxy]\nupstream = "{box.lab.links()["proxy-socks"]}"\nmode = "all"\n'
        always = '[nat]\nmasquerade = "always"\n'
        found = []
        box.up("--config", box.write(CONF, always))
        for text in (always, always + proxy):
            for settings in ((), ('forwarded = ["udp/7"]',)):
                box.write(CONF, text + device(box, "nas", *settings))
                box.sidegate("reload")
                patience_s = 15.0 if settings else 0.7
                found.append(box.lab.call("internet", udp_echo, WAN, 27015, patience_s).ok)
        assert found == [False, True, False, True]


@pytest.mark.parametrize("to", [SERVER, SERVER6])
@in_namespaces
def test_what_is_sent_from_a_forwarded_port_is_neither_steered_nor_masqueraded(to: IPv4Address) -> None:
    rig = SplitRig(ALL, shape=ANSWERS)
    Engine(CHOSEN)
    assert [rig.went(p) for p in (datagram(27015, to), datagram(27016, to), syn(27015, to))] == [
        "direct",
        "engine",
        "engine",
    ]


@in_namespaces
def test_what_a_bridge_has_translated_is_noted_and_nothing_else() -> None:
    """Not what the router hands on, nor a network behind a device, nor what is for another box."""
    rig = SplitRig(ALL, shape=ANSWERS)

    def noted(packet: Packet, src: str = CLIENT_MAC, dst: str = "02:00:00:00:00:02") -> bool:
        rig.ask(packet, src, dst)
        return rig.holds("translated4")

    public = udp(to=CLIENT, of=IPv4Address("123.100.101.102"))
    behind = udp(of=IPv4Address("172.17.0.2"))
    assert not noted(public, ROUTER_MAC)
    assert not noted(public, dst=ROUTER_MAC)
    assert not noted(behind)
    assert not noted(udp())
    assert noted(Ipv4(public.src, SERVER, public.protocol, public.body))


@in_namespaces
def test_answers_that_leave_by_a_tunnel_are_its_own_nat_s() -> None:
    rig = SplitRig(ALL, shape=ANSWERS)
    shell("ip link add tun0 type veth peer name tun1; ip link set tun1 up; ip link set tun0 up")
    shell(f"ip route add 8.8.8.8 dev tun0; ip neighbour add 8.8.8.8 lladdr {ROUTER_MAC} dev tun0")
    rig.nft("table ip t {\nchain c {\ntype filter hook forward priority 0;\nct state new counter\n}\n}\n")
    rig.prove(PHONE)
    assert rig.went(datagram(27015, IPv4Address("8.8.8.8"))) == "nowhere"
    assert "counter packets 1" in shell("nft list table ip t")
    assert rig.went(datagram(27015)) == "direct"
    assert "counter packets 1" in shell("nft list table ip t")
