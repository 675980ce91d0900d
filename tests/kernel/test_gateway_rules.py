"""Our nft table on the real kernel, as conversations: a frame in at the gateway's cable, the frame that comes out.

`source(packet) == CLIENT`: it went on direct; `== GATEWAY`: masqueraded.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from sidegate.gateway.config import Masquerade
from sidegate.gateway.ruleset.nft import ANSWERED_S, Client, Shape, parse_elements, prove, ruleset, withdraw
from sidegate.packet import ICMP, UDP, Echo, Ipv4, Tcp, Udp
from tests.kernel.gateway_rig import (
    ACK,
    CLIENT,
    CLIENT_MAC,
    FIN,
    GATEWAY,
    LAN,
    OTHER_SERVER,
    PHONE,
    ROUTER_MAC,
    RST,
    SERVER,
    SHAPE,
    SYN,
    Rig,
    in_namespaces,
    reply,
    shell,
    tcp,
    udp,
)

pytestmark = pytest.mark.kernel


def ping(seq: int, ident: int = 77) -> Ipv4:
    return Ipv4(CLIENT, SERVER, ICMP, Echo(reply=False, id=ident, seq=seq))


def loaded(shape: Shape = SHAPE) -> Rig:
    rig = Rig()
    rig.forward()
    rig.load(shape)
    return rig


@in_namespaces
def test_unproved_client_is_masqueraded_and_gets_its_replies() -> None:
    rig = loaded()
    assert rig.source(tcp(SYN)) == GATEWAY
    answer = rig.forwarded(reply(tcp(SYN), Tcp(443, 40000, 7000, 1001, SYN | ACK), GATEWAY), ROUTER_MAC)
    assert answer is not None
    assert (answer.src, answer.dst) == (SERVER, CLIENT)
    assert rig.source(tcp(ACK)) == GATEWAY
    assert rig.source(udp()) == GATEWAY
    assert rig.source(ping(1)) == GATEWAY


@in_namespaces
def test_proved_client_goes_direct() -> None:
    rig = loaded()
    rig.prove()
    for flags in (SYN, ACK, ACK, FIN | ACK):
        assert rig.source(tcp(flags)) == CLIENT
    assert rig.source(udp()) == CLIENT
    assert rig.source(ping(1)) == CLIENT
    assert rig.holds("direct4", str(CLIENT))


@in_namespaces
def test_proof_is_of_mac_and_address() -> None:
    rig = loaded()
    rig.prove(Client("02:00:00:00:00:99", CLIENT))
    assert rig.source(tcp(SYN)) == GATEWAY


def lost_then_masqueraded(rig: Rig, port: int) -> list[IPv4Address | None]:
    """A SYN without an answer, the same again, and the ACK of the answer to that one."""
    sources = [rig.source(tcp(SYN, port)), rig.source(tcp(SYN, port))]
    rig.forwarded(reply(tcp(SYN, port), Tcp(443, port, 7000, 1001, SYN | ACK), GATEWAY), ROUTER_MAC)
    return [*sources, rig.source(tcp(ACK, port, seq=1001))]


def a_second_later(rig: Rig) -> None:
    """The soonest that a client sends a SYN again."""
    rig.nft("flush set inet sidegate answered4\n")


def load_with_a_long_second(rig: Rig) -> None:
    """The same table, but for how long it is known that a client was answered: what is done within a second is done
    within that on a slow machine too.
    """
    second = rf"(set answered4 \{{[^}}]*\ttimeout) {ANSWERED_S}s\n"
    text, found = re.subn(second, r"\1 1h\n", ruleset(SHAPE))
    assert found == 1
    rig.nft(text)


FAILED_DIRECT = [CLIENT, GATEWAY, GATEWAY]


@in_namespaces
def test_repeated_syn_is_masqueraded_and_a_dead_server_ends_no_proof() -> None:
    """To end it would move the client's calls and tunnels to another address."""
    rig = loaded()
    rig.prove()
    for port in range(40000, 40004):
        assert [rig.source(tcp(SYN, port)) for _ in range(3)] == [CLIENT, GATEWAY, GATEWAY]
    assert rig.source(udp()) == CLIENT
    assert rig.holds("direct4")
    assert not rig.holds("stale4")


