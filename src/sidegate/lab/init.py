"""PID 1 of a lab: builds the machines, then keeps them alive until it dies, and all of them with it.

Every machine is a process that holds namespaces and sleeps. When PID 1 of a PID namespace dies, the kernel kills every
process in it (kernel/pid_namespace.c, zap_pid_ns_processes), and a namespace dies with its last process: so nothing is
left behind, however the lab ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import msgspec

from sidegate.lab import namespaces as ns
from sidegate.lab import proxying, servers
from sidegate.lab.carriers import wait_until_carried
from sidegate.lab.machine import configure, furnish, ip_batch, set_up
from sidegate.lab.papers import Papers
from sidegate.lab.parts import Blueprint, Machine, Wire
from sidegate.lab.processes import close_other_fds, fork
from sidegate.problems import Exit, Problem, Problems


class Holder(msgspec.Struct, frozen=True):
    """The process that holds a machine: its id outside of the lab, and inside."""

    outside: int
    inside: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """pid: PID 1 of the lab, as an id outside of it."""

    pid: int
    machines: dict[str, Holder]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    problems: tuple[Problem, ...]


Outcome = Ready | Failed


def run_init(plan: Blueprint, papers: Papers | None, report_fd: int, alive_fd: int) -> NoReturn:
    """Builds the lab, reports Ready or Failed on `report_fd`, and lives on until told to end.

    alive_fd: the reading end of a pipe. When its last writer dies the lab ends, also half-built; after one byte the
    lab lives until killed. Called in a fresh child process, the first one of its PID namespace; never raises.
    """
    try:
        # Where the caller's standard files are closed a pipe may have taken their place.
        report_fd, alive_fd = (fcntl.fcntl(fd, fcntl.F_DUPFD, 3) for fd in (report_fd, alive_fd))
        _leave_home(report_fd, alive_fd)
        try:
            outcome: Outcome = _build(plan, papers)
        except Problems as error:
            outcome = Failed(error.problems)
        except Exception as error:
            outcome = Failed((_told(error),))
        _report(report_fd, outcome)
        if isinstance(outcome, Ready):
            _sleep()
    finally:
        os._exit(0)


def _leave_home(report_fd: int, alive_fd: int) -> None:
    """Lets go of what was inherited: files (whoever reads our output would never see its end), terminal, folder."""
    close_other_fds(report_fd, alive_fd)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    _end_with_writer(alive_fd)


def _end_with_writer(alive_fd: int) -> None:
    """The kernel tells by SIGIO that the last writer of `alive_fd` is gone (fs/pipe.c, pipe_release: kill_fasync).

    A byte in the pipe is never read: it releases the lab from its writer for good.
    """
    pipe = select.poll()
    pipe.register(alive_fd, select.POLLIN)

    def look(*_: object) -> None:
        if [event for _, event in pipe.poll(0)] == [select.POLLHUP]:
            os._exit(0)

    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(alive_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(alive_fd, fcntl.F_SETFL, os.O_ASYNC)
    look()


def _told(error: Exception) -> Problem:
    """An error of the kernel's in words. EPERM: a container forbids what a user namespace may do elsewhere."""
    forbidden = isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES)
    remedy = "in a container, allow it namespaces and mounts (docker run --privileged)" if forbidden else ""
    words = (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"
    return Problem("lab", words, remedy, Exit.MISSING if forbidden else Exit.FAULT)


def _report(fd: int, outcome: Outcome) -> None:
    with open(fd, "wb") as out:
        out.write(msgspec.json.encode(outcome))


def _sleep() -> NoReturn:
    """Reaps what dies: a PID 1 inherits every orphan. Its signal handlers end it."""
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    while True:
        _reap()
        os.read(wake_read, 4096)


def _reap() -> None:
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def _build(plan: Blueprint, papers: Papers | None) -> Ready:
    ns.mount("", "/", flags=ns.MS_REC | ns.MS_PRIVATE)
    pid_outside = ns.own_pid_outside()
    holders = {machine.name: _start_holder(machine, papers) for machine in plan.machines}
    outside = _wait_for_all(list(holders.values()))
    machines = {name: Holder(o, holder.pid) for o, (name, holder) in zip(outside, holders.items(), strict=True)}
    ns.mount("proc", "/proc", "proc")
    pids = {name: holder.inside for name, holder in machines.items()}
    ip_batch(None, [line for wire in plan.wires for line in _wire_lines(wire, pids)])
    _in_parallel([(m.name, partial(configure, m, plan.wires, pids[m.name])) for m in plan.machines])
    carried = _Child.start(partial(wait_until_carried, plan, pids))
    _wait_for_all([carried, *_start_servers(plan, pids, papers)])
    return Ready(pid_outside, machines)


def _start_servers(plan: Blueprint, pids: dict[str, int], papers: Papers | None) -> list[_Child]:
    """One process for plain sockets, and for each machine that needs it one that speaks QUIC, and an Xray server."""
    started = [_Child.start(lambda done: servers.serve(plan, pids, papers, done))]
    for machine in plan.machines:
        pid = pids[machine.name]
        if papers and any(service == "quic" for service, _, _ in machine.listens):
            started.append(_Child.start(partial(_serve_quic, machine, pid, papers)))
        if machine.proxies:
            started.append(_Child.start(partial(proxying.serve, machine, pid, papers)))
    return started


def _serve_quic(machine: Machine, pid: int, papers: Papers, ready: Callable[[int], None]) -> None:
    from sidegate.lab import http3  # with asyncio, which few labs need

    http3.serve(machine, pid, papers, ready)


class _Child:
    """A forked process that says a number when it is ready, or a problem."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid, self.channel = pid, channel

    @classmethod
    def start(cls, work: Callable[[Callable[[int], None]], None]) -> _Child:
        ours, theirs = socket.socketpair()
        pid = fork()
        if pid:
            theirs.close()
            return cls(pid, ours)
        close_other_fds(theirs.fileno())
        try:
            work(lambda number: theirs.sendall(msgspec.json.encode(number)))
        except Problems as error:
            theirs.sendall(msgspec.json.encode(error.problems))
        except Exception as error:
            theirs.sendall(msgspec.json.encode((_told(error),)))
        finally:
            os._exit(0)

    def wait(self) -> int:
        """The number it said. Raises its Problems."""
        said = self.channel.recv(65536)
        self.channel.close()
        if not said:
            raise Problems(Problem("lab", "a process of the lab ended before it was ready", exit_code=Exit.FAULT))
        answer = msgspec.json.decode(said, type=int | tuple[Problem, ...])
        if isinstance(answer, int):
            return answer
        raise Problems(*answer)


def _wait_for_all(children: list[_Child]) -> list[int]:
    """What each said. Raises all their Problems at once, those that several have only once."""
    said: list[int] = []
    problems: list[Problem] = []
    for child in children:
        try:
            said.append(child.wait())
        except Problems as error:
            problems += error.problems
    if problems:
        raise Problems(*dict.fromkeys(problems))
    return said


def _in_parallel(work: list[tuple[str, Callable[[], None]]]) -> None:
    """Runs each in a process of its own. Raises all their Problems at once, each with the name of its work."""

    def task(name: str, act: Callable[[], None]) -> Callable[[Callable[[int], None]], None]:
        def run(done: Callable[[int], None]) -> None:
            try:
                act()
            except Problems as error:
                raise Problems(
                    *(msgspec.structs.replace(p, where=f"{name}: {p.where}") for p in error.problems)
                ) from None
            done(0)

        return run

    _wait_for_all([_Child.start(task(name, act)) for name, act in work])


def _start_holder(machine: Machine, papers: Papers | None) -> _Child:
    def hold(ready: Callable[[int], None]) -> None:
        ns.unshare(ns.CLONE_NEWNET | ns.CLONE_NEWNS | ns.CLONE_NEWUTS)
        socket.sethostname(machine.name)
        for path, value in machine.settings:
            set_up(path, value)
        outside = ns.own_pid_outside()
        furnish(machine, papers)
        ready(outside)
        while True:
            signal.pause()

    return _Child.start(hold)


def _wire_lines(wire: Wire, pids: dict[str, int]) -> list[str]:
    near, far = wire.near, wire.far
    return [
        f"link add name {near.interface} index {near.index} address {near.mac} netns {pids[near.machine]} type veth "
        f"peer name {far.interface} index {far.index} address {far.mac} netns {pids[far.machine]}"
    ]
