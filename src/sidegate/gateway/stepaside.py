"""Handing clients to the router without a gap: our address is said to be at the router's MAC address.

Clients whose default gateway is our address keep sending to our MAC address after forwarding ended, and are offline
until DHCP tells them otherwise. So before forwarding ends each known client hears, by a gratuitous ARP of its own, that
our address is at the router's MAC; its packets then go straight there. A process of its own (`main`) goes on to say so
to whoever asks, and to whoever still sends to us, until nobody did for a while. `sidegate up` takes it back.

The laws

- Only unicast, only to clients. A broadcast would also reach the router, which would look for us at its own MAC and
  never find us again (`net/ipv4/arp.c` arp_process updates an existing entry from any request or reply).
- The router's own questions are answered by our kernel, with the truth: the box stays reachable, from clients by way
  of the router. All others' questions for our address are kept from it (arp input hook).
- Our kernel's own questions carry no sender address (RFC 5227 section 2.1.1, an ARP probe), so that no client learns
  our MAC address from them; except those to the router.
- The frames' source is our MAC address, as always: with the router's, switches would look for the router here.

What survives, measured in the lab (`bench/handover.py`, `tests/kernel/test_stepaside.py`), both ways

| what | on a router that tracks its bridge | on another |
|---|---|---|
| new connections, wired and Wi-Fi, one every 50 ms | none lost | none lost |
| an open un-NATed TCP stream | goes on, no pause to be seen | the same |
| an open masqueraded TCP stream | stands still; goes on if it is taken back soon, else it is lost | the same |
| a masqueraded connection whose handshake is under way | lost, its first half went another way | the same |
| a stream begun while the router stood in, by Wi-Fi | lost when it is taken back (`nf_nat_oif_changed`) | goes on |
| the box itself, from clients | reachable by way of the router | the same |

Not so on a router that drops conntrack state INVALID: TCP between the box and clients on the router's switch chip fails
while the router stands in, since the router sees only one direction of it (Wi-Fi clients, the router and the internet
reach the box). The lab's clients are Linux; others accept unicast ARP unasked as well, but that was not measured. A
router with ARP inspection, or a switch with port security for ARP, may drop what says its MAC address for ours.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sidegate.gateway import journal as journals
from sidegate.gateway import programs
from sidegate.gateway.files import remove_file, replace_file
from sidegate.gateway.nft import Client
from sidegate.gateway.places import Lock, Places, places, running_pid
from sidegate.packet import BROADCAST, ETH_ARP, ETH_IPV4, NO_MAC, Arp, Frame, Ipv4, Mac, build, frame_of, parse
from sidegate.probe.talk import Vantage
from sidegate.probe.wire import Step, assemble, attach_filter
from sidegate.problems import Exit, Problem, Problems
from sidegate.reading import decode_address, encode_address

QUIET_S = 1800.0
"""Nobody asked for our address or sent to us for so long: whoever is still there has learned another gateway."""
CALM_S = 0.2
"""Between two answers to one client's packets: a stream must not become a stream of ARP."""
_NAME = "step-aside.json"
_MODULE = "sidegate.gateway.stepaside"
_TABLE = "sidegate"
_LARGEST_FRAME = 65536
_ROUNDS, _GAP_S = 3, 0.1
_READY_WITHIN_S = 5.0
_ENDS_WITHIN_S = 3.0
_LOOK_AGAIN_S = 0.01
_WORD, _HALF = 0x20, 0x28
_IS, _TAKE = 0x15, 0x06
_PACKET_TYPE = 0xFFFFF000 + 4
_HOST, _OUTGOING = 0, 4


class Aside(Struct, frozen=True, forbid_unknown_fields=True):
    """What was begun: on disk before anything is done. clients: whom to tell at once. until_s: CLOCK_BOOTTIME."""

    boot_id: str
    vantage: Vantage
    clients: tuple[Client, ...]
    until_s: float


def load(state_dir: Path) -> Aside | None:
    """None if there is none, or of another boot, or for somebody who may not read it. Raises Problems if damaged."""
    path = state_dir / _NAME
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Aside, dec_hook=decode_address)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError) as error:
        what = f"cannot be read: {error}"
        raise Problems(Problem(str(path), what, f"nft delete table arp {_TABLE}, and remove the file")) from None
    return found if found.boot_id == journals.boot_id() else None


def ruleset(at: Vantage) -> str:
    """The transaction that keeps our kernel from contradicting us (nf_tables, family arp)."""
    ours = f"arp operation request arp daddr ip {at.ip} arp saddr ether != {at.router_mac} drop"
    theirs = f"arp operation request arp saddr ip {at.ip} arp daddr ip != {at.router_ip} arp saddr ip set 0.0.0.0"
    return (
        f"add table arp {_TABLE}\ndelete table arp {_TABLE}\ntable arp {_TABLE} {{\n\tchain answers {{\n"
        f'\t\ttype filter hook input priority filter; policy accept;\n\t\tiifname "{at.interface}" {ours}\n\t}}\n'
        f"\tchain questions {{\n\t\ttype filter hook output priority filter; policy accept;\n"
        f'\t\toifname "{at.interface}" {theirs}\n\t}}\n}}\n'
    )


def announcement(at: Vantage, mac: Mac, to: Mac) -> Frame:
    """To one device: our address is at `mac`. A request, so that it is gratuitous for every kernel (arp_is_garp)."""
    return frame_of(to, at.mac, Arp(False, mac, at.ip, NO_MAC, at.ip))


