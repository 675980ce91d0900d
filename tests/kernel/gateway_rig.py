"""A gateway in a namespace of its own, its LAN cable in our hand: frames go in, frames come out.

`in_namespaces` runs a test in a child process with new user, network and mount namespaces; nothing outlives it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import select
import socket
import subprocess
import time
import traceback
from collections import deque
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import ParamSpec

import pytest

from sidegate.gateway.ruleset.nft import Client, Shape, prove, ruleset, withdraw
from sidegate.packet import (
    BROADCAST,
    NO_MAC,
    TCP,
    UDP,
    Arp,
    Body,
    Ipv4,
    Ipv6,
    Mac,
    Tcp,
    TcpFlags,
    Udp,
    build,
    frame_of,
    mac_text,
    parse,
)

P = ParamSpec("P")

NEW_MOUNT, NEW_USER, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
GATEWAY_MAC, ROUTER_MAC, CLIENT_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01", "02:00:00:00:00:10"
GATEWAY, ROUTER, CLIENT = (IPv4Address(f"192.168.1.{n}") for n in (2, 1, 16))
SERVER, OTHER_SERVER = IPv4Address("1.1.1.1"), IPv4Address("8.8.8.8")
LAN = (IPv4Network("192.168.1.0/24"),)
PHONE = Client(CLIENT_MAC, CLIENT)
SHAPE = Shape("eth0", GATEWAY_MAC, LAN, "auto")

NOBODY = IPv4Address("0.0.0.0")
IGMP = 2
"""A bridge reports its own groups."""

SYN, ACK, FIN, RST = TcpFlags.SYN, TcpFlags.ACK, TcpFlags.FIN, TcpFlags.RST

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def setns(fd: int) -> None:
    if _libc.setns(fd, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def shell(script: str) -> str:
    """What the script printed; fails with what it said on standard error."""
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{script}\n{done.stderr}"
    return done.stdout


def once_own(*addresses: IPv6Address | str) -> str:
    """Words for `shell` that end when packets to these are this box's own: after "nodad" too a work queue enters the
    route, and waits for the one lock of all networks (net/ipv6/addrconf.c, addrconf_dad_start).
    """
    return "\n".join(f"until ip -6 route get {a} 2>&1 | grep -q ^local; do sleep 0.01; done" for a in addresses)


def _enter() -> None:
    uid, gid = os.getuid(), os.getgid()
    unshare(NEW_USER | NEW_NETWORK | NEW_MOUNT)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    shell("ip link set lo up; mount -t tmpfs tmpfs /run")
    os.environ["XTABLES_LOCKFILE"] = "/run/xtables.lock"


def in_namespaces(test: Callable[P, None]) -> Callable[P, None]:
    """Runs the test in a child of its own and fails with the child's traceback."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _child(functools.partial(test, *args, **kwargs), writing)
        os.close(writing)
        with open(reading) as pipe:
            failure = pipe.read()
        _, status = os.waitpid(pid, 0)
        if failure or status:
            pytest.fail(failure or f"the child ended with status {status}", pytrace=False)

    return run


def _child(test: Callable[[], None], writing: int) -> None:
    try:
        _enter()
        test()
    except BaseException:
        os.write(writing, traceback.format_exc().encode())
    finally:
        os._exit(0)


def new_network() -> int:
    """Enters a new network namespace; the descriptor of it."""
    unshare(NEW_NETWORK)
    shell("ip link set lo up")
    return os.open("/proc/self/ns/net", os.O_RDONLY)


