"""What must hold of the split whatever the rules say, in a home whose provider lies and blocks; looked for there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from shutil import which
from subprocess import CalledProcessError

import pytest
from msgspec import structs

from sidegate.gateway.config import Probe
from sidegate.home import PortForward
from sidegate.lab.asking import NO_ANSWER, http_get, stun, udp_echo
from sidegate.lab.resolving import resolve
from sidegate.lab.stun import mapped, question
from sidegate.lab.visiting import http3_get, https_get, proxy_get, socks_get
from sidegate.lab.wiretap import Wiretap
from tests.kernel.gateway_lab import PATIENCE_S, Box, wait_for
from tests.kernel.split_home import (
    BLOCKED,
    BLOCKED4,
    DOMESTIC,
    DOMESTIC4,
    FOREIGN,
    FOREIGN4,
    FOREIGN6,
    OURS,
    PROXY,
    PROXY6,
    WAN,
    bare,
    insisting,
    page,
    proxy_state,
    seen_from,
    served,
    states,
)
from tests.kernel.split_home import HOME as SHIPPED
from tests.kernel.test_real_clients import UNPACKED, unpacked_libraries

pytestmark = pytest.mark.kernel

FORWARDED = 8080
HOME = structs.replace(
    SHIPPED, router=structs.replace(SHIPPED.router, port_forward=(PortForward(port=FORWARDED, to="nas"),))
)
OURS6, ROUTER6 = "2001:db8:1:1::2", "2001:db8:1:1::1"
ABROAD = '[[rule]]\ndomain = ["foreign.example", "blocked.example"]\nsend = "proxy"\n'
WIRED, WIFI = "nas", "phone"
CHECKED = [str(address) for address in Probe().targets]
"""Whom this box asks by itself whether the internet is there."""


@pytest.fixture
def box(lab_box: Box) -> Iterator[Box]:
    yield lab_box
    # Whoever closed one waits for the other end to do so: that is not to be seen by the next test.
    still_open = f"ss -Htn exclude time-wait exclude listening dst {WAN} and '( sport = 80 or sport = 443 )'"
    try:
        wait_for(lambda: not lab_box.shell(still_open, "internet"), within_s=70.0)
    finally:
        lab_box.sidegate("down", "--now")
        lab_box.lab.run("internet", "nft", "delete", "table", "inet", "cut", check=False)


def up(box: Box, text: str, proxy: str = "", *, by_name: bool = False) -> None:
    """Up, with the home's Shadowsocks server as the upstream, found by its address or by its name."""
    link = box.lab.links(by_name=by_name)["proxy-shadowsocks"]
    head = f'[proxy]\nupstream = "{link}"\ncheck = "http://{FOREIGN4}/"\n{proxy}\n'
    box.up("--config", box.write("/run/s.toml", f"{head}\n{text}\n"))
    served(box)


class TestNoLoop:
    @pytest.mark.parametrize("by_name", [False, True], ids=["by address", "by name"])
    def test_everything_proxied_with_the_upstream_itself_in_a_list(self, box: Box, by_name: bool) -> None:
        addresses = f'[[rule]]\ncidr = ["{PROXY}/32", "{PROXY6}/128", "192.168.0.0/16"]\nsend = "proxy"\n'
        names = '[[rule]]\ndomain = ["proxy.example"]\nsend = "proxy"\n'
        up(box, addresses + names, 'mode = "all"', by_name=by_name)
        with Wiretap(box.lab) as tap:
            assert [page(box, who, DOMESTIC) for who in (WIRED, WIFI)] == [PROXY, PROXY]
            assert bare(box, WIRED, PROXY) == PROXY, "the proxy's own server, asked by way of the proxy"
            assert bare(box, WIFI, "192.168.1.127") == "192.168.1.126", "the LAN itself is no matter of ours"
            theirs = [it for it in tap.seen if it.src == WAN and it.dst not in CHECKED and it.port not in (0, 53)]
            to = {(it.protocol, it.dst, it.port) for it in theirs}
        assert to == {("tcp", PROXY, 8388)}
        wait_for(lambda: states(box) == {"proxy-shadowsocks": "up"})

    def test_this_box_as_its_own_dns_server(self, box: Box) -> None:
        """As its own resolver, as the configured server, and as the one that devices are told."""
        box.shell(f"echo nameserver {OURS} >/run/lab/resolv.conf")
        up(box, ABROAD + f'[dns]\nservers = ["{OURS}"]\n')
        with Wiretap(box.lab) as tap:
            said = box.lab.call(WIRED, resolve, DOMESTIC, OURS, "A", "udp", PATIENCE_S)
            assert len([server for server, name in tap.asked() if name == DOMESTIC]) <= 1
        assert said.detail == DOMESTIC4, "asked at the router, the first who is not this box itself"
        assert page(box, WIRED, FOREIGN) == PROXY
        box.shell("echo nameserver 192.168.1.1 >/run/lab/resolv.conf")

    def test_a_dns_server_of_this_box_that_was_stopped_takes_no_names_along(self, box: Box) -> None:
        box.shell("echo nameserver 127.0.0.1 >/run/lab/resolv.conf")
        up(box, ABROAD)
        wait_for(lambda: page(box, WIRED, DOMESTIC) == WAN)
        assert any("where nobody listens: names are asked at 192.168.1.1" in hint for hint in box.status()["hints"])
        box.shell("echo nameserver 192.168.1.1 >/run/lab/resolv.conf")


