"""A process gives up what it does not need, for good: before it reads anything that comes from the network.

The calls are those of prctl(2) and capset(2), which Python does not have. Capabilities are a thread's own
(capabilities(7)): threads that begin later have no more than the one that called this.
"""

from __future__ import annotations

import ctypes
import os
import pwd

CAP_NET_BIND_SERVICE, CAP_NET_ADMIN = 10, 12
"""include/uapi/linux/capability.h"""
_VERSION_3 = 0x20080522
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 8, 24, 38
"""include/uapi/linux/prctl.h"""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def keep_only(capabilities: tuple[int, ...], user: str) -> None:
    """Becomes this user, with these capabilities and no way to more. Raises OSError.

    Where this user namespace knows no such user (user_namespaces(7)), it stays who it is, with no more than these.
    The process cannot be looked into by others of the same user, and leaves no core with secrets (PR_SET_DUMPABLE).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    most = int(_read("/proc/sys/kernel/cap_last_cap"))
    for number in set(range(most + 1)) - set(capabilities):
        _call(libc.prctl, _PR_CAPBSET_DROP, number, 0, 0, 0)
    _call(libc.prctl, _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    _become(user)
    mask = sum(1 << number for number in capabilities)
    data = (_Data * 2)(_Data(mask & 0xFFFFFFFF, mask & 0xFFFFFFFF, 0), _Data(mask >> 32, mask >> 32, 0))
    _call(libc.capset, ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(data))
    _call(libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(libc.prctl, _PR_SET_DUMPABLE, 0, 0, 0, 0)


def _call(function: ctypes._NamedFuncPointer, *arguments: object) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _become(user: str) -> None:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return
    if _is_known("uid", entry.pw_uid) and _is_known("gid", entry.pw_gid):
        os.setgroups([])
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)


def _is_known(kind: str, number: int) -> bool:
    """To this process' user namespace."""
    lines = _read(f"/proc/self/{kind}_map").splitlines()
    return any(int(first) <= number < int(first) + int(count) for first, _, count in map(str.split, lines))


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
