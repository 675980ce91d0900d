"""Bad input and bad surroundings through the command line: a clear message, exit code 2 or 3, and nothing changed.

The messages are golden files: the lab's addresses are fixed. One lab serves all of them, since nothing may change.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest
from msgspec import Struct

from tests.conftest import Golden
from tests.kernel.gateway_lab import Box, gateway_in, mesh_home, run_failed

pytestmark = pytest.mark.kernel


class Bad(Struct, frozen=True):
    """config: text of a configuration file. before, after: scripts on a machine. prefix: what runs the command."""

    config: str | None = None
    before: str = ""
    after: str = ""
    on: str = "gateway"
    prefix: tuple[str, ...] = ()
    words: tuple[str, ...] = ("up",)


def _without(*programs: str) -> tuple[str, ...]:
    """In a mount namespace where these are no programs any more."""
    hide = "; ".join(f"for p in $(which -a {p}); do mount --bind /dev/null $p; done" for p in programs)
    return ("unshare", "--mount", "sh", "-ec", f'{hide}; exec "$@"', "sh")


UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
NO_ROUTE = "ip -4 route del default"
ROUTE = "ip -4 route replace default via 192.168.1.1"
PORT_DOWN = "ip link set eth0 down"
PORT_UP = f"ip link set eth0 up; {ROUTE}; ip -6 addr replace 2001:db8:1:1::2/64 dev eth0 nodad"
FULL = "mkdir -p /run/full; mount -t tmpfs -o size=4k tmpfs /run/full; head -c 9999 /dev/zero >/run/full/x || true"

BAD = {
    "unknown-key": Bad('[nat]\nmasquerad = "always"\n'),
    "unknown-table": Bad('[proxi]\nupstream = "x"\n'),
    "wrong-type": Bad("[network]\ninterface = 7\n"),
    "wrong-choice": Bad('[nat]\nmasquerade = "sometimes"\n'),
    "bad-address": Bad('[network]\nrouter = "192.168.1.300"\n'),
    "two-errors": Bad('[network]\nrouter = 5\n\n[[client]]\nmac = "aa:bb:cc"\n'),
    "no-toml": Bad("[nat\n"),
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


CASES = [(name, False) for name in BAD] + [(name, True) for name, bad in BAD.items() if bad.words == ("up",)]


@pytest.mark.parametrize(("name", "foreground"), CASES, ids=lambda x: {True: "foreground", False: ""}.get(x, x))
def test_clear_message_and_nothing_changed(box: Box, golden: Golden, name: str, foreground: bool) -> None:
    bad = BAD[name]
    box.shell(bad.before or "true", bad.on)
    try:
        words = bad.words
        if bad.config is not None:
            words = (*words, "--config", box.write("/run/sidegate.toml", bad.config))
        before = box.state()
        done = box.sidegate(*words, *(("--foreground",) if foreground else ()), prefix=bad.prefix, check=False)
        after = box.state()
        journal = box.shell("cat /run/state/journal.json 2>/dev/null || true")
    finally:
        box.shell(bad.after or "true", bad.on)
    golden(f"gateway/input/{name}.txt", run_failed(done))
    assert done.returncode in (2, 3)
    assert after == before
    assert journal in ("", "{\n")
    assert box.status()["daemon"] is False
