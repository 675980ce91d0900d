"""The internet that the engine is put beside."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.upstream import Upstream
from tests.kernel.engine_stage.addresses import (
    BOX_OUTSIDE,
    DIRECT_RESOLVER,
    OTHER,
    RESOLVER,
    SERVER,
    SERVER6,
    TARGET,
    TARGET6,
)
from tests.kernel.engine_stage.certificate import Certificate
from tests.kernel.engine_stage.kinds import Json, kinds, link_of
from tests.kernel.engine_stage.networks import network
from tests.kernel.engine_stage.programs import serving, sh, wait_until
from tests.kernel.engine_stage.resolver import Resolver
from tests.kernel.engine_stage.target import serve_target
from tests.kernel.gateway_rig import once_own


def upstreams_of(links: dict[str, str]) -> tuple[Upstream, ...]:
    return tuple(msgspec.structs.replace(upstream_of_link(link, name), name=name) for name, link in links.items())


class Stage:
    """The internet, made in the network in which this is called."""

    def __init__(self, directory: Path) -> None:
        for address in (SERVER, TARGET, OTHER, RESOLVER, DIRECT_RESOLVER):
            sh(f"ip addr add {address}/32 dev lo")
        for address in (SERVER6, TARGET6):
            sh(f"ip addr add {address}/128 dev lo nodad\n{once_own(address)}")
        self.directory = directory
        self.certificate = Certificate(directory)
        self.resolver = Resolver(RESOLVER, "203.0.113.5", self.certificate)
        self.direct_resolver = Resolver(DIRECT_RESOLVER, SERVER)
        serve_target(self.certificate)
        made = kinds(self.certificate)
        self.inbounds = [
            {**inbound, "listen": SERVER, "port": 2000 + i, "tag": name}
            for i, (name, (inbound, _)) in enumerate(made.items())
        ]
        self.links = {name: link_of(link, 2000 + i) for i, (name, (_, link)) in enumerate(made.items())}


@contextmanager
def stage() -> Iterator[Stage]:
    """Servers behind this box, which has no more than a way to them."""
    with (
        tempfile.TemporaryDirectory() as path,
        network("wan", BOX_OUTSIDE, "172.16.0.1") as inside,
        ExitStack() as stack,
    ):
        sh("ip route add default via 172.16.0.1")
        it = inside(lambda: Stage(Path(path)))
        inside(lambda: stack.enter_context(serving(it.inbounds)))
        # Xray begins to listen at one after the other, in any order (app/proxyman/inbound/inbound.go, Start).
        wait_until(lambda: inside(lambda: _ports_of(it.inbounds) <= _listening()))
        yield it


def _ports_of(inbounds: list[Json]) -> set[tuple[str, int]]:
    """As `_listening` tells them."""
    kinds_of = {"shadowsocks": ("tcp", "udp"), "wireguard": ("udp",)}
    return {(kind, it["port"]) for it in inbounds for kind in kinds_of.get(it["protocol"], ("tcp",))}


def _listening() -> set[tuple[str, int]]:
    """Protocols and ports at which this thread's network takes in what comes (proc_pid_net(5))."""
    found = set()
    for kind, state in (("tcp", "0A"), ("udp", "07")):
        rows = [line.split() for line in Path(f"/proc/thread-self/net/{kind}").read_text().splitlines()]
        found |= {(kind, int(row[1].rpartition(":")[2], 16)) for row in rows if row[3] == state}
    return found
