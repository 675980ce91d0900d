"""Clients handed to the router by `down`, and taken back by `up`, without a gap."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator

import pytest

from bench.handover import NO_FORWARDING, SERVER, WIFI, WIRED, handed_over, hold_connection, open_connections
from sidegate.home import load_home
from sidegate.lab.asking import http_get
from sidegate.lab.check import set_gateway
from sidegate.lab.lab import Lab
from tests.kernel.gateway_lab import Connection, mesh_home, wait_for
from tests.kernel.test_confirm import box, kill, state, status

pytestmark = pytest.mark.kernel


NFT = "$(PATH=$PATH:/usr/sbin command -v nft)"
KILLED_AFTER = f"""
{{ echo '#!/bin/sh
text=$(cat)
printf "%s\\n" "$text" | /run/nft "$@"
code=$?
case $text in *"'"$(cat)"'"*) kill -9 $PPID;; esac
exit $code'; }} >/run/killing
cp {NFT} /run/nft; chmod +x /run/killing; mount --bind /run/killing {NFT}
"""
"""Whoever has nft do what standard input says is killed when it is done."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.up(load_home("velop-mesh")) as lab:
        yield lab


def tables(lab: Lab) -> str:
    return lab.run("gateway", "nft", "list", "tables", "arp").stdout


def forwarding(lab: Lab) -> str:
    return next(str(h["state"]) for h in status(lab)["health"] if h["name"] == "forwarding")


def test_nothing_is_lost_both_ways() -> None:
    """But for a masqueraded connection whose handshake is under way: one each way, on a machine that is slow."""
    seen = handed_over("velop-mesh", (WIRED, WIFI))
    assert seen[WIRED].lost == 0
    assert seen[WIFI].lost <= 2
    assert seen[WIRED].asked > 10
    assert seen[WIRED].stream_ms is not None, "the stream broke"


def test_without_it_something_is_lost() -> None:
    """Or the test above would prove nothing."""
    seen = handed_over("velop-mesh", (WIRED,), "--now")[WIRED]
    assert seen.lost or seen.slowest_ms > 900


def test_router_stands_in_for_as_long_as_clients_ask(lab: Lab) -> None:
    """Their ARP entries age within a second here, so that they ask again and again, and so does the box."""
    set_gateway(lab, "sidegate")
    for machine in (WIRED, WIFI, "gateway"):
        ages = "base_reachable_time_ms=1000 delay_first_probe_time=1"
        for name, _, value in (setting.partition("=") for setting in ages.split()):
            lab.run(machine, "sh", "-c", f"echo {value} >/proc/sys/net/ipv4/neigh/eth0/{name}")
    assert box(lab, "down", "--step-aside", "600").returncode == 0
    assert 500 < status(lab)["aside_left_s"] <= 600
    asking = [lab.begin(c, ask, 6.0) for c in (WIRED, WIFI) for ask in (open_connections, hold_connection)]
    for _ in range(3):
        reached = [lab.call(c, http_get, "192.168.1.2").ok for c in (WIRED, WIFI, "phone", "router")]
        reached += [lab.call("gateway", http_get, to).ok for to in (SERVER, "192.168.1.123", "192.168.1.126")]
        assert all(reached)
        time.sleep(1.0)
    assert [seen.result().lost for seen in asking] == [0, 0, 0, 0]
    lab.run(WIRED, "ip", "neigh", "flush", "dev", "eth0")
    assert lab.call(WIRED, http_get, SERVER).ok


def test_box_is_as_it_was(lab: Lab) -> None:
    before = state(lab)
    box(lab, "up")
    assert box(lab, "down", "--step-aside", "2").returncode == 0
    wait_for(lambda: tables(lab) == "")
    assert (state(lab), status(lab)["aside_left_s"]) == (before, None)
    box(lab, "up")
    for _ in range(2):
        assert box(lab, "down", "--step-aside", "600").returncode == 0
        assert tables(lab) == "table arp sidegate\n"
    box(lab, "down", "--now")
    assert (tables(lab), state(lab)) == ("", before)
    box(lab, "up")
    box(lab, "down", "--step-aside", "600")
    box(lab, "up")
    assert tables(lab) == ""
    assert lab.run("gateway", "ls", "/run/state").stdout.split() == [
        "address.json",
        "config-history.json",
        "journal.json",
    ]


def test_process_that_was_killed_is_cleared_up_after(lab: Lab) -> None:
    before = state(lab)
    box(lab, "up")
    box(lab, "down", "--step-aside", "600")
    kill(lab, "step-aside")
    assert "cleared up after it" in box(lab, "status").stderr
    assert (tables(lab), state(lab)) == ("", before)


def test_down_that_was_killed_half_way_is_taken_back_by_up(lab: Lab) -> None:
    """The router stands in, and what was put back so far is our table."""
    set_gateway(lab, "sidegate")
    lab.run("gateway", "sh", "-ec", KILLED_AFTER, text="delete table inet")
    going = lab.start("gateway", sys.executable, "-m", "sidegate", "down", "--step-aside", "600")
    assert going.wait(60) == -signal.SIGKILL
    lab.run("gateway", "sh", "-ec", f"umount --lazy {NFT}")
    assert tables(lab) == "table arp sidegate\n"
    assert lab.call(WIRED, http_get, SERVER).ok
    assert (box(lab, "up").returncode, tables(lab)) == (0, "")
    assert (lab.call(WIRED, http_get, SERVER).ok, status(lab)["up"]) == (True, True)


def test_router_that_is_silent_keeps_nobody_from_going_down(lab: Lab) -> None:
    box(lab, "up")
    lab.run("router", "ip", "link", "set", "br-lan", "down")
    refused = box(lab, "down", "--step-aside", "600")
    assert (refused.returncode, "does not answer ARP" in refused.stderr) == (2, True)
    assert (box(lab, "down").returncode, tables(lab)) == (0, "")


def test_box_that_nobody_uses_just_goes(lab: Lab) -> None:
    box(lab, "up")
    said = box(lab, "down")
    assert ("handed" in said.stdout, tables(lab)) == (False, "")


def test_box_that_cannot_forward_hands_clients_over_by_itself(lab: Lab) -> None:
    """Something keeps forwarding off. The stream that was open goes on by the router, and back."""
    set_gateway(lab, "sidegate")
    lab.run("gateway", "sh", "-ec", NO_FORWARDING)
    wait_for(lambda: box(lab, "probe", "again").returncode == 0 and tables(lab) != "")
    assert "forwarding" in status(lab)["aside_why"]
    before_s = time.monotonic()
    asking = [lab.begin(WIRED, ask, 4.0) for ask in (open_connections, hold_connection)]
    wait_for(lambda: time.monotonic() > before_s + 1.0)
    lab.run("gateway", "sh", "-ec", "umount /proc/sys/net/ipv4/conf/eth0/forwarding")
    wait_for(lambda: box(lab, "probe", "again").returncode == 0 and forwarding(lab) == "up")
    assert tables(lab) != "", f"it does not flap: {status(lab)['events']}"
    box(lab, "up")
    wait_for(lambda: status(lab)["aside_why"] == "" and tables(lab) == "")
    assert [seen.result().lost for seen in asking] == [0, 0]


@pytest.mark.parametrize("bridge_filter", ["on", "off"])
def test_stream_begun_while_the_router_stood_in(bridge_filter: str) -> None:
    """On the Wi-Fi of a router that tracks its bridge it does not survive being taken back; all others do."""
    with Lab.up(mesh_home(bridge_filter=bridge_filter)) as lab:
        set_gateway(lab, "sidegate")
        box(lab, "down", "--step-aside", "600")
        streams = {name: Connection(lab, name) for name in (WIRED, WIFI)}
        assert [stream.is_alive() for stream in streams.values()] == [True, True]
        box(lab, "up")
        assert streams[WIRED].is_alive()
        if bridge_filter == "off":
            assert streams[WIFI].is_alive()
        else:
            streams[WIFI].socket.settimeout(1.0)
            with pytest.raises(TimeoutError):
                streams[WIFI].is_alive()
