"""A conversation on a running lab, captured at every interface of every machine: the kernel's Walk.

One process does everything: sockets stay in the network namespace they were made in, so it enters each machine once
and keeps a packet socket there. It also is every program of the conversation, so that one step is over before the next
begins. A veth pair hands frames on within the sending system call, or soon after on the same CPU (net/core/dev.c,
netif_rx): a step is over when nothing was seen for a short while.

What would make two runs differ is taken away first: neighbours are written into the tables, every bridge has seen every
address, and ICMP errors are not rate limited.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import operator
import os
import select
import socket
import struct
import subprocess
import time
import traceback
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Struct

from sidegate import packet as wire
from sidegate.lab import namespaces as ns
from sidegate.lab.blueprint import LAN_PORT, Blueprint, gateway_commands
from sidegate.lab.init import main_environment
from sidegate.lab.lab import Lab
from sidegate.walk.conversation import ENGINE_PORT, Actor, Ask, Do, Ear, Player, goes_on, script, title_of
from sidegate.walk.data import Hop, Packet, Protocol, Sighting, Step, Tracked, Walk
from sidegate.walk.engine import TTL
from sidegate.walk.judge import Played, judged_by_sight
from sidegate.walk.network import Network, Node
from sidegate.walk.setting import Setting
from sidegate.walk.volley import Outcome, Volley

_ETH_ALL = 3
_ETH_EXPERIMENT = 0x88B5  # IEEE Std 802, local experimental ethertype
_OUTGOING = 4  # linux/if_packet.h, PACKET_OUTGOING
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_IP_TRANSPARENT = 19  # linux/in.h
_NETLINK_NETFILTER = 12  # linux/netlink.h
QUIET_S = 0.0025
ENGINE_LISTENS = 39998
"""Where a proxy engine listens on the gateway while a proxied conversation is captured."""


class Order(Struct, frozen=True, tag="order"):
    """A conversation to be played. ear: where to listen; None: nobody does. engine: one listens on the gateway.

    unheard: what each machine's bridges are to forget first, as `bridge -batch` lines. answers: the machine asked.
    """

    ask: Ask
    ear: Ear | None
    steps: tuple[Do, ...]
    gateway: str = ""
    gateway_v4: str = ""
    engine: bool = False
    unheard: dict[str, tuple[str, ...]] = {}
    answers: str = ""


class Arrangement(Struct, frozen=True, tag="arrangement"):
    """How the machines are to be. gateway: its name, empty for none. lan: the LAN's network.

    neighbours: of each machine, as `ip -batch` lines; empty when they are known.
    """

    clients: tuple[str, ...]
    gateway: str
    lan: str
    setting: Setting
    ruleset: str
    neighbours: dict[str, tuple[str, ...]]


class Barrage(Struct, frozen=True, tag="barrage"):
    """Frames for one box, each as (machine, its interface, the frame). All other machines fall silent for good."""

    box: str
    frames: tuple[tuple[str, str, bytes], ...]


class Capture(Struct, frozen=True):
    """What was seen and heard. entries: what conntrack held in the end, on every machine."""

    steps: tuple[Step, ...]
    seen: tuple[Sighting, ...]
    entries: tuple[Tracked, ...]


class _Failed(Struct, frozen=True, tag="failed"):
    said: str


class _Played(Struct, frozen=True, tag="played"):
    capture: Capture


class Tracer:
    """Plays conversations on a lab, one after the other. Close it before the lab ends.

    took_ms: how long the latest one took; on a busy machine longer than the model has in mind.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.took_ms = 0.0
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

    def _ask(self, order: Order | Arrangement | Barrage) -> _Played:
        self._channel.sendall(_framed(msgspec.json.encode(order)))
        answer: _Failed | _Played = msgspec.json.decode(_read_frame(self._channel), type=_Failed | _Played)
        if isinstance(answer, _Failed):
            raise RuntimeError(answer.said)
        return answer

    def walk(self, ask: Ask) -> Walk:
        """Plays it on the kernel. Raises RuntimeError with the traceback of what failed there."""
        network, gateway = self.network, self.network.home.gateway
        player = Player(network, ask)
        at_gateway = (gateway.name, str(gateway.v4)) if gateway else ("", "")
        order = Order(ask, player.ear, script(ask, player.proxied), *at_gateway, network.engine_runs, self._unheard)
        asked = network.node_with(ask.at)
        order = msgspec.structs.replace(order, answers=asked.name if asked else "")
        start = time.monotonic()
        capture = self._ask(order).capture
        self.took_ms = (time.monotonic() - start) * 1000
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
    verdict = judged_by_sight(network, Played(ask.asker, ask.at, capture.steps, list(hops), [], [], proxied))
    return Walk(network.home.name, title_of(ask), capture.steps, hops, verdict, capture.entries, "kernel")


