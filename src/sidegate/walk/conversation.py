"""A question, played as a script of sends, and judged.

The two ends are Linux hosts: their sockets answer as the kernel's do (SYN -> SYN ACK, an unexpected segment -> RST,
data -> ACK). A script's step is one thing a program does; the next one happens only if it arrived. The lab plays the
very same script with real sockets.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from sidegate.walk.conntrack import Forward
from sidegate.walk.data import Numbers, Packet, Protocol, Step, Tracked, Walk
from sidegate.walk.engine import TTL, Engine
from sidegate.walk.judge import Played, judged
from sidegate.walk.network import Network, Node

Shape = Literal["exchange", "forgotten", "stray", "closed"]
Actor = Literal["asker", "answerer", "engine-in", "engine-out", "rival"]
Action = Literal["open", "say", "stray", "forget"]

ENGINE_PORT = 39999
"""The port that the proxy engine's own connection goes out from."""


class Ask(Struct, frozen=True):
    """One conversation. asker: who begins, a machine of the blueprint. source: its address.

    at: the address asked. port, sport: for ICMP sport is the echo's id and port 0.
    shape: `exchange`: a request and its reply, twice for datagrams; for TCP the handshake and one exchange of data.
      `forgotten`: the same, but all boxes forget their connections after the first exchange (reboot, timeout).
      `stray`: TCP segments of a connection that neither end knows. `closed`: nothing listens there.
    ttl: of what the asker sends. rival: (machine, address) of another host that asked the same from the same port just
      before, and is still at it. segments: what a `stray` conversation consists of, `>` from the asker and `<` from
      the asked, as `> SYN`; with more than one, both ends keep silent otherwise.
    """

    asker: str
    source: str
    at: str
    protocol: Protocol = "tcp"
    port: int = 80
    sport: int = 40000
    shape: Shape = "exchange"
    ttl: int = TTL
    rival: tuple[str, str] | None = None
    segments: tuple[str, ...] = ("> PSH ACK",)


def goes_on(ask: Ask, do: Do, number: int) -> bool:
    """Whether the script goes on after this step though nobody hears it."""
    return do.action == "forget" or (do.action == "stray" and number + 1 < len(ask.segments))


def title_of(ask: Ask) -> str:
    """The question in words."""
    port = "" if ask.protocol == "icmp" else f" port {ask.port}"
    return f"{ask.source} asks {ask.at}{port} over {ask.protocol.upper()}"


class Do(Struct, frozen=True):
    """A step of a script. hearer: whose program gets it, if all goes well."""

    title: str
    action: Action
    actor: Actor
    hearer: Actor


class Ear(Struct, frozen=True):
    """Where the answering program listens: a machine and its own address and port."""

    node: str
    address: str
    port: int


def script(ask: Ask, proxied: bool) -> tuple[Do, ...]:
    """What the two ends do, in order."""
    if ask.shape == "stray":
        return tuple(Do(it, "stray", "asker" if it[0] == ">" else "answerer", "asker") for it in ask.segments)
    return (*_rivalry(ask), *_exchange(ask, proxied))


def _rivalry(ask: Ask) -> tuple[Do, ...]:
    if ask.rival is None:
        return ()
    hearer: Actor = "answerer" if ask.protocol == "udp" else "rival"
    return (Do("another host asks from the same port", "open" if ask.protocol == "tcp" else "say", "rival", hearer),)


def _exchange(ask: Ask, proxied: bool) -> tuple[Do, ...]:
    forget = (_FORGET,) if ask.shape == "forgotten" else ()
    if ask.protocol == "tcp":
        opening = Do("connect", "open", "asker", "asker")
        return (opening, *forget, *(_PROXIED if proxied else _TALK))
    once = _PING if ask.protocol == "icmp" else _TALK
    return (*once, *forget, *once)


