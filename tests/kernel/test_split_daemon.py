"""The split as its owner sees it: by the command line, in a home whose provider lies and blocks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from sidegate.lab.asking import http_get, udp_echo
from sidegate.lab.resolving import resolve
from sidegate.lab.visiting import visit
from sidegate.lab.wiretap import Wiretap
from tests.kernel.gateway_lab import PATIENCE_S, Box, Connection, kill, wait_for
from tests.kernel.split_home import (
    BLOCKED,
    CONF,
    DOMESTIC,
    DOMESTIC4,
    FOREIGN,
    FOREIGN4,
    HOME,
    OURS,
    PROXY,
    WAN,
    bare,
    conf,
    in_time,
    insisting,
    page,
    proxy_state,
    served,
    states,
)

pytestmark = pytest.mark.kernel


def by(box: Box, name: str, who: str = "my-computer", scheme: Any = "http") -> str:
    return page(box, who, name, scheme)


def engine_pid(box: Box) -> int:
    """Of the current one, as this process sees it."""
    inside = proxy_state(box)["pid"]
    network = os.readlink(f"/proc/{box.lab.holder('gateway').outside}/ns/net")
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "status").read_text().partition("NSpid:")[2].split("\n")[0].split()
            if words[-1:] == [str(inside)] and os.readlink(path / "ns/net") == network:
                return int(path.name)
        except OSError:
            continue
    raise AssertionError("no engine runs")


def cut(box: Box, *ports: int, verdict: str = "reject with tcp reset") -> None:
    """These ports of the proxy's server refuse from now on; none: all of them answer again."""
    listed = ", ".join(map(str, ports))
    rule = f"tcp dport {{ {listed} }} {verdict}" if ports else ""
    chain = f"chain input {{\ntype filter hook input priority 0;\n{rule}\n}}"
    text = f"table inet cut\ndelete table inet cut\ntable inet cut {{\n{chain}\n}}\n"
    box.lab.run("internet", "nft", "-f", "-", text=text)


def try_upstreams(box: Box, wanted: str) -> None:
    """Until this one is used, or none."""

    def is_so() -> bool:
        box.probe_again()
        return bool(proxy_state(box)["chosen"] == wanted)

    wait_for(is_so)


@pytest.fixture
def box(lab_box: Box) -> Iterator[Box]:
    yield lab_box
    cut(lab_box)
    lab_box.sidegate("down", "--now")


def begin(box: Box, text: str) -> Box:
    box.write(CONF, text)
    return box.up("--config", CONF)


def up(box: Box, text: str) -> Box:
    return served(begin(box, text))


def reload(box: Box, text: str) -> Box:
    box.write(CONF, text)
    box.sidegate("reload")
    return box


def test_what_is_abroad_is_reached_through_the_proxy_and_the_rest_without(box: Box) -> None:
    """From the first packet after `up`, by wire and behind the filtering router; the provider learns no name."""
    with Wiretap(box.lab) as tap:
        in_time(box, lambda: begin(box, conf(box, "shadowsocks", "socks")), lambda: bool(proxy_state(box)["serves"]))
        for who in ("my-computer", "phone"):
            assert [by(box, FOREIGN, who, scheme) for scheme in ("http", "https", "h3")] == [PROXY] * 3
            assert by(box, BLOCKED, who) == PROXY
            assert by(box, DOMESTIC, who) == WAN
            assert insisting(box, who, udp_echo, DOMESTIC4).ok
        assert not tap.leaks(BLOCKED)
        assert not tap.leaks("foreign.example")
    wait_for(lambda: proxy_state(box)["chosen"] == "proxy-shadowsocks")
    text = box.sidegate("status").stdout
    assert "proxy-shadowsocks (used)" in text
    secret = box.lab.links()["proxy-socks"].split("@")[0].rpartition(":")[2]
    assert secret not in text + box.sidegate("status", "--json").stdout + box.shell("cat /run/sidegate/*.log")


HELD_UP = """#!/bin/sh
case "$*" in *--check*) until test -e /run/go; do sleep 0.05; done;; esac
PATH=/usr/local/sbin:/usr/sbin:/sbin exec nft "$@"
"""


def test_names_that_are_asked_before_the_first_rules_are_there_are_learned(box: Box) -> None:
    """As after a power cut, when every device asks at once: what they are told they keep for a minute."""
    box.shell("mkdir -p /run/held-up")
    box.write("/run/held-up/nft", HELD_UP)
    box.shell("chmod +x /run/held-up/nft")
    box.write(CONF, conf(box, "shadowsocks"))
    path = ("env", f"PATH=/run/held-up:{os.environ['PATH']}")
    starting = Thread(target=box.sidegate, args=("up", "--config", CONF), kwargs={"prefix": path})
    starting.start()
    told = wait_for(lambda: (it := box.lab.call("nas", resolve, FOREIGN, OURS)).ok and it.detail.split()[0])
    chains = box.shell("nft list chains; touch /run/go")
    starting.join()
    assert "chain" not in chains, "no rule was there yet"
    assert told == FOREIGN4
    asked = box.lab.call("nas", http_get, told, 80, "/who", PATIENCE_S, "", FOREIGN)
    assert asked.detail.startswith(PROXY)


