"""What the policy says of a packet, held against a reference that is too simple to be wrong."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.split.destinations import Gathered
from sidegate.gateway.split.judge import Judgement, Packet, at_kernel, judge, outcome
from sidegate.gateway.split.policy import Destination, Policy, Rule, Source

TV, PHONE = "aa:bb:cc:00:00:01", "aa:bb:cc:00:00:02"
LAN = IPv4Address("192.168.1.30")
NAMES = Destination(names=("www.example",), suffixes=("listed.example",), networks4=(IPv4Network("203.0.113.0/24"),))


def packet(address: str = "198.51.100.1", name: str | None = None, **more: object) -> Packet:
    destination = IPv6Address(address) if ":" in address else IPv4Address(address)
    return Packet(**{"mac": TV, "source": LAN, "destination": destination, "name": name} | more)  # type: ignore[arg-type]


POLICY = Policy(
    (
        Rule("rule[0]", "block", source=Source((PHONE,)), protocol="tcp", ports=((25, 25),)),
        Rule("rule[1]", "tokyo", NAMES, quic="block"),
        Rule("rule[2]", "direct", Destination(networks6=(IPv6Network("2001:db8::/32"),)), protocol="udp"),
    ),
    "proxy",
    "direct",
)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (packet(), Judgement(None, "proxy.mode", "proxy", "default")),
        (packet(mac=PHONE, port=25), Judgement(0, "rule[0]", "block", "other")),
        (packet(mac=PHONE, port=25, protocol="udp"), Judgement(None, "proxy.mode", "proxy", "default")),
        (packet("203.0.113.9"), Judgement(1, "rule[1]", "tokyo", "network")),
        (packet(name="a.listed.example"), Judgement(1, "rule[1]", "tokyo", "name")),
        (packet(name="www.example"), Judgement(1, "rule[1]", "tokyo", "name")),
        (packet(name="a.www.example"), Judgement(None, "proxy.mode", "proxy", "default")),
        (packet(name="notlisted.example"), Judgement(None, "proxy.mode", "proxy", "default")),
        (packet("203.0.113.9", protocol="udp"), Judgement(1, "rule[1]", "block", "network", is_quic=True)),
        (packet(protocol="udp"), Judgement(None, "proxy.mode", "direct", "default", is_quic=True)),
        (packet("2001:db8::1", protocol="udp"), Judgement(2, "rule[2]", "direct", "network")),
        (packet("203.0.113.9", protocol="icmp"), Judgement(1, "rule[1]", "tokyo", "network")),
        (packet(mac=PHONE, port=2525), Judgement(None, "proxy.mode", "proxy", "default")),
    ],
)
def test_the_first_rule_that_matches(given: Packet, wanted: Judgement) -> None:
    assert judge(POLICY, given) == wanted


def test_what_has_no_ports_matches_no_rule_for_ports() -> None:
    policy = Policy((Rule("rule[0]", "block", ports=((1, 65535),)),))
    assert [judge(policy, packet(protocol=p)).send for p in ("tcp", "udp", "icmp")] == ["block", "block", "direct"]


def test_the_kernel_knows_names_as_learned_addresses() -> None:
    asked = packet(name="www.example")
    assert at_kernel(POLICY, asked).by == "default"
    assert at_kernel(POLICY, packet(learned=(1,))) == Judgement(1, "rule[1]", "tokyo", "learned")
    assert judge(POLICY, packet(learned=(1,))).by == "default"


def test_the_engine_judges_by_the_name_what_the_kernel_could_not() -> None:
    """An address that is shared with a listed name: the name that the traffic shows has the last word."""
    policy = Policy((Rule("rule[0]", "tokyo", NAMES),))
    shared = outcome(policy, packet(name="other.example", learned=(0,)))
    assert (shared.kernel.send, shared.final.send, shared.meant.send) == ("tokyo", "direct", "direct")
    assert outcome(policy, packet(learned=(0,))).engine is None
    assert outcome(policy, packet("203.0.113.1", name="other.example")).engine is None


def test_what_the_kernel_sends_straight_never_meets_the_engine() -> None:
    unasked = outcome(Policy((Rule("rule[0]", "tokyo", NAMES),)), packet(name="www.example"))
    assert unasked.engine is None
    assert (unasked.final.send, unasked.meant.send) == ("direct", "tokyo")


def test_the_engine_knows_no_mac_addresses() -> None:
    by_mac = Source((PHONE,))
    policy = Policy((Rule("rule[0]", "direct", NAMES, by_mac), Rule("rule[1]", "tokyo", NAMES, by_mac)), "proxy")
    for mac in (PHONE, TV):
        it = outcome(policy, packet(name="www.example", mac=mac, learned=()))
        assert it.kernel.by == "default"
        assert it.engine == Judgement(None, "proxy.mode", "proxy", "default"), "a rule of one device"


def test_what_a_rule_for_a_mac_address_sends_is_not_asked_about_again() -> None:
    policy = Policy((Rule("rule[0]", "tokyo", NAMES, Source((PHONE,))), Rule("rule[1]", "direct", NAMES)), "proxy")
    it = outcome(policy, packet(name="www.example", mac=PHONE, learned=(0, 1)))
    assert (it.engine, it.final) == (None, Judgement(0, "rule[0]", "tokyo", "learned"))


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.7.7", "100.64.0.1", "224.0.0.251", "fd00::1", "fe80::1"])
def test_what_is_not_of_the_internet_is_steered_only_by_its_network(address: str) -> None:
    aimed = packet(address, "a.listed.example")
    assert judge(POLICY, aimed) == Judgement(None, "", "direct", "private")
    network = Gathered()
    for text in ("10.0.0.0/8", "192.168.0.0/16", "100.64.0.0/10", "224.0.0.0/3"):
        network.add_network(IPv4Network(text))
    network.add_network(IPv6Network("f000::/4"))
    is_split = ":" not in address
    assert (judge(Policy((Rule("rule[0]", "proxy", network.destination()),)), aimed).by == "network") == is_split
    assert (judge(Policy((Rule("rule[0]", "block", protocol="tcp"),)), aimed).send == "block") == is_split


labels = st.sampled_from(["a", "b", "c"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
V4, V6 = int(IPv4Address("198.51.100.0")), int(IPv6Address("2001:db8::"))
addresses = st.integers(0, 255).map(lambda n: IPv4Address(V4 + n)) | st.integers(0, 255).map(
    lambda n: IPv6Address(V6 + n)
)
networks = st.tuples(addresses, st.integers(24, 32)).map(
    lambda it: (
        IPv4Network((it[0], it[1]), strict=False)
        if isinstance(it[0], IPv4Address)
        else IPv6Network((it[0], it[1] + 96), strict=False)
    )
)


class Plain:
    """A rule's conditions as they were given, before anything was collapsed."""

    def __init__(self, full: list[str], below: list[str], nets: list[IPv4Network | IPv6Network], rule: Rule) -> None:
        self.full, self.below, self.nets, self.rule = full, below, nets, rule

    def collapsed(self) -> Rule:
        found = Gathered()
        found.names.update(self.full)
        found.suffixes.update(self.below)
        for network in self.nets:
            found.add_network(network)
        whole = found.destination() if self.full or self.below or self.nets else None
        r = self.rule
        return Rule(r.origin, r.send, whole, r.source, r.ports, r.protocol, r.quic)

    def matches(self, it: Packet) -> bool:
        """As one would say it, value by value."""
        rule, name = self.rule, it.name or ""
        where = [name == n for n in self.full]
        where += [name == s or name.endswith("." + s) for s in self.below]
        where += [it.destination in n for n in self.nets]
        who = rule.source is None or it.mac in rule.source.macs or any(it.source in n for n in rule.source.networks4)
        port = rule.ports is None or (it.protocol != "icmp" and any(it.port in range(a, b + 1) for a, b in rule.ports))
        return (not where or any(where)) and who and port and rule.protocol in (None, it.protocol)


