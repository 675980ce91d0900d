"""The walk against the kernel, hop by hop: the same homes, the same conversations, every interface."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bench.walk import Tally, arrange, compare, differential, end_names
from sidegate.home import Assumed, GatewayRuns, Home, PortForward, load_home
from sidegate.lab.lab import Lab
from sidegate.lab.tracing import Tracer
from sidegate.walk.conversation import Ask, Player
from sidegate.walk.network import LAN_PORT
from sidegate.walk.setting import Forwarded, Setting
from sidegate.walk.worlds import World, matrix, random_world

pytestmark = pytest.mark.kernel


def told(tally: Tally) -> str:
    """What disagreed, readable in a failing test."""
    return "\n".join(f"{d.home} {d.setting}\n  {d.ask}\n    " + "\n    ".join(d.lines) for d in tally.disagreements[:5])


@pytest.fixture(scope="module")
def articles_home() -> Home:
    return load_home("velop-mesh")


@pytest.fixture(scope="module")
def tracer(articles_home: Home) -> Iterator[Tracer]:
    with Lab.up(articles_home) as lab, Tracer(lab) as it:
        yield it


@pytest.mark.parametrize("setting", [Setting("nothing"), Setting("forwarding"), Setting("masquerade"),
                                     Setting("sidegate", ("my-computer", "nas"))], ids=lambda s: s.runs)  # fmt: skip
def test_the_articles_home(tracer: Tracer, articles_home: Home, setting: Setting) -> None:
    network = arrange(tracer, World(articles_home, setting, ()))
    for i, client in enumerate(articles_home.client):
        for protocol in ("tcp", "udp", "icmp"):
            port = 0 if protocol == "icmp" else 5000
            ask = Ask(client.name, str(client.v4), "1.2.3.4", protocol, port, 41000 + i)
            assert compare(tracer, network, ask) == []


def test_ipv6_is_untouched_by_it_all(tracer: Tracer, articles_home: Home) -> None:
    network = arrange(tracer, World(articles_home, Setting("forwarding"), ()))
    for i, client in enumerate(articles_home.client):
        assert (
            compare(tracer, network, Ask(client.name, str(client.v6), "2001:db8:cafe::4", sport=41100 + i, port=5000))
            == []
        )


def test_a_sample_of_the_matrix() -> None:
    """From some homes some settings, and from each some questions; `python -m bench` plays all of it."""
    random = Random(2)  # noqa: S311
    homes = [list(worlds) for _, worlds in itertools.groupby(matrix(), key=lambda world: world.home.name)]
    sample = []
    for worlds in random.sample(homes, 4):
        settled = [world for world in worlds if not world.setting.redirects_sent]
        chosen = random.sample(settled, 4)
        sample += [replace(w, asks=tuple(random.sample(w.asks, 8))) for w in chosen]
        sample.append(random.choice([world for world in worlds if world.setting.redirects_sent]))
    tally = differential(sample)
    assert not tally.disagreements, told(tally)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_random_homes(random: Random) -> None:
    tally = differential([random_world(random, questions=8)])
    assert not tally.disagreements, told(tally)


@pytest.mark.parametrize("runs", ["forwarding", "masquerade"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_a_port_that_another_host_has_taken(tracer: Tracer, articles_home: Home, runs: str, protocol: str) -> None:
    network = arrange(tracer, World(articles_home, Setting(runs), ()))  # type: ignore[arg-type]
    port = 0 if protocol == "icmp" else 5000
    for i, (asker, rival) in enumerate((("my-computer", "nas"), ("phone", "nas"), ("nas", "gateway"))):
        source, its = (str(network.hosts[name].addresses[LAN_PORT][0]) for name in (asker, rival))
        ask = Ask(asker, source, "1.2.3.4", protocol, port, 41200 + i, rival=(rival, its))  # type: ignore[arg-type]
        assert compare(tracer, network, ask) == []


@pytest.mark.parametrize(("runs", "told"), [("sidegate", True), ("sidegate", False), ("masquerade", False)])
def test_a_forwarded_port(articles_home: Home, runs: GatewayRuns, told: bool) -> None:
    """Datagrams of a service reach who asked where the gateway was told of it; else errors come back, on the bridge."""
    forwards = tuple(PortForward(6000 + i, c.name, 5000, "udp") for i, c in enumerate(articles_home.client))
    home = replace(articles_home, router=replace(articles_home.router, port_forward=forwards))
    setting = Setting(runs, forwarded=tuple(Forwarded(f.to, "udp", 5000) for f in forwards) if told else ())
    with Lab.up(home) as lab, Tracer(lab) as tracer:
        network, arrived = arrange(tracer, World(home, setting, ())), {}
        for i, forward in enumerate(forwards):
            ask = Ask("internet", "1.2.3.4", str(home.router.wan.ip), "udp", forward.port, 41500 + i)
            assert compare(tracer, network, ask) == []
            arrived[forward.to] = Player(network, ask).walk().verdict.code == "delivered"
    assert arrived["my-computer"] is told
    assert not arrived["phone"]


@pytest.mark.parametrize("filtered", ["on", "off"])
def test_a_hijacked_port_53(articles_home: Home, filtered: str) -> None:
    """A redirect on the router catches frames to the gateway, where its bridge is filtered."""
    assume = Assumed(filtered, dns_hijack=True)  # type: ignore[arg-type]
    home = replace(articles_home, router=replace(articles_home.router, assume=assume))
    with Lab.up(home) as lab, Tracer(lab) as tracer:
        end_names(lab)
        network = arrange(tracer, World(home, Setting("masquerade"), ()))
        caught = {}
        for i, name in enumerate(("my-computer", "phone")):
            ask = Ask(name, str(home.client_named(name).v4), "1.2.3.4", "udp", 53, 41300 + i)
            assert compare(tracer, network, ask) == []
            caught[name] = any(hop.node == "gateway" for hop in Player(network, ask).walk().hops)
    assert caught == {"my-computer": True, "phone": filtered == "off"}


@pytest.mark.parametrize("unheard", [("gateway",), ("phone", "gateway"), ("nas",)], ids=" ".join)
def test_what_no_bridge_has_heard_of_is_flooded(articles_home: Home, unheard: tuple[str, ...]) -> None:
    """Frames to an unknown address pass every port, filtered ones through netfilter; the first answer teaches."""
    for runs in ("forwarding", "masquerade"):
        setting = Setting(runs, unheard=unheard)
        with Lab.up(articles_home) as lab, Tracer(lab) as tracer:
            network = arrange(tracer, World(articles_home, setting, ()))
            for machine in lab.machines:
                # Or multicast reports, sent at random times, would teach the bridges.
                lab.run(machine, "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1")
            for i, protocol in enumerate(("tcp", "udp", "icmp")):
                port = 0 if protocol == "icmp" else 5000
                for j, client in enumerate(articles_home.client):
                    ask = Ask(client.name, str(client.v4), "1.2.3.4", protocol, port, 41400 + 10 * i + j)  # type: ignore[arg-type]
                    assert compare(tracer, network, ask) == []


@pytest.mark.parametrize("segments", [("> SYN", "< SYN ACK", "> ACK", "> FIN ACK", "< ACK"), ("> SYN", "< RST"),
                                      ("> PSH ACK", "< PSH ACK", "< FIN ACK", "> RST", "> SYN")])  # fmt: skip
def test_segments_of_two_hosts_that_say_nothing_else(
    tracer: Tracer, articles_home: Home, segments: tuple[str, ...]
) -> None:
    network = arrange(tracer, World(articles_home, Setting("forwarding"), ()))
    ask = Ask("phone", "192.168.1.126", "192.168.1.123", "tcp", 5000, 44000, "stray", segments=segments)
    assert compare(tracer, network, ask) == []