class TestNoLeak:
    @pytest.mark.parametrize("who", [WIRED, WIFI])
    def test_a_proxied_name_is_never_seen_by_the_provider(self, box: Box, who: str) -> None:
        """Whomever the client asks for it, whatever it does with the answer, and whatever it asks for."""
        up(box, ABROAD)
        with Wiretap(box.lab) as tap:
            for server, over in ((OURS, "udp"), ("1.1.1.1", "udp"), ("9.9.9.9", "tcp")):
                assert box.lab.call(who, resolve, FOREIGN, server, "A", over, PATIENCE_S).detail == FOREIGN4
                for kind in ("AAAA", "HTTPS", "TXT", "MX"):
                    assert not box.lab.call(who, resolve, FOREIGN, server, kind, over).ok
            assert [page(box, who, FOREIGN, scheme) for scheme in ("http", "https", "h3")] == [PROXY] * 3
            assert page(box, who, BLOCKED, "https") == PROXY
            none = box.lab.call(who, resolve, DOMESTIC, OURS, "AAAA", "udp", PATIENCE_S)
            assert none.detail == "nothing", "IPv6 would go round this box"
            assert not tap.leaks("foreign.example")
            assert not tap.leaks(BLOCKED)
            assert not {it.dst for it in tap.seen} & {FOREIGN4, BLOCKED4}
            assert FOREIGN6 not in tap.spoken_to()

    def test_failing_closed_nothing_leaks_and_nobody_waits(self, box: Box) -> None:
        up(box, ABROAD, 'on_failure = "block"')
        assert [page(box, WIFI, name) for name in (FOREIGN, BLOCKED)] == [PROXY, PROXY]
        box.lab.run("internet", "nft", "-f", "-", text=_cut("tcp", 8388))
        wait_for(lambda: _tried(box) == "")
        with Wiretap(box.lab) as tap:
            for who in (WIRED, WIFI):
                assert bare(box, who, FOREIGN4) == "Connection refused"
                shown = box.lab.call(who, https_get, BLOCKED4, BLOCKED, box.lab.ca, "/who", 443, PATIENCE_S)
                assert seen_from(shown) == "Connection refused"
                assert insisting(box, who, udp_echo, FOREIGN4, 443).detail != NO_ANSWER
                assert box.lab.call(who, resolve, FOREIGN, "1.1.1.1", "A", "udp", PATIENCE_S).detail != NO_ANSWER
                assert page(box, who, DOMESTIC, "https") == WAN
            assert not tap.leaks("foreign.example")
            assert not {it.dst for it in tap.seen} & {FOREIGN4, BLOCKED4}
        box.lab.run("internet", "nft", "delete", "table", "inet", "cut")
        wait_for(lambda: _tried(box) == "proxy-shadowsocks")
        wait_for(lambda: page(box, WIFI, FOREIGN) == PROXY)

    def test_failing_closed_clients_are_not_handed_to_the_router(self, box: Box) -> None:
        """By the router what is proxied would go straight; only a person may want that."""
        up(box, f'[[rule]]\ncidr = ["{FOREIGN4}/32"]\nsend = "proxy"\n', 'on_failure = "block"')
        assert [bare(box, who, FOREIGN4) for who in (WIRED, WIFI)] == [PROXY, PROXY]
        way = box.shell("ip route show default").strip()
        with Wiretap(box.lab) as tap:
            box.shell("ip route del default")
            wait_for(lambda: _held_back(box))
            for who in (WIRED, WIFI):
                assert not box.lab.call(who, http_get, FOREIGN4, 80, "/who", 1.0).ok
            assert box.shell("nft list tables arp") == ""
            assert FOREIGN4 not in {it.dst for it in tap.seen}
        box.shell(f"ip route replace {way}")
        wait_for(lambda: not _held_back(box))
        wait_for(lambda: bare(box, WIFI, FOREIGN4) == PROXY)
        assert 'proxy.on_failure = "block" holds here, not there' in box.sidegate("down").stdout
        assert bare(box, WIFI, FOREIGN4) == WAN


