"""What a lab leaves on a machine: its processes and its namespaces, and how to see that all of it is gone."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from sidegate.lab.registry import start_time

GONE_WITHIN_S = 40.0
SPACES = ("net", "mnt", "pid", "uts", "ipc", "user")
_LEFT = re.compile(r"(valid_lft|preferred_lft|expires) \d+sec")
"""How long a lease or an advertisement still lasts."""
_VOLATILE = re.compile(r"nf_conntrack_count|\.stable_secret|nr_open|dentry|netdev_budget")


class Process(NamedTuple):
    """A process for good: an id may be used again, an id and a start time are not."""

    pid: int
    started: int


class Traces(NamedTuple):
    """inside: the processes in the lab's PID namespace. holding: those elsewhere that hold one of its namespaces.

    spaces: its namespaces, as /proc/PID/ns shows them, such as net:[4026532000]. The kernel uses such a number again at
    once, so that afterwards only processes that held it before can still mean the lab's.
    """

    inside: frozenset[Process]
    holding: frozenset[Process]
    spaces: frozenset[str]


def processes() -> Iterator[Process]:
    """All that live here, zombies left out."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (started := start_time(int(name))) is not None:
            yield Process(int(name), started)


def spaces_of(pid: int | str) -> frozenset[str]:
    """Empty for a process that is gone."""
    try:
        return frozenset(os.readlink(f"/proc/{pid}/ns/{kind}") for kind in SPACES)
    except OSError:
        return frozenset()


def traces(pid: int) -> Traces:
    """Of the lab whose PID 1 this is."""
    home = os.readlink(f"/proc/{pid}/ns/pid")
    everybody = {p: references(p.pid) for p in processes()}
    inside = frozenset(p for p in everybody if home in spaces_of(p.pid))
    spaces = frozenset[str]().union(*(spaces_of(p.pid) for p in inside)) - spaces_of("self")
    holding = frozenset(p for p, held in everybody.items() if held & spaces) - inside
    assert pid in {p.pid for p in inside}
    return Traces(inside, holding, spaces)


def marked(mark: str) -> frozenset[Process]:
    """Processes that were born with this text in their environment, or forked from such."""

    def has_it(pid: int) -> bool:
        try:
            return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    return frozenset(p for p in processes() if has_it(p.pid))


def references(pid: int) -> frozenset[str]:
    """Namespaces that a process is in, holds open or has mounted."""
    found = set(spaces_of(pid))
    try:
        found |= {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        found |= set(re.findall(r"\w+:\[\d+\]", Path(f"/proc/{pid}/mountinfo").read_text()))
    except OSError:
        pass  # It ended meanwhile, or belongs to somebody else and cannot be ours.
    return frozenset(found)


def left_of(seen: Traces) -> str:
    """What is still there, as text; empty if nothing is."""
    living = frozenset(processes())
    alive = [f"{p.pid} is alive\n" for p in seen.inside & living]
    held = {p.pid: sorted(seen.spaces & references(p.pid)) for p in seen.holding & living}
    return "".join([*alive, *(f"{pid} holds {spaces}\n" for pid, spaces in held.items() if spaces)])


def assert_nothing_left(seen: Traces) -> None:
    """Waits until the last trace is gone."""
    wait_until(lambda: not left_of(seen), lambda: left_of(seen))


def wait_until(is_so: Callable[[], bool], else_say: Callable[[], str] = lambda: "") -> None:
    end = time.monotonic() + GONE_WITHIN_S
    while not is_so():
        assert time.monotonic() < end, f"after {GONE_WITHIN_S:g} s still:\n{else_say()}"
        time.sleep(0.005)


def surroundings() -> dict[str, str]:
    """The machine's own network, as text."""
    commands = ("ip -details link", "ip address", "ip route show table all", "ip rule", "nft --stateless list ruleset")
    seen = {c: _LEFT.sub("", subprocess.run(c.split(), capture_output=True, text=True).stdout) for c in commands}
    for path in sorted(Path("/proc/sys/net").rglob("*")):
        if path.is_file() and not _VOLATILE.search(path.name):
            try:
                seen[str(path)] = path.read_text()
            except OSError as error:
                seen[str(path)] = str(error)
    return seen


def assert_unchanged(before: dict[str, str]) -> None:
    """What `surroundings` told is still so. A module that the kernel has loaded since adds settings of its own."""
    now = surroundings()
    assert {what: now.get(what, "") for what in before} == before
