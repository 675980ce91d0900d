"""Rules name others than before: from the moment that they are in force no name of theirs is asked straight."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from sidegate.gateway.dns.places import NAME as RESOLVER
from sidegate.lab.resolving import labels
from sidegate.lab.wiretap import Wiretap
from tests.kernel.gateway_lab import Box, gateway_in, wait_for
from tests.kernel.split_home import BLOCKED, BLOCKED4, CONF, HOME, OURS, PROXY, WAN, bare, conf, proxy_state
from tests.kernel.test_dns_relief import resolver_pids, wait_for_one
from tests.kernel.test_split_daemon import by

pytestmark = pytest.mark.kernel

LISTED = "/run/names.txt"
MANY = 20_000
"""So many that a resolver is some tenths of a second later than the rules, if nobody waits for it."""
ASKED = "foreign.example"


FOREIGN_ENGINE = f"""
[proxy]
engine = "tproxy"
tproxy_port = 7895
on_failure = "block"
[[rule]]
domain = ["{ASKED}"]
send = "proxy"
"""


@pytest.fixture
def box() -> Iterator[Box]:
    """One name is proxied, and nobody has asked for it."""
    with gateway_in(HOME) as box:
        listing(box, BLOCKED)
        box.write(CONF, conf(box, "socks", rule=f'list = ["{LISTED}"]', more='on_failure = "block"'))
        box.up("--config", CONF)
        # The engine may come after `up`, and then the resolver that asks it.
        wait_for(lambda: by(box, BLOCKED) == PROXY and [*resolver_pids(box)] == [RESOLVER])
        yield box
        box.sidegate("down", "--now")


def listing(box: Box, *names: str) -> None:
    """The list that is proxied: these, and many that nobody asks for."""
    others = (f"name{n}.other.example" for n in range(MANY))
    box.write(LISTED, "\n".join((*names, *others)))


def reload_begun(box: Box, before: dict[str, str]) -> Thread:
    """So far that the next resolver starts, or has."""
    reloading = Thread(target=box.sidegate, args=("reload",))
    reloading.start()
    wait_for(lambda: resolver_pids(box) != before)
    return reloading


def sets_of_names(box: Box) -> int:
    return box.shell("nft --terse list table inet sidegate").count("set names_")


def ask_until(end: str) -> list[tuple[int, float]]:
    """Asks for one name below ASKED after the other, every few milliseconds: which, and when. Runs at a client.

    end: a file; once it is there a dozen more are enough.
    """
    asked: list[tuple[int, float]] = []
    left = 12
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect((OURS, 53))
        asker.settimeout(0.1)
        while left:
            left -= os.path.exists(end)
            asked.append((len(asked), time.monotonic()))
            name = labels(f"n{len(asked) - 1}.{ASKED}")
            asker.send(struct.pack("!6H", len(asked) & 0xFFFF, 0x100, 1, 0, 0, 0) + name + b"\0\1\0\1")
            try:
                asker.recv(512)
            except OSError:
                continue
            time.sleep(0.015)
    return asked


def test_what_is_proxied_is_neither_asked_nor_sent_straight(box: Box, tmp_path: Path) -> None:
    """From the change on, a name that was not; at any time, one that was, asked for while the resolver changes.

    Not sent by the engine either, which goes by the rules before for a while.
    """
    before, pid, end = resolver_pids(box), proxy_state(box)["pid"], tmp_path / "end"
    assert by(box, f"www.{ASKED}") == WAN
    with Wiretap(box.lab) as tap:
        asking = box.lab.begin("phone", ask_until, str(end))
        wait_for(lambda: tap.leaks(ASKED))
        listing(box, BLOCKED, ASKED)
        reloading = reload_begun(box, before)
        assert by(box, BLOCKED, "phone") == PROXY
        reloading.join()
        returned_s = time.monotonic()
        seen = {by(box, f"www.{ASKED}")}
        while proxy_state(box)["pid"] == pid:
            seen.add(by(box, f"www.{ASKED}"))
        assert {by(box, f"www.{ASKED}"), *seen} == {PROXY}
        end.touch()
        after = {f"n{n}.{ASKED}" for n, at_s in asking.result() if at_s > returned_s}
        assert len(after) > 10
        wait_for_one(box, before)
        wait_for(lambda: sets_of_names(box) == 1)
        assert bare(box, "phone", BLOCKED4) == PROXY
        assert BLOCKED4 not in {it.dst for it in tap.seen}
        assert not {name for _, name in tap.asked()} & after


def test_another_program_as_the_engine_means_one_start(box: Box) -> None:
    """Of each resolver: whether that program listens is known before names are answered as it has it."""
    before = resolver_pids(box)
    with box.lab.socket("gateway", socket.AF_INET, socket.SOCK_STREAM) as program:
        program.bind(("0.0.0.0", 7895))
        program.listen()
        box.write(CONF, FOREIGN_ENGINE)
        box.sidegate("reload")
        wait_for_one(box, before)
        told = box.events().rpartition("the program at port 7895 listens")[2]
    assert told.count("resolver-relief: started") == told.count("resolver: started") == 1
    assert told.count("resolver answers DNS") == 1
