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
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import msgspec

from sidegate.lab import http3, proxying, servers
from sidegate.lab import namespaces as ns
from sidegate.lab.papers import Papers
from sidegate.lab.parts import Blueprint, Machine, Rules, Wire
from sidegate.lab.processes import close_other_fds, fork
from sidegate.problems import Exit, Problem, Problems

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/run",
}

_LOAD_REMEDY = (
    "sudo modprobe br_netfilter (this machine's own bridges are then filtered too, until you set "
    "net.bridge.bridge-nf-call-iptables and -ip6tables to 0)"
)

TRUSTED = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""Where programs look for the authorities they trust (Go, src/crypto/x509/root_linux.go, certFiles)."""


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
    _ip_batch(None, [line for wire in plan.wires for line in _wire_lines(wire, pids)])
    _in_parallel([(m.name, partial(_configure, m, plan.wires, pids[m.name])) for m in plan.machines])
    _wait_for_all(_start_servers(plan, pids, papers))
    return Ready(pid_outside, machines)


def _start_servers(plan: Blueprint, pids: dict[str, int], papers: Papers | None) -> list[_Child]:
    """One process for plain sockets, and for each machine that needs it one that speaks QUIC, and an Xray server."""
    started = [_Child.start(lambda done: servers.serve(plan, pids, papers, done))]
    for machine in plan.machines:
        pid = pids[machine.name]
        if papers and any(service == "quic" for service, _, _ in machine.listens):
            started.append(_Child.start(partial(http3.serve, machine, pid, papers)))
        if machine.proxies:
            started.append(_Child.start(partial(proxying.serve, machine, pid, papers)))
    return started


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
            _set(path, value)
        outside = ns.own_pid_outside()
        _furnish(machine, papers)
        ready(outside)
        while True:
            signal.pause()

    return _Child.start(hold)


def _set(path: str, value: str) -> None:
    """Without br_netfilter in the kernel there is no net/bridge, and then nothing to turn off either."""
    file = Path("/proc/sys", path)
    if path.startswith("net/bridge/") and not file.exists():
        if value != "0":
            raise Problems(Problem(path, "the kernel module br_netfilter is not loaded", _LOAD_REMEDY, Exit.MISSING))
        return
    file.write_text(value, "ascii")


def _furnish(machine: Machine, papers: Papers | None) -> None:
    """A /proc, /run, resolver and trust of its own: what a program would find on a box of its own."""
    ns.mount("proc", "/proc", "proc")
    ns.mount("tmpfs", "/run", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
    os.makedirs("/run/lock")
    os.makedirs("/run/lab")
    if machine.resolver is not None:
        text = Path("/run/lab/resolv.conf")
        text.write_text(f"nameserver {machine.resolver}\n", "ascii")
        _put_over("/run/lab/resolv.conf", "/etc/resolv.conf")
    if papers is not None:
        Path("/run/lab/ca.pem").write_text(papers.ca, "ascii")
        for bundle in TRUSTED:
            if os.path.exists(bundle):
                _put_over("/run/lab/ca.pem", bundle)


def _put_over(source: str, target: str) -> None:
    """Binds a file over another; a link's target under /run is made first, since /run is empty here."""
    real = os.path.realpath(target)
    if real.startswith("/run/"):
        os.makedirs(os.path.dirname(real), exist_ok=True)
        Path(real).touch()
    if not os.path.exists(real):
        _lay_over(os.path.dirname(target))
        Path(target).unlink(missing_ok=True)
        Path(target).touch()
        real = target
    ns.mount(source, real, flags=ns.MS_BIND)


def _lay_over(folder: str) -> None:
    """From now on this machine of the lab writes into a layer of its own above a folder (overlayfs).

    A user namespace may mount it since Linux 5.11 (fs/overlayfs/super.c, FS_USERNS_MOUNT).
    """
    upper, work = "/run/lab/upper", "/run/lab/work"
    os.makedirs(upper)
    os.makedirs(work)
    ns.mount("overlay", folder, "overlay", data=f"lowerdir={folder},upperdir={upper},workdir={work}")


