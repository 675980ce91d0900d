"""Who has how many connections through the proxy, as `ss` lists the engine's sockets."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from sidegate.gateway.clients.crowds import Address, crowds_of
from sidegate.gateway.ruleset.restraint import CROWD

TV, PHONE = "02:00:00:00:00:10", "02:00:00:00:00:11"
MACS: dict[Address, str] = {
    IPv4Address("192.168.1.16"): TV,
    IPv6Address("2001:db8:1::16"): TV,
    IPv6Address("fe80::16"): TV,
    IPv4Address("192.168.1.17"): PHONE,
}
LINE = "0      0      [::ffff:1.1.1.1]:443   {peer}:{port} \n"


def listed(peer: str, count: int) -> str:
    return "".join(LINE.format(peer=peer, port=30000 + i) for i in range(count))


def test_device_is_counted_by_all_of_its_addresses() -> None:
    sockets = listed("[::ffff:192.168.1.16]", CROWD - 2) + listed("[2001:db8:1::16]", 1) + listed("[fe80::16%eth0]", 1)
    sockets += listed("192.168.1.17", CROWD - 1) + listed("203.0.113.9", 2 * CROWD)
    assert crowds_of(sockets, MACS) == {TV: CROWD}


def test_nobody_has_any() -> None:
    assert crowds_of("\n", MACS) == {}
