"""Connections of an engine that is to end: what `ss` prints, and who is at the other end."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from sidegate.gateway.engine.lasting import with_clients

PRINTED = """\
ESTAB      0      0                5.6.7.8:443     192.168.1.126:53342
CLOSE-WAIT 1      0      [::ffff:5.6.7.8]:443 [::ffff:192.168.1.9]:4711
ESTAB      0      0              127.0.0.1:15002       127.0.0.1:51122
ESTAB      0      0            192.168.1.2:45000         5.9.9.9:1080
FIN-WAIT-2 0      0          [2a05:1:2::3]:443 [2001:db8:1:1::126]:5222
ESTAB      0      0          [2a05:1:2::3]:443 [fe80::5d:ff:fe00:14%eth0]:5222

"""


def test_clients_are_at_the_other_end() -> None:
    lan = (IPv4Network("192.168.1.0/24"), IPv6Network("2001:db8:1:1::/64"))
    assert with_clients(PRINTED, lan) == 3
    assert with_clients("", lan) == 0