_TALK: tuple[Do, ...] = (Do("request", "say", "asker", "answerer"), Do("reply", "say", "answerer", "asker"))
_PING = (Do("echo", "say", "asker", "asker"),)
_FORGET = Do("all boxes forget their connections", "forget", "asker", "asker")
_PROXIED: tuple[Do, ...] = (
    Do("the engine connects", "open", "engine-out", "engine-out"),
    Do("request to the engine", "say", "asker", "engine-in"),
    Do("request of the engine", "say", "engine-out", "answerer"),
    Do("reply to the engine", "say", "answerer", "engine-out"),
    Do("reply of the engine", "say", "engine-in", "asker"),
)


def ear_of(network: Network, ask: Ask) -> Ear | None:
    """Where somebody has to listen so that the question can be answered; None for an address that is nobody's."""
    router = network.nodes[network.home.router.name]
    if ask.at == str(network.home.router.wan.ip):
        for rule in router.nat.rules.inward if router.nat else ():
            if rule.to and (rule.protocol, rule.port) == (ask.protocol, ask.port):
                return _ear_at(network, *rule.to)
    if _is_hijacked(network, ask):
        return Ear(router.name, str(network.home.router.lan.ip), ask.port)
    return _ear_at(network, ask.at, ask.port)


def _is_hijacked(network: Network, ask: Ask) -> bool:
    router = network.nodes[network.home.router.name]
    rules = router.nat.rules.inward if router.nat else ()
    hijacks = Forward("br-lan", ask.protocol, ask.port) in rules
    return hijacks and ask.asker in network.hosts and ask.at not in network.lan


def _ear_at(network: Network, address: str, port: int) -> Ear | None:
    node = network.node_with(address)
    return Ear(node.name, address, port) if node else None


class _Socket:
    """One end of a connection, or of a pair of addresses that exchange datagrams. heard: messages for its program."""

    __slots__ = ("heard", "me", "node", "other", "state", "ttl")

    def __init__(self, node: Node, me: tuple[str, int], other: tuple[str, int], state: str, ttl: int = TTL) -> None:
        self.node, self.me, self.other, self.state, self.ttl = node, me, other, state, ttl
        self.heard = 0


