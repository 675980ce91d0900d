"""A handle on a lab from outside: build it, run things on its machines, find it again, end it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import traceback
import typing
from collections.abc import Callable, Sequence
from typing import Any, Generic, NoReturn, TypeVar, cast

import msgspec

from sidegate.home import Home, Medium, load_router
from sidegate.lab import namespaces as ns
from sidegate.lab.blueprint import LAN_PORT, Blueprint, blueprint, place
from sidegate.lab.init import Failed, Holder, Outcome, Ready, main_environment, run_init
from sidegate.problems import Exit, Problem, Problems
from sidegate.reading import decode_address, encode_address

T = TypeVar("T")

_UNPRIVILEGED_REMEDY = (
    "run it as root (sudo), or allow unprivileged user namespaces "
    "(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
)


class Lab:
    """A running lab. `run`, `start` and `call` work on one machine as if one sat at it."""

    def __init__(self, name: str, home: Home, plan: Blueprint, ready: Ready, user_namespace: bool) -> None:
        self.name, self.home, self.plan = name, home, plan
        self.pid, self.machines = ready.pid, ready.machines
        self.user_namespace = user_namespace
        self._pidfd: int | None = os.pidfd_open(ready.pid)
        self._alive_fd: int | None = None
        self._ports = {w.near.machine: w.far for w in plan.wires if w.near.interface == LAN_PORT}

    @classmethod
    def up(
        cls, home: Home, *, name: str = "", keep: bool = False, user_namespace: bool = True, dhcp: bool = False
    ) -> Lab:
        """Builds a home, in about 0.2 s. Raises Problems; nothing is left then.

        keep: the lab outlives this process; otherwise it ends with it, however that ends. user_namespace: false needs
        root, and serves where the kernel allows no user namespaces. dhcp: the router hands out addresses, unless the
        home says that its DHCP is off; without it everybody has the home's addresses, and building is quicker.
        """
        plan = blueprint(home, load_router(home.router.profile), dhcp=dhcp)
        read_alive, write_alive = os.pipe()
        ready = _launch(plan, None if keep else read_alive, write_alive, user_namespace)
        os.close(read_alive)
        lab = cls(name or home.name, home, plan, ready, user_namespace)
        if keep:
            os.close(write_alive)
        else:
            lab._alive_fd = write_alive
        return lab

    def holder(self, machine: str) -> Holder:
        """The process that holds a machine. Raises Problems for a name that is none."""
        try:
            return self.machines[machine]
        except KeyError:
            known = ", ".join(self.machines)
            raise Problems(Problem(self.name, f'no machine "{machine}"', f"machines here: {known}")) from None

    def command(self, machine: str, argv: Sequence[str]) -> list[str]:
        """The command line that runs a program on a machine."""
        user = ["--user", "--preserve-credentials"] if self.user_namespace else []
        spaces = ["--mount", "--uts", "--net", "--pid"]
        return ["nsenter", "--target", str(self.holder(machine).outside), *user, *spaces, "--wd=/", "--", *argv]

    def run(
        self, machine: str, *argv: str, text: str | None = None, timeout_s: float = 30, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program on a machine to its end. Raises CalledProcessError if `check` and it failed."""
        done = subprocess.run(
            self.command(machine, argv),
            input=text or "",
            text=True,
            capture_output=True,
            timeout=timeout_s,
            env=main_environment(),
        )
        if check and done.returncode:
            raise subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
        return done

    def start(self, machine: str, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """Starts a program on a machine; it dies with the lab at the latest."""
        return subprocess.Popen(self.command(machine, argv), text=True, env=main_environment(), **options)

    def call(self, machine: str, function: Callable[..., T], *args: Any) -> T:
        """What a function returns on a machine; it needs a return annotation, and returns data msgspec can encode.

        It runs in a forked process: no program has to start. Raises what `Waiting.result` raises.
        """
        return self.begin(machine, function, *args).result()

    def begin(self, machine: str, function: Callable[..., T], *args: Any) -> Waiting[T]:
        """Like `call`, without waiting for the end."""
        kinds = ("user", "net") if self.user_namespace else ("net",)
        return Waiting.start(self.holder(machine).outside, kinds, function, args)

    def socket(self, machine: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that lives on a machine, held by this process. Raises RuntimeError."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.call(machine, _pass_socket, theirs.fileno(), family, kind, protocol)
            _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(family, kind, protocol, fileno=fd)

    def move(self, client: str, at: str, by: Medium, radio: str | None = None) -> None:
        """Roaming: a client leaves its place and turns up at another, with the same MAC and address.

        Its port loses the carrier for a moment, as it does in life. Raises Problems for an unknown client or box.
        """
        self.home.client_named(client)
        box = next((b for b in self.home.boxes if b.name == at), None)
        if box is None:
            raise Problems(Problem(self.name, f'no box "{at}"'))
        machine, bridge = place(box, None, by, radio)
        old = self._ports[client]
        port = f"to-{client}"[:15]
        pid = str(self.holder(machine).inside)
        self.run(old.machine, "ip", "link", "set", old.interface, "netns", pid, "name", port)
        self.run(machine, "ip", "link", "set", port, "master", bridge, "up")
        self._ports[client] = msgspec.structs.replace(old, machine=machine, interface=port, bridge=bridge)

    def down(self) -> None:
        """Ends the lab and waits until its last process is gone. Ending it twice is fine."""
        if self._pidfd is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        # A pidfd becomes readable when the process is a zombie or gone; PID 1 is so only after all its kin.
        select.select([self._pidfd], [], [], 10)
        os.close(self._pidfd)
        self._pidfd = None
        if self._alive_fd is not None:
            os.close(self._alive_fd)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


def _pass_socket(channel_fd: int, family: int, kind: int, protocol: int) -> None:
    with socket.socket(family, kind, protocol) as made, socket.socket(fileno=channel_fd) as channel:
        socket.send_fds(channel, [b"s"], [made.fileno()])


class Waiting(Generic[T]):
    """A function that runs on a machine, in a process of its own."""

    def __init__(self, pid: int, result_fd: int, kind: Any) -> None:
        self.pid, self._fd, self._kind = pid, result_fd, kind

    @classmethod
    def start(
        cls, holder: int, kinds: tuple[str, ...], function: Callable[..., T], args: tuple[Any, ...]
    ) -> Waiting[T]:
        kind = typing.get_type_hints(function)["return"]
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            _run_child(write_fd, holder, kinds, function, args)
        os.close(write_fd)
        return cls(pid, read_fd, kind)

    def result(self) -> T:
        """Waits for the end. Raises RuntimeError with the traceback of a function that failed."""
        said = b""
        while block := os.read(self._fd, 1 << 16):
            said += block
        os.close(self._fd)
        os.waitpid(self.pid, 0)
        if said[:1] != b"+":
            raise RuntimeError(said[1:].decode(errors="replace") or "the process ended without a word")
        return cast(T, msgspec.json.decode(said[1:], type=self._kind, dec_hook=decode_address))

    def stop(self) -> None:
        """Asks it to end: SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)


def _run_child(
    fd: int, holder: int, kinds: tuple[str, ...], function: Callable[..., T], args: tuple[Any, ...]
) -> NoReturn:
    try:
        ns.enter(holder, kinds)
        said = b"+" + msgspec.json.encode(function(*args), enc_hook=encode_address)
    except BaseException:
        said = b"-" + traceback.format_exc().encode()
    with open(fd, "wb") as out:
        out.write(said)
    os._exit(0)


def _launch(plan: Blueprint, alive_fd: int | None, write_alive: int, user_namespace: bool) -> Ready:
    """Two forks: the first process makes the namespaces, the second is the first one inside and becomes PID 1."""
    report_read, report_write = os.pipe()
    maps_read, maps_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_alive)
        os.close(report_read)
        os.close(maps_write)
        _become_init(plan, report_write, alive_fd, maps_read, user_namespace)
    for fd in (report_write, maps_read):
        os.close(fd)
    try:
        _give_ids(pid, maps_write, report_read, user_namespace)
        outcome = _outcome(report_read)
    finally:
        os.waitpid(pid, 0)
    if isinstance(outcome, Failed):
        raise Problems(*outcome.problems)
    return outcome


def _become_init(plan: Blueprint, report_fd: int, alive_fd: int | None, maps_fd: int, user_namespace: bool) -> NoReturn:
    flags = ns.CLONE_NEWNS | ns.CLONE_NEWPID | ns.CLONE_NEWNET | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS
    try:
        if user_namespace:
            ns.unshare(ns.CLONE_NEWUSER)
        os.write(report_fd, b"u")
        os.read(maps_fd, 1)
        ns.unshare(flags)
    except OSError as error:
        problem = Problem("lab", f"no namespaces: {error.strerror}", _UNPRIVILEGED_REMEDY, Exit.MISSING)
        os.write(report_fd, msgspec.json.encode(Failed((problem,))))
        os._exit(0)
    if os.fork():
        os._exit(0)
    run_init(plan, report_fd, alive_fd)


def _give_ids(pid: int, maps_fd: int, report_fd: int, user_namespace: bool) -> None:
    """Maps the ids once the user namespace is there, and lets it go on."""
    with open(maps_fd, "wb", buffering=0) as go_on:
        if os.read(report_fd, 1) == b"u":
            if user_namespace:
                ns.map_ids(pid)
            go_on.write(b"g")


def _outcome(report_fd: int) -> Outcome:
    said = b""
    while block := os.read(report_fd, 1 << 16):
        said += block
    os.close(report_fd)
    if not said:
        raise Problems(Problem("lab", "it ended before it was built", exit_code=Exit.FAULT))
    return cast(Outcome, msgspec.json.decode(said[said.find(b"{") :], type=Outcome))
