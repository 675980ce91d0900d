"""What becomes of a packet, in words."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from sidegate.gateway.config.fields import OnFailure
from sidegate.gateway.ruleset.inbound import Forwarded
from sidegate.gateway.split.explaining import FOREIGN, ExplainView, explained
from sidegate.gateway.split.judge import Packet
from sidegate.gateway.split.lookup import packet_of
from sidegate.gateway.split.policy import Destination, Policy, Rule, Source
from sidegate.problems import Problems

NETWORK = IPv4Network("203.0.113.0/24")
POLICY = Policy(
    (
        Rule("rule[0]", "tokyo", Destination(suffixes=("listed.example",), networks4=(NETWORK,))),
        Rule("rule[1]", "block", ports=((25, 25),)),
    )
)
WORKING = {"tokyo": "tokyo", "proxy": "first"}


def ask(
    question: dict[str, str],
    policy: Policy = POLICY,
    working: dict[str, str] = WORKING,
    on_failure: OnFailure = "direct",
    learned: tuple[int, ...] = (),
) -> ExplainView:
    it = packet_of({"client": "192.168.1.7", "mac": "AA:BB:CC:00:00:01", "destination": "198.51.100.1"} | question)
    packet = Packet(it.mac, it.source, it.destination, it.name, it.protocol, it.port, learned)
    return explained(policy, packet, working.get, on_failure)


def test_a_rule_by_its_network() -> None:
    assert ask({"destination": "203.0.113.9"}) == ExplainView(
        goes="proxied",
        upstream="tokyo",
        rule='rule[0]: "tokyo"',
        why="its networks hold the address",
        decides="kernel",
    )


def test_a_device_that_is_an_upstreams_server() -> None:
    it = Packet("", IPv4Address("192.168.1.7"), NETWORK[9], "www.listed.example", is_spared=True)
    assert explained(POLICY, it, WORKING.get, "block") == ExplainView(
        goes="straight",
        rule="none: straight",
        why="the device answers for an upstream, to which what it sends would come back",
        decides="kernel",
        dns="proxied",
    )


def test_a_device_that_answers_from_ports_the_router_forwards() -> None:
    mac = "aa:bb:cc:00:00:01"
    named = [Forwarded(mac, "udp", 27016), Forwarded(mac, "udp", 27015), Forwarded(mac, "tcp", 80)]
    named.append(Forwarded("aa:bb:cc:00:00:02", "udp", 9))
    it = Packet(mac, IPv4Address("192.168.1.7"), IPv4Address("203.0.113.9"), protocol="udp")
    (note,) = explained(POLICY, it, WORKING.get, "direct", forwarded=named).notes
    assert "by udp from port 27015, 27016 goes straight" in note
    assert not explained(POLICY, it, WORKING.get, "direct", forwarded=named[-1:]).notes


def test_a_rule_for_a_device_alone_leaves_its_names_to_the_provider() -> None:
    own = Rule("rule[0]", "tokyo", source=Source(macs=("aa:bb:cc:00:00:01",)))
    (note,) = ask({"name": "www.example.org"}, Policy((own,))).notes
    assert note.startswith("www.example.org itself is asked straight, so the provider sees it and may lie")
    assert not ask({}, Policy((own,))).notes
    assert not ask({"name": "www.example.org"}, Policy((own,), "proxy")).notes
    assert not ask({"name": "www.example.org"}, Policy((own,)), {"proxy": FOREIGN, "tokyo": FOREIGN}).notes


def test_the_default() -> None:
    found = ask({})
    assert (found.goes, found.upstream, found.rule, found.why) == (
        "straight",
        "",
        "the mode: direct",
        "no rule matches",
    )
    assert found.notes == ()


def test_blocked() -> None:
    assert (ask({"port": "25"}).goes, ask({"port": "25"}).rule) == ("refused", "rule[1]: block")


def test_a_learned_name_is_judged_once_more() -> None:
    found = ask({"name": "WWW.Listed.Example."}, learned=(0,))
    assert (found.goes, found.decides, found.why) == ("proxied", "engine", "it names the destination")
    assert len(found.notes) == 1
    other = ask({"name": "other.example"}, learned=(0,))
    assert (other.goes, other.rule) == ("straight", "the mode: direct")
    assert other.notes[-1] == "straight from the engine: with this box's own address"


def test_a_name_that_was_never_asked_for_is_not_known() -> None:
    found = ask({"name": "listed.example"})
    assert (found.goes, found.decides) == ("straight", "kernel")
    assert found.notes == (
        'with its name known it would be rule[0]: "tokyo" (it names the destination); the kernel knows no name for '
        "198.51.100.1 now: the client has to ask this box for it",
    )


@pytest.mark.parametrize(("on_failure", "goes"), [("direct", "straight"), ("block", "refused")])
def test_no_upstream_works(on_failure: OnFailure, goes: str) -> None:
    found = ask({"destination": "203.0.113.9"}, working={}, on_failure=on_failure)
    assert (found.goes, found.upstream) == (goes, "")
    assert f'proxy.on_failure = "{on_failure}"' in found.notes[0]


def test_without_an_upstream_the_kernel_decides_alone() -> None:
    found = ask({"name": "www.listed.example"}, Policy(POLICY.rules[:1], "proxy"), {}, learned=(0,))
    assert (found.decides, found.goes) == ("kernel", "straight")
    assert found.notes == ('tokyo does not work now, so it is sent straight on: proxy.on_failure = "direct"',)


def test_another_program_is_not_asked_by_our_rules_nor_for_names() -> None:
    policy = Policy((Rule("rule[0]", "proxy", Destination(suffixes=("listed.example",))),))
    found = ask({"name": "www.listed.example"}, policy, {"proxy": FOREIGN}, learned=(0,))
    assert (found.goes, found.upstream, found.decides, found.dns) == ("proxied", FOREIGN, "kernel", "direct")


def test_icmp_goes_straight_and_that_is_said() -> None:
    found = ask({"destination": "203.0.113.9", "protocol": "icmp"}, on_failure="block", working={})
    assert (found.goes, found.rule) == ("straight", 'rule[0]: "tokyo"')
    assert found.notes == ("icmp goes straight even to what is proxied: no upstream carries it",)


@pytest.mark.parametrize(("quic", "goes"), [("proxy", "proxied"), ("direct", "straight"), ("block", "refused")])
def test_quic(quic: str, goes: str) -> None:
    policy = Policy((), "proxy", quic)  # type: ignore[arg-type]
    found = ask({"protocol": "udp"}, policy)
    assert found.goes == goes
    assert ("QUIC" in found.why) == (quic != "proxy")
    assert ask({"protocol": "udp", "port": "444"}, policy).goes == "proxied"


def test_what_is_not_of_the_internet() -> None:
    found = ask({"destination": "10.0.0.1"}, Policy((), "proxy"))
    assert (found.goes, found.rule) == ("straight", "none: straight")


@pytest.mark.parametrize(
    "question",
    [
        {"client": "x"},
        {"destination": "fe80::1% }; delete table inet sidegate; #"},
        {"destination": "1.2.3"},
        {"name": "a..b"},
        {"protocol": "sctp"},
        {"port": "https"},
    ],
)
def test_questions_that_make_no_sense(question: dict[str, str]) -> None:
    with pytest.raises(Problems, match="no such question"):
        ask(question)
    with pytest.raises(Problems, match="the question lacks 'mac'"):
        packet_of({"client": "192.168.1.7", "destination": "1.2.3.4"})


def test_addresses_of_both_kinds() -> None:
    assert packet_of({"client": "fd00::1", "mac": "", "destination": "2001:db8::1"}).source.version == 6
    assert (
        IPv4Address("192.168.1.7") == packet_of({"client": "192.168.1.7", "mac": "", "destination": "1.2.3.4"}).source
    )


@pytest.mark.parametrize(
    ("policy", "name", "answer"),
    [
        (POLICY, "www.listed.example", "proxied"),
        (POLICY, "other.example", "direct"),
        (Policy((), "proxy"), "other.example", "proxied"),
        (Policy((Rule("rule[0]", "block", Destination(suffixes=("ads.example",))),)), "x.ads.example", "blocked"),
        (Policy((Rule("rule[0]", "direct", Destination(names=("a.example",))),), "proxy"), "b.a.example", "proxied"),
    ],
)
def test_who_is_asked_for_a_name(policy: Policy, name: str, answer: str) -> None:
    assert ask({"name": name}, policy).dns == answer


@pytest.mark.parametrize(("protocol", "goes"), [("udp", "refused"), ("tcp", "proxied"), ("icmp", "straight")])
def test_an_upstream_that_carries_no_udp(protocol: str, goes: str) -> None:
    it = packet_of(
        {"client": "192.168.1.7", "mac": "aa:bb:cc:00:00:01", "destination": "203.0.113.9", "protocol": protocol}
    )
    told = explained(POLICY, it, WORKING.get, "direct", lambda _: False)
    assert told.goes == goes
    assert any("carries no UDP" in note for note in told.notes) == (protocol == "udp")
