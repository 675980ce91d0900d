"""Who is in the way of the LAN's port for a proxy."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import pytest

from sidegate.gateway.dns.here import Holder
from sidegate.gateway.engine.taken import refusal, taken

LAN = (IPv4Network("192.168.1.0/24"), IPv6Network("2001:db8:1:1::/64"))
SAID = "8080: lighttpd (process 7) listens there already, and the LAN would find the proxy in its place"


@pytest.mark.parametrize(
    ("at", "is_in_the_way"),
    [
        ("0.0.0.0", True),
        ("::", True),
        ("::ffff:0.0.0.0", True),
        ("192.168.1.2", True),
        ("2001:db8:1:1::2", True),
        ("fe80::2", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("172.17.0.1", False),
    ],
)
def test_who_is_in_the_way(at: str, is_in_the_way: bool) -> None:
    problem = refusal(8080, LAN, [Holder("tcp", ip_address(at), 1, 7, "lighttpd")])
    assert (problem.what if problem else "") == (SAID if is_in_the_way else "")


def test_a_service_of_udp_is_not() -> None:
    assert refusal(8080, LAN, [Holder("udp", ip_address("0.0.0.0"), 1, 7, "game")]) is None


def test_another_port_is_not(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    row = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 17110 1\n"
    (tmp_path / "net/tcp").write_text(f"sl\n{row}")
    problem = taken(8080, LAN, tmp_path)
    assert problem is not None
    assert problem.what.startswith("8080: another program listens there already")
    assert taken(8081, LAN, tmp_path) is None