def _held_back(box: Box) -> bool:
    box.probe_again()
    return any("clients are not handed to the router" in fault for fault in box.status()["faults"])


def _tried(box: Box) -> str:
    """Which upstream is used now that all are asked anew; empty: none works."""
    box.probe_again()
    return str(proxy_state(box)["chosen"])


def _cut(protocol: str, port: int) -> str:
    chain = f"type filter hook input priority 0\n{protocol} dport {port} reject with tcp reset\n"
    return f"table inet cut {{\nchain input {{\n{chain}}}\n}}\n"


class TestIpv6:
    def test_left_to_the_router_direct_names_have_it_and_proxied_ones_have_not(self, box: Box) -> None:
        up(box, ABROAD + '[ipv6]\nmode = "router"\n')
        own = str(HOME.client_named(WIFI).v6)
        assert box.lab.call(WIFI, resolve, FOREIGN, OURS, "AAAA", "udp", PATIENCE_S).detail == "nothing"
        assert page(box, WIFI, DOMESTIC, "https", "AAAA") == own
        assert page(box, WIFI, FOREIGN, "https") == PROXY

    def test_through_this_box_it_is_split_as_ipv4_is(self, box: Box) -> None:
        up(box, ABROAD + '[ipv6]\nmode = "gateway"\n')
        for who in (WIRED, WIFI):
            box.shell(f"ip -6 route replace default via {OURS6}", who)
        with Wiretap(box.lab) as tap:
            for who in (WIRED, WIFI):
                for scheme in ("http", "https", "h3"):
                    assert page(box, who, FOREIGN, scheme, "AAAA") in (PROXY, PROXY6)
                assert page(box, who, DOMESTIC, "https", "AAAA") == str(HOME.client_named(who).v6)
            assert not tap.leaks("foreign.example")
            assert FOREIGN6 not in {it.dst for it in tap.seen}
        for who in (WIRED, WIFI):
            box.shell(f"ip -6 route replace default via {ROUTER6}", who)


class TestDatagrams:
    def test_quic_blocked_fails_at_once_and_tcp_goes_on(self, box: Box) -> None:
        up(box, ABROAD, 'quic = "block"')
        with Wiretap(box.lab) as tap:
            for who in (WIRED, WIFI):
                assert page(box, who, FOREIGN, "https") == PROXY
                assert insisting(box, who, udp_echo, FOREIGN4, 443).detail == "Connection refused"
                assert not box.lab.call(who, http3_get, FOREIGN4, FOREIGN, box.lab.ca, "/who", 443, 0.3).ok
                assert page(box, who, DOMESTIC, "h3") == WAN
            assert FOREIGN4 not in {it.dst for it in tap.seen}

    def test_direct_calls_keep_their_nat_and_proxied_ones_have_a_full_cone(self, box: Box) -> None:
        rule = f'[[rule]]\ncidr = ["{FOREIGN4}/32"]\nsend = "proxy"\n'
        up(box, rule)
        direct = insisting(box, WIRED, stun, DOMESTIC4)
        assert direct.detail == f"{WAN} {direct.port}", "the router alone decides on the port"
        with Datagrams(box, WIRED, "") as client, Datagrams(box, "internet", BLOCKED4) as stranger:
            said, server = client.ask(question(), (FOREIGN4, 3478))
            met = mapped(said)
            assert met is not None
            assert (met[0], server) == (PROXY, (FOREIGN4, 3478))
            stranger.socket.sendto(b"hello", met)
            heard = next(it for it in iter(client.hear, None) if it[0] != said)
            assert heard == (b"hello", stranger.socket.getsockname())


