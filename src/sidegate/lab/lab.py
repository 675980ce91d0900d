"""A handle on a lab from outside: build it, run things on its machines, find it again, end it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
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
from sidegate.lab import proxying
from sidegate.lab.blueprint import LAN_PORT, Blueprint, blueprint, place
from sidegate.lab.init import Failed, Holder, Outcome, Ready, run_init
from sidegate.lab.machine import main_environment
from sidegate.lab.papers import Papers, papers
from sidegate.lab.processes import die_with_parent, fork
from sidegate.problems import Exit, Problem, Problems
from sidegate.reading import decode_address, encode_address

T = TypeVar("T")

_GONE_WITHIN_S = 10.0
_UNPRIVILEGED_REMEDY = (
    "run it as root (sudo; add --no-user-namespace if that fails too), or allow user namespaces: sysctl "
    "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces"
)


class Lab:
    """A running lab. `run`, `start` and `call` work on one machine as if one sat at it.

    papers: the certificates of its servers; None where none shows any.
    """

    def __init__(
        self, name: str, home: Home, plan: Blueprint, ready: Ready, user_namespace: bool, papers: Papers | None
    ) -> None:
        self.name, self.home, self.plan, self.papers = name, home, plan, papers
        self.pid, self.machines = ready.pid, ready.machines
        self.user_namespace = user_namespace
        self._pidfd: int | None = os.pidfd_open(ready.pid)
        self._alive_fd: int | None = None
        self._waiting: list[Waiting[Any]] = []
        self._ports = {w.near.machine: w.far for w in plan.wires if w.near.interface == LAN_PORT}

    @classmethod
    def up(cls, home: Home, *, name: str = "", user_namespace: bool = True, dhcp: bool = False) -> Lab:
        """Builds a home, in about 0.2 s. Raises Problems; nothing is left then.

        The lab ends with this process, however that ends, unless it is released. user_namespace: false needs root, and
        serves where the kernel allows no user namespaces. dhcp: the router hands out addresses, unless the home says
        that its DHCP is off; without it everybody has the home's addresses, and building is quicker.
        """
        plan = blueprint(home, load_router(home.router.profile), dhcp=dhcp)
        issued = papers(plan)
        read_alive, write_alive = os.pipe()
        with contextlib.ExitStack() as until_built:
            until_built.callback(os.close, write_alive)
            try:
                ready = _launch(plan, issued, read_alive, write_alive, user_namespace)
            finally:
                os.close(read_alive)
            lab = cls(name or home.name, home, plan, ready, user_namespace, issued)
            lab._alive_fd = write_alive
            until_built.pop_all()
        return lab

    def release(self) -> None:
        """From now on the lab outlives this process; `down` or a kill of its PID 1 ends it."""
        if self._alive_fd is not None:
            os.write(self._alive_fd, b"released")

    @property
    def ca(self) -> str:
        """The certificate (PEM) by which its servers' own are checked; empty where none shows any."""
        return self.papers.ca if self.papers else ""

    def links(self, *, by_name: bool = False) -> dict[str, str]:
        """A share link for each proxy of its internet, see `proxying.links`."""
        return proxying.links(self.home, self.papers.pins if self.papers else {}, by_name=by_name)

    def holder(self, machine: str) -> Holder:
        """The process that holds a machine. Raises Problems for a name that is none."""
        try:
            return self.machines[machine]
        except KeyError:
            known = ", ".join(self.machines)
            raise Problems(Problem(self.name, f'no machine "{machine}"', f"machines here: {known}")) from None

    def command(self, machine: str, argv: Sequence[str]) -> list[str]:
        """The command line that runs a program on a machine. Raises Problems if its own programs are missing.

        nsenter waits for the program but hands no signal on: setpriv makes the program get SIGTERM when nsenter ends.
        """
        for program in ("nsenter", "setpriv"):
            if shutil.which(program) is None:
                raise Problems(Problem(program, "this program is missing", "make setup", Exit.MISSING))
        user = ["--user", "--preserve-credentials"] if self.user_namespace else []
        spaces = [*user, "--mount", "--uts", "--net", "--pid", "--wd=/"]
        outside = str(self.holder(machine).outside)
        return ["nsenter", "--target", outside, *spaces, "--", "setpriv", "--pdeathsig", "TERM", "--", *argv]

    def run(
        self, machine: str, *argv: str, text: str | None = None, timeout_s: float = 60, check: bool = True
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
        waiting = Waiting.start(self.holder(machine).outside, kinds, function, args)
        self._waiting = [*(w for w in self._waiting if not w.is_over), waiting]
        return waiting

    def socket(self, machine: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that lives on a machine, held by this process. Raises RuntimeError."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.call(machine, _pass_socket, theirs.fileno(), family, kind, protocol)
            _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        os.set_inheritable(fd, False)
        return socket.socket(family, kind, protocol, fileno=fd)

    def move(self, client: str, at: str, by: Medium, radio: str | None = None) -> None:
        """Roaming: a client leaves its place and turns up at another, with the same MAC and address.

        Its port loses the carrier for a moment, as it does in life. Raises Problems for an unknown client, box or
        radio; the lab has only radios that somebody used when it was built.
        """
        self.home.client_named(client)
        box = next((b for b in self.home.boxes if b.name == at), None)
        if box is None:
            boxes = ", ".join(b.name for b in self.home.boxes)
            raise Problems(Problem(self.name, f'no box "{at}"', f"boxes here: {boxes}"))
        if by == "wifi" and not (radio or box.radios):
            raise Problems(Problem(self.name, f'"{at}" has no radio'))
        machine, bridge = place(box, None, by, radio)
        bridges = [b.name for m in self.plan.machines if m.name == machine for b in m.bridges]
        if bridge not in bridges:
            there = ", ".join(bridges) or "nothing"
            raise Problems(Problem(self.name, f'nobody uses "{bridge}" of "{at}" in this lab', f"used there: {there}"))
        old = self._ports[client]
        port = f"to-{client}"[:15]
        pid = str(self.holder(machine).inside)
        self.run(old.machine, "ip", "link", "set", old.interface, "netns", pid, "name", port)
        self.run(machine, "ip", "link", "set", port, "master", bridge, "up")
        self._ports[client] = msgspec.structs.replace(old, machine=machine, interface=port, bridge=bridge)

    def down(self) -> None:
        """Ends the lab and waits until its last process is gone. Ending it twice is fine. Raises Problems."""
        if self._pidfd is None:
            return
        for waiting in self._waiting:
            waiting.abandon()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        # A pidfd becomes readable when the process is a zombie or gone; PID 1 is so only after all its kin.
        gone, _, _ = select.select([self._pidfd], [], [], _GONE_WITHIN_S)
        if not gone:
            what = f"process {self.pid} does not end within {_GONE_WITHIN_S:g} s"
            raise Problems(Problem(self.name, what, "is a program of the lab stopped?", Exit.FAULT))
        os.close(self._pidfd)
        self._pidfd = None
        if self._alive_fd is not None:
            os.close(self._alive_fd)
            self._alive_fd = None

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


def _pass_socket(channel_fd: int, family: int, kind: int, protocol: int) -> None:
    with socket.socket(family, kind, protocol) as made, socket.socket(fileno=channel_fd) as channel:
        socket.send_fds(channel, [b"s"], [made.fileno()])


class Waiting(Generic[T]):
    """A function that runs on a machine, in a process of its own; it ends with the thread that started it."""

    def __init__(self, pid: int, result_fd: int, kind: Any) -> None:
        self.pid, self._kind = pid, kind
        self._fd: int | None = result_fd

    @classmethod
    def start(
        cls, holder: int, kinds: tuple[str, ...], function: Callable[..., T], args: tuple[Any, ...]
    ) -> Waiting[T]:
        kind = typing.get_type_hints(function)["return"]
        read_fd, write_fd = os.pipe()
        parent = os.getpid()
        pid = fork()
        if pid == 0:
            _run_child(write_fd, parent, holder, kinds, function, args)
        os.close(write_fd)
        return cls(pid, read_fd, kind)

    @property
    def is_over(self) -> bool:
        """Whether its result was fetched, or it was abandoned."""
        return self._fd is None

    def result(self) -> T:
        """Waits for the end. Raises RuntimeError with the traceback of a function that failed."""
        if self._fd is None:
            raise RuntimeError("its result was fetched already, or the lab is down")
        with open(self._fd, "rb") as pipe:
            self._fd = None
            said = pipe.read()
        os.waitpid(self.pid, 0)
        if said[:1] != b"+":
            raise RuntimeError(said[1:].decode(errors="replace") or "the process ended without a word")
        return cast(T, msgspec.json.decode(said[1:], type=self._kind, dec_hook=decode_address))

    def stop(self) -> None:
        """Asks it to end: SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)

    def abandon(self) -> None:
        """Ends it without a result: it would hold on to the machine's network. Fine if it is over."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _run_child(
    fd: int, parent: int, holder: int, kinds: tuple[str, ...], function: Callable[..., T], args: tuple[Any, ...]
) -> NoReturn:
    try:
        ns.enter(holder, kinds)
        die_with_parent(parent)
        said = b"+" + msgspec.json.encode(function(*args), enc_hook=encode_address)
    except BaseException:
        said = b"-" + traceback.format_exc().encode()
    try:
        with open(fd, "wb") as out:
            out.write(said)
    finally:
        os._exit(0)


def _launch(plan: Blueprint, issued: Papers | None, alive_fd: int, write_alive: int, user_namespace: bool) -> Ready:
    """Two forks: the first process makes the namespaces, the second is the first one inside and becomes PID 1."""
    report_read, report_write = os.pipe()
    maps_read, maps_write = os.pipe()
    pid = fork()
    if pid == 0:
        for fd in (write_alive, report_read, maps_write):
            os.close(fd)
        _become_init(plan, issued, report_write, alive_fd, maps_read, user_namespace)
    os.close(report_write)
    os.close(maps_read)
    try:
        with open(report_read, "rb") as report, open(maps_write, "wb", buffering=0) as go_on:
            said = report.read(1)
            if said == b"u":
                if user_namespace:
                    _map_ids(pid)
                go_on.write(b"g")
            outcome = _outcome(said + report.read())
    finally:
        os.waitpid(pid, 0)
    if isinstance(outcome, Failed):
        raise Problems(*outcome.problems)
    return outcome


def _map_ids(pid: int) -> None:
    try:
        ns.map_ids(pid)
    except OSError as error:
        what = f"the kernel gives a user namespace no ids: {error.strerror}"
        raise Problems(Problem("lab", what, _UNPRIVILEGED_REMEDY, Exit.MISSING)) from None


def _become_init(
    plan: Blueprint, issued: Papers | None, report_fd: int, alive_fd: int, maps_fd: int, user_namespace: bool
) -> NoReturn:
    """Never raises: what is above on the stack belongs to the parent."""
    flags = ns.CLONE_NEWNS | ns.CLONE_NEWPID | ns.CLONE_NEWNET | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS
    try:
        if user_namespace:
            ns.unshare(ns.CLONE_NEWUSER)
        os.write(report_fd, b"u")
        if os.read(maps_fd, 1) == b"g":
            ns.unshare(flags)
            if fork() == 0:
                run_init(plan, issued, report_fd, alive_fd)
    except OSError as error:
        problem = Problem("lab", f"no namespaces: {error.strerror}", _UNPRIVILEGED_REMEDY, Exit.MISSING)
        os.write(report_fd, msgspec.json.encode(Failed((problem,))))
    finally:
        os._exit(0)


def _outcome(said: bytes) -> Outcome:
    told = said.removeprefix(b"u")
    if not told:
        raise Problems(Problem("lab", "it ended before it was built", exit_code=Exit.FAULT))
    return cast(Outcome, msgspec.json.decode(told, type=Outcome))
