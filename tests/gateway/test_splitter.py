"""What the splitter asks of its parts, and tells the kernel of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from msgspec import structs

from sidegate.gateway.box.facts import Facts
from sidegate.gateway.box.places import Places
from sidegate.gateway.config import Config, Dns, parse_config
from sidegate.gateway.daemon.engineplan import wanted
from sidegate.gateway.daemon.naming import MUTE_S, Naming
from sidegate.gateway.daemon.splitplan import Plan
from sidegate.gateway.daemon.splitter import Splitter
from sidegate.gateway.dns import terms
from sidegate.gateway.engine.lanport import LanPort
from sidegate.gateway.engine.supervision import State
from sidegate.gateway.split.policy import Policy
from sidegate.gateway.split.ports import ports
from sidegate.problems import Problem, Problems
from tests.gateway.test_decide import facts

HERE = structs.replace(facts(), lan6=(IPv6Network("2001:db8:1::/64"),))


@pytest.fixture
def splitter(tmp_path: Path) -> Iterator[Splitter]:
    made = Splitter(Places(tmp_path, tmp_path), lambda _: None, tuple)
    yield made
    made.close()


def test_the_engine_does_as_the_configuration_says(splitter: Splitter) -> None:
    text = """
[proxy]
upstream = ["socks5://proxy.example:1080#one", "http://192.0.2.9:8080#two"]
mode = "all"
choose = "fastest"
check = "https://192.0.2.1/there"
lan_port = 1080
on_failure = "block"
[dns]
servers = ["192.0.2.53"]
proxied = ["tls://dns.example", "9.9.9.9"]
[ipv6]
mode = "gateway"
"""
    it = wanted(splitter.plan(parse_config(text, "test")), HERE)
    assert [upstream.name for upstream in it.engine.upstreams] == ["one", "two"]
    assert (it.choose, it.check.host, it.check.is_tls) == ("fastest", "192.0.2.1", True)
    assert it.engine.policy.default == "proxy"
    assert it.engine.proxied_dns == ("tls://dns.example", "9.9.9.9")
    assert it.engine.direct_dns == (IPv4Address("192.0.2.53"),)
    assert it.engine.has_ipv6
    assert it.engine.lan == LanPort("block", "proxy", IPv4Address("192.168.1.2"))


def test_a_proxy_on_the_lan_is_never_sent_its_own_traffic(splitter: Splitter) -> None:
    """Whichever address it is found by: what is proxied would come to it again and again."""
    hosts = ("192.168.1.9", "[2001:db8:1::9]", "192.0.2.9", "[2001:db8:2::9]", "proxy.example")
    listed = ", ".join(f'"socks5://{host}:1080"' for host in hosts)
    plan = splitter.plan(parse_config(f'[proxy]\nmode = "all"\nupstream = [{listed}]\n', "test"))
    assert _unsteered(splitter, plan, None) == ()
    assert _unsteered(splitter, plan, HERE) == (IPv4Address("192.168.1.9"), IPv6Address("2001:db8:1::9"))


@pytest.mark.parametrize(
    ("host", "is_looked_for"),
    [
        ("192.168.1.9", True),
        ("[2001:db8:1::9]", True),
        ("[fe80::9]", True),
        ("nas.lan", True),
        ("proxy.example", True),
        ("192.0.2.9", False),
        ("[2001:db8:2::9]", False),
        ("127.0.0.1", False),
    ],
)
def test_proxies_on_the_lan_are_looked_for_where_there_may_be_one(
    splitter: Splitter, host: str, is_looked_for: bool
) -> None:
    plan = splitter.plan(parse_config(f'[proxy]\nmode = "all"\nupstream = "socks5://{host}:1080"\n', "test"))
    assert not splitter.situation(plan).spares, "where this box stands is not known yet"
    splitter._facts = HERE
    assert splitter.situation(plan).spares == is_looked_for


class Slow:
    """An engine whose upstream has answered at the third look; or a resolver that serves then."""

    state = State(0, True)
    looks = 0

    def turn(self, now: float) -> None:
        self.looks += 1

    @property
    def is_sure(self) -> bool:
        return self.looks > 2

    def serves(self) -> bool:
        return self.is_sure

    def faults(self) -> tuple[Problem, ...]:
        return ()


def test_up_leads_nobody_to_who_does_not_answer_yet(splitter: Splitter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are the first that are led to an upstream; and who asks past us would tell the provider."""
    plan = splitter.plan(parse_config('[proxy]\nupstream = "socks5://192.0.2.9:1080"\nmode = "all"\n', "test"))
    engine, naming, was_sure = Slow(), Slow(), []

    def begin_names(*_: object) -> tuple[()]:
        was_sure.append(engine.is_sure)
        return ()

    for name, value in {"_engine": engine, "_naming": naming, "_begin_names": begin_names}.items():
        monkeypatch.setattr(splitter, name, value)
    monkeypatch.setattr(splitter, "_want_engine", lambda *_: ())
    for name in ("SETTLE_S", "SURE_S"):
        monkeypatch.setattr(f"sidegate.gateway.daemon.splitter.{name}", 60.0)
    splitter.begin(plan, HERE)
    assert was_sure == [True]
    assert naming.serves()


def test_datagrams_that_began_elsewhere_are_let_stay(splitter: Splitter, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the upstream chosen before, or an engine that ends: the kernel is told of those places, too."""
    plan = splitter.plan(parse_config('[proxy]\nupstream = "socks5://192.0.2.9:1080"\nmode = "all"\n', "test"))
    before = (ports(1, 0), ports(0, 1))
    monkeypatch.setattr(splitter._engine, "held", lambda: before)
    assert set(splitter.situation(plan).held) >= set(before)


def _unsteered(splitter: Splitter, plan: Plan, here: Facts | None) -> tuple[IPv4Address | IPv6Address, ...]:
    splitter._facts = here
    return splitter.situation(plan).unsteered


def test_a_plan_of_which_a_part_cannot_be_written_is_not_in_force(
    splitter: Splitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked for it is told that it was not taken; so nothing of it may stay."""
    before, refused = Plan(Config()), Plan(Config(dns=Dns(mode="on")))
    splitter.want(before, HERE, time.monotonic())

    def want(*_: object) -> None:
        raise Problems(Problem("/run", "cannot be written: No space left on device"))

    monkeypatch.setattr(splitter._naming, "want", want)
    with pytest.raises(Problems):
        splitter.want(refused, HERE, time.monotonic())
    assert splitter.plan_in_force is before


class Silent:
    """A resolver that serves when it is told to."""

    serves = True

    def answers(self) -> bool:
        return self.serves


def test_who_asks_others_is_led_to_a_resolver_that_is_silent_for_moments_only(tmp_path: Path) -> None:
    """It may just be started again; but a dead one would leave the home without names."""
    naming = Naming(Places(tmp_path, tmp_path), lambda _: None, tuple)
    naming._resolving = it = Silent()  # type: ignore[assignment]
    naming._resolver = terms.resolver(Config(dns=Dns("on")), facts(), Policy())

    def answers(now: float) -> bool:
        naming._hear(now)
        return naming.answers

    assert answers(1.0)
    it.serves = False
    assert [answers(2.0), answers(1.9 + MUTE_S), answers(2.0 + MUTE_S), answers(3.0 + MUTE_S)] == [
        True,
        True,
        False,
        False,
    ]
    it.serves = True
    assert answers(20.0)
    it.serves = False
    assert answers(21.0), "it was heard since"
