"""A change that undoes itself unless it is confirmed, whoever is killed meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sidegate.home import load_home
from sidegate.lab.lab import Lab
from tests.kernel.gateway_lab import told, wait_for

pytestmark = pytest.mark.kernel

HERE, ANEW = "10.0.0.9 50000 10.0.0.2 22", "10.0.0.9 50001 10.0.0.2 22"
STATE = "/run/state"
LATER = ("unshare", "--time", "--boottime", "100000")
"""Runs a program in whose time the box has been up for 100,000 s more (time_namespaces(7))."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.up(load_home("bypass")) as lab:
        yield lab


def box(lab: Lab, *words: str, over: str = HERE, first: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = ("env", f"SSH_CONNECTION={over}", *first, sys.executable, "-m", "sidegate", *words)
    return lab.run("gateway", *command, check=False)


def status(lab: Lab) -> Any:
    return told(lab, "status")


def state(lab: Lab) -> str:
    script = "nft list tables; cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/conf/*/send_redirects"
    return lab.run("gateway", "sh", "-c", script).stdout


def pid(lab: Lab, name: str) -> str:
    """It signs its lock a moment after it has it."""
    return wait_for(lambda: lab.run("gateway", "cat", f"/run/sidegate/{name}.pid").stdout.strip())


def kill(lab: Lab, *names: str) -> None:
    """And waits until they hold their locks no more."""
    pids = [pid(lab, name) for name in names]
    is_there = "grep -qs '^State:.[^Z]'" + "".join(f" /proc/{number}/status" for number in pids)
    lab.run("gateway", "sh", "-c", f"kill -9 {' '.join(pids)}; while {is_there}; do sleep 0.01; done")


def pending(lab: Lab) -> dict[str, Any] | None:
    done = lab.run("gateway", "cat", f"{STATE}/pending.json", check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def is_rolled_back(lab: Lab) -> bool:
    found = pending(lab)
    return found is not None and found["state"] == "rolled-back"


def set_config(lab: Lab, text: str) -> None:
    lab.run("gateway", "sh", "-c", "mkdir -p /run/etc; cat >/run/etc/sidegate.toml", text=text)


def up(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    return box(lab, "up", "--config", "/run/etc/sidegate.toml", *words)


def test_confirmed_in_time_over_a_new_connection(lab: Lab) -> None:
    assert "undoes itself in 600 s" in box(lab, "up", "--confirm", "600").stdout
    assert 300 < status(lab)["confirm"]["left_s"] <= 600
    assert "s left; sidegate confirm keeps it" in box(lab, "status").stdout
    refused = box(lab, "confirm")
    assert (refused.returncode, "the connection that the change came by" in refused.stderr) == (2, True)
    assert box(lab, "confirm", over=ANEW).stdout == "Confirmed. It stays.\n"
    assert (pending(lab), status(lab)["up"], status(lab)["confirm"]) == (None, True, None)
    assert box(lab, "confirm", over=ANEW).returncode == 2
    wait_for(lambda: lab.run("gateway", "pgrep", "-f", "gateway.change.rollback", check=False).returncode == 1)


def test_rolled_back_without_a_word(lab: Lab) -> None:
    before = state(lab)
    assert box(lab, "up", "--confirm", "5").returncode == 0
    wait_for(lambda: is_rolled_back(lab))
    assert (state(lab), status(lab)["up"]) == (before, False)
    assert "nobody confirmed it within 5 s" in status(lab)["confirm"]["told"]
    late = box(lab, "confirm", over=ANEW)
    assert (late.returncode, "too late" in late.stderr, pending(lab)) == (1, True, None)


@pytest.mark.parametrize("killed", [("daemon",), ("timer",)], ids=str)
def test_rolled_back_whoever_dies(lab: Lab, killed: tuple[str, ...]) -> None:
    before = state(lab)
    box(lab, "up", "--confirm", "5")
    kill(lab, *killed)
    wait_for(lambda: is_rolled_back(lab))
    assert state(lab) == before


@pytest.mark.parametrize("command", ["status", "confirm", "up", "clients", "down"])
def test_next_command_rolls_back_when_all_are_dead(lab: Lab, command: str) -> None:
    """By then the time is over: the box has been up for longer, whatever the calendar says."""
    before = state(lab)
    box(lab, "up", "--confirm", "600")
    kill(lab, "daemon", "timer")
    said = box(lab, command, over=ANEW, first=LATER)
    assert "A change was rolled back: nobody confirmed it within 600 s" in said.stderr
    assert (said.returncode == 1) == (command == "confirm")
    assert command == "up" or state(lab) == before


def test_rollback_that_was_killed_is_gone_on_with(lab: Lab) -> None:
    """At any moment: what it did so far is on disk and in the kernel."""
    before = state(lab)
    for after_s in (0.1, 0.2, 0.3, 0.4):
        box(lab, "up", "--confirm", "600")
        kill(lab, "timer")
        rollback = lab.start("gateway", *LATER, sys.executable, "-m", "sidegate", "status", stdout=subprocess.DEVNULL)
        time.sleep(after_s)
        rollback.kill()
        rollback.wait()
        box(lab, "status", first=LATER)
        assert (after_s, state(lab), is_rolled_back(lab)) == (after_s, before, True)


def test_second_change_has_to_wait(lab: Lab) -> None:
    box(lab, "up", "--confirm", "600")
    same = box(lab, "up")
    assert (same.returncode, same.stdout) == (0, "Already up, with this configuration. Nothing was changed.\n")
    set_config(lab, '[nat]\nmasquerade = "always"\n')
    for words in ((), ("--confirm", "30")):
        refused = up(lab, *words)
        assert (refused.returncode, "a change waits to be confirmed" in refused.stderr) == (2, True)
    assert status(lab)["masquerade"] == "auto"
    assert (box(lab, "down").returncode, pending(lab)) == (0, None)


def test_refused_start_leaves_nothing_waiting(lab: Lab) -> None:
    lab.run("gateway", "ip", "route", "del", "default")
    assert (box(lab, "up", "--confirm", "60").returncode, pending(lab)) == (2, None)


def other_boot(lab: Lab) -> None:
    """What a reboot does: kernel state and processes are gone, files stay."""
    waiting = pending(lab)
    kill(lab, "daemon", "timer")
    box(lab, "down")
    assert waiting is not None
    text = json.dumps({**waiting, "boot_id": "another"})
    lab.run("gateway", "sh", "-c", f"cat >{STATE}/pending.json", text=text)


def test_after_a_reboot_an_unconfirmed_start_is_not_done_again(lab: Lab) -> None:
    box(lab, "up", "--confirm", "600")
    other_boot(lab)
    for _ in range(2):
        refused = box(lab, "up", "--foreground")
        assert (refused.returncode, "the box was started anew before anybody confirmed it" in refused.stderr) == (
            78,
            True,
        )
    assert (box(lab, "up").returncode, pending(lab), status(lab)["up"]) == (0, None, True)


def test_unconfirmed_configuration_goes_back_to_the_one_before(lab: Lab) -> None:
    set_config(lab, "")
    up(lab)
    set_config(lab, '[nat]\nmasquerade = "always"\n')
    assert "nft table" in up(lab, "--confirm", "600").stdout
    assert status(lab)["masquerade"] == "always"
    said = box(lab, "status", "--json", first=LATER)
    assert "version 1 of the configuration is in force again" in said.stderr
    found = status(lab)
    assert (found["masquerade"], found["up"], pending(lab) is not None) == ("auto", True, True)
    assert "rolled back" in found["faults"][0]
    assert "nft table" in up(lab).stdout
    found = status(lab)
    assert (found["masquerade"], found["faults"], found["confirm"]) == ("always", [], None)


def test_nothing_is_changed_that_nobody_would_undo(lab: Lab) -> None:
    before = state(lab)
    lab.run("gateway", "mkdir", "-p", "/run/sidegate/timer.pid")
    done = box(lab, "up", "--confirm", "600")
    assert (done.returncode, "the process that would undo the change does not start" in done.stderr) == (1, True)
    assert (state(lab), pending(lab)) == (before, None)
    assert "timer.pid" in lab.run("gateway", "tail", "-n", "5", "/run/sidegate/daemon.log").stdout


def test_unconfirmed_configuration_goes_back_without_a_daemon(lab: Lab) -> None:
    """And a start without a person, as at boot, keeps to it, although the file says otherwise."""
    set_config(lab, "")
    up(lab)
    set_config(lab, '[nat]\nmasquerade = "always"\n')
    up(lab, "--confirm", "600")
    kill(lab, "daemon", "timer")
    box(lab, "status", first=LATER)
    assert status(lab)["masquerade"] == "auto"
    kill(lab, "daemon")
    foreground = lab.start(
        "gateway", sys.executable, "-m", "sidegate", "up", "-c", "/run/etc/sidegate.toml", "--foreground"
    )
    wait_for(lambda: status(lab)["daemon"])
    found = status(lab)
    assert (found["masquerade"], len(found["faults"])) == ("auto", 2)
    box(lab, "down")
    assert foreground.wait(60) == 0