class Datagrams:
    """A UDP socket on a machine, held by this process. address: its own; empty: whatever the kernel takes."""

    def __init__(self, box: Box, machine: str, address: str) -> None:
        self.socket = box.lab.socket(machine, socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))

    def ask(self, asked: bytes, server: tuple[str, int]) -> tuple[bytes, tuple[str, int]]:
        """Again while nothing comes, in the same words (RFC 8489, section 6.2.1)."""
        for _ in range(int(PATIENCE_S)):
            self.socket.sendto(asked, server)
            self.socket.settimeout(1.0)
            with suppress(TimeoutError):
                return self.hear()
        raise TimeoutError

    def hear(self) -> tuple[bytes, tuple[str, int]]:
        data, sender = self.socket.recvfrom(2048)
        self.socket.settimeout(PATIENCE_S)
        return data, sender

    def __enter__(self) -> Datagrams:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class TestInbound:
    def test_a_forwarded_port_answers_as_if_nothing_were_split(self, box: Box) -> None:
        """The service on the LAN sees who asks, and its answers go back as they came, not through the proxy."""
        up(box, "", 'mode = "all"')
        assert page(box, WIRED, DOMESTIC) == PROXY
        answer = box.lab.call("internet", http_get, WAN, FORWARDED, "/who", PATIENCE_S, DOMESTIC4)
        assert answer.detail == f"{DOMESTIC4} {answer.port}"


class TestRules:
    def test_the_first_rule_that_matches_decides(self, box: Box) -> None:
        links = box.lab.links()
        up(box, RULES.format(link=links["proxy-socks"]), "lan_port = 1080")
        with Wiretap(box.lab) as tap:
            assert box.lab.call(WIRED, resolve, "server.example", OURS, "A", "udp", PATIENCE_S).detail == "no such name"
            assert bare(box, WIRED, "1.2.3.4") == "Connection refused"
            assert insisting(box, WIRED, udp_echo, "1.2.3.4").detail == "Connection refused"
            assert bare(box, WIFI, FOREIGN4) == WAN, "this client goes straight"
            assert page(box, WIRED, FOREIGN) == PROXY
            assert {port for _, dst, port in tap.reached() if dst == PROXY} >= {1080}
            assert bare(box, WIRED, BLOCKED4) == PROXY
            assert insisting(box, WIRED, stun, DOMESTIC4).detail.split()[0] == PROXY
            assert insisting(box, WIRED, udp_echo, DOMESTIC4).ok
            assert page(box, WIRED, DOMESTIC) == WAN
        for get, last in ((socks_get, ("", "", PATIENCE_S)), (proxy_get, (PATIENCE_S,))):
            wired, wifi = (box.lab.call(who, get, OURS, 1080, FOREIGN, "/who", *last) for who in (WIRED, WIFI))
            assert seen_from(wired) == PROXY, "a device that prefers a proxy"
            assert seen_from(wifi) == WAN, "the rules hold there too"

    def test_a_name_that_was_asked_elsewhere_is_known_by_what_the_traffic_shows(self, box: Box) -> None:
        """To the engine alone, by HTTP, TLS and QUIC: the kernel has learned no address of it."""
        up(box, '[[rule]]\ndomain = ["domestic.example"]\nsend = "direct"\n', 'mode = "all"')
        for who in (WIRED, WIFI):
            assert bare(box, who, DOMESTIC4) == PROXY, "it shows no name"
            named = box.lab.call(who, http_get, DOMESTIC4, 80, "/who", PATIENCE_S, "", DOMESTIC)
            shown = (DOMESTIC4, DOMESTIC, box.lab.ca, "/who", 443, PATIENCE_S)
            others = [box.lab.call(who, get, *shown) for get in (https_get, http3_get)]
            assert [seen_from(it) for it in (named, *others)] == [WAN] * 3

    def test_bad_lines_of_a_list_are_named_and_the_rest_counts_or_nothing(self, box: Box) -> None:
        listed = box.write("/run/list", f"foreign.example\n||bad line##\n{BLOCKED4}/33\n{BLOCKED4}/32\n")
        before, mode = box.state(), f'list = ["{listed}"]'
        with pytest.raises(CalledProcessError) as refused:
            up(box, '[lists]\nbad_lines = "refuse"\n', mode)
        assert [line for line in refused.value.stderr.splitlines() if line.startswith(listed)] == BAD_LINES
        assert box.state() == before
        up(box, "", mode)
        assert box.status()["hints"][: len(BAD_LINES)] == BAD_LINES
        assert page(box, WIFI, FOREIGN) == bare(box, WIRED, BLOCKED4) == PROXY


