"""What our DHCP server hands out, as golden files and properties; and what is said of other servers."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sidegate.gateway.box import programs
from sidegate.gateway.box.facts import Facts, Interface, Router
from sidegate.gateway.config import ClientConfig, Config, Dhcp, parse_config
from sidegate.gateway.desired import DhcpServer
from sidegate.gateway.dhcp.dnsmasq import LeasePlaces, dnsmasq_child, dnsmasq_conf
from sidegate.gateway.dhcp.lookout import QUICK, WHOLE, look_every_s
from sidegate.gateway.dhcp.terms import Surroundings, default_range, dhcp_server, hints, refusal, used_up
from sidegate.probe.dhcp import Offer
from sidegate.problems import Exit, Problems
from tests.conftest import Golden
from tests.gateway.test_decide import facts

WE, ROUTER, OTHER = (IPv4Address(f"192.168.1.{n}") for n in (2, 1, 7))
AT = LeasePlaces(Path("/var/lib/sidegate"), Path("/run/sidegate"))


def box(own: str = "192.168.1.2/24", router: str = "192.168.1.1") -> Facts:
    interface = Interface("eth0", "02:00:00:00:00:02", (IPv4Interface(own),), 1500)
    known = facts()
    lan = (IPv4Interface(own).network,)
    return structs.replace(known, interface=interface, router=Router(IPv4Address(router), known.router.mac), lan=lan)


def served(text: str, at: Facts | None = None) -> DhcpServer:
    server = dhcp_server(parse_config(text, "config"), at or box())
    assert server is not None
    return server


FULL = """
[dhcp]
mode = "server"
range = "192.168.1.20 - 192.168.1.29"
lease_s = 3600
dns = ["192.168.1.9", "1.1.1.1"]
domain = "home.arpa"
[[client]]
mac = "AA:BB:CC:DD:EE:00"
name = "tv"
gateway = "router"
[[client]]
mac = "aa:bb:cc:dd:ee:02"
ip = "192.168.1.50"
name = "no host, name\\nport=53"
[[client]]
mac = "aa:bb:cc:dd:ee:04"
name = "only-named"
[[client]]
mac = "aa:bb:cc:dd:ee:06"
ip = "192.168.1.51"
name = "printer"
gateway = "router"
"""
CONFIGURATIONS = {
    "server": '[dhcp]\nmode = "server"',
    "coexist": '[dhcp]\nmode = "coexist"',
    "full": FULL,
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configuration(name: str, golden: Golden, tmp_path: Path) -> None:
    """And dnsmasq itself finds no fault with it."""
    text = dnsmasq_conf(served(CONFIGURATIONS[name]), AT, "root" if name == "coexist" else "dnsmasq")
    golden(f"gateway/dnsmasq/{name}.conf", text)
    conf = tmp_path / "conf"
    conf.write_text(text)
    done = subprocess.run(
        [programs.find("dnsmasq") or "dnsmasq", "--test", f"--conf-file={conf}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_child() -> None:
    child = dnsmasq_child(served(FULL), AT, "dnsmasq")
    assert child.command == ("dnsmasq", "--keep-in-foreground", "--conf-file=/run/sidegate/children/dnsmasq.conf")
    assert child.digest != dnsmasq_child(served(CONFIGURATIONS["server"]), AT, "dnsmasq").digest
    assert child.digest != dnsmasq_child(served(FULL), AT, "dnsmasq", clock_set=1).digest, "so it is started anew"


def test_off_is_none() -> None:
    assert dhcp_server(Config(), box()) is None


WRONG = {
    "range outside": ('range = "192.168.2.10-192.168.2.20"', ["192.168.2.10 is no", "192.168.2.20 is no"]),
    "range with broadcast": ('range = "192.168.1.10-192.168.1.255"', ["dhcp.range: 192.168.1.255 is no address"]),
    "range over us and the router": (
        'range = "192.168.1.1-192.168.1.20"',
        ["dhcp.range: 192.168.1.1 is in it", "dhcp.range: 192.168.1.2 is in it"],
    ),
    "range over a DNS server": ('range = "192.168.1.5-192.168.1.20"\ndns = ["192.168.1.7"]', ["192.168.1.7 is in it"]),
    "clients and range": (
        'range = "10.0.0.1-10.0.0.2"\n[[client]]\nmac = "02:00:00:00:00:10"\nip = "10.1.1.1"\n'
        '[[client]]\nmac = "02:00:00:00:00:12"\nip = "192.168.1.1"',
        ["10.0.0.1 is no", "10.0.0.2 is no", "client[0].ip: 10.1.1.1 is no", "client[1].ip: 192.168.1.1 belongs to"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_this_lan_does_not_allow_is_told_all_at_once(name: str) -> None:
    text, expected = WRONG[name]
    with pytest.raises(Problems) as caught:
        served(f'[dhcp]\nmode = "server"\n{text}')
    told = [str(p) for p in caught.value.problems]
    assert len(told) == len(expected)
    assert all(part in line for part, line in zip(expected, told, strict=True)), told
    assert caught.value.exit_code == Exit.USAGE


def test_a_box_whose_own_address_is_lent_serves_nobody() -> None:
    """Else it would end up asking itself for its address."""
    lent = box()
    lent = structs.replace(lent, interface=structs.replace(lent.interface, borrowed=(WE,)))
    with pytest.raises(Problems, match="is lent by a DHCP server and would end"):
        served(CONFIGURATIONS["server"], lent)
    assert served(CONFIGURATIONS["coexist"], lent).gateway == WE


def test_a_tiny_lan_needs_a_range() -> None:
    with pytest.raises(Problems, match="no default for a LAN as small as"):
        served(CONFIGURATIONS["server"], box("10.0.0.2/29", "10.0.0.1"))
    assert served('[dhcp]\nmode="server"\nrange="10.0.0.3-10.0.0.6"', box("10.0.0.2/29", "10.0.0.1")).last


@given(st.integers(1, 28), st.integers(0, 2**32 - 1), st.sets(st.integers(0, 2**12), max_size=5))
def test_a_default_range_is_free_and_inside(prefix: int, base: int, offsets: set[int]) -> None:
    lan = IPv4Network((base, prefix), strict=False)
    taken = {lan[o % lan.num_addresses] for o in offsets} - {lan.network_address, lan.broadcast_address}
    ends = {m: default_range(lan, taken, m) for m in ("server", "coexist")}
    for found in ends.values():
        if found is not None:
            first, last = found
            assert lan.network_address < first <= last < lan.broadcast_address
            assert not any(first <= t <= last for t in taken)
    if ends["server"] and ends["coexist"]:
        assert ends["server"][1] < ends["coexist"][0] or lan.num_addresses > 2**20


def offer(gateway: IPv4Address, address: str = "192.168.1.30", server: IPv4Address = ROUTER) -> Offer:
    return Offer(server, "02:00:00:00:00:01", IPv4Address(address), (gateway,), (ROUTER,), 3600)


def test_a_server_refuses_beside_another_and_says_what_it_hands_out() -> None:
    (problem,) = refusal(served(CONFIGURATIONS["server"]), [offer(ROUTER)])
    assert problem.what == (
        "another DHCP server, 192.168.1.1 (02:00:00:00:00:01), hands out gateway 192.168.1.1, DNS 192.168.1.1, "
        "an address such as 192.168.1.30 for 1 h"
    )
    assert "coexist" in problem.remedy
    assert problem.exit_code == Exit.FAULT


def test_coexisting_minds_only_a_shared_range() -> None:
    server = served(CONFIGURATIONS["coexist"])
    assert refusal(server, [offer(ROUTER)]) == ()
    (problem,) = refusal(server, [offer(ROUTER, "192.168.1.220")])
    assert "offers 192.168.1.220, which our range holds too" in problem.what
    pinned = structs.replace(server, hosts=served(FULL).hosts)
    assert refusal(pinned, [offer(ROUTER, "192.168.1.50")]) != ()


def test_hints() -> None:
    def said(mode: str, *offers: Offer, silent: int = 0, unleased: tuple[str, ...] = ()) -> str:
        names = tuple(f"client-{n}" for n in range(silent))
        return "\n".join(hints(mode, Surroundings(offers, (WE,), names, unleased)))  # type: ignore[arg-type]

    assert said("off", offer(WE)) == ""
    assert "no DHCP server answers" in said("off")
    assert "hands out gateway 192.168.1.1" in said("off", offer(ROUTER))
    assert "set its gateway option to 192.168.1.2" in said("off", offer(ROUTER))
    assert said("server") == ""
    assert '"server" would do' in said("coexist")
    assert said("coexist", offer(ROUTER)) == ""
    assert "client-4 and 2 more: they may use the router" in said("off", offer(WE), silent=7)
    assert "without a lease of ours: 192.168.1.230" in said("coexist", offer(ROUTER), unleased=("192.168.1.230",))


def test_a_range_that_is_used_up_is_a_fault() -> None:
    server = served("""
