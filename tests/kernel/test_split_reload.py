"""Another split under a running gateway: what is proxied from now on goes not straight first, for want of an engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from sidegate.gateway.daemon.control import ask
from sidegate.lab.asking import http_get
from sidegate.lab.wiretap import Wiretap
from tests.kernel.gateway_lab import Box, wait_for
from tests.kernel.split_home import BLOCKED, CONF, DOMESTIC, FOREIGN4, PROXY, WAN, conf
from tests.kernel.split_home import HOME as HOME
from tests.kernel.test_split_daemon import by, proxy_state

pytestmark = pytest.mark.kernel


@pytest.fixture
def box(lab_box: Box) -> Iterator[Box]:
    yield lab_box
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
    up(box, conf(box, "socks"))
    rule = f'cidr = ["{FOREIGN4}/32"]\nsend = "proxy-shadowsocks"\n[[rule]]\ndomain = ["blocked.example"]'
    reload(box, conf(box, "socks", "shadowsocks", rule=rule))
    assert box.lab.call("nas", http_get, FOREIGN4, 80, "/who").detail.startswith(PROXY)
    assert by(box, BLOCKED) == PROXY
    wait_for(lambda: len(proxy_state(box)["upstreams"]) == 2)


def test_nobody_waits_for_a_resolver_that_must_wait_itself(box: Box) -> None:
    """Right after another change it may not be started anew (GRACE_S): who asks the daemon is answered meanwhile, and a
    third change takes the place of the second.
    """
    up(box, conf(box, "socks"))
    reload(box, conf(box, "socks", rule='domain = ["a.example"]'))
    box.write(CONF, conf(box, "socks", rule='domain = ["b.example"]'))
    control = Path(f"/proc/{box.lab.holder('gateway').outside}/root/run/sidegate/control.sock")
    reloading = Thread(target=box.sidegate, args=("reload",), kwargs={"check": False})
    reloading.start()
    answers, waiting = 0, "another configuration waits"
    while reloading.is_alive() and answers <= 5:
        told = " ".join(it["what"] for it in ask(control, "GET", "/v1/status")["events"])
        answers += waiting in told and "nft table" not in told.rpartition(waiting)[2]
    assert answers > 5
    box.write(CONF, conf(box, "socks", rule='domain = ["c.example"]'))
    os.kill(box.pid(), signal.SIGHUP)
    reloading.join()
    wait_for(lambda: "configuration read again" in box.events())
    assert "c.example" in box.shell("cat /run/sidegate/resolver/*.conf")
    assert box.status()["faults"] == []
