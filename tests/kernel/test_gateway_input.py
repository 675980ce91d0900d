"""Bad input and bad surroundings through the command line: a clear message, an exit code, and nothing changed.

The messages are golden files: the lab's addresses are fixed. One lab serves all of them, since nothing may change. The
exit code is 2 or 3; 78 for a configuration that cannot be used where a service manager starts us, which is to give up.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Generator

import pytest
from msgspec import Struct

from sidegate.problems import Exit
from tests.conftest import Golden
from tests.kernel.gateway_lab import Box, gateway_in, mesh_home, run_failed, wait_for

pytestmark = pytest.mark.kernel


class Bad(Struct, frozen=True):
    """config: text of a configuration file. before, after: scripts on a machine. prefix: what runs the command.

    by_service: the exit code where a service manager starts us; None: as for a person.
    """

    config: str | None = None
    before: str = ""
    after: str = ""
    on: str = "gateway"
    prefix: tuple[str, ...] = ()
    words: tuple[str, ...] = ("up",)
    by_service: Exit | None = None


def _unusable(config: str) -> Bad:
    """To try it again would not mend it."""
    return Bad(config, by_service=Exit.SETTINGS)


def _without(*programs: str) -> tuple[str, ...]:
    """In a mount namespace where these are no programs any more."""
    hide = "; ".join(f"for p in $(which -a {p}); do mount --bind /dev/null $p; done" for p in programs)
    return ("unshare", "--mount", "sh", "-ec", f'{hide}; exec "$@"', "sh")


UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
NO_ROUTE = "ip -4 route del default"
ROUTE = "ip -4 route replace default via 192.168.1.1"
PORT_DOWN = "ip link set eth0 down"
PORT_UP = f"ip link set eth0 up; {ROUTE}; ip -6 addr replace 2001:db8:1:1::2/64 dev eth0 nodad"
ROUTER_ANSWERS = "until busybox arping -q -f -c 1 -w 1 -I eth0 192.168.1.1 >/dev/null; do :; done"
"""Of a port that is up again a work queue has to let frames pass (net/core/link_watch.c)."""
FULL = "mkdir -p /run/full; mount -t tmpfs -o size=4k tmpfs /run/full; head -c 9999 /dev/zero >/run/full/x || true"

BAD = {
    "unknown-key": _unusable('[nat]\nmasquerad = "always"\n'),
    "unknown-table": _unusable('[prob]\nupstream = "x"\n'),
    "wrong-type": _unusable("[network]\ninterface = 7\n"),
    "wrong-choice": _unusable('[nat]\nmasquerade = "sometimes"\n'),
    "bad-address": _unusable('[network]\nrouter = "192.168.1.300"\n'),
    "two-errors": _unusable('[network]\nrouter = 5\n\n[[client]]\nmac = "aa:bb:cc"\n'),
    "no-toml": _unusable("[nat\n"),
    "router-outside": Bad('[network]\nrouter = "10.0.0.1"\n'),
    "router-outside-its-interface": Bad('[network]\ninterface = "eth0"\nrouter = "10.0.0.1"\n'),
    "router-is-this-box": Bad('[network]\nrouter = "192.168.1.2"\n'),
    "router-absent": Bad('[network]\nrouter = "192.168.1.77"\n'),
    "router-down": Bad(before="ip link set br-lan down", after="ip link set br-lan up", on="router"),
    "interface-missing": Bad('[network]\ninterface = "eth9"\n'),
    "interface-not-ethernet": Bad('[network]\ninterface = "lo"\n'),
    "interface-down": Bad(before=PORT_DOWN, after=PORT_UP),
    "interface-down-and-named": Bad('[network]\ninterface = "eth0"\n', PORT_DOWN, PORT_UP),
    "no-default-route": Bad(before=NO_ROUTE, after=ROUTE),
    "nft-missing": Bad(prefix=_without("nft")),
    "nft-and-ip-missing": Bad(prefix=_without("nft", "ip")),
    "no-privilege": Bad(prefix=UNPRIVILEGED),
    "no-privilege-and-no-nft": Bad(prefix=(*_without("nft"), *UNPRIVILEGED)),
    "no-privilege-status": Bad(prefix=UNPRIVILEGED, words=("status",)),
    "no-privilege-clients": Bad(prefix=UNPRIVILEGED, words=("clients",)),
    "foreign-table": Bad(before="nft add table inet sidegate", after="nft delete table inet sidegate"),
    "full-disk": Bad(before=FULL, after="umount /run/full", prefix=("env", "STATE_DIRECTORY=/run/full/state")),
    "full-runtime": Bad(before=FULL, after="umount /run/full", prefix=("env", "RUNTIME_DIRECTORY=/run/full/run")),
    "damaged-journal": Bad(before="mkdir -p /run/state; echo '{' >/run/state/journal.json", after="rm -r /run/state"),
    "config-missing": Bad(words=("up", "--config", "/run/nothing.toml")),
    "config-is-a-directory": Bad(words=("up", "--config", "/run")),
    "config-is-binary": Bad(before=r"printf '\377\376' >/run/b.toml", words=("up", "--config", "/run/b.toml")),
}


@pytest.fixture(scope="module")
def box() -> Generator[Box]:
    with gateway_in(mesh_home()) as made:
        made.shell("mkdir -p /run/sidegate")
        yield made


GOES_ON = {"damaged-journal"}
"""What keeps no start from being done that nobody attends."""
READ_ALIKE = {"unknown-key", "unknown-table", "wrong-type", "bad-address", "no-toml"}
SEEN_ALIKE = {"router-outside", "router-outside-its-interface", "router-down", "interface-not-ethernet"}
"""What differs for nobody who starts us from others that are here: one reader reads the file, one look sees the box."""
UP = [n for n, bad in BAD.items() if bad.words == ("up",) and n not in GOES_ON | READ_ALIKE | SEEN_ALIKE]
CASES = [(name, False) for name in BAD] + [(name, True) for name in UP]


@pytest.mark.parametrize(("name", "foreground"), CASES, ids=lambda x: {True: "foreground", False: ""}.get(x, x))
def test_clear_message_and_nothing_changed(box: Box, golden: Golden, name: str, foreground: bool) -> None:
    bad = BAD[name]
    if bad.before:
        box.shell(bad.before, bad.on)
    try:
        words = bad.words
        if bad.config is not None:
            words = (*words, "--config", box.write("/run/sidegate.toml", bad.config))
        before = box.state()
        done = box.sidegate(*words, *(("--foreground",) if foreground else ()), prefix=bad.prefix, check=False)
        after = box.state()
        journal = box.shell("cat /run/state/journal.json 2>/dev/null || true")
    finally:
        if bad.after:
            box.shell(bad.after, bad.on)
            box.shell(ROUTER_ANSWERS)
    said = run_failed(done)
    if foreground and bad.by_service is not None:
        assert done.returncode == bad.by_service
        said = re.sub(r"\Aexit \d+", f"exit {int(Exit.USAGE)}", said)
    golden(f"gateway/input/{name}.txt", said)
    assert after == before
    assert journal in ("", "{\n")
    assert box.status()["daemon"] is False


def test_damaged_journal_is_set_aside_where_nobody_attends(box: Box) -> None:
    """Unless something is in the kernel of which it may speak."""
    up = ("up", "--foreground")
    box.shell("mkdir -p /run/state; echo '{' >/run/state/journal.json; nft add table inet sidegate")
    refused = box.sidegate(*up, check=False)
    assert (refused.returncode, "the journal is damaged: " in refused.stderr) == (2, True)
    box.shell("nft delete table inet sidegate; test \"$(cat /run/state/journal.json)\" = '{'")
    service = box.lab.start("gateway", sys.executable, "-m", "sidegate", *up)
    try:
        aside = wait_for(lambda: box.shell("cat /run/state/journal.json.damaged 2>/dev/null || true"))
        assert aside == "{\n"
        wait_for(lambda: box.status()["daemon"])
        assert box.status()["up"]
    finally:
        box.sidegate("down", "--now")
        assert service.wait(60) == 0
        box.shell("rm -r /run/state")  # what worked once would be used where a file is broken
