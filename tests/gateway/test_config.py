"""The user's file: what it may say, and every error at once."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway import config as configs
from sidegate.gateway.config import Config, Mac, load_config, parse_config
from sidegate.gateway.config.fields import mac_of
from sidegate.gateway.config.split import client_of
from sidegate.problems import Exit, Problems

SPELLINGS = ("AA-0B-CC-0D-EE-0F", "aa:b:cc:d:ee:f", "aa0b.cc0d.ee0f", "AA0BCC0DEE0F", "aa:0B:cc:0d:ee:0f")
NO_CLIENT = "neither the name of a [[client]] section nor a MAC address, an address or a network"
ONLY_HTTP = "only http:// and https:// can be fetched; a share link belongs in proxy.upstream"


def errors(text: str) -> list[str]:
    with pytest.raises(Problems) as caught:
        parse_config(text, "x.toml")
    assert caught.value.exit_code == Exit.USAGE
    return [f"{p.where}: {p.what}" for p in caught.value.problems]


def test_empty_file_is_complete() -> None:
    assert parse_config("", "x.toml") == Config()
    assert Config().probe.targets[0] == IPv4Address("1.1.1.1")


def test_missing_default_file_is_an_empty_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(configs, "DEFAULT_PATH", tmp_path / "sidegate.toml")
    assert load_config() == Config()
    (tmp_path / "sidegate.toml").write_text('[nat]\nmasquerade = "always"')
    assert load_config().nat.masquerade == "always"


def test_missing_given_file_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(Problems, match="cannot be read: No such file"):
        load_config(tmp_path / "sidegate.toml")


def test_file_that_is_no_text_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Problems, match="not UTF-8 text"):
        load_config(tmp_path / "x.toml")


def test_a_file_may_begin_with_the_mark_of_an_editor(tmp_path: Path) -> None:
    path = tmp_path / "sidegate.toml"
    path.write_text('[nat]\nmasquerade = "always"\n', "utf-8-sig")
    assert load_config(path).nat.masquerade == "always"


@pytest.mark.parametrize("port", [22, 53, 15000, 16499, 16500])
def test_the_port_for_the_lan_takes_nobody_elses(port: int) -> None:
    """22 would keep whoever set it from logging in and taking it back."""
    (error,) = errors(f'[proxy]\nupstream = "socks5://192.0.2.1:1080"\nlan_port = {port}')
    assert error.startswith(f"x.toml: proxy.lan_port: {port}: ")


def test_full_file() -> None:
    config = parse_config(
        """
        [network]
        interface = "eth0.10"
        router = "192.168.1.1"
        [nat]
        masquerade = "never"
        [probe]
        targets = ["4.2.2.2"]
        [[client]]
        mac = "AA:BB:CC:DD:EE:FF"
        name = "tv"
        masquerade = "auto"
        [[client]]
        mac = "02:00:00:00:00:01"
        """,
        "x.toml",
    )
    assert (config.network.interface, config.network.router) == ("eth0.10", IPv4Address("192.168.1.1"))
    assert config.client[0].mac == "aa:bb:cc:dd:ee:ff"
    macs = ("aa:bb:cc:dd:ee:ff", "02:00:00:00:00:01", "02:00:00:00:00:02")
    assert [(config.masquerade_of(m), config.name_of(m)) for m in macs] == [
        ("auto", "tv"),
        ("never", ""),
        ("never", ""),
    ]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_mac_addresses_are_read_as_other_systems_write_them(spelling: str) -> None:
    rule = f'[[rule]]\nsend = "block"\nclient = ["{spelling}"]\n'
    config = parse_config(f'{rule}[[client]]\nmac = "{spelling}"\n', "x.toml")
    assert [config.client[0].mac, client_of(spelling)] == ["aa:0b:cc:0d:ee:0f"] * 2
    twice = f'[[client]]\nmac = "{spelling}"\n[[client]]\nmac = "aa:0b:cc:0d:ee:0f"\n'
    assert errors(twice) == ["x.toml: client[1].mac: aa:0b:cc:0d:ee:0f is already client[0]"]
    with pytest.raises(Problems, match="the MAC address of one device"):
        parse_config(f'[[client]]\nmac = "{spelling.lower().replace("aa", "ab", 1)}"', "x.toml")


@given(st.from_regex(get_args(Mac)[1].pattern))
def test_whatever_is_taken_as_a_mac_address_is_read(text: str) -> None:
    assert re.fullmatch("[0-9a-f][02468ace](:[0-9a-f]{2}){5}", mac_of(text) or "")


def test_all_errors_at_once() -> None:
    found = errors(
        """
        colour = 1
        [network]
        interface = "eth 0"
        router = "192.168.1.999"
        [nat]
        masquerade = "sometimes"
        [probe]
        targets = "1.1.1.1"
        [[client]]
        mac = "01:00:5e:00:00:01"
        [[client]]
        name = "tv"
        """
    )
    mac = "the MAC address of one device such as aa:bb:cc:dd:ee:ff"
    assert sorted(found) == [
        f'x.toml: client[0].mac: expected {mac}, got "01:00:5e:00:00:01"',
        f"x.toml: client[1].mac: missing; expected {mac}",
        "x.toml: colour: unknown key",
        'x.toml: nat.masquerade: expected one of "auto", "always", "never", got "sometimes"',
        'x.toml: network.interface: expected the name of a network interface such as eth0, got "eth 0"',
        'x.toml: network.router: expected an IPv4 address such as 192.168.1.2, got "192.168.1.999"',
        'x.toml: probe.targets: expected a list, each item an IPv4 address such as 192.168.1.2, got "1.1.1.1"',
    ]


def test_same_device_twice_and_no_targets() -> None:
    found = errors(
        """
        [probe]
        targets = []
        [[client]]
        mac = "aa:bb:cc:dd:ee:ff"
        [[client]]
        mac = "AA:BB:CC:DD:EE:FF"
        """
    )
    assert found == [
        "x.toml: probe.targets: empty: nothing to probe with",
        "x.toml: client[1].mac: AA:BB:CC:DD:EE:FF is already client[0]",
    ]


def test_dhcp() -> None:
    config = parse_config(
        """
        [dhcp]
        mode = "coexist"
        range = "192.168.1.200 - 192.168.1.220"
        lease_s = 120
        dns = ["192.168.1.1"]
        domain = "home.arpa"
        [[client]]
        mac = "aa:bb:cc:dd:ee:ff"
        ip = "192.168.1.9"
        gateway = "router"
        """,
        "x.toml",
    )
    assert config.dhcp.ends == (IPv4Address("192.168.1.200"), IPv4Address("192.168.1.220"))
    assert (config.client[0].ip, config.client[0].gateway) == (IPv4Address("192.168.1.9"), "router")


def test_ports_that_the_router_forwards() -> None:
    text = '[[client]]\nmac = "aa:bb:cc:dd:ee:ff"\nforwarded = '
    (client,) = parse_config(f'{text}[25565, "udp/27015"]', "x.toml").client
    assert client.forwarded_ports == (("tcp", 25565), ("udp", 25565), ("udp", 27015))
    assert errors(f'{text}["tcp/0", 80, "udp/70000"]') == [
        "x.toml: client[0].forwarded: 0 is no port",
        "x.toml: client[0].forwarded: 70000 is no port",
    ]
    (bad,) = errors(f'{text}["sctp/5"]')
    assert "a port of one protocol such as udp/27015" in bad


def test_all_errors_of_dhcp_at_once() -> None:
    found = errors(
        """
        [dhcp]
        mode = "on"
        range = "from here to there"
        lease_s = 60
        dns = "1.1.1.1"
        domain = "home arpa"
        [[client]]
        mac = "aa:bb:cc:dd:ee:ff"
        gateway = "tv"
        """
    )
    assert sorted(found) == [
        'x.toml: client[0].gateway: expected one of "sidegate", "router", got "tv"',
        'x.toml: dhcp.dns: expected a list, each item an IPv4 address such as 192.168.1.2, got "1.1.1.1"',
        'x.toml: dhcp.domain: expected a domain name such as home.arpa, got "home arpa"',
        "x.toml: dhcp.lease_s: expected seconds from 120 (the least dnsmasq hands out) to 2592000 (30 days), got 60",
        'x.toml: dhcp.mode: expected one of "off", "server", "coexist", got "on"',
        'x.toml: dhcp.range: expected two IPv4 addresses such as 192.168.1.100-192.168.1.199, got "from here to there"',
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('[dhcp]\nrange = "192.168.1.20-192.168.1.10"', "dhcp.range: 192.168.1.20 comes after 192.168.1.10"),
        ('[dhcp]\nrange = "192.168.1.20-192.168.1.300"', "dhcp.range: Octet 300"),
        (
            "".join(f'[[client]]\nmac = "aa:bb:cc:dd:ee:0{n}"\nip = "10.0.0.1"\n' for n in (0, 2)),
            "client[1].ip: 10.0.0.1 is already client[0]",
        ),
    ],
)
def test_dhcp_that_contradicts_itself(text: str, error: str) -> None:
    (found,) = errors(text)
    assert found.startswith(f"x.toml: {error}")


UPSTREAM = '[proxy]\nupstream = "socks5://192.0.2.1:1080"\n'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('[proxy]\nmode = "all"', 'proxy.mode: "all", and there is no upstream'),
        ('[proxy]\nlist = ["/l"]', "proxy.list: is to be proxied, and there is no upstream"),
        ('[[rule]]\nport = [1]\nsend = "proxy"', 'rule[0].send: "proxy", and there is no upstream'),
        (UPSTREAM + 'country = ["cn"]', "proxy.country: nothing says which networks cn has"),
        (UPSTREAM + 'list = ["1.1.1.0/24"]', 'proxy.list: "1.1.1.0/24" is no absolute path\n    a list is a file: '),
        ('[lists]\ncountry_db = "c.mmdb"', 'lists.country_db: "c.mmdb" is no absolute path'),
        ('[lists]\ncountry_files = { CHN = "/c" }', "lists.country_files.CHN: no country"),
        ('[[rule]]\nsend = "block"\nport = [1, "9-8"]', 'rule[0].port[1]: "9-8": the lower port comes first'),
        ('[[rule]]\nsend = "block"\nport = ["0-70000"]', 'rule[0].port[0]: "0-70000": ports are 1 to 65535'),
        ('[[rule]]\nsend = "block"\ntime = ["08:00-08:00"]', 'rule[0].time[0]: "08:00-08:00": ends when it begins'),
        ('[[rule]]\nsend = "block"\ndomain = ["ex_ample.1"]', 'rule[0].domain[0]: "ex_ample.1": not a domain name'),
        ('[[rule]]\nsend = "block"\nclient = ["tv"]', f'rule[0].client[0]: "tv": {NO_CLIENT}'),
        ('[[rule]]\nsend = "block"\nclient = ["aa:bb:cc:dd:ee"]', f'rule[0].client[0]: "aa:bb:cc:dd:ee": {NO_CLIENT}'),
        ('[[rule]]\nsend = "block"\nclient = ["a-b-c-d-e-g"]', f'rule[0].client[0]: "a-b-c-d-e-g": {NO_CLIENT}'),
        ('[proxy]\nsubscription = "ftp://h.example/s3cret"', f"proxy.subscription: {ONLY_HTTP}\n    such as"),
        ('[proxy]\nsubscription = ["/l", "vless://s3cret@h"]', f"proxy.subscription[1]: {ONLY_HTTP}\n    such as"),
        (
            '[proxy]\nsubscription = "links.txt"',
            "proxy.subscription: neither http:// nor https:// nor a file by its abs",
        ),
        ('[proxy]\nsubscription = "https:///s3cret"', "proxy.subscription: no server that could be asked\n    such"),
        ('[proxy]\nsubscription = "https://[s3cret/"', "proxy.subscription: no server that could be asked\n    such"),
        ('[[rule]]\nsend = "block"\nclient = ["10.0.0.1/8"]', 'rule[0].client[0]: "10.0.0.1/8": 10.0.0.1/8 has host'),
        ('[[rule]]\nsend = "block"\nclient = ["10.0.0.999"]', 'rule[0].client[0]: "10.0.0.999": Octet 999'),
        (
            '[[rule]]\nsend = "block"\ncidr = ["fe80::%x }/64"]',
            'rule[0].cidr[0]: "fe80::%x }/64": a network has no zone',
        ),
        ("[dns]\nproxied = []", "dns.proxied: 0 servers"),
        ('[dns]\nproxied = ["1.1.1.1", "one.one"]', 'dns.proxied[1]: "one.one": '),
        ('[dns]\nproxied = ["fe80::1%eth0"]', 'dns.proxied[0]: "fe80::1%eth0": '),
        ('[dns]\nproxied = ["quic://dns.example"]', 'dns.proxied[0]: "quic://dns.example": expected an address'),
        ('[dns]\nproxied = ["tls://dns.example/x"]', 'dns.proxied[0]: "tls://dns.example/x": DNS over TLS has no path'),
        ('[dns]\nproxied = ["tls://"]', 'dns.proxied[0]: "tls://": no server'),
        ('[dns]\nproxied = ["https://a b/x"]', 'dns.proxied[0]: "https://a b/x": no server'),
        ('[dns]\nproxied = ["https://dns.example:99999/x"]', 'dns.proxied[0]: "https://dns.example:99999/x": Port out'),
        ('[[rule]]\nsend = "block"\nlist = ["l"]', 'rule[0].list: "l" is no absolute path'),
    ],
)
def test_what_is_wrong_between_the_settings_of_the_split(text: str, wanted: str) -> None:
    with pytest.raises(Problems) as caught:
        parse_config(text, "x.toml")
    assert [str(p).startswith(f"x.toml: {wanted}") for p in caught.value.problems] == [True], caught.value


@pytest.mark.parametrize(
    "text",
    [
        '[proxy]\nengine = "tproxy"\nmode = "all"',
        '[proxy]\nsubscription = "/s"\nmode = "all-but"',
        '[dns]\nproxied = ["2606:4700::1111", "tls://1.1.1.1", "tls://[2606:4700::1111]:853", "https://dns.example/q"]',
        '[proxy]\nmode = "all"\n[[upstream]]\nname = "a"\nlink = "socks5://192.0.2.1:1080"',
        UPSTREAM + 'country = ["cn"]\n[lists]\ncountry_files = { CN = "/c" }',
        '[[rule]]\nsend = "block"\nclient = ["TV"]\n[[client]]\nname = "tv"\nmac = "aa:bb:cc:00:00:01"',
    ],
)
def test_what_is_right_between_the_settings_of_the_split(text: str) -> None:
    assert parse_config(text, "x.toml").network == Config().network


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ('[proxy]\nlist = "/etc/x.txt"', 'in brackets: ["/etc/x.txt"]'),
        ('[[rule]]\nsend = "block"\nport = 443', "in brackets: [443]"),
        ('[client]\nmac = "aa:bb:cc:dd:ee:0f"', "there may be several such sections, hence two brackets: [[client]]"),
        ('[[nat]]\nmasquerade = "auto"', "there is one such section only: [nat]"),
        ("[network]\ninterface = eth0", 'a text stands in "quotes", a list in [brackets]; see https://toml.io'),
    ],
)
def test_how_it_is_written_is_told(text: str, remedy: str) -> None:
    with pytest.raises(Problems) as caught:
        parse_config(text, "x.toml")
    assert caught.value.problems[0].remedy.startswith(remedy)
