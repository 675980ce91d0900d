"""Benchmark and referee of the walk: how fast it is, and how often it agrees with the kernel.

`speed` needs nothing but Python; all others need namespaces. The kernel tests of
the walk use the same functions on fewer worlds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from random import Random
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from bench.figures import Figure
from sidegate.gateway.ruleset import inbound, nft
from sidegate.home import Assumed, PortForward, load_home, load_router
from sidegate.lab.lab import Lab
from sidegate.lab.tracing import Tracer
from sidegate.walk.compare import differences, differences_of_volley
from sidegate.walk.conversation import Ask, Player
from sidegate.walk.data import Walk
from sidegate.walk.network import LAN_PORT, Network
from sidegate.walk.setting import Forwarded, Setting
from sidegate.walk.volley import Outcome, Volley, carried, random_volley
from sidegate.walk.worlds import World, matrix, random_world


class Disagreement(Struct, frozen=True):
    """A conversation that model and kernel see differently, after a second try of both."""

    home: str
    setting: Setting
    ask: Ask
    lines: tuple[str, ...]


class Tally(Struct, frozen=True):
    """conversations: how many were compared. repeated: how many agreed only at the second try."""

    conversations: int
    disagreements: tuple[Disagreement, ...]
    seconds: float
    repeated: int = 0


class Speed(Struct, frozen=True):
    conversations_per_second: float
    matrix_conversations: int
    matrix_seconds: float


def walk_speed() -> list[Figure]:
    """How fast the model is; needs no namespaces."""
    it = speed()
    note = f"{it.matrix_conversations} conversations"
    return [
        Figure("walk: conversations on one core", it.conversations_per_second, "per s", 2000, "least"),
        Figure("walk: the whole matrix", it.matrix_seconds, "s", 20, note=note),
    ]


def walk_agreement() -> list[Figure]:
    """Model against kernel, the whole matrix and at least 2,000 random conversations; minutes, not seconds."""
    return [
        *_agreement("matrix", matrix_differential()),
        *_agreement("random homes", random_differential()),
        *(_box_agreement(level) for level in BOX_LEVELS),
    ]


def _agreement(what: str, tally: Tally) -> list[Figure]:
    for it in tally.disagreements:
        print(f"{it.home} {it.setting}\n  {it.ask}\n    " + "\n    ".join(it.lines), file=sys.stderr)
    note = f"of {tally.conversations} conversations, in {tally.seconds:.0f} s, {tally.repeated} at the second try"
    return [Figure(f"walk: disagreements with the kernel, {what}", len(tally.disagreements), "", 0, note=note)]


def _box_agreement(level: str, volleys: int = 1000, seed: int = 1) -> Figure:
    """Random frames into one box: model against kernel, `volleys` times up to seven frames."""
    random, start, wrong = Random(seed), time.perf_counter(), 0  # noqa: S311
    with box_lab(level) as lab:
        for _ in range(volleys):
            volley = random_volley(random, lab.network, lab.box, level == "hook")
            lines = compare_volley(lab, volley)
            if lines:
                wrong += 1
                print(f"{level} {volley}\n    " + "\n    ".join(lines), file=sys.stderr)
    note = f"of {volleys} volleys, in {time.perf_counter() - start:.0f} s"
    return Figure(f"walk: disagreements with the kernel, {level}", wrong, "", 0, note=note)


def speed() -> Speed:
    """Conversations walked per second on one core (the article's home, TCP, a phone behind masquerade: the longest
    way), and the whole matrix, homes included."""
    home = load_home("velop-mesh")
    network = Network(home, load_router(home.router.profile), Setting("masquerade"))
    ask = Ask("phone", "192.168.1.126", "1.2.3.4")
    start, count = time.perf_counter(), 2000
    for _ in range(count):
        Player(network, ask).walk()
    rate = count / (time.perf_counter() - start)
    start = time.perf_counter()
    total = sum(len(list(_model(world))) for world in matrix())
    return Speed(rate, total, time.perf_counter() - start)


def _model(world: World) -> Iterator[Walk]:
    network = network_of(world)
    return (Player(network, ask).walk() for ask in world.asks)


def network_of(world: World) -> Network:
    return Network(world.home, load_router(world.home.router.profile), world.setting)


def matrix_differential() -> Tally:
    """The whole matrix, model against kernel."""
    return differential(matrix())


def random_differential(conversations: int = 2000, seed: int = 1) -> Tally:
    """At least so many conversations of random homes, model against kernel."""
    return differential(random_worlds(conversations, seed))


def random_worlds(conversations: int, seed: int) -> Iterator[World]:
    random, count = Random(seed), 0  # noqa: S311
    while count < conversations:
        world = random_world(random)
        count += len(world.asks)
        yield world


def differential(worlds: Iterable[World]) -> Tally:
    """Plays every question on both. A lab serves consecutive worlds of the same home, unless redirects are sent: a
    kernel remembers whom it told (net/ipv4/inetpeer.c)."""
    start, count, repeated, found = time.perf_counter(), 0, 0, []
    for group in _by_lab(worlds):
        with Lab.up(group[0].home) as lab, Tracer(lab) as tracer:
            for world in group:
                network = arrange(tracer, world)
                for ask in world.asks:
                    count += 1
                    lines = compare(tracer, network, ask)
                    if lines:
                        lines = _again(tracer, world, ask)
                        repeated += not lines
                    if lines:
                        found.append(Disagreement(world.home.name, world.setting, ask, tuple(lines)))
    return Tally(count, tuple(found), time.perf_counter() - start, repeated)


def _again(tracer: Tracer, world: World, ask: Ask) -> list[str]:
    """A second try, begun anew: the gateway's table remembers clients whose SYN came to nothing."""
    if world.setting.redirects_sent:
        return in_new_labs(world, ask).lines
    return compare(tracer, arrange(tracer, world), ask)


