"""The split on the real kernel, as conversations: a frame in at the gateway's cable, and what becomes of it."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from msgspec import structs

from sidegate.gateway.config import Masquerade
from sidegate.gateway.config.fields import Quic
from sidegate.gateway.ruleset.steer import DATAGRAMS_S
from sidegate.gateway.split.policy import Destination, Policy, Rule, Source
from sidegate.packet import ICMP, Echo, Ipv4, Udp
from tests.kernel.gateway_rig import CLIENT, CLIENT_MAC, OTHER_SERVER, ROUTER_MAC, SERVER, SHAPE, in_namespaces, shell
from tests.kernel.steer_rig import CHOSEN, CLIENT6, NEXT, OTHER, SERVER6, Engine, SplitRig, datagram, segment, syn

pytestmark = pytest.mark.kernel

TO_SERVER = Destination(networks4=(IPv4Network(f"{SERVER}/32"),), networks6=(IPv6Network(f"{SERVER6}/128"),))
LISTED = Policy((Rule("rule[0]", "proxy", TO_SERVER),))
ALL = Policy((), "proxy")
ELSEWHERE6 = IPv6Address("2606:4700::2222")
NOTHING = Policy((Rule("rule[0]", "proxy", Destination(networks4=(IPv4Network("9.0.0.0/8"),))),))


@pytest.mark.parametrize("wildcard", [False, True])
@pytest.mark.parametrize("to", [SERVER, SERVER6])
@in_namespaces
def test_what_is_listed_goes_to_the_engine_and_the_rest_goes_straight(to: IPv4Address, wildcard: bool) -> None:
    rig = SplitRig(LISTED)
    Engine(CHOSEN, wildcard=wildcard)
    assert rig.connect(40000, to)[1] == CHOSEN.decided
    assert rig.engine_port(datagram(40000, to)) == CHOSEN.decided
    assert [rig.went(p) for p in (syn(40001, OTHER_SERVER), datagram(40001, OTHER_SERVER))] == ["masqueraded"] * 2


BOTH = pytest.mark.parametrize("to", [SERVER, SERVER6])


@BOTH
@in_namespaces
def test_engine_killed_the_same_packet_goes_straight(to: IPv4Address) -> None:
    rig, engine = SplitRig(LISTED, proved=True), Engine(CHOSEN)
    assert [rig.went(syn(40000, to)), rig.went(datagram(40000, to))] == ["engine", "engine"]
    engine.kill()
    assert [rig.went(syn(40001, to)), rig.went(datagram(40000, to)), rig.went(datagram(40001, to))] == ["direct"] * 3
    Engine(CHOSEN)
    assert [rig.went(syn(40002, to)), rig.went(datagram(40000, to)), rig.went(datagram(40001, to))] == ["engine"] * 3


@BOTH
@in_namespaces
def test_engine_killed_nothing_leaks_where_failure_means_block(to: IPv4Address) -> None:
    rig, engine = SplitRig(LISTED, proved=True, on_failure="block"), Engine(CHOSEN)
    going_on, _ = rig.connect(40000, to)
    assert rig.went(datagram(40000, to)) == "engine"
    engine.kill()
    assert [rig.went(p) for p in (syn(40001, to), datagram(40000, to), datagram(40001, to))] == ["refused"] * 3
    assert rig.went(going_on) == "refused"
    assert rig.went(syn(40002, OTHER_SERVER)) == "direct"


@BOTH
@in_namespaces
def test_connection_that_the_engine_had_does_not_leak_once_its_socket_is_gone(to: IPv4Address) -> None:
    """The kernel keeps the sockets of a dead engine for a minute; a client may be silent for longer."""
    rig = SplitRig(LISTED, proved=True, on_failure="block")
    Engine(CHOSEN)
    going_on, _ = rig.connect(40000, to)
    rig.went(going_on)
    engaged = f"engaged{to.version}"
    assert rig.holds(engaged, f" . 40000 . {to} . 443")
    client = CLIENT if to.version == 4 else CLIENT6
    rig.nft(f"add element inet sidegate {engaged} {{ {client} . tcp . 40001 . {to} . 443 }}\n")
    assert [rig.went(segment(40001, to)), rig.went(segment(40002, to))] == ["refused", "direct"]


@BOTH
@in_namespaces
def test_upstream_that_does_not_work_is_as_if_nobody_listened(to: IPv4Address) -> None:
    targets = (("proxy", None), ("other", OTHER))
    rig = SplitRig(LISTED, proved=True, targets=targets)
    Engine(CHOSEN, OTHER)
    assert [rig.went(syn(40000, to)), rig.went(datagram(40000, to))] == ["direct", "direct"]
    rig.steer(LISTED, targets=targets, on_failure="block")
    assert [rig.went(syn(40001, to)), rig.went(datagram(40001, to))] == ["refused", "refused"]


@BOTH
@in_namespaces
def test_proxied_connection_stays_so_whatever_changes(to: IPv4Address) -> None:
    rig = SplitRig(LISTED, proved=True)
    Engine(CHOSEN, OTHER)
    going_on, _ = rig.connect(40000, to)
    assert rig.went(syn(40001, to)) == "engine"
    for policy in (NOTHING, Policy((structs.replace(LISTED.rules[0], send="other"),)), NOTHING):
        rig.steer(policy)
        assert rig.went(going_on) == "engine"
        assert rig.went(syn(40001, to)) in ("engine", "nowhere")
    assert rig.went(syn(40002, to)) == "direct"


@pytest.mark.parametrize("proved", [False, True])
@BOTH
@in_namespaces
def test_direct_connection_stays_so_whatever_changes(to: IPv4Address, proved: bool) -> None:
    """Established, or asked for a second time."""
    rig = SplitRig(NOTHING, proved=proved)
    Engine(CHOSEN)
    path = rig.went(syn(40000, to))
    assert path != "engine"
    rig.went(syn(40001, to))
    rig.steer(LISTED)
    assert rig.went(segment(40000, to)) in ("direct", "masqueraded")
    assert rig.went(syn(40001, to)) in ("direct", "masqueraded")
    assert rig.went(syn(40002, to)) == "engine"


@pytest.mark.parametrize("masquerade", ["always", "never"])
@in_namespaces
def test_direct_syn_is_remembered_without_proofs_too(masquerade: Masquerade) -> None:
    rig = SplitRig(NOTHING, shape=structs.replace(SHAPE, masquerade=masquerade))
    Engine(CHOSEN)
    assert rig.went(syn(40000)) != "engine"
    rig.steer(LISTED)
    assert [rig.went(syn(40000)) != "engine", rig.went(syn(40001))] == [True, "engine"]


@BOTH
@in_namespaces
def test_datagrams_of_a_flow_stay_where_it_began(to: IPv4Address) -> None:
    rig = SplitRig(LISTED, proved=True)
    Engine(CHOSEN, OTHER)
    assert rig.engine_port(datagram(40000, to)) == CHOSEN.decided
    rig.steer(NOTHING)
    assert rig.engine_port(datagram(40000, to)) == CHOSEN.decided
    assert rig.went(datagram(40001, to)) == "direct"
    rig.steer(LISTED)
    assert [rig.went(datagram(40001, to)), rig.went(datagram(40002, to))] == ["direct", "engine"]


@BOTH
@in_namespaces
def test_flow_that_goes_on_is_remembered_for_longer(to: IPv4Address) -> None:
    """Wherever it went: what is sent goes the same way however long it lasts."""
    rig = SplitRig(LISTED)
    Engine(CHOSEN)
    client, elsewhere = (CLIENT, OTHER_SERVER) if to.version == 4 else (CLIENT6, ELSEWHERE6)
    for name, it in ((f"steered{CHOSEN.decided}_{to.version}", to), (f"straight{to.version}", elsewhere)):
        flow = f"{client} . udp . 40000 . {it} . 51820"
        rig.nft(f"add element inet sidegate {name} {{ {flow} timeout {DATAGRAMS_S}s expires 20s }}\n")
        rig.went(datagram(40000, it))
        assert left_s(name) == {40000: pytest.approx(DATAGRAMS_S, abs=60)}, name


def left_s(name: str) -> dict[int, int]:
    """Of each flow that the set holds, by the client's port."""
    found = json.loads(shell(f"nft -j list set inet sidegate {name}"))["nftables"]
    elements = next(it["set"] for it in found if "set" in it)["elem"]
    return {it["elem"]["val"]["concat"][2]: it["elem"]["expires"] for it in elements}


