"""The process that goes on to say, after `down` or beside the daemon, that our address is at the router's MAC address.

The laws are in `stepaside`. It ends when nobody has asked for a while, when the time is over, or by SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any

from sidegate.gateway.aside.standin_talk import LARGEST_FRAME, announcement, answer, packet_socket
from sidegate.gateway.aside.stepaside import Aside, boottime_s, clear, load
from sidegate.gateway.box.places import Lock, places
from sidegate.packet import Mac, build, parse

QUIET_S = 1800.0
"""Nobody asked for our address or sent to us for so long: whoever is still there has learned another gateway."""
CALM_S = 0.2
"""Between two answers to one client's packets: a stream must not become a stream of ARP."""
_ROUNDS, _GAP_S = 3, 0.1


class Stepper:
    """Tells, then answers until it is quiet or the time is over. known: every client it ever answered."""

    def __init__(self, aside: Aside, wire: socket.socket) -> None:
        self._aside, self._wire = aside, wire
        self._told_s: dict[Mac, float] = {}
        self._heard_s = time.monotonic()

    def tell_all(self) -> None:
        """In some rounds, against loss."""
        at = self._aside.vantage
        for _ in range(_ROUNDS):
            for client in self._aside.clients:
                self._wire.send(build(announcement(at, at.router_mac, client.mac)))
            time.sleep(_GAP_S)

    def left_s(self) -> float:
        """Until it may end, if nobody is heard meanwhile."""
        left_s = self._aside.until_s - boottime_s()
        if not self._aside.is_steady:
            left_s = min(left_s, self._heard_s + QUIET_S - time.monotonic())
        return max(0.0, left_s)

    def turn(self) -> None:
        """Answers what has come in."""
        while True:
            try:
                said = answer(self._aside.vantage, parse(self._wire.recv(LARGEST_FRAME)))
            except BlockingIOError:
                return
            now = time.monotonic()
            if said is None or self._told_s.get(said.dst, -CALM_S) + CALM_S > now:
                continue
            self._heard_s = self._told_s[said.dst] = now
            self._wire.send(build(said))


def _run(aside: Aside, ready: Any) -> None:
    """Until it is quiet or over, or a signal."""
    with packet_socket(aside.vantage) as wire, selectors.DefaultSelector() as selector:
        stepper = Stepper(aside, wire)
        selector.register(wire, selectors.EVENT_READ)
        stepper.tell_all()
        ready()
        while (left_s := stepper.left_s()) > 0:
            selector.select(min(left_s, 60.0))
            stepper.turn()


def main() -> None:
    """The process that goes on answering. Ended by SIGTERM, which leaves the rest to whoever sent it."""
    parser = argparse.ArgumentParser(prog="sidegate-stepaside")
    parser.add_argument("lock", type=int, help="file descriptor of the lock, which whoever starts this has taken")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    at = places()
    lock = Lock(at.aside)
    lock.inherit(arguments.lock)
    aside = load(at.state)
    if aside is None:
        return
    lock.sign()
    try:
        _run(aside, _say_ready)
    finally:
        # Also where the interface is gone: our kernel must speak for itself again.
        lock.release()
        clear(at)


def _say_ready() -> None:
    print("told", flush=True)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


if __name__ == "__main__":
    main()
