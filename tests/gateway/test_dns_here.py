"""Whom this box asks itself, who holds port 53, and the LAN's own names: texts as the kernel and devices give them."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.config import ClientConfig
from sidegate.gateway.dhcp.leases import Lease
from sidegate.gateway.dns.here import Holder, deserted, holders, loops, nameservers, own_servers, parse_sockets, refusal
from sidegate.gateway.dns.hosts import hosts_file

WE, STUB, ROUTER = map(IPv4Address, ("192.168.1.2", "127.0.0.53", "192.168.1.1"))
RESOLVED = "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"
UDP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  217: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 17110 2 0000000000000000 0
  218: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 17111 2 0000000000000000 0
  219: 0201A8C0:8235 0101A8C0:0035 01 00000000:00000000 00:00000000 00000000     0        0 17112 2 0000000000000000 0
  220: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 17113 2 0000000000000000 0
  221: cut off
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 0A 00000000:00000000 00:0 0 0 0 77 1
   1: B80D01200000000000000000010000 00:0035 0 0A
"""


def test_whom_the_box_asks(tmp_path: Path) -> None:
    conf, resolved = tmp_path / "resolv.conf", tmp_path / "resolved.conf"
    assert own_servers(conf, resolved) == ()
    conf.write_text("nameserver 192.168.1.1\nnameserver fe80::1%eth0\nnameserver\nnameserver 192.168.1.1 \n;x\n")
    assert own_servers(conf, resolved) == (ROUTER,)
    conf.write_text(RESOLVED)
    assert own_servers(conf, resolved) == ()
    resolved.write_text("nameserver 192.168.1.1\nnameserver 9.9.9.9\n")
    assert own_servers(conf, resolved) == (ROUTER, IPv4Address("9.9.9.9"))


@pytest.mark.parametrize(
    ("table", "line", "is_there"),
    [
        ("udp", "0100007F:0035 00000000:0000 07", True),
        ("udp", "00000000:0035 00000000:0000 07", True),
        ("udp6", f"{'0' * 32}:0035 {'0' * 32}:0000 07", True),
        ("udp6", f"0000000000000000FFFF00000100007F:0035 {'0' * 32}:0000 07", True),
        ("udp", "0201A8C0:0035 00000000:0000 07", False),
        ("udp", "0100007F:0036 00000000:0000 07", False),
        ("tcp", "0100007F:0035 00000000:0000 0A", False),
    ],
)
def test_a_server_of_this_box_that_was_stopped_is_not_asked(
    tmp_path: Path, table: str, line: str, is_there: bool
) -> None:
    conf, ours = tmp_path / "resolv.conf", IPv4Address("127.0.0.1")
    conf.write_text("nameserver 127.0.0.1\nnameserver 192.168.1.1\n")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / table).write_text(f"  sl ...\n  1: {line} 00000000:00000000 00:00000000 00000000 0 0 9 2 0 0\n")
    assert own_servers(conf, tmp_path / "none", tmp_path) == ((ours, ROUTER) if is_there else (ROUTER,))
    assert deserted(conf, tmp_path) == (() if is_there else (ours,))


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert all(isinstance(it, IPv4Address) for it in nameservers(text))
    assert list(parse_sockets(text, "tcp")) == [] or "0035" in text


def test_sockets_are_read_as_the_kernel_prints_them() -> None:
    assert [(h.address, h.inode) for h in parse_sockets(UDP, "udp")] == [(STUB, 17110), (IPv4Address("0.0.0.0"), 17111)]
    assert list(parse_sockets(TCP6, "tcp6")) == [Holder("tcp", IPv6Address("::"), 77)]


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("127.0.0.53", ""),
        ("192.168.1.9", ""),
        ("0.0.0.0", "named (process 7) answers DNS at port 53 of every address already"),
        ("::", "named (process 7) answers DNS at port 53 of every address already"),
        ("192.168.1.2", "named (process 7) answers DNS at port 53 of this address already"),
    ],
)
def test_who_is_in_the_way(at: str, said: str) -> None:
    address = IPv6Address(at) if ":" in at else IPv4Address(at)
    problem = refusal(WE, [Holder("udp", address, 1, 7, "named")])
    assert (problem.what if problem else "") == said


def test_the_program_that_holds_a_socket_is_found(tmp_path: Path) -> None:
    """By what its descriptors point to, in a copy of /proc."""
    with socket.socket() as held:
        inode = os.fstat(held.fileno()).st_ino
        (tmp_path / "net").mkdir()
        (tmp_path / "net/udp").write_text(UDP.replace("17111", str(inode)))
        (tmp_path / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
        found = {h.inode: h for h in holders(tmp_path)}
    assert found[inode].pid == os.getpid()
    assert found[inode].program
    assert found[17110].program is None


def test_servers_that_ask_us_are_named_while_it_runs() -> None:
    loop = "dnsmasq[7]: NOT using nameserver 192.168.1.1#53 - query loop detected\n"
    started = "dnsmasq[7]: started, version 2.90 cachesize 10000\n"
    assert loops("") == loops(started) == loops(started + loop + started) == ()
    assert [p.what for p in loops(started + loop + loop)] == [
        "192.168.1.1 is asked for names and asks this box in turn; it is left out"
    ]


def lease(n: int, name: str) -> Lease:
    return Lease(0, f"02:00:00:00:01:{n:02x}", IPv4Address(f"192.168.1.{n}"), name)


def client(n: int, name: str, ip: str | None = None) -> ClientConfig:
    return ClientConfig(f"02:00:00:00:01:{n:02x}", name, ip=IPv4Address(ip) if ip else None)


def test_names_of_the_configuration_come_first_and_devices_take_what_is_free() -> None:
    clients = [client(1, "TV", "192.168.1.50"), client(2, "nas"), client(3, "my phone"), client(9, "off")]
    leases = [lease(2, "android"), lease(5, "nas"), lease(6, "Laptop"), lease(7, "*")]
    assert hosts_file(clients, leases, "home.arpa").splitlines() == [
        "192.168.1.2 android android.home.arpa",
        "192.168.1.6 laptop laptop.home.arpa",
        "192.168.1.2 nas nas.home.arpa",
        "192.168.1.50 tv tv.home.arpa",
    ]


def test_a_name_that_two_devices_claim_is_nobodys() -> None:
    assert hosts_file([], [lease(5, "printer"), lease(6, "Printer"), lease(7, "printer")]) == ""
    assert hosts_file([client(6, "printer")], [lease(5, "printer"), lease(6, "x")]).splitlines() == [
        "192.168.1.6 printer",
        "192.168.1.6 x",
    ]


@pytest.mark.parametrize("name", ["wpad", "WPAD", "localhost", "router", "www.bank.example", "a b", "a\nb", "-", "é"])
def test_a_device_cannot_lead_others_astray(name: str) -> None:
    assert hosts_file([], [lease(5, name)]) == ""


@given(st.lists(st.tuples(st.integers(3, 99), st.text() | st.sampled_from(("nas", "tv"))), max_size=6))
def test_every_line_is_an_address_and_its_names(said: list[tuple[int, str]]) -> None:
    leases = [lease(n, name) for n, name in said]
    for line in hosts_file([], leases, "lan").splitlines():
        address, name, long = line.split(" ")
        assert IPv4Address(address) in {it.ip for it in leases}
        assert long == f"{name}.lan"
        assert name.isascii()