@in_namespaces
def test_two_connections_that_only_masquerade_could_open_end_the_proof() -> None:
    rig = loaded()
    rig.prove()
    assert lost_then_masqueraded(rig, 40000) == FAILED_DIRECT
    assert rig.holds("doubted4", CLIENT_MAC)
    assert rig.holds("direct4")
    assert lost_then_masqueraded(rig, 40001) == FAILED_DIRECT
    assert rig.holds("stale4", CLIENT_MAC)
    assert not rig.holds("direct4")
    assert not rig.holds("doubted4")
    assert rig.source(tcp(SYN, 40002)) == GATEWAY


@in_namespaces
def test_one_connection_is_one_doubt_however_much_it_says() -> None:
    rig = loaded()
    rig.prove()
    assert lost_then_masqueraded(rig, 40000) == FAILED_DIRECT
    assert [rig.source(tcp(f, seq=1001)) for f in (ACK, ACK, FIN | ACK)] == [GATEWAY] * 3
    assert rig.holds("direct4")
    assert rig.holds("doubted4", CLIENT_MAC)


@in_namespaces
def test_lost_packets_end_no_proof_while_others_come_through() -> None:
    rig = loaded()
    rig.prove()
    for port in (40000, 40010, 40020):
        assert lost_then_masqueraded(rig, port) == FAILED_DIRECT
        assert [rig.source(tcp(f, port + 1)) for f in (SYN, ACK)] == [CLIENT, CLIENT]
        a_second_later(rig)
    assert rig.holds("direct4")


@in_namespaces
def test_names_of_a_proved_client_are_asked_masqueraded() -> None:
    """A client that roamed finds names at once, whatever became of its proof."""
    rig = loaded()
    rig.prove()
    assert rig.source(Ipv4(CLIENT, SERVER, UDP, Udp(40000, 53, b"?"))) == GATEWAY
    assert rig.source(udp()) == CLIENT


@in_namespaces
def test_renewed_proof_does_not_flip_the_syn_that_ended_the_last_one() -> None:
    rig = loaded()
    rig.prove()
    assert [rig.source(tcp(SYN)), rig.source(tcp(SYN))] == [CLIENT, GATEWAY]
    rig.prove()
    assert rig.source(tcp(SYN)) == GATEWAY
    assert rig.holds("direct4")


@in_namespaces
def test_one_dead_server_does_not_end_the_proof_while_another_answers() -> None:
    rig = Rig()
    rig.forward()
    load_with_a_long_second(rig)
    rig.prove()
    assert rig.source(tcp(SYN)) == CLIENT
    assert rig.source(tcp(SYN, 40001, OTHER_SERVER)) == CLIENT
    assert rig.source(tcp(ACK, 40001, OTHER_SERVER)) == CLIENT
    for _ in range(3):
        assert rig.source(tcp(SYN)) == CLIENT
    assert rig.holds("direct4")


@in_namespaces
def test_handshakes_before_the_roaming_do_not_hide_it() -> None:
    rig = loaded()
    rig.prove()
    assert [rig.source(tcp(f, 40001, OTHER_SERVER)) for f in (SYN, ACK)] == [CLIENT, CLIENT]
    assert rig.source(tcp(SYN)) == CLIENT
    a_second_later(rig)
    assert rig.source(tcp(SYN)) == GATEWAY


@in_namespaces
def test_direct_connection_is_not_tracked() -> None:
    rig = loaded()
    rig.prove()
    assert [rig.source(tcp(f)) for f in (SYN, ACK, ACK, FIN | ACK)] == [CLIENT] * 4
    assert Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text() == "0\n"


@in_namespaces
def test_masqueraded_connection_is_no_earlier_direct_one() -> None:
    """Of the same ports, a moment ago."""
    rig = loaded()
    rig.prove()
    assert [rig.source(tcp(f)) for f in (SYN, ACK)] == [CLIENT, CLIENT]
    rig.withdraw()
    assert rig.source(tcp(SYN, seq=5000)) == GATEWAY
    rig.forwarded(reply(tcp(SYN), Tcp(443, 40000, 7000, 5001, SYN | ACK), GATEWAY), ROUTER_MAC)
    rig.prove()
    assert rig.source(tcp(ACK, seq=5001)) == GATEWAY


