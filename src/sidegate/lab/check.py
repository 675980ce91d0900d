"""A home's own expectations, held against the kernel."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Literal, get_args

from msgspec import Struct

from sidegate.home import Client, Expectation, GatewayRuns, Home, Outcome
from sidegate.lab.asking import ANSWERED_WITHIN_S, Answer, http_get
from sidegate.lab.blueprint import INTERNET, LAN_PORT, gateway_commands
from sidegate.lab.lab import Lab, Waiting
from sidegate.packet import Ipv4, Ipv6, Tcp, parse
from sidegate.problems import Exit, Problem, Problems

Family = Literal["v4", "v6"]

_ETH_P_ALL = 0x0003
_OUTGOING = 4
_SOL_PACKET, _PACKET_STATISTICS = 263, 6  # linux/if_packet.h
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_ROOM_BYTES = 1 << 25
_DECIDED_WITHIN_S = 30.0
_PATIENCE_S = {False: ANSWERED_WITHIN_S, True: 0.8}
"""How long to wait for an answer, and where none is expected: in a lab it takes milliseconds."""

Receiver = tuple[str, int]
"""The address and the port that a segment was sent to."""


class Checked(Struct, frozen=True):
    """One expectation for one asker. found: what happened; detail: the answer, or why there was none."""

    gateway: GatewayRuns
    who: str
    to: str
    family: Family
    expected: Outcome
    found: Outcome
    detail: str
    ms: float
    why: str

    @property
    def is_met(self) -> bool:
        return self.expected == self.found


def check(lab: Lab, tell: Callable[[Checked], None] = lambda _: None) -> list[Checked]:
    """Holds every expectation of the lab's home against the kernel, one state of the gateway after the other.

    `tell` hears each as it comes. The gateway is left as a plain box that forwards nothing. Raises Problems.
    """
    found = []
    for runs in get_args(GatewayRuns):
        expectations = [e for e in lab.home.expect if e.gateway == runs]
        if not expectations:
            continue
        set_gateway(lab, runs)
        for checked in _hold(lab, expectations):
            tell(checked)
            found.append(checked)
    if lab.home.gateway:
        set_gateway(lab, "nothing")
    return found


def set_gateway(lab: Lab, runs: GatewayRuns) -> None:
    """Makes the gateway run that. For `sidegate` it returns when every client is decided. Raises Problems."""
    gateway = lab.home.gateway
    if gateway is None or not gateway.plugged:
        return
    sidegate(lab, "down", "--now")
    for command in gateway_commands(runs):
        done = lab.run(gateway.name, *command, check=False)
        if done.returncode:
            raise Problems(Problem(f"{gateway.name}: {' '.join(command)}", done.stderr.strip(), exit_code=Exit.FAULT))
    if runs == "sidegate":
        sidegate(lab, "up")
        wait_until_decided(lab)


def sidegate(lab: Lab, *words: str) -> str:
    """Runs a command line of Sidegate on the gateway, as a user would. Raises Problems with what it said."""
    gateway = lab.home.gateway
    name = gateway.name if gateway else "gateway"
    done = lab.run(name, sys.executable, "-m", "sidegate", *words, check=False)
    if done.returncode not in (Exit.FINE, Exit.FAULT):
        raise Problems(Problem(f"{name}: sidegate {' '.join(words)}", done.stderr.strip(), exit_code=Exit.FAULT))
    return done.stdout


def wait_until_decided(lab: Lab) -> None:
    """Until the gateway's probe has said something about each client that uses it. Raises Problems."""
    users = {str(c.v4) for c in lab.home.client if c.gateway == "gateway"}
    end = time.monotonic() + _DECIDED_WITHIN_S
    for waiting in [lab.begin(c.name, http_get, str(_any_server(lab.home)), 80) for c in lab.home.client]:
        waiting.result()
    undecided = users
    while undecided and time.monotonic() < end:
        clients = json.loads(sidegate(lab, "clients", "--json"))["clients"]
        undecided = users - {c["ip"] for c in clients if c["decided"]}
    if undecided:
        who = ", ".join(sorted(undecided))
        raise Problems(Problem("sidegate", f"no verdict within {_DECIDED_WITHIN_S:g} s on {who}", exit_code=Exit.FAULT))


def _any_server(home: Home) -> object:
    return next(s.v4 for s in home.internet.server if s.v4 not in home.internet.blocked)


