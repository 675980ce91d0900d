"""Handing clients to the router without a gap: our address is said to be at the router's MAC address.

Clients whose default gateway is our address keep sending to our MAC address after forwarding ended, and are offline
until DHCP tells them otherwise. So before forwarding ends each known client hears, by a gratuitous ARP of its own, that
our address is at the router's MAC; its packets then go straight there. A process of its own (`standin`) goes on to say
so to whoever asks, and to whoever still sends to us, until nobody did for a while. `sidegate up` takes it back.

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

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from sidegate.gateway.aside.standin_talk import announcement, packet_socket
from sidegate.gateway.box import journal as journals
from sidegate.gateway.box import programs
from sidegate.gateway.box.children import end_child
from sidegate.gateway.box.files import discard_file, replace_file
from sidegate.gateway.box.journal import ChildStep
from sidegate.gateway.box.places import Lock, Places, running_pid
from sidegate.gateway.ruleset.nft import Client
from sidegate.packet import BROADCAST, build
from sidegate.probe.talk import Vantage
from sidegate.problems import Exit, Problem, Problems
from sidegate.reading import decode_address, encode_address

LASTS_S = 86400.0
"""How long the router is said to stand in where nobody says how long."""
_NAME = "step-aside.json"
_MODULE = "sidegate.gateway.aside.standin"
_TABLE = "sidegate"
_GAP_S = 0.1
_ENDS_WITHIN_S = 3.0
_LOOK_AGAIN_S = 0.01


class Aside(Struct, frozen=True, forbid_unknown_fields=True):
    """What was begun: on disk before anything is done. clients: whom to tell at once. until_s: CLOCK_BOOTTIME.

    cause: the health check that is down, for the daemon's own doing; empty after `down`. kept: children that go on
    meanwhile and end with it. is_steady: it lasts until then, even if nobody asks.
    """

    boot_id: str
    vantage: Vantage
    clients: tuple[Client, ...]
    until_s: float
    cause: str = ""
    kept: tuple[ChildStep, ...] = ()
    is_steady: bool = False


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


def is_begun(at: Places) -> bool:
    """Whether it was begun and not taken back."""
    return (at.state / _NAME).exists()


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


class Manner(Struct, frozen=True):
    """lasts_s: for so long at most. cause, kept, is_steady: as in `Aside`."""

    lasts_s: float = LASTS_S
    cause: str = ""
    kept: tuple[ChildStep, ...] = ()
    is_steady: bool = False


def begin(vantage: Vantage, clients: Iterable[Client], manner: Manner, at: Places) -> None:
    """Returns when every known client has been told. To be called while this box still forwards. Raises Problems.

    The lock is the process's from the first: else whoever looks meanwhile would take it for one that was killed.
    """
    until_s = boottime_s() + manner.lasts_s
    told = tuple(sorted(set(clients)))
    aside = Aside(journals.boot_id(), vantage, told, until_s, manner.cause, manner.kept, manner.is_steady)
    _end_process(at)
    lock = Lock(at.aside)
    if not lock.take(_ENDS_WITHIN_S):
        raise Problems(Problem("stepping aside", "another process is at it", "try again", Exit.FAULT))
    try:
        _write(aside, at)
        programs.run("nft", "--file", "-", text=ruleset(vantage))
        _start(lock.fileno())
    except Problems:
        lock.release()
        clear(at, ends_children=False)
        raise
    lock.release()


def _write(aside: Aside, at: Places) -> None:
    path = at.state / _NAME
    try:
        replace_file(path, msgspec.json.encode(aside, enc_hook=encode_address))
    except OSError as error:
        raise Problems(Problem(str(path), f"cannot be written: {error.strerror}", "make room")) from None


def _start(lock: int) -> None:
    """Its standard output says when it is ready. lock: a file descriptor, which it holds on. Raises Problems."""
    command = [sys.executable, "-m", _MODULE, str(lock)]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            pass_fds=(lock,),
        )
    except OSError as error:
        what = f"its process cannot be started: {error.strerror}"
        raise Problems(Problem("stepping aside", what, "make room", Exit.FAULT)) from None
    with process.stdout as said:  # type: ignore[union-attr]
        if said.readline() != b"told\n":
            raise Problems(Problem("stepping aside", "its process ended while starting", exit_code=Exit.FAULT))


def take_back(at: Places) -> bool:
    """Clients are told our own MAC address again; whether there was anything to take back. Raises Problems.

    To be called when this box forwards again, by whoever has taken over the children that went on.
    """
    aside = load(at.state)
    clear(at, ends_children=False)
    if aside is None:
        return False
    say_where_we_are(aside.vantage, aside.clients)
    return True


def say_where_we_are(at: Vantage, clients: Iterable[Client], times: int = 2) -> None:
    """To everybody: it is the truth, so whoever hears it may learn it. Raises Problems."""
    macs = tuple(client.mac for client in clients)
    try:
        with packet_socket(at) as wire:
            for turn in range(times):
                time.sleep(_GAP_S if turn else 0.0)
                for to in (*macs, BROADCAST):
                    wire.send(build(announcement(at, at.mac, to)))
    except OSError as error:
        what = f"clients cannot be told that this box is their gateway again: {error.strerror}"
        raise Problems(Problem(at.interface, what, "they learn it when they ask again")) from None


def clear(at: Places, *, ends_children: bool = True) -> None:
    """Ends the process, puts our kernel's ARP back, forgets. Nothing to do where nothing was begun. Raises Problems.

    ends_children: those that went on as well.
    """
    if not is_begun(at):
        return
    _end_process(at)
    status, _, err = programs.attempt("nft", "delete", "table", "arp", _TABLE)
    if status and "No such file or directory" not in err:
        raise Problems(Problem(f"nft table arp {_TABLE}", err.strip()))
    aside = load(at.state)
    for step in aside.kept if aside is not None and ends_children else ():
        end_child(step)
    discard_file(at.state / _NAME)


def left_s(at: Places) -> float | None:
    """How long the process may go on answering; None if none does. Raises Problems."""
    aside = load(at.state)
    if aside is None or running_pid(at.aside) is None:
        return None
    return round(max(0.0, aside.until_s - boottime_s()), 1)


def honour(at: Places) -> bool:
    """Clears up after a process that was killed; whether it had to. Raises Problems."""
    if not is_begun(at) or running_pid(at.aside) is not None or os.geteuid() != 0:
        return False
    lock = Lock(at.aside)
    if not lock.take():
        return False
    try:
        clear(at)
    finally:
        lock.release()
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


def boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