class Look(NamedTuple):
    """What the kernel did, and what differs from the model."""

    kernel: Walk
    lines: list[str]


_MOST_TRIES = 5
_REDIRECT_PAUSE_MS = 40
"""net/ipv4/route.c, ip_rt_send_redirect: ip_rt_redirect_load << 1."""
_SENT_AGAIN_MS = 200
"""include/net/tcp.h, TCP_RTO_MIN"""


def look(tracer: Tracer, network: Network, ask: Ask) -> Look:
    """Begun anew, a few times, where they differ and TCP may have sent something again, so long did it take."""
    for _ in range(_MOST_TRIES):
        found = _look(tracer, network, ask)
        if not found.lines or tracer.took_ms < _SENT_AGAIN_MS or network.setting.redirects_sent:
            break
        network = arrange(tracer, World(network.home, network.setting, ()))
    return found


def in_new_labs(world: World, ask: Ask) -> Look:
    """Where redirects are sent each try needs a new lab: a kernel remembers whom it told.

    There are more tries while each takes so long that a second redirect is due, or delays packets: a redirect that
    comes after the system call is taken, one within it is not (see `walk.conversation`).
    """
    for _ in range(_MOST_TRIES):
        with Lab.up(world.home) as lab, Tracer(lab) as fresh:
            found = _look(fresh, arrange(fresh, world), ask)
        if not found.lines or (fresh.is_prompt and fresh.took_ms < _REDIRECT_PAUSE_MS):
            break
    return found


def _look(tracer: Tracer, network: Network, ask: Ask) -> Look:
    kernel = tracer.walk(ask)
    return Look(kernel, differences(Player(network, ask).walk(), kernel))


def _by_lab(worlds: Iterable[World]) -> Iterator[list[World]]:
    group: list[World] = []
    for world in worlds:
        if group and (world.home is not group[0].home or world.setting.redirects_sent):
            yield group
            group = []
        group.append(world)
        if world.setting.redirects_sent:
            yield group
            group = []
    if group:
        yield group


def arrange(tracer: Tracer, world: World) -> Network:
    """Makes the lab as the world says, and returns the same home as the walk sees it."""
    network = network_of(world)
    tracer.arrange(network, ruleset(network))
    return network


