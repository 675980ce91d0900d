"""All machines of a lab, listened to and acted on by one process."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from sidegate import packet as wire
from sidegate.lab import namespaces as ns
from sidegate.lab.blueprint import Blueprint
from sidegate.lab.machine import main_environment
from sidegate.lab.tracing.orders import QUIET_S, Barrage, Capture
from sidegate.lab.tracing.packets import packet_of, parse_entry
from sidegate.walk.data import Sighting, Tracked

_ETH_ALL = 3
_OUTGOING = 4  # linux/if_packet.h, PACKET_OUTGOING
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_NETLINK_NETFILTER = 12  # linux/netlink.h


class Stage:
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
        self.settle(0, it.quiet_s)
        seen: list[tuple[int, Sighting]] = []
        for number, (machine, interface, frame) in enumerate(it.frames):
            self.taps[machine].sendto(frame, (interface, 0))
            seen += self.settle(number, it.quiet_s)
        seen.sort(key=lambda sighting: sighting[0])
        entries = tuple(self.connections())
        self.forget()
        return Capture((), tuple(sighting for _, sighting in seen), entries)

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

    def settle(self, step: int, quiet_s: float = QUIET_S) -> list[tuple[int, Sighting]]:
        """Waits until all is quiet. Everything seen since the last time, each with its time in ns."""
        seen: list[tuple[int, Sighting]] = []
        end = time.monotonic() + quiet_s
        while (left := end - time.monotonic()) > 0:
            if self.poll.poll(left * 1000):
                seen += (it for machine, tap in self.taps.items() for it in self._drained(machine, tap, step))
                end = time.monotonic() + quiet_s
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


_MUTE = (
    "table inet mute {\n    chain arriving {\n        type filter hook prerouting priority -400; policy drop;\n    }\n"
    "    chain leaving {\n        type filter hook output priority -400; policy drop;\n    }\n}\n"
)


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
