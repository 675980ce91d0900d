"""The handle on the process in the lab that plays and captures."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import traceback

import msgspec

from sidegate.lab import namespaces as ns
from sidegate.lab.blueprint import Blueprint
from sidegate.lab.lab import Lab
from sidegate.lab.tracing.orders import Arrangement, Barrage, Capture, Failed, Order, Played
from sidegate.lab.tracing.packets import frame_of, hops_of
from sidegate.lab.tracing.scene import Scene
from sidegate.lab.tracing.stage import Stage
from sidegate.lab.tracing.stagehand import Stagehand
from sidegate.walk.conversation import Ask, Player, script, title_of
from sidegate.walk.data import Walk
from sidegate.walk.judge import Played as Judged
from sidegate.walk.judge import judged_by_sight
from sidegate.walk.network import Network, Node
from sidegate.walk.volley import Outcome, Volley


class Tracer:
    """Plays conversations on a lab, one after the other. Close it before the lab ends.

    took_ms: how long the latest one took. is_prompt: whether in it every packet had gone all its way when the call that
    sent it returned. A busy machine takes longer than the model has in mind, and delays packets.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.took_ms, self.is_prompt = 0.0, True
        self._prepared = False
        self._pid, self._channel = _start(lab)

    def arrange(self, network: Network, ruleset: str = "") -> None:
        """Makes the lab's machines as the network's setting says. network: this very home.

        ruleset: what `sidegate up` would load on the gateway; needed where the setting says that it runs.
        """
        self.network, self._unheard = network, network.unheard_entries()
        neighbours = {} if self._prepared else {name: _neighbours(node) for name, node in network.nodes.items()}
        self._prepared = True
        home = network.home
        names, gateway = tuple(c.name for c in home.client), home.gateway.name if home.gateway else ""
        lan = str(home.router.lan.network)
        self._ask(Arrangement(names, gateway, lan, network.setting, ruleset, neighbours))

    def fire(self, volley: Volley) -> Outcome:
        """What one box does with these frames. From the first time on, no other machine takes in IP packets."""
        node = self.network.nodes[volley.box]
        peers = [(node.ports[shot.port].peer, shot.packet) for shot in volley.shots]
        frames = tuple((peer.node.name, peer.name, frame_of(packet)) for peer, packet in peers if peer)
        capture = self._ask(Barrage(volley.box, frames)).capture
        here = (tuple(it for it in kind if it.node == volley.box) for kind in (capture.seen, capture.entries))
        return Outcome(*here)  # type: ignore[arg-type]

    def _ask(self, order: Order | Arrangement | Barrage) -> Played:
        self._channel.sendall(_framed(msgspec.json.encode(order)))
        answer: Failed | Played = msgspec.json.decode(_read_frame(self._channel), type=Failed | Played)
        if isinstance(answer, Failed):
            raise RuntimeError(answer.said)
        self.took_ms, self.is_prompt = answer.capture.took_s * 1000, answer.capture.is_prompt
        return answer

    def walk(self, ask: Ask) -> Walk:
        """Plays it on the kernel. Raises RuntimeError with the traceback of what failed there."""
        network, gateway = self.network, self.network.home.gateway
        player = Player(network, ask)
        at_gateway = (gateway.name, str(gateway.v4)) if gateway else ("", "")
        order = Order(ask, player.ear, script(ask, player.proxied), *at_gateway, network.engine_runs, self._unheard)
        asked = network.node_with(ask.at)
        order = msgspec.structs.replace(order, answers=asked.name if asked else "")
        capture = self._ask(order).capture
        return _as_walk(network, ask, player.proxied, capture)

    def close(self) -> None:
        """Ends the process in the lab."""
        self._channel.close()
        os.waitpid(self._pid, 0)

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_walk(network: Network, ask: Ask, proxied: bool, capture: Capture) -> Walk:
    hops = hops_of(capture.seen)
    verdict = judged_by_sight(network, Judged(ask.asker, ask.at, capture.steps, list(hops), [], [], proxied))
    return Walk(network.home.name, title_of(ask), capture.steps, hops, verdict, capture.entries, "kernel")


def _neighbours(node: Node) -> tuple[str, ...]:
    """`ip -batch` lines: everybody on a wire of this machine is known for good."""
    lines = []
    for address, mac in node.neighbours.items():
        way = node.route(address)
        if way is not None and way[1] == address:
            lines.append(f"neigh replace {address} lladdr {mac} dev {way[0]} nud permanent")
    return tuple(lines)


# The process in the lab


def _start(lab: Lab) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair()
    plan = lab.plan
    holders = {name: holder.outside for name, holder in lab.machines.items()}
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    try:
        ours.close()
        _serve(theirs, plan, holders, lab.user_namespace)
    except BaseException:
        with contextlib.suppress(OSError):
            theirs.sendall(_framed(msgspec.json.encode(Failed(traceback.format_exc()))))
    os._exit(0)


def _framed(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def _read_frame(channel: socket.socket) -> bytes:
    head = _read_exactly(channel, 4)
    return _read_exactly(channel, struct.unpack("!I", head)[0])


def _read_exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        block = channel.recv(size - len(data))
        if not block:
            raise RuntimeError("the tracer ended without a word")
        data += block
    return data


def _serve(channel: socket.socket, plan: Blueprint, holders: dict[str, int], user_namespace: bool) -> None:
    spaces = {name: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC) for name, pid in holders.items()}
    if user_namespace:
        ns.enter(next(iter(holders.values())), ("user",))
    stage = Stage(plan, spaces)
    while True:
        try:
            said = _read_frame(channel)
        except RuntimeError:
            return
        channel.sendall(_framed(msgspec.json.encode(_obeyed(stage, said))))


def _obeyed(stage: Stage, said: bytes) -> Failed | Played:
    try:
        order = msgspec.json.decode(said, type=Order | Arrangement | Barrage)
        if isinstance(order, Barrage):
            return Played(stage.bombarded(order))
        if isinstance(order, Order):
            return Played(Scene(stage, order).played())
        Stagehand(stage, order).arrange()
        return Played(Capture((), (), ()))
    except Exception:
        return Failed(traceback.format_exc())
