"""What this kernel announces, as the daemon hears it."""

from __future__ import annotations

import select

import pytest

from sidegate.gateway.box.events import Changed, KernelEvents
from tests.kernel.gateway_rig import in_namespaces, shell

pytestmark = pytest.mark.kernel

DEVICE = "dev lo"


def heard(kernel: KernelEvents, script: str) -> bool:
    """Whether something changed by it. What is announced is there when the command ends (`rtnetlink.c` rtnl_notify)."""
    select.select([kernel], [], [], 0)
    kernel.read()
    shell(script)
    return Changed() in kernel.read()


def heard_of_a_new_address(kernel: KernelEvents, script: str) -> bool:
    """The same, and nothing of it is left to come: the route of an IPv6 address itself is entered by a work queue
    (`addrconf.c` addrconf_dad_work), and announced then.
    """
    kernel.read()
    shell(script)
    announced = 0
    while announced < 2 and select.select([kernel], [], [], 15)[0]:
        announced += kernel.read().count(Changed())
    return announced == 2


@in_namespaces
def test_addresses_and_routes_of_both_families() -> None:
    kernel = KernelEvents()
    for address, other in (("192.0.2.1/24", "198.51.100.0/24"), ("2001:db8::1/64", "2001:db8:7::/64")):
        assert heard(kernel, f"ip address add {address} {DEVICE}")
        assert heard(kernel, f"ip route add {other} {DEVICE}")
        assert heard(kernel, f"ip address delete {address} {DEVICE}")


@in_namespaces
def test_rules_of_routing_of_both_families() -> None:
    kernel = KernelEvents()
    for family in ("-4", "-6"):
        assert heard(kernel, f"ip {family} rule add fwmark 1 lookup 100")
        assert heard(kernel, f"ip {family} rule delete fwmark 1 lookup 100")


@in_namespaces
def test_an_address_that_is_only_told_to_live_longer_is_no_change() -> None:
    """As with each router advertisement."""
    kernel = KernelEvents()
    address = f"2001:db8::1/64 {DEVICE} noprefixroute preferred_lft 600 valid_lft"
    assert heard_of_a_new_address(kernel, f"ip address add {address} 900")
    assert not heard(kernel, f"ip address replace {address} 1800")
    assert heard(kernel, f"ip address delete 2001:db8::1/64 {DEVICE}")
    assert heard(kernel, f"ip address add {address} 900")
