"""Networks beside this one."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.kernel.engine_stage.programs import sh, wait_until

_CLONE_NEWNET = 0x40000000
_INDEX = 100
"""Another one than at the wire's other end, or it is told late that it carries (linkwatch_urgent_event)."""

Inside = Callable[[Callable[[], Any]], Any]
"""Does something in another network: sockets that are made there stay there, and so do programs."""


@contextmanager
def network(interface: str, box: str, other: str) -> Iterator[Inside]:
    """A network of its own with the address `other`, at the end of a wire to this one, which is `box` there."""
    child = subprocess.Popen(["unshare", "-n", "sleep", "300"])
    try:
        wait_until(lambda: os.readlink(f"/proc/{child.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY)

        def inside(action: Callable[[], Any]) -> Any:
            _enter(there)
            try:
                return action()
            finally:
                _enter(here)

        sh(f"ip link add {interface} type veth peer name eth0 index {_INDEX} netns {child.pid}")
        sh(f"ip addr add {box}/24 dev {interface}; ip link set {interface} up; ip link set lo up")
        inside(lambda: sh(f"ip link set lo up; ip addr add {other}/24 dev eth0; ip link set eth0 up"))
        inside(lambda: sh(f"ip route add default via {box}\n{_once_up('eth0')}"))
        sh(_once_up(interface))
        yield inside
    finally:
        child.kill()
        child.wait()


def _once_up(interface: str) -> str:
    """Words for `sh` that end it when the interface sends what it is given: a work queue has acted on its carrier then,
    until which all is dropped (net/core/link_watch.c, linkwatch_do_dev). It fails if that does not come.
    """
    is_up = f"ip link show dev {interface} | grep -q 'state UP'"
    return f"for i in $(seq 1500); do {is_up} && exit 0; sleep 0.01; done; exit 1"


def _enter(namespace: int) -> None:
    """This thread (setns(2))."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