def _wire_lines(wire: Wire, pids: dict[str, int]) -> list[str]:
    near, far = wire.near, wire.far
    return [
        f"link add name {near.interface} index {near.index} address {near.mac} netns {pids[near.machine]} type veth "
        f"peer name {far.interface} index {far.index} address {far.mac} netns {pids[far.machine]}"
    ]


def _configure(machine: Machine, wires: tuple[Wire, ...], pid: int) -> None:
    """Everything inside one machine once its interfaces are there."""
    ns.enter(pid, ("net", "mnt", "uts"))
    for rules in machine.rules:
        _load(rules)
    _ip_batch(machine.name, _inside_lines(machine, wires))
    _limit_rates(machine, wires)
    for daemon in machine.daemons:
        _run(daemon)


def _inside_lines(machine: Machine, wires: tuple[Wire, ...]) -> list[str]:
    lines = ["link set lo up"]
    for bridge in machine.bridges:
        options = "forward_delay 0 stp_state 0 mcast_snooping 0"
        lines.append(f"link add name {bridge.name} address {bridge.mac} type bridge {options}")
    for wire in wires:
        for end in (wire.near, wire.far):
            if end.machine == machine.name:
                master = f" master {end.bridge}" if end.bridge else ""
                state = "down" if wire.cut and end is wire.far else "up"
                lines.append(f"link set {end.interface}{master} {state}")
    lines += [f"link set {bridge.name} up" for bridge in machine.bridges]
    return [*lines, *machine.addresses]


def _limit_rates(machine: Machine, wires: tuple[Wire, ...]) -> None:
    for wire in wires:
        for end in (wire.near, wire.far):
            if end.machine == machine.name and wire.rate_mbit is not None:
                _run(rate_command(end.interface, wire.rate_mbit))


def rate_command(interface: str, rate_mbit: float) -> tuple[str, ...]:
    """Limits what leaves an interface: a token bucket of 10 ms at the rate, at least four full segments."""
    burst_bytes = max(int(rate_mbit * 1e6 / 8 * 0.01), 4 * 65536)
    limits = ("rate", f"{rate_mbit}mbit", "burst", str(burst_bytes), "latency", "50ms")
    return ("tc", "qdisc", "add", "dev", interface, "root", "tbf", *limits)


def _ip_batch(where: str | None, lines: list[str]) -> None:
    _run(("ip", "-batch", "-"), "\n".join(lines) + "\n", where or "wires")


def _load(rules: Rules) -> None:
    _run(rules.program, rules.text)


def _run(command: tuple[str, ...], text: str = "", where: str = "") -> None:
    """Raises Problems with the program's own words."""
    try:
        done = subprocess.run(
            command, input=text, text=True, capture_output=True, timeout=20, env=_ENVIRONMENT, cwd="/"
        )
    except FileNotFoundError:
        raise Problems(Problem(command[0], "this program is missing", "make setup", Exit.MISSING)) from None
    except subprocess.TimeoutExpired:
        raise Problems(Problem(command[0], "did not end within 20 s", exit_code=Exit.FAULT)) from None
    if done.returncode:
        said = done.stderr.strip() or f"exit {done.returncode}"
        raise Problems(Problem(where or " ".join(command[:4]), said, exit_code=Exit.FAULT))


def main_environment() -> dict[str, str]:
    """The environment of a program that runs on a machine of the lab.

    STATE_DIRECTORY is what systemd gives a service (systemd.exec(5)): without root nobody can write below /var/lib.
    """
    interpreter = os.path.dirname(sys.executable)
    return {**_ENVIRONMENT, "PATH": f"{interpreter}:{_ENVIRONMENT['PATH']}", "STATE_DIRECTORY": "/run/state"}
