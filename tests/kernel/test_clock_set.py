"""The wall clock is set under a real dnsmasq and the daemon: nobody loses an address, and nobody gets another's.

All namespaces share one wall clock. A file says how far off the gateway's is: libfaketime tells dnsmasq so. Python's
`time.sleep` fails under it (clock_nanosleep(2) with TIMER_ABSTIME), so there `time.time` reads that file itself.
"""

from __future__ import annotations

import functools
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidegate.lab.lab import Lab
from tests.kernel.gateway_lab import wait_for
from tests.kernel.test_confirm import status
from tests.kernel.test_dhcp import CLIENTS, UDHCPC, as_a_dhcp_client, get_lease, home, leases, mac
from tests.kernel.test_real_clients import UNPACKED

pytestmark = pytest.mark.kernel

DAY_S, LEASE_S, OFF = 86400, 1800, "/run/clock"
CONFIG = f'[dhcp]\nmode = "server"\nlease_s = {LEASE_S}\n'
HOLDERS = CLIENTS[:2]
STARTED = f"""\
#!/bin/sh
export FAKETIME_TIMESTAMP_FILE={OFF} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1
LD_PRELOAD={{library}} exec /run/real-dnsmasq "$@"
"""
"""Children are started without what the daemon's environment says: so this stands in dnsmasq's place."""
SITE = f"""\
import time
_true = time.time
time.time = lambda: _true() + float(open("{OFF}").read())
"""


def library() -> str:
    """Its path; skips the test where it is not there."""
    places = [*(UNPACKED / "usr/lib").glob("*/faketime"), *Path("/usr/lib").glob("*/faketime")]
    found = [it for place in places if (it := place / "libfaketime.so.1").exists()]
    if not found:
        pytest.skip("not installed: libfaketime")
    return shlex.quote(str(found[0]))


@pytest.fixture
def lab() -> Iterator[Lab]:
    started = STARTED.format(library=library())
    with Lab.up(home()) as lab:
        for client in CLIENTS:
            as_a_dhcp_client(lab, client)
        lab.run("gateway", "sh", "-ec", "cat >/run/sidegate.toml", text=CONFIG)
        lab.run("gateway", "sh", "-ec", "cat >/run/dnsmasq; chmod +x /run/dnsmasq", text=started)
        lab.run("gateway", "sh", "-ec", "mkdir /run/site; cat >/run/site/sitecustomize.py", text=SITE)
        there = "$(PATH=$PATH:/usr/sbin command -v dnsmasq)"
        lab.run("gateway", "sh", "-ec", f"cp {there} /run/real-dnsmasq; mount --bind /run/dnsmasq {there}")
        yield lab


def set_clock(lab: Lab, off_s: int) -> None:
    """From now on it is so far off the truth."""
    lab.run("gateway", "sh", "-ec", f"echo {off_s:+d} >{OFF}.new; mv {OFF}.new {OFF}")


def up(lab: Lab) -> None:
    by_that_clock = ("env", "PYTHONPATH=/run/site", sys.executable, "-m", "sidegate")
    done = lab.run("gateway", *by_that_clock, "up", "--config", "/run/sidegate.toml", check=False)
    assert done.returncode == 0, done.stderr


def server(lab: Lab) -> int | None:
    """The process of ours, where one runs."""
    return status(lab)["dhcp"]["pid"]  # type: ignore[no-any-return]


def has_noticed(lab: Lab, times: int, before: int | None) -> bool:
    """Whether it was noticed so often that the clock was set, and another process serves instead of the one before."""
    now = status(lab)
    noticed = sum("the clock was set by" in event["what"] for event in now["events"])
    return noticed == times and now["dhcp"]["pid"] not in (None, before) and not now["faults"]


def stranger(lab: Lab, number: int, wants: str) -> str:
    """The address of a device that was never there, and asks for one that somebody has."""
    asks = f"rm -f /run/got; {UDHCPC} -t 30 -T 1 -C -x 0x3d:0102030405{number:02x} -r {wants}; cat /run/got"
    return lab.run("tablet", "sh", "-ec", asks).stdout.split()[0]


def test_everybody_keeps_the_address_and_nobody_gets_anothers(lab: Lab) -> None:
    """A box that knew the time wakes up in 1970, hears the time, and then has it set two days on, and back."""
    held = {client: f"192.168.1.{n}" for n, client in enumerate(HOLDERS, 150)}
    lines = {f"{mac(lab, client)} {ip}" for client, ip in held.items()}
    text = "".join(f"{round(time.time()) + LEASE_S} {line} * *\n" for line in lines)
    lab.run("gateway", "sh", "-ec", "mkdir -p /run/state/dhcp; cat >/run/state/dhcp/leases", text=text)
    set_clock(lab, 600 - round(time.time()))
    up(lab)
    for number, off_s in enumerate([None, 0, 2 * DAY_S, -2 * DAY_S]):
        if off_s is not None:
            before = server(lab)
            set_clock(lab, off_s)
            wait_for(functools.partial(has_noticed, lab, number, before))
        # dnsmasq writes its file in place: whoever reads it meanwhile finds less
        wait_for(lambda: lines <= leases(lab))
        assert stranger(lab, number, wants=held["phone"]) not in held.values(), off_s
        assert {client: get_lease(lab, client)[0] for client in HOLDERS} == held, off_s
    wait_for(lambda: lines <= leases(lab, "leases.copy"))