def _hold(lab: Lab, expectations: list[Expectation]) -> Iterator[Checked]:
    """Asks everything at once: the dead cost their patience only once."""
    questions = [
        (expectation, family, name)
        for expectation in expectations
        for family in get_args(Family)
        for name in getattr(expectation, family)
    ]
    with Relayed(lab) as relayed:
        asked = [
            ask(lab, name, e.to, family, _PATIENCE_S[getattr(e, family)[name] == "dead"])
            for e, family, name in questions
        ]
        answers, crossed = relayed.heard_until(asked)
    for (e, family, name), answer in zip(questions, answers, strict=True):
        expected: Outcome = getattr(e, family)[name]
        found = outcome_of(answer, crossed)
        yield Checked(e.gateway, name, e.to, family, expected, found, answer.detail, answer.ms, e.why)


def outcome_of(answer: Answer, crossed: set[Receiver]) -> Outcome:
    """What became of a question. crossed: who was sent segments by the gateway meanwhile."""
    if not answer.ok:
        return "dead"
    return "masqueraded" if (answer.address, answer.port) in crossed else "direct"


def ask(lab: Lab, who: str, to: str, family: Family, timeout_s: float) -> Waiting[Answer]:
    """One node asks another for a page; `to` as in an expectation. Raises Problems for a node without an address."""
    name, _, port = to.partition(":")
    server = next((s for s in lab.home.internet.server if s.name == who), None)
    machine = INTERNET if server else who
    source = str(getattr(server, family)) if server else ""
    target = address_of(lab.home, name, family, from_outside=server is not None)
    return lab.begin(machine, http_get, target, int(port or 80), "/", timeout_s, source)


def address_of(home: Home, name: str, family: Family, *, from_outside: bool = False) -> str:
    """A node's address in one family. Raises Problems for a node that has none."""
    router = home.router
    if name == router.name:
        inner, outer = (router.lan, router.wan) if family == "v4" else (router.lan6, router.wan6)
        interface = outer if from_outside else inner
        address = interface.ip if interface else None
    else:
        nodes: dict[str, Client | object] = {n.name: n for n in (*home.internet.server, *home.lan_hosts)}
        address = getattr(nodes.get(name), family, None)
    if address is None:
        raise Problems(Problem(name, f"has no IP{family} address here"))
    return str(address)


class Relayed:
    """Hears which replies the gateway hands on to clients: those took the way through it.

    All of them wait in the socket until somebody asks, and what finds no room there is lost.
    """

    def __init__(self, lab: Lab) -> None:
        self._socket: socket.socket | None = None
        if lab.home.gateway and lab.home.gateway.plugged:
            kind, protocol = socket.SOCK_RAW, socket.htons(_ETH_P_ALL)
            self._socket = lab.socket(lab.home.gateway.name, socket.AF_PACKET, kind, protocol)
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM_BYTES)
            except PermissionError:  # net.core.rmem_max at the most (net/core/sock.c, sk_setsockopt)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM_BYTES)
            self._socket.setblocking(False)

    def __enter__(self) -> Relayed:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def heard_until(self, asked: list[Waiting[Answer]]) -> tuple[list[Answer], set[Receiver]]:
        """The answers, and `receivers` until the last one came: looked for after each. Raises Problems."""
        answers: list[Answer] = []
        crossed: set[Receiver] = set()
        for waiting in asked:
            answers.append(waiting.result())
            crossed |= self.receivers()
        return answers, crossed

    def receivers(self) -> set[Receiver]:
        """To whom the gateway sent TCP segments since this was asked last. Raises Problems if some were missed."""
        found: set[Receiver] = set()
        if self._socket is None:
            return found
        with suppress(BlockingIOError):
            while True:
                frame, (interface, _, kind, *_) = self._socket.recvfrom(65536)
                if interface == LAN_PORT and kind == _OUTGOING:
                    found |= _receiver(frame)
        _, missed = memoryview(self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)).cast("I")
        if missed:
            raise Problems(Problem("gateway", f"{missed} packets were not heard", exit_code=Exit.FAULT))
        return found


def _receiver(frame: bytes) -> set[Receiver]:
    packet = parse(frame).body
    if isinstance(packet, Ipv4 | Ipv6) and isinstance(packet.body, Tcp):
        return {(str(packet.dst), packet.body.dport)}
    return set()
