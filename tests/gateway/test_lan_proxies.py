"""What is told of proxies that stand on the LAN."""

from __future__ import annotations

from ipaddress import IPv4Address

from sidegate.gateway.clients.proxies import MOST_TOLD, spared
from sidegate.gateway.ruleset.nft import Client

NAS, OTHER = "02:00:00:00:00:09", "02:00:00:00:00:10"


def at(mac: str, *last: int) -> list[Client]:
    return [Client(mac, IPv4Address(f"192.168.1.{n}")) for n in last]


def test_who_goes_straight_with_it_is_named_as_well() -> None:
    told = spared([OTHER, NAS], [*at(NAS, 9, 200), *at(OTHER, 10), *at("02:00:00:00:00:11", 11)], "device {}".format)
    straight = "answers for an upstream: all that it sends goes straight, or it would come back to it"
    assert told == (
        f"device {NAS} {straight}; its MAC address sends from 192.168.1.9, 192.168.1.200: another device behind the"
        " same repeater goes straight with it",
        f"device {OTHER} {straight}",
    )


def test_many_are_not_all_told() -> None:
    macs = [f"02:00:00:00:01:{i:02x}" for i in range(MOST_TOLD + 3)]
    assert spared(macs, at(macs[0], *range(2, 200)), str)[0].endswith(
        ", …: another device behind the same repeater goes straight with it"
    )
    assert spared(macs, (), str)[-1] == "3 more devices answer for upstreams"
    assert len(spared(macs, (), str)) == MOST_TOLD + 1
