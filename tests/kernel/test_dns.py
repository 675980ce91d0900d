"""Our resolver on the real kernel: who is asked, what is learned, what becomes of it when the engine is gone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from sidegate.gateway.dhcp.leases import Lease
from sidegate.gateway.dns.here import loops
from sidegate.gateway.dns.hosts import hosts_file
from sidegate.gateway.dns.learned import ageing
from sidegate.gateway.ruleset.nft import Element
from sidegate.gateway.split.policy import Destination, Policy, Rule
from sidegate.home import load_home
from sidegate.lab.lab import Lab
from sidegate.lab.resolving import TYPES, labels, read_reply, resolve
from sidegate.lab.wiretap import Wiretap
from tests.kernel.dns_box import (
    ENGINE_PORT,
    ISP,
    KEPT4,
    LIE,
    NAMES4,
    NAMES6,
    PATIENCE_S,
    TRUTH,
    WE,
    DnsBox,
    end,
    proxied,
    resolver,
)
from tests.kernel.gateway_lab import wait_for

pytestmark = pytest.mark.kernel

FOREIGN = proxied("foreign.example")
FOREIGN6, LIE6 = "2a05:1:2::3", "2a05:100::66"
CLOUD = "5.1.2.4"
ENGINE = (
    f"--address=/foreign.example/{FOREIGN6}",
    f"--address=/cloud.foreign.example/{CLOUD}",
    "--address=/inside.foreign.example/192.168.1.127",
    f"--address=/use-application-dns.net/{CLOUD}",
)
QUESTION = b"\0\1\1\0\0\1\0\0\0\0\0\0"
"""Whose name, type and class follow."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(load_home("split")) as up:
        yield up


@pytest.fixture(scope="module")
def box(lab: Lab) -> DnsBox:
    box = DnsBox(lab)
    box.start_engine(*ENGINE)
    return box


def test_proxied_names_are_asked_through_the_engine_and_learned(box: DnsBox) -> None:
    box.want(None)
    box.nft(f"flush set inet sidegate {NAMES4}")
    said = box.want(resolver(FOREIGN))
    assert said[0] == "resolver answers DNS on eth0"
    for over in ("udp", "tcp"):
        assert box.ask("www.foreign.example", over=over) == TRUTH
        assert box.ask("WWW.Domestic.example", over=over) == "36.1.2.3"
    assert box.ask("cloud.foreign.example", over="tcp") == CLOUD, "asked by a process of its own"
    assert set(box.learned()) == {TRUTH, CLOUD}
    assert box.ask("www.foreign.example", "AAAA") == "nothing"
    assert box.want(resolver(FOREIGN)) == [f"resolver: process {said[-1]} goes on", said[-1]]


def test_of_the_servers_behind_the_engine_one_is_enough(box: DnsBox) -> None:
    """Nobody listens for the second one, nor the third."""
    box.want(resolver(FOREIGN, engine_servers=3))
    for name in ("www", "a", "b", "c"):
        assert box.ask(f"{name}.foreign.example") == TRUTH


def test_a_server_behind_the_engine_that_turns_silent_keeps_nobody_waiting(box: DnsBox, lab: Lab) -> None:
    """One question from each port, and none is repeated."""
    box.want(resolver(FOREIGN, engine_servers=2))
    assert box.ask("before.foreign.example") == TRUTH
    options = ("--conf-file=/dev/null", "--bind-interfaces", "--no-resolv", "--no-hosts", "--user=root", "--group=")
    command = ("dnsmasq", *options, f"--port={ENGINE_PORT}", f"--address=/foreign.example/{TRUTH}")
    lab.run("gateway", *command, "--listen-address=127.0.0.2", "--pid-file=/run/second.pid")
    box.stop_engine()
    assert [box.ask(f"{name}.foreign.example") for name in "pqr"] == [TRUTH] * 3
    lab.run("gateway", *command, "--listen-address=127.0.0.1", "--pid-file=/run/engine.pid")
    end(lab, "gateway", "/run/second.pid")
    assert [box.ask(f"{name}.foreign.example") for name in "stu"] == [TRUTH] * 3
    box.stop_engine()
    box.start_engine(*ENGINE)