[dhcp]
mode = "server"
range = "192.168.1.20-192.168.1.23"
[[client]]
mac = "aa:bb:cc:dd:ee:02"
ip = "192.168.1.21"
""")
    lent = [IPv4Address(f"192.168.1.{n}") for n in (20, 22, 50, 22)]
    assert used_up(server, lent) == ()
    (fault,) = used_up(server, [*lent, IPv4Address("192.168.1.23")])
    assert fault.what == "every address of 192.168.1.20-192.168.1.23 is given: a new device gets none"


def test_a_new_server_is_noticed_within_ten_seconds() -> None:
    """Appears just after a look's question; then one look more, and the settling."""
    assert QUICK.settle_s is not None
    assert QUICK.until_s + look_every_s("server", False) + QUICK.settle_s < 10


def test_a_quick_server_hides_a_slow_one_from_the_first_look_only() -> None:
    """ISC dhcpd sends a ping and waits for a second before it offers, dnsmasq for three (src/config.h, PING_WAIT)."""
    assert (WHOLE.settle_s, WHOLE.until_s) == (None, 3.5)


def test_settings_of_clients_reach_the_server() -> None:
    hosts = {h.mac: h for h in served(FULL).hosts}
    assert hosts["aa:bb:cc:dd:ee:00"].keeps_router
    assert hosts["aa:bb:cc:dd:ee:02"].name == "", "what is no host name is not told to dnsmasq"
    assert "aa:bb:cc:dd:ee:04" not in hosts
    assert Config(dhcp=Dhcp(), client=(ClientConfig("02:00:00:00:00:10"),)).client[0].gateway == "sidegate"