@in_namespaces
def test_connection_that_has_an_earlier_ones_ports_is_a_new_one() -> None:
    """Its SYN is no sign that the earlier one's was lost, and the earlier one's answer none that it was answered."""
    rig = loaded()
    rig.prove()
    for _ in range(4):
        assert [rig.source(tcp(f)) for f in (SYN, ACK)] == [CLIENT, CLIENT]
        a_second_later(rig)
    assert [rig.source(tcp(SYN)) for _ in range(2)] == [CLIENT, GATEWAY]
    assert not rig.holds("doubted4")


@in_namespaces
def test_syn_that_is_masqueraded_takes_the_answer_of_the_direct_one_with_it() -> None:
    """The proof went between the two: the ACK belongs to the second."""
    rig = loaded()
    rig.prove()
    assert rig.source(tcp(SYN)) == CLIENT
    rig.withdraw()
    assert rig.source(tcp(SYN)) == GATEWAY
    rig.forwarded(reply(tcp(SYN), Tcp(443, 40000, 7000, 1001, SYN | ACK), GATEWAY), ROUTER_MAC)
    assert rig.source(tcp(ACK, seq=1001)) == GATEWAY


@in_namespaces
def test_every_packet_of_a_client_is_counted_once() -> None:
    rig = loaded()
    rig.prove()
    for flags in (SYN, ACK, ACK, FIN | ACK):
        rig.source(tcp(flags))
    (up,) = parse_elements(shell("nft -j list set inet sidegate clients4"))
    assert up.packets == 4


@in_namespaces
def test_reset_without_ack_is_no_handshake() -> None:
    rig = loaded()
    rig.prove()
    assert [rig.source(tcp(f)) for f in (SYN, RST, SYN)] == [CLIENT, CLIENT, GATEWAY]


@in_namespaces
def test_masqueraded_connection_survives_the_proof() -> None:
    rig = loaded()
    assert rig.source(tcp(SYN)) == GATEWAY
    rig.forwarded(reply(tcp(SYN), Tcp(443, 40000, 7000, 1001, SYN | ACK), GATEWAY), ROUTER_MAC)
    rig.prove()
    assert [rig.source(tcp(f, seq=1001)) for f in (ACK, ACK, FIN | ACK)] == [GATEWAY] * 3
    assert rig.source(tcp(SYN, port=40001)) == CLIENT


@in_namespaces
def test_proof_between_two_syns_of_one_connection_does_not_flip_it() -> None:
    rig = loaded()
    assert rig.source(tcp(SYN)) == GATEWAY
    rig.prove()
    assert rig.source(tcp(SYN)) == GATEWAY
    assert rig.holds("direct4")


@in_namespaces
def test_direct_connection_survives_the_loss_of_the_proof() -> None:
    rig = loaded()
    rig.prove()
    assert [rig.source(tcp(f)) for f in (SYN, ACK)] == [CLIENT, CLIENT]
    rig.withdraw()
    assert [rig.source(tcp(f, seq=1001)) for f in (ACK, ACK, FIN | ACK)] == [CLIENT] * 3


@in_namespaces
def test_proof_lost_between_syn_and_ack_does_not_flip_the_connection() -> None:
    rig = loaded()
    rig.prove()
    assert rig.source(tcp(SYN)) == CLIENT
    rig.withdraw()
    assert rig.source(tcp(ACK, seq=1001)) == CLIENT


@in_namespaces
def test_connection_older_than_the_table_is_left_as_it_is() -> None:
    rig = loaded()
    assert rig.source(tcp(ACK)) == CLIENT


@in_namespaces
def test_masqueraded_datagrams_stay_so_when_the_proof_comes() -> None:
    rig = loaded()
    assert rig.source(udp()) == GATEWAY
    rig.prove()
    assert [rig.source(udp()), rig.source(udp(40001))] == [GATEWAY, CLIENT]


@in_namespaces
def test_tunnel_with_a_fixed_port_comes_back_when_the_proof_goes() -> None:
    rig = loaded()
    rig.prove()
    assert [rig.source(udp()), rig.source(ping(1))] == [CLIENT, CLIENT]
    rig.withdraw()
    assert [rig.source(udp()), rig.source(ping(2))] == [GATEWAY, GATEWAY]