def answer(at: Vantage, frame: Frame) -> Frame | None:
    """What to say to whoever sent this; None: nothing to say. Pure."""
    body = frame.body
    if not _is_client(at, frame.src):
        return None
    if isinstance(body, Arp):
        if body.reply or body.target_ip != at.ip or not _is_client(at, body.sender_mac):
            return None
        return frame_of(body.sender_mac, at.mac, Arp(True, at.router_mac, at.ip, body.sender_mac, body.sender_ip))
    if isinstance(body, Ipv4) and frame.dst == at.mac and body.dst != at.ip:
        return announcement(at, at.router_mac, frame.src)
    return None


def _is_client(at: Vantage, mac: Mac) -> bool:
    """Whether an answer may go there: one other device; the lowest bit of the first byte marks a group."""
    is_group = bool(int(mac[:2], 16) & 1)
    return not is_group and mac not in (at.mac, at.router_mac, NO_MAC)


def heard_by(our_ip: IPv4Address) -> dict[str, list[Step]]:
    """ARP requests for our address; IPv4 frames to our MAC address that are not for us."""
    return {
        "direction": [(_WORD, _PACKET_TYPE, "", ""), (_IS, _OUTGOING, "drop", "")],
        "ethertype": [(_HALF, 12, "", ""), (_IS, ETH_ARP, "arp", ""), (_IS, ETH_IPV4, "ip", "drop")],
        "arp": [(_HALF, 20, "", ""), (_IS, 1, "", "drop"), (_WORD, 38, "", ""), (_IS, int(our_ip), "take", "drop")],
        "ip": [
            *((_WORD, _PACKET_TYPE, "", ""), (_IS, _HOST, "", "drop")),
            *((_WORD, 30, "", ""), (_IS, int(our_ip), "drop", "take")),
        ],
        "drop": [(_TAKE, 0, "", "")],
        "take": [(_TAKE, _LARGEST_FRAME, "", "")],
    }


def packet_socket(at: Vantage) -> socket.socket:
    """Hears `heard_by`. Raises OSError."""
    heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    attach_filter(heard, assemble(heard_by(at.ip)))
    heard.setblocking(False)
    heard.bind((at.interface, 0x0003))
    return heard


def begin(vantage: Vantage, clients: Iterable[Client], lasts_s: float, at: Places) -> None:
    """Returns when every known client has been told. To be called while this box still forwards. Raises Problems."""
    aside = Aside(journals.boot_id(), vantage, tuple(sorted(set(clients))), _boottime_s() + lasts_s)
    path = at.state / _NAME
    try:
        replace_file(path, msgspec.json.encode(aside, enc_hook=encode_address))
    except OSError as error:
        raise Problems(Problem(str(path), f"cannot be written: {error.strerror}", "make room")) from None
    try:
        programs.run("nft", "--file", "-", text=ruleset(vantage))
        _start()
    except Problems:
        clear(at)
        raise


def _start() -> None:
    """Its standard output says when it is ready."""
    command = [sys.executable, "-m", _MODULE]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    with process.stdout as said:  # type: ignore[union-attr]
        if said.readline() != b"told\n":
            raise Problems(Problem("stepping aside", "its process ended while starting", exit_code=Exit.FAULT))


def take_back(at: Places) -> bool:
    """Clients are told our own MAC address again; whether there was anything to take back. Raises Problems.

    To be called when this box forwards again.
    """
    aside = load(at.state)
    clear(at)
    if aside is None:
        return False
    try:
        _say_where_we_are(aside)
    except OSError as error:
        what = f"clients cannot be told that this box is their gateway again: {error.strerror}"
        raise Problems(Problem(aside.vantage.interface, what, "they learn it when they ask again")) from None
    return True


def _say_where_we_are(aside: Aside) -> None:
    """To everybody: it is the truth, so whoever hears it may learn it."""
    at = aside.vantage
    with packet_socket(at) as wire:
        for _ in range(2):
            for to in (*(client.mac for client in aside.clients), BROADCAST):
                wire.send(build(announcement(at, at.mac, to)))
            time.sleep(_GAP_S)


def clear(at: Places) -> None:
    """Ends the process, puts our kernel's ARP back, forgets. Nothing to do where nothing was begun. Raises Problems."""
    if not (at.state / _NAME).exists():
        return
    _end_process(at)
    status, _, err = programs.attempt("nft", "delete", "table", "arp", _TABLE)
    if status and "No such file or directory" not in err:
        raise Problems(Problem(f"nft table arp {_TABLE}", err.strip()))
    try:
        remove_file(at.state / _NAME)
    except OSError as error:
        raise Problems(Problem(str(at.state / _NAME), f"cannot be removed: {error.strerror}")) from None


def left_s(at: Places) -> float | None:
    """How long the process may go on answering; None if none does. Raises Problems."""
    aside = load(at.state)
    if aside is None or running_pid(at.aside) is None:
        return None
    return round(max(0.0, aside.until_s - _boottime_s()), 1)


def honour(at: Places) -> bool:
    """Clears up after a process that was killed; whether it had to. Raises Problems."""
    if not (at.state / _NAME).exists() or running_pid(at.aside) is not None or os.geteuid() != 0:
        return False
    clear(at)
    return True


def _end_process(at: Places) -> None:
    pid = running_pid(at.aside)
    if not pid:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        end_s = time.monotonic() + _ENDS_WITHIN_S
        while running_pid(at.aside) is not None and time.monotonic() < end_s:
            time.sleep(_LOOK_AGAIN_S)


def _boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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
        quiet_s = self._heard_s + QUIET_S - time.monotonic()
        return max(0.0, min(quiet_s, self._aside.until_s - _boottime_s()))

    def turn(self) -> None:
        """Answers what has come in."""
        while True:
            try:
                said = answer(self._aside.vantage, parse(self._wire.recv(_LARGEST_FRAME)))
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
    argparse.ArgumentParser(prog="sidegate-stepaside").parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    at = places()
    lock = Lock(at.aside)
    aside = load(at.state)
    if aside is None or not lock.take():
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