def compare(tracer: Tracer, network: Network, ask: Ask) -> list[str]:
    """What differs between model and kernel."""
    return look(tracer, network, ask).lines


class BoxLab(NamedTuple):
    """A lab where one box is alone with the frames that it is sent."""

    level: str
    lab: Lab
    tracer: Tracer
    network: Network
    box: str

    def fire(self, volley: Volley) -> Outcome:
        """What the kernel does with it; Sidegate's table begins anew, for it remembers what came before."""
        if text := ruleset(self.network):
            self.lab.run(self.box, "nft", "-f", "-", text=text)
        return self.tracer.fire(volley)


_PROVED = Setting(
    "sidegate",
    ("my-computer", "nas", "phone"),
    forwarded=(Forwarded("my-computer", "tcp", 5000), Forwarded("phone", "udp", 5000)),
)
BOX_LEVELS: dict[str, tuple[Assumed, Setting]] = {
    "hook": (Assumed("on", drop_invalid=True), Setting("forwarding")),
    "router": (Assumed("on", dns_hijack=True), Setting("forwarding")),
    "snat": (Assumed("on", "snat", drop_invalid=True), Setting("forwarding")),
    "plain": (Assumed("off", drop_invalid=True, dns_hijack=True), Setting("forwarding")),
    "gateway": (Assumed(), Setting("masquerade")),
    "sidegate": (Assumed(), Setting("sidegate")),
    "proved": (Assumed(), _PROVED),
}
"""How the article's home is for each; the last three look at the gateway, the others at the router."""


def box_world(level: str) -> tuple[World, str]:
    """(the home, the box) of one of `BOX_LEVELS`."""
    assume, setting = BOX_LEVELS[level]
    home = load_home("velop-mesh")
    forwards = (PortForward(6000, "my-computer", 5000), PortForward(6000, "phone", 5000, "udp"))
    home = replace(home, router=replace(home.router, assume=assume, port_forward=forwards))
    at_gateway = setting.runs != "forwarding"
    return World(home, setting, ()), home.gateway.name if at_gateway and home.gateway else home.router.name


@contextmanager
def box_lab(level: str) -> Iterator[BoxLab]:
    """The lab of one of `BOX_LEVELS`. The router's own services are ended: a box answers for itself."""
    world, box = box_world(level)
    with Lab.up(world.home) as lab, Tracer(lab) as tracer:
        end_names(lab)
        yield BoxLab(level, lab, tracer, arrange(tracer, world), box)


def compare_volley(lab: BoxLab, volley: Volley) -> list[str]:
    """What differs between model and kernel. It is fired anew, a few times, where it took so long that a table may have
    forgotten an element (`ruleset.nft.ANSWERED_S`), or TCP sent something again.
    """
    model = carried(lab.network, volley)
    for _ in range(_MOST_TRIES):
        lines = differences_of_volley(model, lab.fire(volley))
        if not lines or lab.tracer.took_ms < _SENT_AGAIN_MS:
            break
    return lines


def end_names(lab: Lab) -> None:
    """Ends the router's DNS server, and waits until it has."""
    lab.run("router", "sh", "-c", "it=$(cat /run/dnsmasq-router.pid); kill $it; while kill -0 $it; do sleep 0.01; done")


def ruleset(network: Network) -> str:
    """The table that `sidegate up` loads on this home's gateway, with its proved clients in it; else empty."""
    home, setting = network.home, network.setting
    if home.gateway is None or setting.runs != "sidegate":
        return ""
    macs = {name: network.nodes[name].mac_of(LAN_PORT) for name in network.hosts}
    proved = [nft.Client(macs[c.name], c.v4) for c in home.client if c.name in setting.proved]
    shape = nft.Shape(
        LAN_PORT,
        macs[home.gateway.name],
        (home.router.lan.network,),
        "auto",
        router=network.nodes[home.router.name].mac_of("br-lan"),
        forwarded=tuple(inbound.Forwarded(macs[it.client], it.protocol, it.port) for it in setting.forwarded),
    )
    return nft.ruleset(shape) + nft.prove(proved)
