"""What names teach the kernel while rules change their order: never to another rule's set."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidegate.gateway.split.policy import Destination
from sidegate.lab.resolving import labels
from tests.kernel.gateway_lab import Box, gateway_in, wait_for
from tests.kernel.split_home import CONF, DOMESTIC, DOMESTIC4, FOREIGN, FOREIGN4, HOME, LIE, OURS, conf

pytestmark = pytest.mark.kernel

FIRST, SECOND = "foreign.example", "domestic.example"
ITS_OWN = {FIRST: {FOREIGN4, LIE}, SECOND: {DOMESTIC4}}
"""A lie is learned where the engine could not be asked for a while: it is the name's own all the same."""


@pytest.fixture
def box() -> Iterator[Box]:
    with gateway_in(HOME) as box:
        yield box
        box.sidegate("down", "--now")


def ordered(box: Box, first: str, second: str) -> str:
    rule = f'domain = ["{first}"]\nprotocol = "tcp"\nsend = "proxy"\n[[rule]]\ndomain = ["{second}"]'
    return conf(box, "socks", rule=rule)


def ask_both(end: str) -> int:
    """Asks for both names every few milliseconds; how many answers there were. Runs at a client.

    end: a file; once it is there, more than 150 questions are enough.
    """
    asked = heard = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect((OURS, 53))
        asker.settimeout(0.2)
        while asked <= 150 or not os.path.exists(end):
            for name in (FOREIGN, DOMESTIC):
                asked += 1
                asker.send(struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels(name) + b"\0\1\0\1")
                try:
                    heard += bool(asker.recv(512))
                except OSError:
                    continue
            time.sleep(0.005)
    return heard


def learned(box: Box, domain: str) -> set[str]:
    """The addresses in both sets of a rule for this domain."""
    found: set[str] = set()
    for kind in ("names", "kept"):
        name = f"{kind}_{Destination(suffixes=(domain,)).names_key}_4"
        text = box.shell(f"nft -j list set inet sidegate {name}")
        told = next(o["set"] for o in json.loads(text)["nftables"] if "set" in o)
        found |= {e["elem"]["val"] for e in told.get("elem", ())}
    return found


def test_each_rule_learns_its_own_names_while_they_change_places(box: Box, tmp_path: Path) -> None:
    end = tmp_path / "end"
    box.write(CONF, ordered(box, FIRST, SECOND))
    box.up("--config", CONF)
    asker = box.lab.begin("phone", ask_both, str(end))
    for order in ((SECOND, FIRST), (FIRST, SECOND), (SECOND, FIRST)):
        box.write(CONF, ordered(box, *order))
        box.sidegate("reload")
        for domain, own in ITS_OWN.items():
            wait_for(lambda domain=domain: learned(box, domain))  # type: ignore[misc]
            assert learned(box, domain) <= own
    end.touch()
    assert asker.result() > 100
    assert {domain: learned(box, domain) <= own for domain, own in ITS_OWN.items()} == dict.fromkeys(ITS_OWN, True)
    box.sidegate("down", "--now")
    assert box.shell("find /run/sidegate -path '*resolver*'") == ""
