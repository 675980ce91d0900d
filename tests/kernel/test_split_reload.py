"""Another split under a running gateway: what is proxied from now on goes not straight first, for want of an engine."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from sidegate.gateway.daemon.control import ask
from sidegate.lab.wiretap import Wiretap
from sidegate.problems import Problems
from tests.kernel.gateway_lab import Box, wait_for
from tests.kernel.split_home import (
    BLOCKED,
    CONF,
    DOMESTIC,
    FOREIGN4,
    NAMED,
    PROXY,
    WAN,
    bare,
    conf,
    in_time,
    proxy_state,
    served,
    upstreams,
)
from tests.kernel.split_home import HOME as HOME
from tests.kernel.test_split_daemon import by, cut, try_upstreams

pytestmark = pytest.mark.kernel


@pytest.fixture
def box(lab_box: Box) -> Iterator[Box]:
    yield lab_box
    cut(lab_box)
    lab_box.sidegate("down", "--now")


def up(box: Box, text: str) -> None:
    box.write(CONF, text)
    box.up("--config", CONF)


def reload(box: Box, text: str) -> None:
    box.write(CONF, text)
    box.sidegate("reload")


def test_a_gateway_that_gets_its_first_proxy(box: Box) -> None:
    """From the moment that `reload` says it is so: no name is asked straight, and nothing is sent straight."""

    def get_one() -> None:
        up(box, "")
        assert bare(box, "nas", FOREIGN4) == WAN
        reload(box, conf(box, "shadowsocks"))

    in_time(box, get_one, lambda: bool(proxy_state(box)["serves"]))
    with Wiretap(box.lab) as tap:
        assert [by(box, BLOCKED, who) for who in ("my-computer", "phone", "nas")] == [PROXY] * 3
        assert not tap.leaks(BLOCKED)
    assert by(box, DOMESTIC) == WAN


def test_a_rule_to_an_upstream_that_is_new_too(box: Box) -> None:
    """Where those before do not work, as well: then somebody is in a hurry for another one."""
    rule = f'cidr = ["{FOREIGN4}/32"]\nsend = "proxy-shadowsocks"\n[[rule]]\n{NAMED}'

    def get_another() -> None:
        cut(box)
        up(box, conf(box, "socks"))
        cut(box, 1080)
        try_upstreams(box, "")
        reload(box, conf(box, "socks", "shadowsocks", rule=rule))

    in_time(box, get_another, lambda: len(upstreams(box)) == 2)
    assert bare(box, "nas", FOREIGN4) == PROXY
    wait_for(lambda: by(box, BLOCKED) == PROXY)


def test_nobody_waits_for_a_resolver_that_must_wait_itself(box: Box) -> None:
    """Right after another change it may not be started anew (GRACE_S): who asks the daemon is answered meanwhile, and a
    third change takes the place of the second.
    """
    up(box, conf(box, "socks"))
    served(box)
    control = Path(f"/proc/{box.lab.holder('gateway').outside}/root/run/sidegate/control.sock")
    daemon = box.pid()
    last = next(n for n in itertools.count() if is_overtaken(box, control, daemon, n))
    wait_for(lambda: "configuration read again" in box.events())
    wait_for(lambda: f"third{last}.example" in box.shell("cat /run/sidegate/resolver/*.conf"))
    wait_for(lambda: box.status()["faults"] == [])


def is_overtaken(box: Box, control: Path, daemon: int, turn: int) -> bool:
    """Whether the second of three changes waited, others were answered meanwhile, and the third took its place.

    False: not all of that came in time. What a file says is read when its change is asked for.
    """
    assert turn < 10, "no second change waits, or nobody is answered meanwhile"
    first, second, third = (conf(box, "socks", rule=f'domain = ["{it}{turn}.example"]') for it in _CHANGES)
    box.write("/run/a.toml", first)
    box.write("/run/b.toml", second)
    box.write("/run/c.toml", third)
    take(control, "a")
    outcome: list[str] = []
    taking = Thread(target=lambda: outcome.append(take(control, "b")))
    taking.start()
    waiting, is_answered = "another configuration waits", False
    while taking.is_alive() and not is_answered:
        told = " ".join(it["what"] for it in ask(control, "GET", "/v1/status")["events"])
        is_answered = waiting in told and "nft table" not in told.rpartition(waiting)[2]
    box.shell("cp /run/c.toml /run/a.toml; mv /run/c.toml /run/b.toml")
    os.kill(daemon, signal.SIGHUP)
    taking.join()
    return is_answered and "another change came before this one" in outcome[0]


_CHANGES = ("first", "second", "third")


def take(control: Path, name: str) -> str:
    """Until that file is in force, or another one takes its place; why it is not in force."""
    try:
        ask(control, "POST", f"/v1/reload?config=/run/{name}.toml")
    except Problems as error:
        return str(error)
    return ""