def hops_of(seen: Iterable[Sighting]) -> tuple[Hop, ...]:
    """Sightings, in order of time -> hops: what left a machine belongs to what came in before it."""
    hops: list[Hop] = []
    open_at: dict[str, int] = {}
    for it in seen:
        last = hops[open_at[it.node]] if it.node in open_at else None
        if it.out and last is not None and last.step == it.step:
            hops[open_at[it.node]] = msgspec.structs.replace(last, leaves=(*last.leaves, (it.interface, it.packet)))
            continue
        open_at[it.node] = len(hops)
        if it.out:
            hops.append(Hop(it.step, it.node, None, None, ((it.interface, it.packet),)))
        else:
            hops.append(Hop(it.step, it.node, it.interface, it.packet, ()))
    return tuple(hops)


def _neighbours(node: Node) -> tuple[str, ...]:
    """`ip -batch` lines: everybody on a wire of this machine is known for good."""
    lines = []
    for address, mac in node.neighbours.items():
        way = node.route(address)
        if way is not None and way[1] == address:
            lines.append(f"neigh replace {address} lladdr {mac} dev {way[0]} nud permanent")
    return tuple(lines)


# Arranging the lab, in the process inside


class _Stagehand:
    """Makes every machine as an arrangement says."""

    def __init__(self, stage: _Stage, it: Arrangement) -> None:
        self.stage, self.setting, self.it = stage, it.setting, it

    def arrange(self) -> None:
        for name, lines in self.it.neighbours.items():
            self._prepare(name, lines)
        for name in self.stage.spaces:
            self.stage.enter(name)
            _set(f"conf/all/rp_filter={int(name in self.setting.strict)}")
        for client in self.it.clients:
            self.stage.enter(client)
            accepts = int(self.setting.redirects_accepted)
            _set(*(f"conf/{i}/accept_redirects={accepts}" for i in _SCOPES))
        if self.it.gateway:
            self.stage.enter(self.it.gateway)
            self._arrange_gateway()
        self.stage.settle(0)

    def _prepare(self, name: str, neighbours: tuple[str, ...]) -> None:
        self.stage.enter(name)
        _set("icmp_ratelimit=0")
        with contextlib.suppress(FileNotFoundError):
            # Per network namespace only since Linux 6.12 (net/ipv4/icmp.c, icmp_global_allow).
            _set("icmp_msgs_per_sec=1000000")
        if neighbours:
            _run("ip", "-batch", "-", text="\n".join(neighbours) + "\n")
        _announce()

    def _arrange_gateway(self) -> None:
        setting = self.setting
        _run("nft", "flush", "ruleset")
        for command in gateway_commands("forwarding" if setting.runs == "sidegate" else setting.runs):
            _run(*command)
        _set(*(f"conf/{i}/send_redirects={int(setting.redirects_sent)}" for i in _SCOPES))
        if setting.runs == "sidegate":
            _run("nft", "-f", "-", text=self.it.ruleset)
        _run("ip", "rule", "del", "fwmark", "1", check=False)
        if setting.proxied and setting.forwards:
            _run("ip", "rule", "add", "fwmark", "1", "lookup", "100")
            _run("ip", "route", "replace", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
            _run("nft", "-f", "-", text=_engine_rules(self.it.lan))


_SCOPES = ("all", LAN_PORT)


def _set(*settings: str) -> None:
    """Sysctls of the machine this process is on: /proc/sys/net shows the reader's own network namespace."""
    for setting in settings:
        path, value = setting.split("=")
        Path("/proc/sys/net/ipv4", path).write_text(value, "ascii")


def _run(*command: str, text: str = "", check: bool = True) -> None:
    """Raises RuntimeError with the program's own words."""
    done = subprocess.run(command, input=text, text=True, capture_output=True, env=main_environment(), timeout=20)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _announce() -> None:
    """A broadcast from every interface, so that every bridge knows the way to it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        for _, name in socket.if_nameindex():
            if name != "lo":
                with contextlib.suppress(OSError):  # a pulled cable
                    sender.bind((name, 0))
                    sender.send(b"\xff" * 6 + sender.getsockname()[4] + struct.pack("!H", _ETH_EXPERIMENT) + bytes(46))


def _engine_rules(lan: str) -> str:
    """All TCP of the LAN to the internet goes to the engine (nft(8), TPROXY STATEMENT)."""
    return (
        "table ip engine {\n    chain arriving {\n        type filter hook prerouting priority mangle; policy accept;\n"
        f"        ip saddr {lan} ip daddr != {lan} meta l4proto tcp tproxy to :{ENGINE_LISTENS} meta mark set 1\n"
        "    }\n}\n"
    )


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
            theirs.sendall(_framed(msgspec.json.encode(_Failed(traceback.format_exc()))))
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
    stage = _Stage(plan, spaces)
    while True:
        try:
            said = _read_frame(channel)
        except RuntimeError:
            return
        channel.sendall(_framed(msgspec.json.encode(_obeyed(stage, said))))


def _obeyed(stage: _Stage, said: bytes) -> _Failed | _Played:
    try:
        order = msgspec.json.decode(said, type=Order | Arrangement | Barrage)
        if isinstance(order, Barrage):
            return _Played(stage.bombarded(order))
        if isinstance(order, Order):
            return _Played(_Scene(stage, order).played())
        _Stagehand(stage, order).arrange()
        return _Played(Capture((), (), ()))
    except Exception:
        return _Failed(traceback.format_exc())


class _Stage:
    """All machines, with a packet socket on each."""

    def __init__(self, plan: Blueprint, spaces: dict[str, int]) -> None:
        self.spaces = spaces
        self.here = ""
        self.interfaces = {(e.machine, e.interface) for w in plan.wires for e in (w.near, w.far)}
        self.taps = {name: self._tap(name) for name in spaces}
        self.poll = select.poll()
        for tap in self.taps.values():
            self.poll.register(tap, select.POLLIN)
        self.tables = {name: self._conntrack_socket(name) for name in spaces}
        self.alone = ""

    def enter(self, machine: str) -> None:
        if machine != self.here:
            ns.setns(self.spaces[machine], ns.CLONE_NEWNET)
            self.here = machine

    def _tap(self, machine: str) -> socket.socket:
        self.enter(machine)
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_ALL))
        tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        tap.setblocking(False)
        return tap

    def _conntrack_socket(self, machine: str) -> socket.socket:
        self.enter(machine)
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)

    def forget(self) -> None:
        """Forgets all connections: IPCTNL_MSG_CT_DELETE without a tuple (linux/netfilter/nfnetlink_conntrack.h)."""
        message = struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 0x5, 1, 0, socket.AF_UNSPEC, 0, 0)
        for table in self.tables.values():
            table.send(message)
            table.recv(4096)

    def forget_redirects(self) -> None:
        """Every machine forgets what ICMP redirects told it (net/ipv4/route.c, ipv4_sysctl_rtcache_flush)."""
        for machine in self.spaces:
            self.enter(machine)
            Path("/proc/sys/net/ipv4/route/flush").write_text("1", "ascii")

    def bombarded(self, it: Barrage) -> Capture:
        """Sends the frames one by one, each when the last one's effects are over."""
        if self.alone != it.box:
            self._leave_alone(it.box)
        seen: list[tuple[int, Sighting]] = []
        for number, (machine, interface, frame) in enumerate(it.frames):
            self.taps[machine].sendto(frame, (interface, 0))
            seen += self.settle(number)
        seen.sort(key=lambda sighting: sighting[0])
        entries = tuple(self.connections())
        self.forget()
        return Capture((), tuple(sighting for _, sighting in seen), entries)

    def _leave_alone(self, box: str) -> None:
        """All others are mute, and the box sends no redirects: a kernel remembers whom it told."""
        for machine in self.spaces:
            self.enter(machine)
            if machine != box:
                _run("nft", "-f", "-", text=_MUTE)
        self.enter(box)
        _set(*(f"conf/{scope.name}/send_redirects=0" for scope in Path("/proc/sys/net/ipv4/conf").iterdir()))
        self.settle(0)
        self.forget()
        self.alone = box

    def connections(self) -> list[Tracked]:
        """What every machine's conntrack holds."""
        found: list[Tracked] = []
        for machine in self.spaces:
            self.enter(machine)
            text = Path("/proc/thread-self/net/nf_conntrack").read_text("ascii")
            found += [entry for line in text.splitlines() if (entry := parse_entry(machine, line))]
        return sorted(found)

    def settle(self, step: int) -> list[tuple[int, Sighting]]:
        """Waits until all is quiet. Everything seen since the last time, each with its time in ns."""
        seen: list[tuple[int, Sighting]] = []
        end = time.monotonic() + QUIET_S
        while (left := end - time.monotonic()) > 0:
            if self.poll.poll(left * 1000):
                seen += (it for machine, tap in self.taps.items() for it in self._drained(machine, tap, step))
                end = time.monotonic() + QUIET_S
        return seen

    def _drained(self, machine: str, tap: socket.socket, step: int) -> Iterator[tuple[int, Sighting]]:
        while True:
            try:
                data, ancillary, _, address = tap.recvmsg(2048, 64)
            except BlockingIOError:
                return
            interface, _, kind, *_ = address
            packet = packet_of(wire.parse(data)) if (machine, interface) in self.interfaces else None
            if packet is not None:
                seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
                sighting = Sighting(step, machine, interface, kind == _OUTGOING, packet)
                yield seconds * 10**9 + nanoseconds, sighting


def parse_entry(machine: str, line: str) -> Tracked | None:
    """A line of /proc/net/nf_conntrack (net/netfilter/nf_conntrack_standalone.c, ct_seq_show); None: no IP protocol."""
    words = line.split()
    protocol = words[2]
    if protocol not in ("tcp", "udp", "icmp"):
        return None
    pairs = [word.split("=", 1) for word in words if "=" in word]
    half = [i for i, (key, _) in enumerate(pairs) if key == "src"][1]
    original, reply = _ends(dict(pairs[:half])), _ends(dict(pairs[half:]))
    state = words[5] if protocol == "tcp" else ""
    flags = "[UNREPLIED]" not in words, "[ASSURED]" in words
    return Tracked(machine, cast(Protocol, protocol), original, reply, state, *flags)


def _ends(pairs: dict[str, str]) -> tuple[str, int, str, int]:
    if "id" in pairs:
        return pairs["src"], int(pairs["id"]), pairs["dst"], 0
    return pairs["src"], int(pairs["sport"]), pairs["dst"], int(pairs["dport"])


_MUTE = (
    "table inet mute {\n    chain arriving {\n        type filter hook prerouting priority -400; policy drop;\n    }\n"
    "    chain leaving {\n        type filter hook output priority -400; policy drop;\n    }\n}\n"
)


def frame_of(packet: Packet) -> bytes:
    """The bytes of a walk's packet, with its checksums right; a TCP segment needs its numbers."""
    number, body = _body_of(packet)
    ip = wire.Ipv4(IPv4Address(packet.src), IPv4Address(packet.dst), number, body, packet.ttl)
    return wire.build(wire.frame_of(packet.dst_mac, packet.src_mac, ip))


def _body_of(packet: Packet) -> tuple[int, wire.Body]:
    if packet.protocol == "udp":
        return wire.UDP, wire.Udp(packet.sport, packet.dport, b"hello")
    if packet.protocol == "icmp":
        return wire.ICMP, wire.Echo(packet.kind == "echo reply", packet.sport, 1)
    it, words = packet.numbers, packet.kind.split()
    if not it:
        raise ValueError(f"a segment without numbers: {packet}")
    flags = functools.reduce(operator.or_, (wire.TcpFlags[name] for name in words))
    payload = bytes(it.end - it.seq - ("SYN" in words) - ("FIN" in words))
    return wire.TCP, wire.Tcp(packet.sport, packet.dport, it.seq, it.ack or 0, flags, it.window, payload=payload)


def packet_of(frame: wire.Frame) -> Packet | None:
    """A captured frame as the walk has it; None for what no conversation consists of (ARP, multicast listeners)."""
    if not isinstance(frame.body, wire.Ipv4 | wire.Ipv6):
        return None
    return _packet_of_ip(frame.body, frame.src, frame.dst)


def _packet_of_ip(ip: wire.Ipv4 | wire.Ipv6, src_mac: str, dst_mac: str) -> Packet | None:
    told = _told(ip.body)
    if told is None:
        return None
    protocol, sport, dport, kind = told
    inner, gateway = None, ""
    if isinstance(ip.body, wire.IcmpError | wire.Redirect):
        quoted = ip.body.inner
        inner = None if isinstance(quoted, bytes) else _packet_of_ip(quoted, "", "")
        gateway = str(ip.body.gateway) if isinstance(ip.body, wire.Redirect) else ""
    return Packet(src_mac, dst_mac, str(ip.src), str(ip.dst), protocol, sport, dport, ip.ttl, kind, inner, gateway)


def _told(body: wire.Body) -> tuple[Protocol, int, int, str] | None:
    """(protocol, source port, destination port, kind)"""
    if isinstance(body, wire.Tcp):
        flags = [name for name in _FLAGS if body.flags & wire.TcpFlags[name]]
        return "tcp", body.sport, body.dport, " ".join(flags)
    if isinstance(body, wire.Udp):
        return "udp", body.sport, body.dport, "datagram"
    if isinstance(body, wire.Echo):
        return "icmp", body.id, 0, "echo reply" if body.reply else "echo request"
    if isinstance(body, wire.Redirect):
        return "icmp", 0, 0, "redirect"
    if isinstance(body, wire.IcmpError):
        return "icmp", 0, 0, _error_kind(body)
    return None


_FLAGS = ("SYN", "FIN", "RST", "PSH", "ACK")


def _error_kind(error: wire.IcmpError) -> str:
    """RFC 792 and RFC 4443 number the reasons differently; IPv6's port unreachable is 4."""
    if error.kind == "time exceeded":
        return "time exceeded"
    names = {0: "network unreachable", 1: "host unreachable", 3: "port unreachable", 4: "port unreachable"}
    return names.get(error.code, f"unreachable {error.code}")


class _Scene:
    """One conversation on the stage: every program in it is a socket here."""

    def __init__(self, stage: _Stage, order: Order) -> None:
        self.stage, self.order, self.ask = stage, order, order.ask
        self.family = socket.AF_INET6 if ":" in order.ask.at else socket.AF_INET
        self.sockets: dict[Actor, socket.socket] = {}
        self.listeners: dict[Actor, socket.socket] = {}
        self.reply_to: Any = None
        self.numbers: dict[Actor, int] = {}
        self.open: list[socket.socket] = []

    def played(self) -> Capture:
        try:
            if len(self.ask.segments) == 1:
                return self._play()
            with contextlib.contextmanager(self._silence)():
                return self._play()
        finally:
            for it in self.open:
                it.close()
            self.stage.settle(0)
            self.stage.forget()
            self.stage.forget_redirects()

    def _play(self) -> Capture:
        self._listen()
        for machine, lines in self.order.unheard.items():
            self.stage.enter(machine)
            # With -force: what another conversation has not taught again is gone already.
            _run("bridge", "-force", "-batch", "-", text="\n".join(lines) + "\n", check=False)
        self.stage.settle(0)
        seen: list[tuple[int, Sighting]] = []
        steps: list[Step] = []
        for number, do in enumerate(self.order.steps):
            self._act(do)
            seen += self.stage.settle(number)
            steps.append(Step(do.title, self._arrived(do, number)))
            if not steps[-1].arrived:
                break
        seen.sort(key=lambda it: it[0])
        return Capture(tuple(steps), tuple(it for _, it in seen), tuple(self.stage.connections()))

    def _socket(self, machine: str, kind: int, protocol: int = 0, family: int = 0) -> socket.socket:
        self.stage.enter(machine)
        it = socket.socket(family or self.family, kind, protocol)
        it.setblocking(False)
        if kind == socket.SOCK_STREAM:
            it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Closed with a RST and at once: nothing is sent again later.
            it.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.open.append(it)
        return it

    def _listen(self) -> None:
        ear = self.order.ear
        if self.order.engine:
            engine = self._socket(self.order.gateway, socket.SOCK_STREAM)
            engine.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
            engine.bind(("", ENGINE_LISTENS))
            engine.listen()
            self.listeners["engine-in"] = engine
        if ear is None or self.ask.protocol == "icmp":
            return
        it = self._socket(ear.node, socket.SOCK_STREAM if self.ask.protocol == "tcp" else socket.SOCK_DGRAM)
        it.bind((ear.address, ear.port))
        if self.ask.protocol == "tcp":
            it.listen()
            self.listeners["answerer"] = it
        else:
            self.sockets["answerer"] = it

    def _act(self, do: Do) -> None:
        if do.action == "forget":
            self.stage.forget()
        elif do.action == "stray":
            self._stray(do)
        elif do.action == "open":
            self._connect(do.actor)
        else:
            self._say(do.actor)

    def _connect(self, actor: Actor) -> None:
        ask = self.ask
        machine, me, ttl = self._place_of(actor)
        it = self._socket(machine, socket.SOCK_STREAM)
        it.bind(me)
        it.setsockopt(*self._hop_limit(), ttl)
        self.sockets[actor] = it
        _expect(it.connect_ex((ask.at, ask.port)))

    def _place_of(self, actor: Actor) -> tuple[str, tuple[str, int], int]:
        """(machine, own address and port, TTL) of who begins something."""
        ask = self.ask
        if actor == "rival" and ask.rival:
            return ask.rival[0], (ask.rival[1], ask.sport), ask.ttl
        if actor == "engine-out":
            return self.order.gateway, (self.order.gateway_v4, ENGINE_PORT), TTL
        return ask.asker, (ask.source, ask.sport), ask.ttl

    def _hop_limit(self) -> tuple[int, int]:
        if self.family == socket.AF_INET6:
            return socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS
        return socket.IPPROTO_IP, socket.IP_TTL

    def _say(self, actor: Actor) -> None:
        it = self._sender(actor)
        if it is None:
            return
        message = struct.pack("!BBHHH", 128 if self.family == socket.AF_INET6 else 8, 0, 0, 0, 1) + bytes(8)
        data = message if self.ask.protocol == "icmp" else b"hello"
        with contextlib.suppress(OSError):  # what cannot be sent is not seen, and that is the result
            if actor == "answerer" and self.ask.protocol == "udp":
                it.sendto(data, self.reply_to)
            else:
                it.send(data)

    def _sender(self, actor: Actor) -> socket.socket | None:
        if actor in ("asker", "rival") and actor not in self.sockets:
            self.sockets[actor] = self._datagram_socket(actor)
        return self._accepted(actor)

    def _datagram_socket(self, actor: Actor) -> socket.socket:
        ask = self.ask
        machine, me, ttl = self._place_of(actor)
        icmp = socket.IPPROTO_ICMPV6 if self.family == socket.AF_INET6 else socket.IPPROTO_ICMP
        it = self._socket(machine, socket.SOCK_DGRAM, icmp if ask.protocol == "icmp" else 0)
        it.bind(me)
        it.setsockopt(*self._hop_limit(), ttl)
        with contextlib.suppress(OSError):  # no route: what is then sent is not seen, and that is the result
            it.connect((ask.at, ask.port))
        return it

    def _accepted(self, actor: Actor) -> socket.socket | None:
        """The actor's socket; a listener accepts its connection only now."""
        if actor not in self.sockets and actor in self.listeners:
            with contextlib.suppress(BlockingIOError):
                it, _ = self.listeners[actor].accept()
                it.setblocking(False)
                it.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.open.append(it)
                self.sockets[actor] = it
        return self.sockets.get(actor)

    def _arrived(self, do: Do, number: int) -> bool:
        if do.action in ("forget", "stray"):
            return goes_on(self.ask, do, number)
        hearer = self._accepted(do.hearer)
        if hearer is None:
            return False
        if do.actor == "rival" and do.action == "open":
            self._accepted("answerer")
            self.sockets.pop("answerer", None)  # the next one to be accepted is the asker's
        return self._is_connected(hearer) if do.action == "open" else self._hears(do.hearer, hearer)

    @staticmethod
    def _is_connected(it: socket.socket) -> bool:
        try:
            it.getpeername()
        except OSError:
            return False
        return it.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    def _hears(self, actor: Actor, it: socket.socket) -> bool:
        try:
            data, address = it.recvfrom(2048)
        except OSError:
            return False
        if actor == "answerer":
            self.reply_to = address
        return bool(data)

    def _stray(self, do: Do) -> None:
        """A segment by itself, with the numbers that it would have in a connection."""
        ask, kind = self.ask, do.title[2:].split()
        flags = functools.reduce(operator.or_, (wire.TcpFlags[name] for name in kind))
        payload = b"hello" if "PSH" in kind else b""
        machine, src, dst, ttl = ask.asker, (ask.source, ask.sport), (ask.at, ask.port), ask.ttl
        if do.actor == "answerer":
            machine, src, dst, ttl = self.order.answers, dst, src, TTL
        mine, other = self.numbers.get(do.actor, 1000), self.numbers.get(_OTHER[do.actor], 1000)
        mine = 1000 if "SYN" in kind else mine
        body = wire.Tcp(src[1], dst[1], mine, other if "ACK" in kind else 0, flags, payload=payload)
        self.numbers[do.actor] = mine + len(payload) + bool(flags & (wire.TcpFlags.SYN | wire.TcpFlags.FIN))
        it = self._socket(machine, socket.SOCK_RAW, socket.IPPROTO_RAW, socket.AF_INET)
        it.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK)
        packet = wire.Ipv4(IPv4Address(src[0]), IPv4Address(dst[0]), wire.TCP, body, ttl)
        with contextlib.suppress(OSError):  # what cannot be sent is not seen, and that is the result
            it.sendto(wire.build_ip(packet), (dst[0], 0))

    def _silence(self) -> Iterator[None]:
        """Both ends say nothing of their own while strays go between them."""
        for machine in (self.ask.asker, self.order.answers):
            self.stage.enter(machine)
            _run("nft", "-f", "-", text=_SILENT)
        yield
        for machine in (self.ask.asker, self.order.answers):
            self.stage.enter(machine)
            _run("nft", "delete", "table", "ip", "silent")


_OTHER: dict[Actor, Actor] = {"asker": "answerer", "answerer": "asker"}
_MARK = 7
_SILENT = (
    "table ip silent {\n    chain leaving {\n        type filter hook output priority raw; policy accept;\n"
    f"        meta mark != {_MARK} meta l4proto tcp drop\n    }}\n}}\n"
)


def _expect(number: int) -> None:
    """connect_ex: under way, or refused or unreachable, which the step then shows."""
    if number not in (0, errno.EINPROGRESS, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED):
        raise OSError(number, os.strerror(number))