def test_a_server_for_direct_names_that_turns_silent_keeps_nobody_waiting(box: DnsBox, lab: Lab) -> None:
    nas = next(c.v4 for c in lab.home.client if c.name == "nas")
    options = (f"--listen-address={nas}", "--bind-interfaces", "--no-resolv", "--no-hosts", "--user=root", "--group=")
    command = ("dnsmasq", "--conf-file=/dev/null", *options, "--address=/domestic.example/36.9.9.9")
    lab.run("nas", *command, "--pid-file=/run/near.pid")
    box.want(resolver(FOREIGN, direct=(nas, ISP)))
    assert box.ask("near.domestic.example") in ("36.9.9.9", "no such name"), "whoever is the first to answer"
    end(lab, "nas", "/run/near.pid")
    assert box.ask("www.domestic.example") == "36.1.2.3"
    assert box.ask("nobody.domestic.example") == "no such name"


def test_no_answer_outlives_a_minute_at_a_client(box: DnsBox) -> None:
    """The engine's stand-in gives ten."""
    box.want(resolver(FOREIGN))
    with box.lab.socket("phone", socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(PATIENCE_S)
        asker.connect((WE, 53))
        asker.send(QUESTION + labels("www.foreign.example") + b"\0\1\0\1")
        _, records = read_reply(asker.recv(512))
    assert [r.ttl_s for r in records if r.kind == TYPES["A"]] == [60]


def test_an_answer_is_kept(box: DnsBox) -> None:
    box.want(resolver(FOREIGN))
    assert box.ask("www.foreign.example") == TRUTH
    box.stop_engine()
    assert box.ask("www.foreign.example") == TRUTH
    box.start_engine(*ENGINE)


def test_a_name_that_an_earlier_rule_sends_direct_is_asked_and_learned_as_direct(box: DnsBox) -> None:
    direct = Rule("rule[0]", "direct", Destination(suffixes=("foreign.example",)))
    box.want(resolver(Policy((direct,), "proxy")))
    assert box.ask("www.foreign.example") == LIE
    assert set(box.learned()) >= {LIE}
    assert box.ask("www.domestic.example") == "refused", "the engine's stand-in knows no other names"


def test_when_the_engine_is_gone_names_fall_back_and_no_lie_stays(box: DnsBox) -> None:
    box.want(resolver(FOREIGN))
    assert box.ask("www.foreign.example") == TRUTH
    box.want(resolver(FOREIGN, proxied="direct"))
    assert box.ask("www.foreign.example") == LIE
    box.want(resolver(FOREIGN))
    assert box.ask("www.foreign.example") == TRUTH


def test_or_they_are_refused_at_once(box: DnsBox) -> None:
    box.want(resolver(FOREIGN, proxied="refused"))
    assert box.ask("www.foreign.example") == "refused", "dnsmasq waits for nobody"
    assert box.ask("www.domestic.example") == "36.1.2.3"


def test_of_a_proxied_name_the_provider_hears_nothing(box: DnsBox, lab: Lab) -> None:
    for state in ("asked", "refused"):
        box.want(resolver(FOREIGN, proxied=state))
        with Wiretap(lab) as tap:
            for kind in ("A", "AAAA", "HTTPS", "TXT"):
                box.ask("www.foreign.example", kind)
            box.ask("www.foreign.example", over="tcp")
            box.ask("www.domestic.example", "TXT")
            wait_for(lambda: tap.leaks("domestic.example"))
            assert tap.leaks("foreign.example") == []


def test_ipv6_left_to_the_router_is_told_for_direct_names_only(box: DnsBox) -> None:
    box.want(resolver(FOREIGN, ipv6="router"))
    assert box.ask("www.domestic.example", "AAAA") == "2408:1:2::3"
    box.want(resolver(FOREIGN, ipv6="router", proxied="direct"))
    assert box.ask("www.foreign.example", "AAAA") == "nothing", "it would lead round this box"


def test_ipv6_through_this_box_is_told_and_learned(box: DnsBox) -> None:
    box.nft(f"add set inet sidegate {NAMES6} {{ type ipv6_addr; flags timeout; timeout 2h; }}")
    box.want(resolver(FOREIGN, ipv6="gateway"))
    assert box.ask("www.foreign.example", "AAAA") == FOREIGN6
    assert set(box.learned(NAMES6)) == {FOREIGN6}


def test_what_is_blocked_does_not_exist(box: DnsBox) -> None:
    block = Rule("rule[0]", "block", Destination(names=("foreign.example",), suffixes=("domestic.example",)))
    box.want(resolver(Policy((block, *proxied("foreign.example", "net").rules))))
    assert box.ask("foreign.example") == "no such name"
    assert box.ask("www.foreign.example") == TRUTH, "of `full:` names only that one"
    assert box.ask("www.domestic.example") == "no such name"
    assert box.ask("use-application-dns.net") == "no such name"


def test_no_public_name_leads_into_the_home(box: DnsBox) -> None:
    box.want(resolver(FOREIGN))
    assert box.ask("inside.foreign.example") == "nothing"
    box.want(resolver(FOREIGN, rebinding=("inside.foreign.example",)))
    assert box.ask("inside.foreign.example") == "192.168.1.127"


def test_the_lans_own_names_change_while_it_runs(box: DnsBox) -> None:
    names = hosts_file([], [Lease(0, "02:00:00:00:01:07", load_home("split").client[4].v4, "NAS")], "home.arpa")
    before = box.want(resolver(FOREIGN), names)[-1]
    assert box.ask("nas") == box.ask("nas.home.arpa") == "192.168.1.127"
    assert box.ask("127.1.168.192.in-addr.arpa", "PTR") == "nas"
    assert box.want(resolver(FOREIGN), "192.168.1.9 tv\n")[-1] == before, "no new process"
    wait_for(lambda: box.ask("tv") == "192.168.1.9")
    assert box.ask("nas") == "no such name"


def test_what_was_learned_long_ago_is_moved_and_learned_again(box: DnsBox) -> None:
    """dnsmasq's answer alone keeps nothing alive; moved, an address is in one of the two sets at any time."""
    box.want(resolver(FOREIGN))
    box.nft(f"flush set inet sidegate {NAMES4}")
    box.nft(f"add element inet sidegate {NAMES4} {{ {CLOUD} timeout 1h }}")
    before = box.learned()[CLOUD]
    assert box.ask("cloud.foreign.example") == CLOUD
    found = box.learned()[CLOUD]
    assert found <= before or found > 7000, "left alone, or renewed by a newer kernel"
    box.nft(ageing({NAMES4: [Element((CLOUD,), expires_s=1), Element(("9.9.9.9",), expires_s=1)]}))
    assert box.learned() == {}
    assert set(box.learned(KEPT4)) == {CLOUD, "9.9.9.9"}
    box.want(None)
    box.want(resolver(FOREIGN))
    assert box.ask("cloud.foreign.example") == CLOUD
    assert box.learned()[CLOUD] > 7000


def test_a_server_that_asks_us_is_asked_no_more(box: DnsBox, lab: Lab) -> None:
    """This box as its own DNS, by way of another machine."""
    options = ("--listen-address=192.168.1.127", "--bind-interfaces", "--no-resolv", f"--server={WE}", "--cache-size=0")
    lab.run("nas", "dnsmasq", "--conf-file=/dev/null", "--user=root", "--group=", "--pid-file=/run/loop.pid", *options)
    nas = next(c.v4 for c in lab.home.client if c.name == "nas")
    box.want(resolver(FOREIGN, direct=(nas,)))
    wait_for(lambda: box.ask("www.domestic.example", again_s=1.0) == "refused")
    assert box.ask("www.foreign.example") == TRUTH
    said = lab.run("gateway", "cat", "/run/own/resolver/resolver.log").stdout
    assert [str(nas) in p.what for p in loops(said)] == [True]
    end(lab, "nas", "/run/loop.pid")


def test_another_resolver_on_port_53_is_named_before_ours_starts(box: DnsBox, lab: Lab) -> None:
    box.want(None)
    with lab.socket("gateway", socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.53", 53))
        assert box.ask_first() == ""
    with lab.socket("gateway", socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 53))
        assert "answers DNS at port 53 of every address already" in box.ask_first()
    assert box.ask_first() == ""


def test_the_internet_gets_no_answer(box: DnsBox, lab: Lab) -> None:
    """Not even by a port forward of the router's, which leads to an open resolver without our guard."""
    wan = str(lab.home.router.wan.ip)
    rules = f"type nat hook prerouting priority -101\nip daddr {wan} udp dport 53 dnat to {WE}\n"
    lab.run("router", "nft", "-f", "-", text=f"table ip forward53 {{\nchain pre {{\n{rules}}}\n}}\n")
    box.want(resolver(FOREIGN))
    assert lab.call("internet", resolve, "www.domestic.example", wan, "A", "udp", PATIENCE_S).detail == "36.1.2.3"
    with box.guarded(), lab.socket("internet", socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect((wan, 53))
        asker.send(QUESTION + labels("www.domestic.example") + b"\0\1\0\1")
        assert box.ask("www.domestic.example") == "36.1.2.3", "whoever asks before is answered before"
        with pytest.raises(BlockingIOError):
            asker.recv(512, socket.MSG_DONTWAIT)
    lab.run("router", "nft", "delete", "table", "ip", "forward53")
