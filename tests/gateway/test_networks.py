"""The networks of a rule as sets: what spares a packet the longer look never hides a network from it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.ruleset.networks import listed, surroundings

ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address)
PREFIXES = st.integers(4, 32)
NETWORKS = st.builds(lambda address, prefix: IPv4Network((address, prefix), strict=False), ADDRESSES, PREFIXES)


@given(st.lists(NETWORKS, min_size=1, max_size=8), st.data())
def test_no_address_of_a_network_is_outside(networks: list[IPv4Network], data: st.DataObject) -> None:
    network = data.draw(st.sampled_from(networks))
    address = int(network.network_address) + data.draw(st.integers(0, network.num_addresses - 1))
    around = surroundings(networks)
    assert not around or str(IPv4Address(address & 0xFFFF0000)) in around


@given(st.lists(NETWORKS, min_size=1, max_size=8))
def test_each_of_them_holds_a_part_of_a_network(networks: list[IPv4Network]) -> None:
    for around in surroundings(networks):
        assert any(IPv4Network(f"{around}/16").overlaps(it) for it in networks)


def test_they_are_few_or_none() -> None:
    assert surroundings([IPv4Network("16.0.1.0/24"), IPv4Network("16.0.9.0/24")]) == ("16.0.0.0",)
    assert surroundings([IPv4Network("10.254.0.0/15"), IPv4Network("10.255.7.0/24")]) == ("10.254.0.0", "10.255.0.0")
    assert len(surroundings([IPv4Network("64.0.0.0/2")])) == 16384
    assert surroundings([IPv4Network("64.0.0.0/2"), IPv4Network("1.0.0.0/32")]) == ()


def test_both_are_asked_in_one_rule() -> None:
    found = listed(4, (IPv4Network("16.0.1.0/24"),))
    (name, text), (around, text_around) = found.sets()
    assert found.conditions == [f"ip daddr & 255.255.0.0 @{around}", f"ip daddr . meta l4proto @{name}"]
    assert "16.0.1.0/24 . 0-255" in text
    assert "size 1\n" in text_around
    assert "{ 16.0.0.0 }" in text_around


def test_too_many_and_ipv6_are_asked_for_at_once() -> None:
    assert len(listed(4, (IPv4Network("0.0.0.0/0"),)).conditions) == 1
    assert len(listed(6, (IPv6Network("2001:db8::/32"),)).conditions) == 1
