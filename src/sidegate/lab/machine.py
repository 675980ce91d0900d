"""One machine of a lab, made from inside: its settings, what a program finds there, its addresses and daemons."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from ipaddress import IPv6Interface
from pathlib import Path

from sidegate.lab import namespaces as ns
from sidegate.lab.papers import Papers
from sidegate.lab.parts import Machine, Rules, Wire
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

_OWN_WITHIN_S = 20.0
_RTF_LOCAL = 0x80000000
"""include/uapi/linux/ipv6_route.h."""

OF_THE_BOX = "/etc/sidegate"
"""The configuration of a gateway that this very machine may be: it is no machine's of a lab."""


def set_up(path: str, value: str) -> None:
    """Sets a sysctl. Without br_netfilter in the kernel there is no net/bridge, and then nothing to turn off either."""
    file = Path("/proc/sys", path)
    if path.startswith("net/bridge/") and not file.exists():
        if value != "0":
            raise Problems(Problem(path, "the kernel module br_netfilter is not loaded", _LOAD_REMEDY, Exit.MISSING))
        return
    file.write_text(value, "ascii")


def furnish(machine: Machine, papers: Papers | None) -> None:
    """A /proc, /run, resolver and trust of its own: what a program would find on a box of its own."""
    ns.mount("proc", "/proc", "proc")
    ns.mount("tmpfs", "/run", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
    os.makedirs("/run/lock")
    os.makedirs("/run/lab")
    if os.path.isdir(OF_THE_BOX):
        ns.mount("tmpfs", OF_THE_BOX, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
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


def configure(machine: Machine, wires: tuple[Wire, ...], pid: int) -> None:
    """Everything inside one machine once its interfaces are there."""
    ns.enter(pid, ("net", "mnt", "uts"))
    for rules in machine.rules:
        _load(rules)
    ip_batch(machine.name, _inside_lines(machine, wires))
    _wait_until_own(machine.addresses)
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


def _wait_until_own(lines: Iterable[str]) -> None:
    """Until what is sent to the IPv6 addresses of these lines is this machine's own. Raises Problems.

    Where no duplicate is looked for, a work queue enters the route all the same (net/ipv6/addrconf.c,
    addrconf_dad_start), and waits for the one lock of all networks (RTNL): 0.2 s, while others are built and ended.
    """
    wanted = {IPv6Interface(line.split()[2]).ip.packed.hex() for line in lines if line.endswith(" nodad")}
    end_s = time.monotonic() + _OWN_WITHIN_S
    while missing := wanted and wanted - _own_addresses6():
        if time.monotonic() > end_s:
            what = f"{len(missing)} IPv6 addresses are not usable within {_OWN_WITHIN_S:g} s"
            raise Problems(Problem("lab", what, exit_code=Exit.FAULT))
        time.sleep(0.005)


def _own_addresses6() -> set[str]:
    """As 32 hexadecimal digits (net/ipv6/route.c, rt6_info_route)."""
    routes = [line.split() for line in Path("/proc/net/ipv6_route").read_text("ascii").splitlines()]
    return {route[0] for route in routes if int(route[8], 16) & _RTF_LOCAL}


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


def ip_batch(where: str | None, lines: list[str]) -> None:
    """Raises Problems. where: what they say of it; None: the wires."""
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
