"""Whether every wire of a lab that is being built carries frames.

The kernel acts on a carrier in a work queue, which waits for the one lock of all networks (net/core/link_watch.c,
linkwatch_event). Until then a bridge port drops what it is given, and so does an interface that was up before its peer
(net/sched/sch_generic.c, dev_activate): on a busy machine for a good while.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator

from sidegate.lab import namespaces as ns
from sidegate.lab.parts import Blueprint
from sidegate.problems import Exit, Problem, Problems

_WITHIN_S = 20.0
_RTM_GETLINK, _NLM_F_REQUEST = 18, 1  # linux/rtnetlink.h, linux/netlink.h
_IFLA_IFNAME, _IFLA_OPERSTATE = 3, 16  # linux/if_link.h
_IF_OPER_UP = 6  # linux/if.h
_HEADER_BYTES = 32
"""Of struct nlmsghdr and struct ifinfomsg."""


def wait_until_carried(plan: Blueprint, pids: dict[str, int], done: Callable[[int], None]) -> None:
    """Returns when all interfaces and bridges are up that have a whole wire. Raises Problems."""
    left = []
    for machine in plan.machines:
        ns.enter_network(pids[machine.name])
        asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        left += [(machine.name, name, asking) for name in interfaces_that_carry(plan, machine.name)]
    end_s = time.monotonic() + _WITHIN_S
    while left := [it for it in left if not _is_up(it[2], it[1])]:
        if time.monotonic() > end_s:
            where = ", ".join(f"{machine}: {name}" for machine, name, _ in left)
            raise Problems(Problem("wires", f"no carrier within {_WITHIN_S:g} s at {where}", exit_code=Exit.FAULT))
        time.sleep(0.002)
    done(0)


def interfaces_that_carry(plan: Blueprint, machine: str) -> Iterator[str]:
    """Those of a machine that hang on a whole wire; a bridge after its ports."""
    ends = [e for w in plan.wires if not w.cut for e in (w.near, w.far) if e.machine == machine]
    yield from (end.interface for end in ends)
    yield from dict.fromkeys(end.bridge for end in ends if end.bridge)


def _is_up(asking: socket.socket, name: str) -> bool:
    """Since Linux 6.8 the question itself makes the kernel act on the carrier (net/core/rtnetlink.c, rtnl_getlink)."""
    attribute = struct.pack("=HH16s", 20, _IFLA_IFNAME, name.encode())
    length = _HEADER_BYTES + len(attribute)
    asking.send(struct.pack("=IHHII16x", length, _RTM_GETLINK, _NLM_F_REQUEST, 0, 0) + attribute)
    said, at = asking.recv(65536), _HEADER_BYTES
    while at + 4 <= len(said):
        size, kind = struct.unpack_from("=HH", said, at)
        if kind == _IFLA_OPERSTATE:
            return said[at + 4] == _IF_OPER_UP
        at += max(size + 3 & ~3, 4)
    return False
