"""Another split under a running gateway: what is proxied from now on goes not straight first, for want of an engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from sidegate.gateway.daemon.control import ask
from sidegate.lab.asking import http_get
from sidegate.lab.wiretap import Wiretap
from sidegate.problems import Problems
from tests.kernel.gateway_lab import Box, wait_for
from tests.kernel.split_home import BLOCKED, CONF, DOMESTIC, FOREIGN4, NAMED, PROXY, WAN, conf
from tests.kernel.split_home import HOME as HOME
from tests.kernel.test_split_daemon import by, cut, proxy_state, try_upstreams

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
    up(box, "")
    assert box.lab.call("nas", http_get, FOREIGN4, 80, "/who").detail.startswith(WAN)
    reload(box, conf(box, "shadowsocks"))
    with Wiretap(box.lab) as tap:
        assert [by(box, BLOCKED, who) for who in ("my-computer", "phone", "nas")] == [PROXY] * 3
        assert not tap.leaks(BLOCKED)
    assert by(box, DOMESTIC) == WAN


def test_a_rule_to_an_upstream_that_is_new_too(box: Box) -> None:
    """Where those before do not work, as well: then somebody is in a hurry for another one."""
    up(box, conf(box, "socks"))
    cut(box, 1080)
    try_upstreams(box, "")
    rule = f'cidr = ["{FOREIGN4}/32"]\nsend = "proxy-shadowsocks"\n[[rule]]\n{NAMED}'
    reload(box, conf(box, "socks", "shadowsocks", rule=rule))
    assert box.lab.call("nas", http_get, FOREIGN4, 80, "/who").detail.startswith(PROXY)
    wait_for(lambda: by(box, BLOCKED) == PROXY)
    assert len(proxy_state(box)["upstreams"]) == 2


def test_nobody_waits_for_a_resolver_that_must_wait_itself(box: Box) -> None:
    """Right after another change it may not be started anew (GRACE_S): who asks the daemon is answered meanwhile, and a
    third change takes the place of the second.
    """
    up(box, conf(box, "socks"))
    for name in "ab":
        box.write(f"/run/{name}.toml", conf(box, "socks", rule=f'domain = ["{name}.example"]'))
    control = Path(f"/proc/{box.lab.holder('gateway').outside}/root/run/sidegate/control.sock")
    take(control, "a")
    taking = Thread(target=take, args=(control, "b"))
    taking.start()
    is_answered, waiting = False, "another configuration waits"
    while taking.is_alive() and not is_answered:
        told = " ".join(it["what"] for it in ask(control, "GET", "/v1/status")["events"])
        is_answered = waiting in told and "nft table" not in told.rpartition(waiting)[2]
    assert is_answered
    box.write("/run/a.toml", conf(box, "socks", rule='domain = ["c.example"]'))
    os.kill(box.pid(), signal.SIGHUP)
    taking.join()
    wait_for(lambda: "configuration read again" in box.events())
    assert "c.example" in box.shell("cat /run/sidegate/resolver/*.conf")
    assert box.status()["faults"] == []


def take(control: Path, name: str) -> None:
    """Until that file is in force, or another one takes its place."""
    with suppress(Problems):
        ask(control, "POST", f"/v1/reload?config=/run/{name}.toml")