rules = st.builds(
    Plain,
    st.lists(names, max_size=3),
    st.lists(names, max_size=3),
    st.lists(networks, max_size=4),
    st.builds(
        Rule,
        origin=st.just("rule"),
        send=st.sampled_from(["proxy", "direct", "block", "tokyo"]),
        source=st.none() | st.just(Source((TV,))) | st.just(Source((), (IPv4Network("192.168.1.0/27"),))),
        ports=st.none() | st.just(((443, 443),)) | st.just(((1, 100), (443, 500))),
        protocol=st.none() | st.sampled_from(["tcp", "udp"]),
    ),
)
packets = st.builds(
    Packet,
    mac=st.sampled_from([TV, PHONE]),
    source=st.sampled_from([LAN, IPv4Address("192.168.1.99")]),
    destination=addresses,
    name=st.none() | names,
    protocol=st.sampled_from(["tcp", "udp", "icmp"]),
    port=st.sampled_from([25, 443, 8080]),
)


@given(st.lists(rules, max_size=4), packets)
def test_agrees_with_the_reference(plain: list[Plain], it: Packet) -> None:
    found = judge(Policy(tuple(p.collapsed() for p in plain), "direct"), it)
    assert found.rule == next((i for i, p in enumerate(plain) if p.matches(it)), None)
    assert found.send == ("direct" if found.rule is None else plain[found.rule].rule.send)


@given(st.lists(rules, min_size=2, max_size=4), packets)
def test_a_rule_put_first_decides_wherever_it_matches(plain: list[Plain], it: Packet) -> None:
    moved = Policy(tuple(p.collapsed() for p in (plain[-1], *plain[:-1])))
    if plain[-1].matches(it):
        assert judge(moved, it).rule == 0
