"""Rules name others than before: from the moment that they are in force no name of theirs is asked straight."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from threading import Thread

import pytest

from sidegate.lab.asking import http_get
from sidegate.lab.resolving import labels
from sidegate.lab.wiretap import Wiretap
from tests.kernel.gateway_lab import Box, gateway_in, wait_for
from tests.kernel.split_home import BLOCKED, BLOCKED4, CONF, DOMESTIC, HOME, OURS, PROXY, WAN, conf
from tests.kernel.test_dns_relief import resolver_pids
from tests.kernel.test_split_daemon import by, engine_pid

pytestmark = pytest.mark.kernel

LISTED = "/run/names.txt"
MANY = 20_000
"""So many that a resolver is some tenths of a second later than the rules, if nobody waits for it."""
ASKED = "foreign.example"


@pytest.fixture(scope="module")
def lab_box() -> Iterator[Box]:
    with gateway_in(HOME) as box:
        yield box


@pytest.fixture
def box(lab_box: Box) -> Iterator[Box]:
    yield lab_box
    lab_box.sidegate("down", "--now")


def listing(box: Box, *names: str) -> None:
    """The list that is proxied: these, and many that nobody asks for."""
    others = (f"name{n}.other.example" for n in range(MANY))
    box.write(LISTED, "\n".join((*names, *others)))


def up(box: Box, *names: str) -> None:
    listing(box, *names)
    box.write(CONF, conf(box, "socks", rule=f'list = ["{LISTED}"]'))
    box.up("--config", CONF)


def sets_of_names(box: Box) -> int:
    return box.shell("nft --terse list table inet sidegate").count("set names_")


def ask_all_the_time(until_s: float) -> list[tuple[int, float]]:
    """Asks for one name below ASKED after the other, every few milliseconds: which, and when. Runs at a client.

    until_s: by time.monotonic().
    """
    asked: list[tuple[int, float]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect((OURS, 53))
        asker.settimeout(0.1)
        while time.monotonic() < until_s:
            asked.append((len(asked), time.monotonic()))
            name = labels(f"n{len(asked) - 1}.{ASKED}")
            asker.send(struct.pack("!6H", len(asked) & 0xFFFF, 0x100, 1, 0, 0, 0) + name + b"\0\1\0\1")
            try:
                asker.recv(512)
            except OSError:
                continue
            time.sleep(0.003)
    return asked


def test_a_name_that_is_proxied_from_now_on_is_asked_straight_no_more(box: Box) -> None:
    up(box)
    assert by(box, f"www.{ASKED}") == WAN
    with Wiretap(box.lab) as tap:
        asking = box.lab.begin("phone", ask_all_the_time, time.monotonic() + 3.0)
        wait_for(lambda: tap.leaks(ASKED))
        listing(box, ASKED)
        box.sidegate("reload")
        returned_s = time.monotonic()
        assert by(box, f"www.{ASKED}") == PROXY
        asked = asking.result()
        after = {f"n{n}.{ASKED}" for n, at_s in asked if at_s > returned_s}
        assert len(after) > 20
        assert not {name for _, name in tap.asked()} & after


def test_what_is_learned_while_rules_change_stays_learned(box: Box) -> None:
    """A name that was proxied before and is, asked for the first time of a resolver that is about to end."""
    up(box, BLOCKED)
    before = resolver_pids(box)
    listing(box, BLOCKED, ASKED)
    changing = Thread(target=box.sidegate, args=("reload",))
    changing.start()
    wait_for(lambda: len(resolver_pids(box)) > 1 or resolver_pids(box) != before)
    with Wiretap(box.lab) as tap:
        assert by(box, BLOCKED, "phone") == PROXY
        changing.join()
        wait_for(lambda: len(now := resolver_pids(box)) == 1 and now != before, 30)
        wait_for(lambda: sets_of_names(box) == 1)
        assert box.lab.call("phone", http_get, BLOCKED4, 80, "/who").detail.startswith(PROXY)
        assert BLOCKED4 not in {it.dst for it in tap.seen}


def test_an_engine_that_does_not_know_the_rules_yet_decides_nothing(box: Box) -> None:
    """By those before it would send straight, by its own hand, what is proxied from now on."""
    box.write(CONF, conf(box, "socks", rule='domain = ["one.example"]'))
    box.up("--config", CONF)
    pid = engine_pid(box)
    box.write(CONF, conf(box, "socks", rule=f'domain = ["{ASKED}"]'))
    box.sidegate("reload")
    seen = set()
    while engine_pid(box) == pid:
        seen.add(by(box, f"www.{ASKED}"))
    assert {by(box, f"www.{ASKED}"), *seen} == {PROXY}
    assert by(box, DOMESTIC) == WAN