@BOTH
@in_namespaces
def test_upstream_without_udp_refuses_it_at_once(to: IPv4Address) -> None:
    """So that QUIC goes on over TCP; it neither waits nor goes straight."""
    rig = SplitRig(LISTED, proved=True, targets=(("proxy", structs.replace(CHOSEN, udp=False)),))
    Engine(OTHER)
    assert rig.went(datagram(40000, to)) == "refused"
    Engine(CHOSEN)
    assert [rig.went(datagram(40001, to)), rig.went(syn(40001, to))] == ["refused", "engine"]


@BOTH
@in_namespaces
def test_next_generation_takes_what_is_new(to: IPv4Address) -> None:
    rig, old = SplitRig(LISTED), Engine(CHOSEN)
    Engine(NEXT)
    going_on, port = rig.connect(40000, to)
    assert [port, rig.engine_port(datagram(40000, to))] == [CHOSEN.decided, CHOSEN.decided]
    rig.steer(LISTED, targets=(("proxy", NEXT),), held=(CHOSEN,))
    assert [rig.went(going_on), rig.engine_port(datagram(40000, to))] == ["engine", CHOSEN.decided]
    assert [rig.connect(40001, to)[1], rig.engine_port(datagram(40001, to))] == [NEXT.decided, NEXT.decided]
    old.kill()
    assert rig.engine_port(datagram(40000, to)) == NEXT.decided