def lapse(rig: Rig) -> None:
    """As when nobody renews the proof."""
    rig.nft(f"delete element inet sidegate direct4 {{ {CLIENT_MAC} . {CLIENT} }}\n")


@in_namespaces
def test_call_goes_on_direct_when_the_proof_only_lapses() -> None:
    """Without a daemon: to move it to another address would end it."""
    rig = loaded()
    rig.prove()
    assert rig.source(udp()) == CLIENT
    lapse(rig)
    assert [rig.source(udp()), rig.source(udp()), rig.source(udp(40001))] == [CLIENT, CLIENT, GATEWAY]
    rig.prove()
    assert [rig.source(udp()), rig.source(udp(40001))] == [CLIENT, GATEWAY]


@in_namespaces
def test_lapsed_call_of_a_client_that_roamed_comes_back() -> None:
    rig = loaded()
    rig.prove()
    assert rig.source(udp()) == CLIENT
    lapse(rig)
    rig.withdraw()
    assert [rig.source(udp()), rig.source(udp())] == [GATEWAY, GATEWAY]


@in_namespaces
def test_lan_to_lan_is_untouched() -> None:
    rig = loaded()
    nas = Ipv4(CLIENT, LAN[0][1], 17, Udp(40000, 53, b"?"))
    assert rig.source(nas) == CLIENT
    assert not rig.holds("clients4")


@in_namespaces
def test_replies_of_clients_are_untouched() -> None:
    """A port forward to a client whose default gateway we are: its SYN-ACK is not ours to rewrite."""
    rig = loaded()
    assert rig.source(tcp(SYN | ACK)) == CLIENT
    assert rig.source(Ipv4(CLIENT, SERVER, ICMP, Echo(reply=True, id=5, seq=1))) == CLIENT


