"""A process that is killed before each change that it makes, one after the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from sidegate.gateway.box.livebox import LiveBox
from tests.kernel.gateway_rig import shell


class Watching(LiveBox):
    """Tells before each call that changes the box."""

    def __init__(self, tell: Callable[[str], Any]) -> None:
        self.tell = tell

    def write_sysctl(self, path: str, value: str) -> None:
        self.tell(f"write {path}")
        super().write_sysctl(path, value)

    def nft(self, text: str) -> None:
        self.tell(f"nft {text}")
        super().nft(text)

    def insert_accept(self, accept: Any) -> None:
        self.tell(f"insert {accept.place}")
        super().insert_accept(accept)

    def delete_accept(self, accept: Any) -> None:
        self.tell(f"delete {accept.place}")
        super().delete_accept(accept)

    def add_route(self, route: Any) -> None:
        """Once with nothing done, and once half done."""
        self.tell(f"add {route.place}")
        shell(f"ip -{route.family} route replace local default dev lo table {route.table}")
        self.tell(f"add the rule of {route.place}")
        super().add_route(route)

    def delete_route(self, route: Any) -> None:
        self.tell(f"delete {route.place}")
        shell(f"ip -{route.family} route flush table {route.table}")
        self.tell(f"delete the rule of {route.place}")
        super().delete_route(route)


JOURNAL_CALLS = ("open", "fsync", "replace", "unlink", "mkdir")


def killed(action: Callable[[LiveBox], object], at: int) -> bool:
    """Runs the action in a child that kills itself with SIGKILL before its `at`-th change; whether it came so far."""
    pid = os.fork()
    if pid == 0:
        _die_at(action, at)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), f"the child failed: {status}"
    return status == signal.SIGKILL


def _die_at(action: Callable[[LiveBox], object], at: int) -> None:
    left = at

    def tell(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def told(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tell("journal")
            return real(*args, **kwargs)

        return call

    for name in JOURNAL_CALLS:
        setattr(os, name, told(getattr(os, name)))
    code = 1
    try:
        action(Watching(tell))
        code = 0
    finally:
        os._exit(code)


def every_step(action: Callable[[LiveBox], object], afterwards: Callable[[int], None], least: int) -> None:
    step = 1
    while killed(action, step):
        afterwards(step)
        step += 1
    assert step > least, "the action has fewer steps than it must have: the kills hit nothing"