@BOTH
@in_namespaces
def test_flows_leave_an_upstream_that_does_not_work(to: IPv4Address) -> None:
    """Its engine listens all the while: a tunnel with a fixed port would never come back."""
    rig = SplitRig(LISTED)
    Engine(CHOSEN, OTHER)
    assert rig.engine_port(datagram(40000, to)) == CHOSEN.decided
    rig.steer(LISTED, targets=(("proxy", OTHER),))
    assert rig.engine_port(datagram(40000, to)) == OTHER.decided


@pytest.mark.parametrize("kind", ["names", "kept"])
@BOTH
@in_namespaces
def test_learned_addresses_lead_to_the_port_where_names_are_looked_for(to: IPv4Address, kind: str) -> None:
    named = Destination(suffixes=("example.org",))
    rig = SplitRig(Policy((Rule("rule[0]", "proxy", named),)))
    Engine(CHOSEN)
    assert rig.went(datagram(40000, to)) != "engine"
    rig.nft(f"add element inet sidegate {kind}_{named.names_key}_{to.version} {{ {to} }}\n")
    assert [rig.connect(40001, to)[1], rig.engine_port(datagram(40001, to))] == [CHOSEN.named, CHOSEN.named]


@BOTH
@in_namespaces
def test_what_a_rule_for_a_mac_address_learned_is_decided_here_for_this_client_alone(to: IPv4Address) -> None:
    named = Destination(suffixes=("example.org",))
    theirs, ours = (Rule("", "other", named, Source(macs=(mac,))) for mac in ("02:00:00:00:00:99", CLIENT_MAC))
    rig = SplitRig(Policy((theirs,), "proxy"))
    Engine(CHOSEN, OTHER)
    rig.nft(f"add element inet sidegate names_{named.names_key}_{to.version} {{ {to} }}\n")
    assert rig.connect(40000, to)[1] == CHOSEN.named
    rig.steer(Policy((theirs, ours), "proxy"))
    assert rig.connect(40001, to)[1] == OTHER.decided


@in_namespaces
def test_learned_addresses_outlive_other_changes_and_no_other_names() -> None:
    """Wherever the rule stands, and wherever it sends."""
    names, others = Destination(suffixes=("example.org",)), Destination(suffixes=("example.com",))
    named = Rule("rule[0]", "proxy", names)
    learned, unlearned = f"names_{names.names_key}_4", f"names_{others.names_key}_4"
    rig = SplitRig(Policy((named,)))
    rig.nft(f"add element inet sidegate {learned} {{ {SERVER} }}\n")
    rig.steer(
        Policy((structs.replace(named, destination=others), LISTED.rules[0], structs.replace(named, send="other")))
    )
    assert rig.holds(learned, str(SERVER))
    assert not rig.holds(unlearned)
    rig.steer(Policy((structs.replace(named, destination=others),)))
    assert not rig.holds(unlearned)
    rig.steer(Policy((named,)))
    assert not rig.holds(learned)


@in_namespaces
def test_first_rule_that_matches_decides() -> None:
    by_port = Rule("", "direct", None, None, ((443, 443), (8000, 8999)), "tcp")
    by_client = Rule("", "other", None, Source(macs=(CLIENT_MAC,)), protocol="udp")
    rig = SplitRig(Policy((by_port, by_client, Rule("", "block", TO_SERVER)), "proxy"), proved=True)
    Engine(CHOSEN, OTHER)
    assert [rig.went(syn(40000)), rig.went(syn(40001, dport=8080))] == ["direct", "direct"]
    assert [rig.went(syn(40002, dport=80)), rig.went(syn(40003, OTHER_SERVER, 80))] == ["refused", "engine"]
    assert rig.engine_port(datagram(40004)) == OTHER.decided


