"""Which devices are named as those whose port forwards a bridge breaks."""

from __future__ import annotations

from ipaddress import IPv4Address

from sidegate.gateway.clients.translated import translated
from sidegate.gateway.ruleset.nft import Client

NAS, ROUTER, TUNNEL = (f"02:00:00:00:00:0{n}" for n in range(3))


def heard(mac: str, *last: int) -> list[Client]:
    return [Client(mac, IPv4Address(f"1.2.3.{n}")) for n in last]


def test_neither_the_router_nor_who_carries_the_packets_of_many_is_named() -> None:
    all_of_them = [*heard(NAS, 4), *heard(ROUTER, 5), *heard(TUNNEL, 6, 7, 8)]
    assert translated(all_of_them, {ROUTER}) == {NAS: IPv4Address("1.2.3.4")}