@pytest.mark.parametrize("on_failure", ["direct", "block"])
def test_the_engine_killed(box: Box, on_failure: str) -> None:
    """From the next packet on proxied traffic is as on_failure says, direct traffic is untouched; it is back soon."""
    rule = f'cidr = ["{FOREIGN4}/32"]'
    up(box, conf(box, "socks", rule=rule, more=f'on_failure = "{on_failure}"'))

    def ask() -> str:
        return bare(box, "nas", FOREIGN4)

    assert ask() == PROXY
    with Connection(box.lab, "nas", DOMESTIC4) as direct:
        pid, daemon = engine_pid(box), box.pid()
        os.kill(daemon, signal.SIGSTOP)  # or it might have another one running before we ask
        kill(pid)
        answer = ask()
        os.kill(daemon, signal.SIGCONT)
        assert answer == (WAN if on_failure == "direct" else "Connection refused")
        assert direct.is_alive()
        wait_for(lambda: ask() == PROXY)
        assert direct.is_alive()
    assert engine_pid(box) != pid
    assert "engine-0: ended unasked: signal SIGKILL" in box.events()


def test_an_upstream_that_dies_is_left_and_taken_again(box: Box) -> None:
    up(box, conf(box, "socks", "shadowsocks"))
    assert by(box, BLOCKED) == PROXY
    cut(box, 1080)
    try_upstreams(box, "proxy-shadowsocks")
    assert by(box, BLOCKED) == PROXY
    assert "upstream proxy-socks -> proxy-shadowsocks: proxy-socks does not work: " in box.events()
    cut(box)
    try_upstreams(box, "proxy-socks")
    assert by(box, BLOCKED) == PROXY
    assert "upstream proxy-shadowsocks -> proxy-socks: it works, and comes before proxy-shadowsocks" in box.events()


def test_an_upstream_that_turns_silent_is_left_by_itself(box: Box) -> None:
    """Nobody asks, and nothing refuses: until it is known, whatever is sent there hangs."""
    up(box, conf(box, "socks", "shadowsocks"))
    wait_for(lambda: set(states(box).values()) == {"up"} and proxy_state(box)["chosen"] == "proxy-socks")
    cut(box, 1080, verdict="drop")
    wait_for(lambda: proxy_state(box)["chosen"] == "proxy-shadowsocks")
    assert by(box, BLOCKED) == PROXY
    assert "upstream proxy-socks -> proxy-shadowsocks: proxy-socks does not work: no answer within " in box.events()


@pytest.mark.parametrize("on_failure", ["direct", "block"])
def test_no_upstream_works(box: Box, on_failure: str) -> None:
    up(box, conf(box, "socks", "shadowsocks", more=f'on_failure = "{on_failure}"'))
    assert by(box, FOREIGN) == PROXY
    cut(box, 1080, 8388)
    try_upstreams(box, "")
    if on_failure == "direct":
        wait_for(lambda: by(box, FOREIGN) == WAN)
    else:
        wait_for(lambda: box.lab.call("nas", visit, "http", FOREIGN, OURS).detail.endswith("refused"))
    assert by(box, DOMESTIC) == WAN
    assert any("no upstream works" in fault for fault in box.status()["faults"])
    cut(box)
    try_upstreams(box, "proxy-socks")
    wait_for(lambda: by(box, FOREIGN) == PROXY)
    wait_for(lambda: box.lab.call("nas", resolve, FOREIGN, OURS).detail == FOREIGN4)


MANY = range(10_000)
LONG_LIST = "\n".join([f"{DOMESTIC4}/32", *(f"d{i}.example.net\n60.{i // 125}.{2 * (i % 125)}.0/24" for i in MANY), ""])


def test_a_long_list_drops_no_connection(box: Box) -> None:
    """The old engine goes on with what it has; the new one takes the rest."""
    box.write("/run/long.txt", LONG_LIST)
    up(box, conf(box, "socks", rule=f'cidr = ["{FOREIGN4}/32"]'))
    with Connection(box.lab, "phone", FOREIGN4) as proxied, Connection(box.lab, "phone", DOMESTIC4) as direct:
        pid = engine_pid(box)
        reload(box, conf(box, "socks", rule=f'cidr = ["{FOREIGN4}/32"]', more='list = ["/run/long.txt"]'))
        wait_for(lambda: proxy_state(box)["ending"] == 1)
        assert engine_pid(box) != pid
        assert by(box, DOMESTIC) == PROXY
        assert proxied.is_alive()
        assert direct.is_alive()
        assert proxy_state(box)["ending"] == 1
    wait_for(lambda: proxy_state(box)["ending"] == 0, within_s=60)
    reloaded = engine_pid(box)
    box.sidegate("reload")
    assert engine_pid(box) == reloaded, "nothing changed"