def drop_capabilities() -> None:
    """Of this process, all of them (capset(2), version 3 of the header)."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if _libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Rig:
    """The gateway's namespace is the current one; `wire` is the other end of its cable, where everybody else is."""

    def __init__(self, bridged: bool = False) -> None:
        """bridged: eth0 is a bridge, whose port is what the cable is plugged into."""
        outside = os.open("/proc/self/ns/net", os.O_RDONLY)
        inside = new_network()
        peer = f"type veth peer name wire netns /proc/{os.getpid()}/fd/{outside}"
        if bridged:
            shell(f"ip link add name port0 {peer}; ip link add name eth0 address {GATEWAY_MAC} type bridge")
            shell("ip link set port0 master eth0; ip link set port0 up")
        else:
            shell(f"ip link add name eth0 address {GATEWAY_MAC} {peer}")
        setns(outside)
        shell(f"ip link set wire address {ROUTER_MAC}; ip address add {ROUTER}/24 dev wire; ip link set wire up")
        self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.wire.bind(("wire", 3))
        self.wire.settimeout(15)
        self._sent: deque[Ipv4] = deque()
        self._questions = 0
        setns(inside)
        shell(
            f"ip address add {GATEWAY}/24 dev eth0; ip link set eth0 up; ip route add default via {ROUTER}"
            f"\nip neighbour add {ROUTER} lladdr {ROUTER_MAC} dev eth0"
            f"\nip neighbour add {CLIENT} lladdr {CLIENT_MAC} dev eth0"
        )
        self._wait_for_carrier()

    def _wait_for_carrier(self) -> None:
        """Until frames pass both ways. The end that was up first drops what it is to send until a work queue has
        noticed the carrier (net/core/link_watch.c, linkwatch_do_dev), and that waits for the one lock of all networks.
        """
        asked_until_s = time.monotonic() + 60
        self.wire.settimeout(0.05)
        while not self._is_there():
            assert time.monotonic() < asked_until_s, "no frame passes"
        self.wire.settimeout(15)

    def _is_there(self) -> bool:
        try:
            self.heard_so_far()
        except TimeoutError:
            return False
        return True

    def forward(self) -> None:
        """What `apply` does beside the table."""
        shell(
            "echo 1 >/proc/sys/net/ipv4/conf/eth0/forwarding"
            "\nfor i in all eth0; do echo 0 >/proc/sys/net/ipv4/conf/$i/send_redirects; done"
        )

    def load(self, shape: Shape = SHAPE) -> None:
        self.nft(ruleset(shape))

    def nft(self, text: str) -> str:
        done = subprocess.run(["nft", "-f", "-"], input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def prove(self, client: Client = PHONE) -> None:
        self.nft(prove([client]))

    def withdraw(self, client: Client = PHONE) -> None:
        self.nft(withdraw([client]))

    def holds(self, set_name: str, text: str = "") -> bool:
        """Whether the set has an element with this text."""
        listing = shell(f"nft list set inet sidegate {set_name}")
        return "elements" in listing and text in listing

    def send(self, packet: Ipv4, src: str = CLIENT_MAC, dst: str = GATEWAY_MAC) -> None:
        self.wire.send(build(frame_of(dst, src, packet)))

    def forwarded(self, packet: Ipv4, src: str = CLIENT_MAC, dst: str = GATEWAY_MAC) -> Ipv4 | None:
        """What the gateway makes of the packet; None if it sends none at once."""
        self.send(packet, src, dst)
        return self.next_sent()

    def next_sent(self) -> Ipv4 | None:
        """The next packet that the gateway has sent; None if there is none."""
        if not self._sent:
            self._collect()
        return self._sent.popleft() if self._sent else None

    def _collect(self) -> None:
        self._sent += [it for it in self.heard_so_far() if isinstance(it, Ipv4) and it.protocol != IGMP]

    def heard_so_far(self) -> list[Body | Ipv4 | Ipv6 | Arp]:
        """All that the gateway has made of what was sent: a question is answered after what came in before it."""
        heard: list[Body | Ipv4 | Ipv6 | Arp] = []
        while select.select([self.wire], [], [], 0)[0]:
            heard += self._hear()  # so that there is room for the answer
        asker = self._ask_whether_it_is_there()
        while True:
            for body in self._hear():
                if isinstance(body, Arp) and body.reply and body.target_mac == asker:
                    return heard
                heard.append(body)

    def _ask_whether_it_is_there(self) -> Mac:
        """The address to which it answers, another one each time.

        An ARP probe (RFC 5227): it is answered whatever the firewalls, and nobody remembers it (net/ipv4/arp.c).
        """
        self._questions += 1
        asker = mac_text(b"\x02\xa5" + self._questions.to_bytes(4))
        question = Arp(reply=False, sender_mac=asker, sender_ip=NOBODY, target_mac=NO_MAC, target_ip=GATEWAY)
        self.wire.send(build(frame_of(BROADCAST, ROUTER_MAC, question)))
        return asker

    def _hear(self) -> list[Body | Ipv4 | Ipv6 | Arp]:
        """The next frame, without those that we sent ourselves."""
        data, address = self.wire.recvfrom(4096)
        return [] if address[2] == socket.PACKET_OUTGOING else [parse(data).body]

    def put(self, packet: Ipv4 | Ipv6, src: str = CLIENT_MAC, dst: str = GATEWAY_MAC) -> None:
        """Sends, and waits until the gateway has dealt with it."""
        self.wire.send(build(frame_of(dst, src, packet)))
        self.heard_so_far()

    def source(self, packet: Ipv4, src: str = CLIENT_MAC) -> IPv4Address | None:
        """The address under which the router sees the packet."""
        seen = self.forwarded(packet, src)
        return seen.src if seen else None


def tcp(
    flags: TcpFlags, port: int = 40000, to: IPv4Address = SERVER, of: IPv4Address = CLIENT, seq: int = 1000
) -> Ipv4:
    """The client's segment to port 443."""
    return Ipv4(of, to, TCP, Tcp(port, 443, seq, 0 if flags == SYN else 7000, flags))


def udp(port: int = 40000, to: IPv4Address = SERVER, of: IPv4Address = CLIENT) -> Ipv4:
    return Ipv4(of, to, UDP, Udp(port, 51820, b"tunnel"))


def reply(packet: Ipv4, body: Body, to: IPv4Address) -> Ipv4:
    """What the server answers, as the router hands it on: to the client or to the gateway."""
    return Ipv4(packet.dst, to, packet.protocol, body)