@in_namespaces
def test_gateways_own_traffic_is_untouched() -> None:
    """From its second address: masqueraded, it would leave under the first."""
    rig = loaded()
    shell("ip address add 192.168.1.3/24 dev eth0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("192.168.1.3", 0))
        own.sendto(b"own", (str(SERVER), 53))
    sent = rig.next_sent()
    assert sent is not None
    assert (sent.src, sent.dst) == (LAN[0][3], SERVER)
    assert not rig.holds("clients4")


@in_namespaces
def test_what_leaves_by_another_interface_is_neither_masqueraded_nor_untracked() -> None:
    """A tunnel on the same box keeps its own NAT, for proved clients too."""
    rig = loaded()
    shell(
        "ip link add tun0 type veth peer name tun1; ip link set tun0 up; ip link set tun1 up;"
        " ip route add 8.8.8.8 dev tun0"
    )
    shell("ip neighbour add 8.8.8.8 lladdr 02:00:00:00:00:77 dev tun0")
    rig.nft(
        "table ip own {\n chain post { type nat hook postrouting priority 101;\n"
        " oifname tun0 counter snat to 10.9.9.9\n }\n}\n"
    )
    rig.prove()
    for packet in (tcp(SYN, to=OTHER_SERVER), tcp(SYN, to=OTHER_SERVER), udp(to=OTHER_SERVER)):
        rig.put(packet)
    assert "packets 2 " in shell("nft list table ip own")
    assert rig.holds("direct4")


@pytest.mark.parametrize("program", ["iptables-nft", "iptables-legacy"])
@in_namespaces
def test_the_owners_own_masquerade_does_not_break_direct_flows(program: str) -> None:
    """The line of every forum: it knows no SYN and would rewrite a direct connection from its first ACK on."""
    rig = loaded()
    shell(f"{program} -t nat -A POSTROUTING -o eth0 -j MASQUERADE")
    assert rig.source(tcp(SYN, 39999)) == GATEWAY
    rig.prove()
    assert [rig.source(tcp(f)) for f in (SYN, ACK, ACK)] == [CLIENT, CLIENT, CLIENT]
    assert [rig.source(udp()), rig.source(ping(1))] == [CLIENT, CLIENT]
    rig.withdraw()
    assert rig.source(tcp(ACK)) == CLIENT


@in_namespaces
def test_foreign_sources_and_multicast_are_not_counted() -> None:
    rig = loaded()
    stranger = Ipv4(SERVER, OTHER_SERVER, 17, Udp(1, 1, b""))
    assert rig.source(stranger) == SERVER
    rig.put(Ipv4(CLIENT, LAN[0].broadcast_address, 17, Udp(1, 1, b"")), dst="ff:ff:ff:ff:ff:ff")
    rig.put(Ipv4(CLIENT, IPv4Address("239.255.255.250"), 17, Udp(1, 1900, b"")), dst="01:00:5e:7f:ff:fa")
    assert not rig.holds("clients4")


@in_namespaces
def test_clients_and_replies_are_counted() -> None:
    rig = loaded()
    rig.source(udp())
    rig.source(udp())
    rig.forwarded(reply(udp(), Udp(51820, 40000, b"tunnel"), GATEWAY), ROUTER_MAC)
    (up,) = parse_elements(shell("nft -j list set inet sidegate clients4"))
    (down,) = parse_elements(shell("nft -j list set inet sidegate replies4"))
    assert (up.key, up.packets) == ((CLIENT_MAC, str(CLIENT)), 2)
    assert (down.key, down.packets, down.bytes) == ((str(CLIENT),), 1, 34)


@in_namespaces
def test_full_set_means_masquerade() -> None:
    rig = loaded()
    rig.nft(f"table inet sidegate {{\n set small {{ typeof {KEY}; size 1; flags dynamic,timeout; timeout 1m\n }}\n}}\n")
    rig.nft(f"flush chain inet sidegate opening\nadd rule inet sidegate opening update @small {{ {KEY} }} notrack\n")
    rig.prove()
    assert [rig.source(tcp(SYN, 40000)), rig.source(tcp(SYN, 40001))] == [CLIENT, GATEWAY]


KEY = "ip saddr . tcp sport . ip daddr . tcp dport"


@pytest.mark.parametrize(
    ("common", "own", "unproved", "proved"),
    [
        ("auto", None, GATEWAY, CLIENT),
        ("auto", "always", GATEWAY, GATEWAY),
        ("auto", "never", CLIENT, CLIENT),
        ("always", None, GATEWAY, None),
        ("always", "auto", GATEWAY, CLIENT),
        ("always", "never", CLIENT, None),
        ("never", None, CLIENT, None),
        ("never", "auto", GATEWAY, CLIENT),
        ("never", "always", GATEWAY, None),
    ],
)
@in_namespaces
def test_settings(common: Masquerade, own: Masquerade | None, unproved: object, proved: object) -> None:
    """proved None: in such a table nobody can be."""
    settings = ((CLIENT_MAC, own),) if own else ()
    shape = msgspec.structs.replace(SHAPE, masquerade=common, own=settings)
    rig = loaded(shape)
    assert [rig.source(tcp(SYN)), rig.source(udp()), rig.source(ping(1))] == [unproved] * 3
    assert shape.has_auto == (proved is not None)
    if proved is not None:
        rig.prove()
        assert [rig.source(tcp(SYN, 40001)), rig.source(udp(40001)), rig.source(ping(1, 78))] == [proved] * 3


@in_namespaces
def test_own_setting_is_not_for_others() -> None:
    rig = loaded(msgspec.structs.replace(SHAPE, own=(("02:00:00:00:00:99", "never"),)))
    assert rig.source(tcp(SYN)) == GATEWAY
    rig = loaded(msgspec.structs.replace(SHAPE, masquerade="never", own=(("02:00:00:00:00:99", "always"),)))
    assert rig.source(tcp(SYN)) == CLIENT


@in_namespaces
def test_prove_many_renew_and_withdraw() -> None:
    rig = loaded()
    many = [Client(f"02:00:00:00:01:{n:02x}", LAN[0][n]) for n in range(20, 250)]
    rig.nft(prove(many, timeout_s=20))
    rig.nft(prove([*many, PHONE], timeout_s=2000))
    elements = parse_elements(shell("nft -j list set inet sidegate direct4"))
    assert len(elements) == len(many) + 1
    assert all(e.expires_s is not None and e.expires_s > 1000 for e in elements)
    rig.nft(withdraw([*many, Client("02:00:00:00:01:fe", LAN[0][254])]))
    (left,) = parse_elements(shell("nft -j list set inet sidegate direct4"))
    assert left.key == (CLIENT_MAC, str(CLIENT))
