"""All machines of a lab, listened to and acted on by one process."""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sidegate import packet as wire
from sidegate.lab import namespaces as ns
from sidegate.lab.blueprint import Blueprint
from sidegate.lab.machine import main_environment
from sidegate.lab.tracing.orders import Barrage, Capture
from sidegate.lab.tracing.packets import packet_of, parse_entry
from sidegate.walk.data import Sighting, Tracked

_ETH_ALL = 3
_OUTGOING = 4  # linux/if_packet.h, PACKET_OUTGOING
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_MARK = bytes(12) + b"\x88\xb6"
"""The beginning of a frame between the two MACs of `lo`, of IEEE Std 802's second local experimental ethertype."""
_LOST_AFTER_S = 1.0
"""Without a mark: then it is sent again."""
_NETLINK_NETFILTER = 12  # linux/netlink.h


class _Heard(NamedTuple):
    """A frame at an interface of a machine."""

    machine: str
    interface: str
    is_outgoing: bool
    data: bytes
    at_ns: int


class Stage:
    """All machines, with a packet socket on each.

    is_prompt: whether, since this was last set, every packet had gone all its way when the call that sent it returned.
    """

    def __init__(self, plan: Blueprint, spaces: dict[str, int]) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[os.getpid() % len(cpus)]})  # all that is sent from here waits in one queue
        self.spaces = spaces
        self.here = ""
        self.interfaces = {(e.machine, e.interface) for w in plan.wires for e in (w.near, w.far)}
        self.taps = {name: self._tap(name) for name in spaces}
        self.poll = select.poll()
        for tap in self.taps.values():
            self.poll.register(tap, select.POLLIN)
        self.tables = {name: self._conntrack_socket(name) for name in spaces}
        self.alone = ""
        self.is_prompt, self._interrupted = True, 0
        self._marked, self._marks = next(iter(spaces)), 0
        self._wait_until_stamped()

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
        self.settle(0)
        self.is_prompt = True
        seen: list[tuple[int, Sighting]] = []
        start_s = time.monotonic()
        for number, (machine, interface, frame) in enumerate(it.frames):
            self.taps[machine].sendto(frame, (interface, 0))
            seen += self.settle(number)
        took_s = time.monotonic() - start_s
        seen.sort(key=lambda sighting: sighting[0])
        entries = tuple(self.connections())
        self.forget()
        return Capture((), tuple(sighting for _, sighting in seen), entries, took_s, self.is_prompt)

    def _leave_alone(self, box: str) -> None:
        """All others are mute, and the box sends no redirects: a kernel remembers whom it told."""
        for machine in self.spaces:
            self.enter(machine)
            if machine != box:
                run("nft", "-f", "-", text=_MUTE)
        self.enter(box)
        set_ipv4(*(f"conf/{scope.name}/send_redirects=0" for scope in Path("/proc/sys/net/ipv4/conf").iterdir()))
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
        """Waits until all is over. Everything seen since the last time, each with its time in ns."""
        seen = list(self._sightings(self._waiting(), step))
        self.is_prompt = self.is_prompt and _interrupted() == self._interrupted
        while heard := self._heard_until_marked():
            late = list(self._sightings(heard, step))
            self.is_prompt = self.is_prompt and not late
            seen += late
        self._interrupted = _interrupted()
        return seen

    def _heard_until_marked(self) -> list[_Heard]:
        """What comes in until a mark does that is sent now; if that is nothing, nothing is under way.

        A frame waits in the queue of the CPU that sent it, and on a busy machine may do so for long after the call that
        sent it (net/core/dev.c, enqueue_to_backlog; kernel/softirq.c, wakeup_softirqd). The mark waits behind it.
        """
        heard: list[_Heard] = []
        self._marks += 1
        mark = _MARK + struct.pack("!I", self._marks) + bytes(42)
        again_s = time.monotonic()
        while not any(it.data == mark and not it.is_outgoing for it in heard):
            if time.monotonic() >= again_s:
                self.taps[self._marked].sendto(mark, ("lo", 0))
                again_s += _LOST_AFTER_S
            self.poll.poll(_LOST_AFTER_S * 1000)
            heard += self._waiting()
        heard += self._waiting()  # what was in front of it, at machines that had been looked at already
        return [it for it in heard if not it.data.startswith(_MARK)]

    def _waiting(self) -> list[_Heard]:
        """What has come in by now."""
        return [it for machine, tap in self.taps.items() for it in self._drained(machine, tap)]

    @staticmethod
    def _drained(machine: str, tap: socket.socket) -> Iterator[_Heard]:
        while True:
            try:
                data, ancillary, _, address = tap.recvmsg(2048, 64)
            except BlockingIOError:
                return
            interface, _, kind, *_ = address
            seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
            yield _Heard(machine, interface, kind == _OUTGOING, data, seconds * 10**9 + nanoseconds)

    def _sightings(self, heard: Iterable[_Heard], step: int) -> Iterator[tuple[int, Sighting]]:
        for it in heard:
            packet = packet_of(wire.parse(it.data)) if (it.machine, it.interface) in self.interfaces else None
            if packet is not None:
                yield it.at_ns, Sighting(step, it.machine, it.interface, it.is_outgoing, packet)

    def _wait_until_stamped(self) -> None:
        """The kernel begins to stamp frames in a work queue (net/core/dev.c, net_enable_timestamp). Until then the time
        of a frame is the one at which it is read.
        """
        while True:
            self.taps[self._marked].sendto(_MARK + bytes(46), ("lo", 0))
            self.poll.poll(_LOST_AFTER_S * 1000)
            now_ns = time.time_ns()
            if (heard := self._waiting()) and all(it.at_ns < now_ns for it in heard):
                return
            time.sleep(0.001)


_MUTE = (
    "table inet mute {\n    chain arriving {\n        type filter hook prerouting priority -400; policy drop;\n    }\n"
    "    chain leaving {\n        type filter hook output priority -400; policy drop;\n    }\n}\n"
)


def _interrupted() -> int:
    """How often something else was given this thread's CPU (getrusage(2)): it may have carried packets on meanwhile."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def run(*command: str, text: str = "", check: bool = True) -> None:
    """Raises RuntimeError with the program's own words."""
    done = subprocess.run(command, input=text, text=True, capture_output=True, env=main_environment(), timeout=20)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def set_ipv4(*settings: str) -> None:
    """Sysctls of the machine this process is on: /proc/sys/net shows the reader's own network namespace."""
    for setting in settings:
        path, value = setting.split("=")
        Path("/proc/sys/net/ipv4", path).write_text(value, "ascii")