class Player:
    """Plays one conversation on a network, which forgets all earlier ones first.

    remembers: it does not; what earlier packets left in the tables counts. only: the one machine that does anything.
    """

    def __init__(self, network: Network, ask: Ask, remembers: bool = False, only: Node | None = None) -> None:
        self.remembers = remembers
        self.network, self.ask = network, ask
        self.engine = Engine(network, only)
        self.engine.deliver = self._deliver
        self.node = network.nodes[ask.asker]
        self.ear = None if ask.shape in ("closed", "stray") else ear_of(network, ask)
        self.proxied = self._is_proxied()
        self.actors: dict[Actor, _Socket] = {}
        self.sockets: dict[tuple[str, str, int, str, int], _Socket] = {}
        self.resets: list[tuple[str, Packet]] = []

    def walk(self) -> Walk:
        """Plays it from the beginning, and judges."""
        network, engine, ask = self.network, self.engine, self.ask
        if not self.remembers:
            network.forget()
        steps: list[Step] = []
        for number, do in enumerate(script(ask, self.proxied)):
            engine.step = number
            drops_before = len(engine.drops)
            heard = self._heard(do.hearer)
            self._act(do)
            engine.run()
            arrived = goes_on(ask, do, number) or self._heard(do.hearer) > heard
            steps.append(Step(do.title, arrived))
            if not arrived:
                break
        played = Played(
            ask.asker, ask.at, tuple(steps), engine.hops, engine.drops[drops_before:], self.resets, self.proxied
        )
        return Walk(
            network.home.name, title_of(ask), tuple(steps), tuple(engine.hops), judged(network, played), self._entries()
        )

    def _entries(self) -> tuple[Tracked, ...]:
        tables = ((node.name, node.nat.conntrack) for node in self.network.nodes.values() if node.nat)
        return tuple(sorted(entry for name, table in tables for entry in table.listing(name)))

    def _is_proxied(self) -> bool:
        gateway = self.network.home.gateway
        if gateway is None or not self.network.engine_runs or self.ask.shape == "stray":
            return False
        way = self.node.route(self.ask.at)
        upstream = self.ask.asker in self.network.hosts and self.ask.at not in self.network.lan
        return upstream and self.ask.protocol == "tcp" and way is not None and way[1] == str(gateway.v4)

    def _heard(self, actor: Actor) -> int:
        socket = self.actors.get(actor)
        return socket.heard if socket else 0

    # Programs

    def _act(self, do: Do) -> None:
        if do.action == "forget":
            for node in self.network.nodes.values():
                if node.nat:
                    node.nat.conntrack.forget()
                if node.table:
                    node.table.forget()
        elif do.action == "stray":
            self._stray(do)
        elif do.action == "open":
            socket = self._begun(do.actor, "SYN_SENT")
            self._say(socket, "SYN")
        else:
            socket = self.actors.get(do.actor) or self._begun(do.actor, "")
            kinds = {"tcp": "PSH ACK", "udp": "datagram", "icmp": "echo request"}
            if socket.state != "CLOSED":
                self._say(socket, kinds[self.ask.protocol])

    def _stray(self, do: Do) -> None:
        ask, kind = self.ask, do.title.removeprefix("> ").removeprefix("< ")
        here, there = (ask.source, ask.sport), (ask.at, ask.port)
        if do.actor == "asker":
            self._send(self.node, here, there, kind, ask.ttl)
        elif (node := self.network.node_with(ask.at)) is not None:
            self._send(node, there, here, kind, TTL)

    def _begun(self, actor: Actor, state: str) -> _Socket:
        ask = self.ask
        node, me, ttl = self.node, (ask.source, ask.sport), ask.ttl
        gateway = self.network.home.gateway
        if actor == "engine-out" and gateway is not None:
            node, me, ttl = self.network.nodes[gateway.name], (str(gateway.v4), ENGINE_PORT), TTL
        if actor == "rival" and ask.rival is not None:
            node, me = self.network.nodes[ask.rival[0]], (ask.rival[1], ask.sport)
        return self._remember(actor, _Socket(node, me, (ask.at, ask.port), state, ttl))

    def _remember(self, actor: Actor, socket: _Socket) -> _Socket:
        if actor in self.actors:
            socket.heard = self.actors[actor].heard  # one program, whatever socket it hears by
        self.actors[actor] = socket
        self.sockets[socket.node.name, *socket.me, *socket.other] = socket
        return socket

    def _say(self, socket: _Socket, kind: str) -> None:
        self._send(socket.node, socket.me, socket.other, kind, socket.ttl)

    def _send(self, node: Node, me: tuple[str, int], other: tuple[str, int], kind: str, ttl: int) -> None:
        protocol = self.ask.protocol
        dport = 0 if protocol == "icmp" else other[1]
        self.engine.send(node, Packet("", "", me[0], other[0], protocol, me[1], dport, ttl, kind))

    # Kernels of the two ends

    def _deliver(self, node: Node, packet: Packet) -> None:
        if packet.kind == "redirect" and packet.inner is not None:
            self._redirect(node, packet, packet.inner)
        elif packet.inner is not None:
            self.engine.note("socket")
        elif packet.protocol == "tcp":
            self._tcp(node, packet)
        elif packet.protocol == "udp":
            self._udp(node, packet)
        else:
            self._icmp(node, packet)

    def _redirect(self, node: Node, packet: Packet, quoted: Packet) -> None:
        """The socket that the quoted packet came from acts on it; a TCP socket held by a system call does not.

        net/ipv4/tcp_ipv4.c tcp_v4_err (sock_owned_by_user), udp.c __udp4_lib_err, ping.c ping_err.
        """
        port = self.ask.port if quoted.protocol == "icmp" else quoted.dport
        socket = self.sockets.get((node.name, quoted.src, quoted.sport, quoted.dst, port))
        if socket is None:
            self.engine.note("ignore-redirect", "no socket sent that")
        elif quoted.protocol == "tcp" and self.network.setting.instant:
            self.engine.note("ignore-redirect", "the socket is in the middle of a system call")
        else:
            self.engine.accept_redirect(node, packet)

    def _answer(
        self, node: Node, packet: Packet, kind: str, ttl: int = TTL, numbers: Numbers | UnsetType = UNSET
    ) -> None:
        reply = Packet(
            "", "", packet.dst, packet.src, packet.protocol, packet.dport, packet.sport, ttl, kind, numbers=numbers
        )
        self.engine.reply(node, reply)

    def _tcp(self, node: Node, packet: Packet) -> None:
        """RFC 9293 section 3.10.7, as far as two well-behaved ends come."""
        socket = self.sockets.get((node.name, packet.dst, packet.dport, packet.src, packet.sport))
        if socket is None:
            self._tcp_stranger(node, packet)
        elif "RST" in packet.kind:
            self.engine.note("reset")
            self._close(socket)
        elif socket.state == "SYN_SENT":
            self._tcp_opening(socket, packet)
        else:
            self._tcp_open(socket, packet)

    def _tcp_stranger(self, node: Node, packet: Packet) -> None:
        engine_hears = node.proxied and packet.dst not in node.own
        if packet.kind == "SYN" and (engine_hears or self._listens(node, packet)):
            actor: Actor = "engine-in" if engine_hears else "answerer"
            socket = _Socket(node, (packet.dst, packet.dport), (packet.src, packet.sport), "SYN_RECV")
            self._remember(actor, socket)
            self.engine.note("socket")
            self._answer(node, packet, "SYN ACK")
        elif "RST" not in packet.kind and len(self.ask.segments) == 1:
            self.engine.note("no-socket", "RST")
            self.resets.append((node.name, packet))
            self._answer(node, packet, "RST" if "ACK" in packet.kind else "RST ACK", numbers=_of_reset(packet.numbers))

    def _listens(self, node: Node, packet: Packet) -> bool:
        ear = self.ear
        return ear is not None and (ear.node, ear.address, ear.port) == (node.name, packet.dst, packet.dport)

    def _tcp_opening(self, socket: _Socket, packet: Packet) -> None:
        if packet.kind == "SYN ACK":
            socket.state = "ESTABLISHED"
            socket.heard += 1
            self.engine.note("socket")
            self._answer(socket.node, packet, "ACK", socket.ttl)

    def _tcp_open(self, socket: _Socket, packet: Packet) -> None:
        self.engine.note("socket")
        socket.state = "ESTABLISHED"
        if packet.kind == "PSH ACK":
            socket.heard += 1
            self._answer(socket.node, packet, "ACK", socket.ttl)

    def _close(self, socket: _Socket) -> None:
        del self.sockets[socket.node.name, *socket.me, *socket.other]
        socket.state = "CLOSED"

    def _udp(self, node: Node, packet: Packet) -> None:
        socket = self.sockets.get((node.name, packet.dst, packet.dport, packet.src, packet.sport))
        if socket is None and self._listens(node, packet):
            me, other = (packet.dst, packet.dport), (packet.src, packet.sport)
            socket = self._remember("answerer", _Socket(node, me, other, ""))
        if socket is None:
            self.engine.note("no-socket", "port unreachable")
            self.engine.report(node, packet, "port unreachable")
        else:
            self.engine.note("socket")
            socket.heard += 1

    def _icmp(self, node: Node, packet: Packet) -> None:
        if packet.kind == "echo request":
            self.engine.note("ping")
            reply = Packet("", "", packet.dst, packet.src, "icmp", packet.sport, 0, TTL, "echo reply")
            self.engine.reply(node, reply)
        elif socket := self.sockets.get((node.name, packet.dst, packet.sport, packet.src, self.ask.port)):
            self.engine.note("socket")
            socket.heard += 1


def _of_reset(numbers: Numbers | UnsetType) -> Numbers | UnsetType:
    """tcp_ipv4.c, tcp_v4_send_reset"""
    if not numbers:
        return UNSET
    return Numbers(0, 0, numbers.end, 0) if numbers.ack is None else Numbers(numbers.ack, numbers.ack, None, 0)
