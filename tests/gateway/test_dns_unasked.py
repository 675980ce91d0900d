"""Who asks nobody here for names is told of."""

from __future__ import annotations

from ipaddress import IPv4Address

from sidegate.gateway.dns.unasked import unasked
from sidegate.gateway.ruleset.nft import Client

WE = IPv4Address("192.168.1.2")


def client(n: int) -> Client:
    return Client(f"02:00:00:00:01:{n:02x}", IPv4Address(f"192.168.1.{n}"))


def test_whoever_asked_is_not_named() -> None:
    active = [(client(n), f"device {n}") for n in (7, 8)]
    assert unasked(active, {client(7), client(8)}, WE) == ()
    assert unasked([], set(), WE) == ()
    (hint,) = unasked(active, {client(7)}, WE)
    assert hint.startswith("device 8 sends packets through this box and asked nobody here for a name")
    assert "tell devices 192.168.1.2 as their DNS server" in hint


def test_many_are_counted() -> None:
    (hint,) = unasked([(client(n), f"device {n}") for n in range(1, 9)], set(), WE)
    assert hint.startswith("device 1, device 2, device 3, device 4, device 5 and 3 more send packets")


def test_another_device_with_the_same_address_has_not_asked() -> None:
    asked = Client("02:00:00:00:01:63", client(7).ip)
    assert unasked([(client(7), "device 7")], {asked}, WE)
