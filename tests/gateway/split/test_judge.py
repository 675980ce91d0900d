"""What the policy says of a packet, held against a reference that is too simple to be wrong."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.split.destinations import Gathered
from sidegate.gateway.split.judge import Judgement, Packet, at_kernel, judge
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
    ],
)
def test_the_first_rule_that_matches(given: Packet, wanted: Judgement) -> None:
    assert judge(POLICY, given) == wanted


def test_the_kernel_knows_names_as_learned_addresses() -> None:
    asked = packet(name="www.example")
    assert at_kernel(POLICY, asked).by == "default"
    assert at_kernel(POLICY, packet(learned=(1,))) == Judgement(1, "rule[1]", "tokyo", "learned")
    assert judge(POLICY, packet(learned=(1,))).by == "default"


labels = st.sampled_from(["a", "b", "c"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
addresses = st.integers(0, 255).map(lambda n: IPv4Address((10 << 24) + n)) | st.integers(0, 255).map(IPv6Address)
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