BAD_LINES = ['/run/list:2: not understood: "||bad line##"', '/run/list:3: a prefix longer than 32 bits: "5.6.7.8/33"']
RULES = """
[[upstream]]
name = "office"
link = "{link}"

[[rule]]
domain = ["full:server.example"]
send = "block"

[[rule]]
cidr = ["1.2.3.4/32"]
send = "block"

[[rule]]
client = ["192.168.1.126"]
cidr = ["5.1.2.0/24"]
send = "direct"

[[rule]]
domain = ["foreign.example"]
port = ["1-100"]
send = "office"

[[rule]]
cidr = ["36.1.2.3/32"]
protocol = "udp"
port = [3478]
send = "proxy"

[[rule]]
cidr = ["5.0.0.0/8"]
send = "proxy"
"""


class TestOtherClients:
    def test_curl_and_dig_find_what_our_own_clients_do(self, box: Box) -> None:
        """As far as this machine has them, or `tools/unpack` had."""
        up(box, ABROAD, "lan_port = 1080")
        box.shell(f"echo nameserver {OURS} >/run/lab/resolv.conf", WIRED)
        box.lab.run(WIRED, "sh", "-ec", "cat >/run/ca.pem", text=box.lab.ca)
        own, proxied = f"https://{DOMESTIC}/who", f"https://{FOREIGN}/who"
        with Wiretap(box.lab) as tap:
            assert _curl(box, own) in ("", WAN)
            for proxy in ("", f"socks5h://{OURS}:1080", f"http://{OURS}:1080"):
                assert _curl(box, "--proxy", proxy, proxied) in ("", PROXY)
            for words in ((f"@{OURS}",), ("@9.9.9.9",), ("@9.9.9.9", "+tcp")):
                told = _run(box, "dig", "+short", *words, FOREIGN)
                assert [line for line in told if not line.startswith(";")] in ([], [FOREIGN4]), "without its complaints"
            assert not tap.leaks("foreign.example")
        box.shell("echo nameserver 192.168.1.1 >/run/lab/resolv.conf", WIRED)


def _curl(box: Box, *words: str) -> str:
    """The address that the server saw; empty without curl."""
    told = _run(box, "curl", "--silent", "--show-error", "--max-time", "15", "--cacert", "/run/ca.pem", *words)
    return told[0].split()[0] if told else ""


def _run(box: Box, name: str, *words: str) -> list[str]:
    """What it says at the wired client; nothing where it is not to be had."""
    path = which(name) or which(name, path=UNPACKED / "usr/bin")
    libraries = f"LD_LIBRARY_PATH={unpacked_libraries()}"
    return box.lab.run(WIRED, "env", libraries, path, *words).stdout.splitlines() if path else []


class TestUpstreams:
    def test_what_does_not_work_is_said_and_the_next_one_is_used(self, box: Box) -> None:
        """A wrong password, nobody there, a server that is no proxy: the home stays online, and no secret is told."""
        wrong = [f"socks5://lab:guessed@{PROXY}:1080#guess", f"socks5://{PROXY}:9#dead", f"http://{PROXY}:80#web"]
        good = box.lab.links()["proxy-vless"]
        listed = ", ".join(f'"{link}"' for link in (*wrong, good))
        text = f'[proxy]\nupstream = [{listed}]\ncheck = "http://{FOREIGN4}/"\n{ABROAD}'
        box.up("--config", box.write("/run/s.toml", text))
        wait_for(lambda: proxy_state(box)["chosen"] == "proxy-vless")
        assert page(box, WIFI, FOREIGN) == PROXY
        assert page(box, WIFI, DOMESTIC) == WAN
        wait_for(lambda: states(box) == {"guess": "down", "dead": "down", "web": "down", "proxy-vless": "up"})
        assert "guessed" not in box.sidegate("status", "--json").stdout + box.sidegate("status").stdout