@pytest.mark.parametrize(
    "source", [Source(macs=("02:00:00:00:00:99",)), Source(networks4=(IPv4Network("10.0.0.0/8"),))]
)
@in_namespaces
def test_rule_of_another_client_is_not_for_this_one(source: Source) -> None:
    rig = SplitRig(Policy((Rule("", "block", TO_SERVER, source),)))
    assert rig.went(syn()) == "masqueraded"


@BOTH
@in_namespaces
def test_what_is_blocked_is_refused_at_once(to: IPv4Address) -> None:
    rig = SplitRig(Policy((Rule("", "block", TO_SERVER),)))
    assert [rig.went(syn(40000, to)), rig.went(datagram(40000, to))] == ["refused", "refused"]


@in_namespaces
def test_ping_to_a_proxied_destination_goes_straight() -> None:
    rig = SplitRig(LISTED, on_failure="block")
    ping = Ipv4(CLIENT, SERVER, ICMP, Echo(reply=False, id=7, seq=1))
    assert rig.went(ping) == "masqueraded"
    rig.steer(Policy((Rule("", "block", TO_SERVER),)))
    assert rig.went(ping) == "refused"


@pytest.mark.parametrize(("quic", "gone"), [("proxy", "engine"), ("direct", "direct"), ("block", "refused")])
@BOTH
@in_namespaces
def test_quic(to: IPv4Address, quic: Quic, gone: str) -> None:
    rig = SplitRig(Policy((structs.replace(LISTED.rules[0], quic=quic),)), proved=True)
    Engine(CHOSEN)
    assert [rig.went(datagram(40000, to, 443)), rig.went(datagram(40001, to))] == [gone, "engine"]
    assert rig.went(syn(40000, to)) == "engine"


@in_namespaces
def test_private_destinations_are_proxied_only_by_their_network() -> None:
    modem = IPv4Address("192.168.100.1")
    by_client = Rule("", "proxy", None, Source(macs=(CLIENT_MAC,)))
    rig = SplitRig(Policy((by_client,), "proxy"))
    Engine(CHOSEN)
    assert [rig.went(syn(40000, modem)), rig.went(syn(40000))] == ["masqueraded", "engine"]
    company = Destination(networks4=(IPv4Network("192.168.100.0/24"),))
    rig.steer(Policy((Rule("", "proxy", company),)))
    assert rig.went(syn(40001, modem)) == "engine"


@in_namespaces
def test_proxied_traffic_leaves_no_trace_in_proofs_nor_in_conntrack() -> None:
    rig = SplitRig(ALL, proved=True)
    Engine(CHOSEN)
    going_on, _ = rig.connect(40000)
    assert [rig.went(going_on), rig.went(datagram(40001)), rig.went(syn(40002))] == ["engine"] * 3
    for name in ("pending4", "retried4", "masqueraded4", "datagrams4", "answered4", "straight4"):
        assert not rig.holds(name), name
    assert Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text() == "0\n"


@in_namespaces
def test_proxied_connection_is_no_earlier_direct_one() -> None:
    """Of the same ports, a moment ago."""
    rig = SplitRig(NOTHING, proved=True)
    Engine(CHOSEN)
    assert [rig.went(syn()), rig.went(segment())] == ["direct", "direct"]
    assert rig.holds("begun4")
    rig.steer(LISTED)
    going_on, _ = rig.connect(40000)
    assert rig.went(going_on) == "engine"


@in_namespaces
def test_own_traffic_of_a_proxy_on_the_lan_does_not_come_back_to_it() -> None:
    rig = SplitRig(ALL, proved=True, unsteered=(CLIENT,))
    Engine(CHOSEN)
    assert [rig.went(syn()), rig.went(datagram())] == ["direct", "direct"]


@in_namespaces
def test_what_is_for_another_box_or_leaves_by_another_interface_is_not_steered() -> None:
    rig = SplitRig(ALL)
    Engine(CHOSEN)
    assert rig.ask(syn(), dst=ROUTER_MAC) is None
    shell("ip link add tun0 type veth peer name tun1; ip link set tun0 up; ip route add 8.8.8.8 dev tun0")
    assert rig.went(syn(40001, OTHER_SERVER)) == "nowhere"
    shell("ip address add 9.9.9.9/32 dev lo")
    assert rig.went(syn(40002, IPv4Address("9.9.9.9"))) == "refused"
    assert rig.went(Ipv4(SERVER, OTHER_SERVER, 17, Udp(1, 1, b""))) != "engine"