def test_several_changes_in_a_row_drop_no_connection(box: Box) -> None:
    """By rules for names, which the engine decides as well: what began before the first goes on through all of them."""
    up(box, conf(box, "socks", rule=f'cidr = ["{FOREIGN4}/32"]'))
    with Connection(box.lab, "phone", FOREIGN4) as oldest, Connection(box.lab, "nas", FOREIGN4) as other:
        pids = {engine_pid(box)}
        for added in ("one.example", "two.example", "three.example"):
            reload(box, conf(box, "socks", rule=f'domain = ["{added}"]\ncidr = ["{FOREIGN4}/32"]'))
            wait_for(lambda: engine_pid(box) not in pids, within_s=60)
            pids.add(engine_pid(box))
            assert bare(box, "my-computer", FOREIGN4) == PROXY
            assert oldest.is_alive()
            assert other.is_alive()
    assert len(pids) == 4


def test_the_daemon_killed(box: Box) -> None:
    up(box, conf(box, "socks"))
    assert by(box, BLOCKED) == PROXY
    pid = engine_pid(box)
    with Connection(box.lab, "tablet", FOREIGN4) as open_one:
        kill(box.pid())
        assert by(box, BLOCKED, "phone") == PROXY
        box.up("--config", CONF)
        assert engine_pid(box) == pid
        assert by(box, BLOCKED, "phone") == PROXY
        assert open_one.is_alive()


ANOTHER_PROGRAM = """
import contextlib, socket
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT, include/uapi/linux/in.h
listener.bind(("0.0.0.0", 7893))
listener.listen()
while True:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 7\\r\\n\\r\\nanother")
"""


def test_another_program_as_the_engine(box: Box) -> None:
    """We only steer to it, and watch that it listens."""
    begin(box, f'[proxy]\nengine = "tproxy"\n[[rule]]\ncidr = ["{FOREIGN4}/32"]\nsend = "proxy"\n')

    def ask() -> str:
        return bare(box, "phone", FOREIGN4)

    assert ask() == WAN
    assert any("no program listens at port 7893" in fault for fault in box.status()["faults"])
    with subprocess.Popen(box.lab.command("gateway", [sys.executable, "-c", ANOTHER_PROGRAM])) as program:
        wait_for(lambda: ask() == "another")
        wait_for(lambda: not box.status()["faults"])
        program.kill()
    wait_for(lambda: ask() == WAN)


def test_what_cannot_work_is_said_and_keeps_nobody_offline(box: Box) -> None:
    """A configuration that is wrong changes nothing; an upstream that refuses us is told, and what else it may be."""
    secret = box.lab.links()["proxy-socks"].split("@")[0].rpartition(":")[2]
    box.write("/run/list.txt", "a.example\n!!\n")
    box.write(CONF, conf(box, "socks", more='list = ["/run/list.txt"]').replace(secret, "wrong-password"))
    assert "to know: /run/list.txt:2: " in box.sidegate("up", "--config", CONF).stdout
    box.probe_again()
    wait_for(lambda: any("its user name and password" in fault for fault in box.status()["faults"]))
    assert [by(box, DOMESTIC), by(box, FOREIGN)] == [WAN, WAN]
    box.write(CONF, '[proxy]\nupstream = "trojan://hush@"\nlist = ["/no/list"]')
    refused = box.sidegate("reload", check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"{CONF}: proxy.upstream: ")
    assert "/no/list: cannot be read" in refused.stderr
    assert "hush" not in refused.stderr
    assert by(box, DOMESTIC) == WAN


def test_a_service_whose_answers_are_translated_on_their_way_is_told(box: Box) -> None:
    """As the port forward of a filtering router makes them; see `nft`, law 14."""
    box.up()
    box.lab.call("internet", http_get, WAN, HOME.router.port_forward[0].port, "/who", 0.5)
    box.probe_again()
    hint = wait_for(lambda: [h for h in box.status()["hints"] if "public address" in h])[0]
    assert f"answers with the public address {WAN}" in hint
    assert box.in_set("translated4") == 1


def test_down_leaves_nothing(box: Box) -> None:
    before = box.state()
    up(box, conf(box, "socks"))
    box.sidegate("down", "--now")
    assert box.state() == before
