"""The internet of the home "split": who is lied to, what is blocked, and what a proxy abroad reaches all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from sidegate.home import load_home
from sidegate.lab.asking import http_get, stun
from sidegate.lab.internet import proxies
from sidegate.lab.lab import Lab
from sidegate.lab.machine import TRUSTED
from sidegate.lab.proxying import password
from sidegate.lab.resolving import resolve
from sidegate.lab.visiting import http3_get, https_get, proxy_get, socks_get, visit
from sidegate.lab.wiretap import Wiretap

pytestmark = pytest.mark.kernel

HOME = load_home("split")
SERVERS = {server.name: server for server in HOME.internet.server}
WAN, PROXY, LIE = "123.100.101.102", str(SERVERS["proxy"].v4), str(SERVERS["lie"].v4)
PROXIES = {proxy.service: proxy for proxy in proxies(SERVERS["proxy"])}
FOREIGN, BLOCKED, DOMESTIC = "www.foreign.example", "blocked.example", "www.domestic.example"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Everybody uses the router, as before there was a gateway."""
    clients = tuple(structs.replace(client, gateway="router") for client in HOME.client)
    with Lab.up(structs.replace(HOME, client=clients)) as built:
        yield built


@pytest.mark.parametrize("over", ["udp", "tcp"])
@pytest.mark.parametrize(
    "server", ["192.168.1.1", "123.100.96.53", "1.1.1.1", "8.8.8.8", "2001:db8:cafe::53", "9.9.9.9"]
)
def test_the_provider_lies_whomever_the_home_asks(lab: Lab, server: str, over: str) -> None:
    found = [lab.call("phone", resolve, name, server, kind, over) for name, kind in QUESTIONS]
    assert [answer.detail for answer in found] == [LIE, "2a05:100::66", "no such name", "36.1.2.3", "2408:1:2::3"]


QUESTIONS = ((FOREIGN, "A"), ("foreign.example", "AAAA"), ("no.example", "A"), (DOMESTIC, "A"), (DOMESTIC, "AAAA"))


def test_others_are_told_the_truth(lab: Lab) -> None:
    assert lab.call("internet", resolve, FOREIGN, "1.1.1.1").detail == "5.1.2.3"
    assert lab.call("internet", resolve, FOREIGN, "8.8.8.8", "AAAA", "tcp").detail == "2a05:1:2::3"


def test_what_is_blocked_is_silent_for_the_home_only(lab: Lab) -> None:
    blocked = SERVERS["blocked-site"]
    for address in (str(blocked.v4), str(blocked.v6)):
        assert lab.call("nas", http_get, address, 80, "/who", 0.3).detail == "no answer"
    assert lab.call("internet", http_get, str(blocked.v4), 80, "/who", 15.0, PROXY).detail.split()[0] == PROXY


@pytest.mark.parametrize("scheme", ["http", "https", "h3"])
def test_a_domestic_page(lab: Lab, scheme: str) -> None:
    by_v4 = lab.call("tablet", visit, scheme, DOMESTIC, "192.168.1.1", "/who", lab.ca)
    by_v6 = lab.call("tablet", visit, scheme, DOMESTIC, "192.168.1.1", "/who", lab.ca, "AAAA")
    assert (by_v4.detail.split()[0], by_v6.detail.split()[0]) == (WAN, str(HOME.client_named("tablet").v6))


def test_a_server_proves_who_it_is(lab: Lab) -> None:
    assert lab.call("nas", https_get, "5.1.2.3", FOREIGN, lab.ca).detail.split()[0] == WAN
    other = lab.call("nas", https_get, "5.1.2.3", DOMESTIC, lab.ca)
    assert "not valid for" in other.detail
    assert not lab.call("nas", http3_get, "5.1.2.3", DOMESTIC, lab.ca).ok


def test_every_machine_trusts_the_labs_authority(lab: Lab) -> None:
    there = [path for path in TRUSTED if Path(path).exists()]
    assert there
    for path in there:
        assert lab.run("gateway", "cat", path).stdout == lab.ca


@pytest.mark.parametrize("host", ["5.6.7.8", FOREIGN, BLOCKED])
def test_a_proxy_reaches_what_the_home_does_not(lab: Lab, host: str) -> None:
    secret = ("lab", password(PROXIES["socks"]))
    assert lab.call("phone", socks_get, PROXY, 1080, host, "/who", *secret).detail.split()[0] == PROXY


def test_a_proxy_wants_its_password(lab: Lab) -> None:
    assert lab.call("phone", socks_get, PROXY, 1080, FOREIGN, "/who", "lab", "wrong").detail == "wrong password"
    assert lab.call("phone", proxy_get, PROXY, 3128, FOREIGN).detail == "status 407"


def test_stun_tells_the_address_that_the_provider_sees(lab: Lab) -> None:
    assert lab.call("phone", stun, str(SERVERS["domestic"].v4)).detail.split()[0] == WAN


def test_the_wiretap_sees_what_leaves_the_home(lab: Lab) -> None:
    with Wiretap(lab) as tap:
        lab.call("nas", resolve, FOREIGN, "9.9.9.9")
        assert tap.asked() == {("9.9.9.9", FOREIGN)}
        assert not tap.leaks(BLOCKED)
        lab.call("nas", https_get, "5.6.7.8", BLOCKED, lab.ca, "/who", 443, 0.1)
        lab.call("nas", https_get, "5.1.2.3", BLOCKED, lab.ca)
        assert {packet.dst for packet in tap.leaks(BLOCKED)} == {"5.1.2.3"}
        assert ("tcp", "5.6.7.8", 443) in tap.reached()
        assert {"5.6.7.8", "5.1.2.3"} <= tap.spoken_to()
        assert {packet.is_bare for packet in tap.seen if packet.dst == "5.1.2.3"} == {True, False}
        assert {packet.is_bare for packet in tap.seen if packet.dst == "5.6.7.8"} == {False}, "it answers no SYN"


def test_a_resolver_answers_over_tls_and_https(lab: Lab) -> None:
    """The provider's lies do not reach inside."""
    assert lab.call("nas", resolve, FOREIGN, "1.1.1.1", "A", "tls", 15.0, 853, lab.ca).detail == "5.1.2.3"
    assert lab.call("nas", resolve, FOREIGN, "1.1.1.1", "A", "https", 15.0, 443, lab.ca).detail == "5.1.2.3"
