"""A gateway whose split is on, and an engine that takes what is steered to it and says at which port it did."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import ClassVar

from msgspec import structs

from sidegate.gateway.box.policyroutes import add
from sidegate.gateway.desired import PolicyRoute
from sidegate.gateway.ruleset.nft import Shape, ruleset
from sidegate.gateway.ruleset.nftchange import transactions
from sidegate.gateway.ruleset.steer import Steering
from sidegate.gateway.split.policy import Policy
from sidegate.gateway.split.ports import MARK_MASK, STEERED_MARK, TABLE, Ports, ports
from sidegate.packet import TCP, UDP, IcmpError, Ipv4, Ipv6, Tcp, Udp, build, frame_of
from tests.kernel.gateway_rig import (
    ACK,
    CLIENT,
    CLIENT_MAC,
    GATEWAY,
    GATEWAY_MAC,
    ROUTER_MAC,
    RST,
    SERVER,
    SHAPE,
    SYN,
    Rig,
    once_own,
    shell,
)

LAN6 = IPv6Network("2001:db8:1:1::/64")
CLIENT6, GATEWAY6, SERVER6 = LAN6[0x10], LAN6[2], IPv6Address("2606:4700::1111")
CHOSEN, OTHER, NEXT = ports(0, 0), ports(0, 1), ports(1, 0)
"""The upstream that `proxy` means, another one, and the chosen one of the next generation."""
_TRANSPARENT, _TRANSPARENT6, _ORIGINAL, _ORIGINAL6 = 19, 75, 20, 74
"""IP_TRANSPARENT, IPV6_TRANSPARENT, IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR (include/uapi/linux/in.h, in6.h)."""
_PR_SET_PDEATHSIG = 1
"""prctl(2): it ends with the test."""

Packet = Ipv4 | Ipv6


class Engine:
    """A process that listens at these ports as the real one does: kill -9 is what it is for."""

    running: ClassVar[list[Engine]] = []
    """Of this process, which is that of one test."""

    def __init__(self, *places: Ports, wildcard: bool = False) -> None:
        """wildcard: at every address of the box, for TCP with one socket for both families, as the real one does."""
        self._questions, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            self._questions.close()
            with contextlib.suppress(BaseException):
                _serve({p for place in places for p in (place.decided, place.named)}, theirs, wildcard)
            os._exit(1)
        theirs.close()
        self.settle()
        self.running.append(self)

    def settle(self) -> None:
        """Returns when it has answered all that it was asked so far."""
        self._questions.send(b"?")
        assert self._questions.recv(1), "the engine does not listen"

    def kill(self) -> None:
        self.running.remove(self)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _serve(listening: Iterable[int], questions: socket.socket, wildcard: bool) -> None:
    with selectors.DefaultSelector() as selector:
        for port in sorted(listening):
            for family, here in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                everywhere = "0.0.0.0" if family == socket.AF_INET else "::"
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    is_for_both = wildcard and kind == socket.SOCK_STREAM
                    if is_for_both and family == socket.AF_INET:
                        continue
                    heard = transparent(family, kind)
                    if is_for_both:
                        heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                    heard.bind((everywhere if wildcard else here, port))
                    if kind == socket.SOCK_STREAM:
                        heard.listen(64)
                    selector.register(heard, selectors.EVENT_READ, port)
        selector.register(questions, selectors.EVENT_READ)
        kept = []
        while True:
            asked = [key for key, _ in selector.select() if key.fileobj is not questions]
            if not asked:
                questions.send(questions.recv(1))
            for key in asked:
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj.type == socket.SOCK_STREAM:
                    kept.append(key.fileobj.accept()[0])
                    kept[-1].send(b"%d" % key.data)
                else:
                    _answer(key.fileobj, key.data)


def transparent(family: int, kind: int) -> socket.socket:
    opened = socket.socket(family, kind)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET:
        opened.setsockopt(socket.IPPROTO_IP, _TRANSPARENT, 1)
        opened.setsockopt(socket.IPPROTO_IP, _ORIGINAL, 1)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, _TRANSPARENT6, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, _ORIGINAL6, 1)
    return opened


def _answer(heard: socket.socket, port: int) -> None:
    """From the address that was asked."""
    _, notes, _, asker = heard.recvmsg(2048, 128)
    (found,) = (data for _, _, data in notes)
    asked = struct.unpack_from("!H", found, 2)[0]
    is_v4 = heard.family == socket.AF_INET
    address = socket.inet_ntop(heard.family, found[4:8] if is_v4 else found[8:24])
    with transparent(heard.family, socket.SOCK_DGRAM) as reply:
        reply.bind((address, asked))
        reply.sendto(b"%d" % port, asker)


def ask(rig: Rig, packet: Packet, src: str = CLIENT_MAC, dst: str = GATEWAY_MAC) -> Packet | None:
    """What the gateway sends for this packet: itself, or an answer. Other flows are not looked at."""
    rig.heard_so_far()
    rig.wire.send(build(frame_of(dst, src, packet)))
    heard = rig.heard_so_far()
    if Engine.running:
        for engine in Engine.running:
            engine.settle()
        heard += rig.heard_so_far()
    return max((it for it in heard if isinstance(it, Ipv4 | Ipv6) and _is_about(it, packet)), key=_tells, default=None)


def went(rig: Rig, packet: Packet) -> str:
    """`direct`, `masqueraded`, `engine`, `refused` or `nowhere`."""
    return _where(packet, ask(rig, packet))


class SplitRig(Rig):
    """`went` tells where a packet of the client went."""

    def __init__(self, policy: Policy, *, proved: bool = False, shape: Shape = SHAPE, **settings: object) -> None:
        super().__init__()
        self.forward()
        for family in (4, 6):
            add(PolicyRoute(family, STEERED_MARK, MARK_MASK, TABLE, ""))
        shell(
            f"ip -6 address add {GATEWAY6}/64 dev eth0 nodad; ip -6 route add default dev eth0 via {LAN6[1]}"
            f"\nip neighbour add {LAN6[1]} lladdr {ROUTER_MAC} dev eth0"
            f"\nip neighbour add {CLIENT6} lladdr {CLIENT_MAC} dev eth0"
            f"\necho 1 >/proc/sys/net/ipv6/conf/all/forwarding\n{once_own(GATEWAY6)}"
        )
        self.shape = shape
        self.steer(policy, **settings)
        if proved:
            self.prove()

    def steer(self, policy: Policy, **settings: object) -> None:
        """As `apply` changes one ruleset into the next. settings: of Steering."""
        split = {"targets": (("proxy", CHOSEN), ("other", OTHER)), "ipv6": True} | settings
        steering = structs.replace(Steering(policy, ()), **split)
        old, self.shape = self.shape, structs.replace(self.shape, lan6=(LAN6,), steering=steering)
        is_first = old.steering is None
        new = ruleset(self.shape)
        for text in [new] if is_first else transactions(ruleset(old), new):
            self.nft(text)

    def ask(self, packet: Packet, src: str = CLIENT_MAC, dst: str = GATEWAY_MAC) -> Packet | None:
        return ask(self, packet, src, dst)

    def went(self, packet: Packet) -> str:
        return went(self, packet)

    def engine_port(self, packet: Packet) -> int | None:
        """At which port the engine took a datagram; None if it did not."""
        seen = self.ask(packet)
        taken = seen is not None and seen.src == packet.dst and isinstance(seen.body, Udp)
        return int(seen.body.payload) if taken and seen and isinstance(seen.body, Udp) else None

    def connect(self, port: int, to: IPv4Address | IPv6Address = SERVER) -> tuple[Packet, int]:
        """A connection that the engine has answered: the client's next segment, and the engine's port."""
        first = syn(port, to)
        answer = self.ask(first)
        assert answer is not None, "nothing came back"
        assert isinstance(answer.body, Tcp)
        assert answer.body.flags == SYN | ACK
        ack = structs.replace(first, body=Tcp(port, 443, 1001, answer.body.seq + 1, ACK))
        said = self.ask(ack)
        assert said is not None, "the engine does not speak"
        assert isinstance(said.body, Tcp)
        heard = answer.body.seq + 1 + len(said.body.payload)
        return structs.replace(first, body=Tcp(port, 443, 1001, heard, ACK, payload=b"x")), int(said.body.payload)


def _is_about(seen: Packet, packet: Packet) -> bool:
    """ICMP errors are, whatever they say: nothing else is asked meanwhile."""
    if isinstance(seen.body, IcmpError):
        return seen.dst == packet.src
    if not isinstance(seen.body, type(packet.body)):
        return False
    if not isinstance(seen.body, Tcp | Udp) or not isinstance(packet.body, Tcp | Udp):
        return packet.dst in (seen.src, seen.dst)
    there = (seen.dst, seen.body.dport) == (packet.dst, packet.body.dport)
    return there or (seen.src, seen.dst, seen.body.dport) == (packet.dst, packet.src, packet.body.sport)


def _tells(seen: Packet) -> int:
    """How much: in front of the answer there may be what a socket says again, unasked, of the same connection."""
    if not isinstance(seen.body, Tcp):
        return 0
    return 2 if seen.body.flags & RST else 1 if seen.body.payload else 0


def _where(packet: Packet, seen: Packet | None) -> str:
    if seen is None:
        return "nowhere"
    if seen.dst == packet.dst:
        return {GATEWAY: "masqueraded"}.get(seen.src, "direct") if isinstance(seen, Ipv4) else "direct"
    if seen.src == packet.dst and isinstance(seen.body, Tcp):
        return "refused" if seen.body.flags & RST else "engine"
    return "engine" if seen.src == packet.dst and isinstance(seen.body, Udp) else "refused"


def syn(port: int = 40000, to: IPv4Address | IPv6Address = SERVER, dport: int = 443) -> Packet:
    return _packet(to, TCP, Tcp(port, dport, 1000, 0, SYN))


def segment(port: int = 40000, to: IPv4Address | IPv6Address = SERVER) -> Packet:
    return _packet(to, TCP, Tcp(port, 443, 1001, 7001, ACK, payload=b"x"))


def datagram(port: int = 40000, to: IPv4Address | IPv6Address = SERVER, dport: int = 51820) -> Packet:
    return _packet(to, UDP, Udp(port, dport, b"?"))


def _packet(to: IPv4Address | IPv6Address, protocol: int, body: Tcp | Udp) -> Packet:
    return Ipv4(CLIENT, to, protocol, body) if isinstance(to, IPv4Address) else Ipv6(CLIENT6, to, protocol, body)
