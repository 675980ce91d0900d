"""The few system calls about namespaces and mounts that Python 3.11 does not have (os.unshare came with 3.12)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    _checked(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int = 0) -> None:
    """setns(2). Raises OSError."""
    _checked(_libc.setns(fd, flags), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None)
    _checked(result, f"mount {target}")


def enter_network(pid: int) -> None:
    """Moves this process into the network namespace of another. Raises OSError."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, CLONE_NEWNET)
    finally:
        os.close(fd)


def enter(pid: int, kinds: tuple[str, ...]) -> None:
    """Moves this process into those namespaces of another (names as in /proc/PID/ns). Raises OSError.

    All are opened first: after entering the user or mount namespace, /proc may be another. The user namespace comes
    first, because it gives the capabilities that the others need (user_namespaces(7)).
    """
    fds = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    try:
        for fd in fds:
            setns(fd)
    finally:
        for fd in fds:
            os.close(fd)


def map_ids(pid: int) -> None:
    """Gives a new user namespace its ids, from outside. Raises OSError.

    Root maps every id it has, so that servers in the lab can drop their privileges; anybody else can map only
    themselves to root (user_namespaces(7), "Defining user and group ID mappings").
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        maps = {name: _own_ids(name) for name in ("uid_map", "gid_map")}
    else:
        maps = {"setgroups": "deny", "uid_map": f"0 {uid} 1", "gid_map": f"0 {gid} 1"}
    for name, text in maps.items():
        Path(f"/proc/{pid}/{name}").write_text(text, "ascii")


def _own_ids(name: str) -> str:
    """Each id that exists here, mapped to itself: in a container those are not all."""
    ranges = (line.split() for line in Path("/proc/self", name).read_text("ascii").splitlines())
    return "".join(f"{first} {first} {count}\n" for first, _, count in ranges)


def own_pid_outside() -> int:
    """This process's id as the mounted /proc sees it: a /proc of the parent PID namespace gives the id there.

    fs/proc/self.c (proc_self_get_link) answers in the PID namespace of the mount, not of the reader.
    """
    return int(os.readlink("/proc/self"))
