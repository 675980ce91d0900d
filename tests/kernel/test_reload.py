"""Another configuration under a running gateway: what it does not change is not touched."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sidegate.home import load_home
from sidegate.lab.asking import http_get
from sidegate.lab.lab import Lab
from tests.kernel.gateway_lab import PATIENCE_S, told, wait_for
from tests.kernel.test_confirm import box, set_config, status, up

pytestmark = pytest.mark.kernel

ALWAYS = '[nat]\nmasquerade = "always"\n'


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.up(load_home("bypass")) as lab:
        set_config(lab, "")
        yield lab


def clients(lab: Lab) -> dict[str, Any]:
    return {c["ip"]: c for c in told(lab, "clients")["clients"]}


def client_of(lab: Lab) -> tuple[str, str, str]:
    """Name, address and MAC address of a client that uses the gateway."""
    client = next(c for c in lab.home.client if c.gateway == "gateway")
    mac = next(w.near.mac for w in lab.plan.wires if w.near.machine == client.name)
    return client.name, str(client.v4), mac


def rule_handles(lab: Lab) -> str:
    return lab.run("gateway", "nft", "-a", "list", "table", "inet", "sidegate").stdout


def prove(lab: Lab) -> tuple[str, str, str]:
    name, ip, mac = client_of(lab)
    up(lab)
    assert lab.call(name, http_get, "1.2.3.4", 80, "/", PATIENCE_S).ok
    wait_for(lambda: clients(lab).get(ip, {}).get("path") == "direct")
    return name, ip, mac


def proof_left_s(lab: Lab, ip: str) -> float:
    return float(clients(lab)[ip]["proof_left_s"] or 0)


def test_unchanged_file_changes_nothing(lab: Lab) -> None:
    up(lab)
    before = rule_handles(lab)
    said = box(lab, "reload", "--json").stdout
    assert (json.loads(said)["changes"], rule_handles(lab)) == ([], before)
    set_config(lab, '[[client]]\nmac = "02:00:00:00:00:99"\nname = "tv"\n')
    assert json.loads(up(lab, "--json").stdout)["changes"] == []
    assert rule_handles(lab) == before


def test_proofs_and_counters_outlive_a_change_of_the_rules(lab: Lab) -> None:
    _, ip, _ = prove(lab)
    counted = clients(lab)[ip]["up_packets"]
    lapses_s = time.monotonic() + proof_left_s(lab, ip)
    set_config(lab, '[[client]]\nmac = "02:00:00:00:00:99"\nmasquerade = "never"\n')
    assert [c["what"] for c in json.loads(up(lab, "--json").stdout)["changes"]] == ["nft table inet sidegate"]
    assert "02:00:00:00:00:99" in rule_handles(lab)
    now = clients(lab)[ip]
    assert (now["path"], now["up_packets"] >= counted > 0) == ("direct", True)
    left_s = proof_left_s(lab, ip)
    assert time.monotonic() + left_s > lapses_s - 2, "but for what whole seconds leave out"


def test_client_whose_setting_changed_follows_it(lab: Lab) -> None:
    _, ip, mac = prove(lab)
    for setting, path in (("always", "masqueraded"), ("never", "direct"), ("auto", "direct")):
        set_config(lab, f'[[client]]\nmac = "{mac}"\nmasquerade = "{setting}"\n')
        assert up(lab).returncode == 0
        wait_for(lambda path=path: clients(lab)[ip]["path"] == path)  # type: ignore[misc]
    assert clients(lab)[ip]["probe"] is None
    wait_for(lambda: clients(lab)[ip]["proof_left_s"] is not None)


def test_broken_file_is_refused_and_what_runs_goes_on(lab: Lab) -> None:
    up(lab)
    before = rule_handles(lab)
    set_config(lab, "[nat]\nmasquerade = 7\nfoo = 1\n")
    refused = up(lab)
    assert (refused.returncode, "nat.masquerade" in refused.stderr, "nat.foo" in refused.stderr) == (2, True, True)
    assert "nat.masquerade" in box(lab, "reload").stderr
    assert (rule_handles(lab), status(lab)["faults"]) == (before, [])


def test_signal_reloads(lab: Lab) -> None:
    up(lab)
    pid = str(status(lab)["pid"])
    set_config(lab, ALWAYS)
    lab.run("gateway", "kill", "-HUP", pid)
    wait_for(lambda: status(lab)["masquerade"] == "always")
    set_config(lab, "nonsense")
    lab.run("gateway", "kill", "-HUP", pid)
    wait_for(lambda: any("not a TOML file" in f for f in status(lab)["faults"]))
    assert status(lab)["masquerade"] == "always"


def test_broken_file_at_boot_is_replaced_by_the_last_good_one(lab: Lab) -> None:
    set_config(lab, ALWAYS)
    up(lab)
    box(lab, "down")
    set_config(lab, "nonsense")
    assert up(lab).returncode == 2
    foreground = lab.start(
        "gateway", sys.executable, "-m", "sidegate", "up", "-c", "/run/etc/sidegate.toml", "--foreground"
    )
    wait_for(lambda: status(lab)["daemon"])
    found = status(lab)
    assert (found["masquerade"], box(lab, "status").returncode) == ("always", 1)
    assert [f for f in found["faults"] if "not a TOML file" in f]
    assert "version 1 of" in found["faults"][-1]
    box(lab, "down")
    assert foreground.wait(60) == 0


def test_config_commands(lab: Lab) -> None:
    file = "/run/etc/sidegate.toml"
    assert "nothing in force" not in box(lab, "config", "history").stdout
    assert "sysctl net/ipv4/conf/eth0/forwarding=1\n        clients send" in box(lab, "config", "diff", file).stdout
    up(lab)
    assert box(lab, "config", "diff", file).stdout == "settings: as in force\nthis box: nothing to change\n"
    set_config(lab, ALWAYS)
    before = rule_handles(lab)
    said = box(lab, "config", "diff", file).stdout
    assert 'nat.masquerade: "auto" -> "always"' in said
    assert "nft table inet sidegate: chain upstream" in said
    assert "masquerades every client" in said
    assert rule_handles(lab) == before
    up(lab)
    assert [v["number"] for v in json.loads(box(lab, "config", "history", "--json").stdout)["versions"]] == [1, 2]
    assert box(lab, "config", "history", "2").stdout == ALWAYS
    lab.run("gateway", "chmod", "640", file)
    assert box(lab, "config", "restore", "1").returncode == 0
    assert lab.run("gateway", "cat", file).stdout == ""
    assert lab.run("gateway", "stat", "-c", "%a", file).stdout == "640\n"
    assert (box(lab, "reload").returncode, status(lab)["masquerade"]) == (0, "auto")
    assert box(lab, "config", "restore", "9").returncode == 2
    set_config(lab, "[nat]\nfoo = 1\n")
    assert box(lab, "config", "check", file).returncode == 2
    assert box(lab, "config", "check", "/run/none").returncode == 2


def test_open_connection_outlives_changes(lab: Lab) -> None:
    """It began masqueraded or direct; the rules around it come and go."""
    name, _, _ = prove(lab)
    with Download(lab, name) as stream:
        for text in (ALWAYS, "", '[nat]\nmasquerade = "never"\n', ""):
            set_config(lab, text)
            assert up(lab).returncode == 0
            before = stream.reads
            wait_for(lambda before=before: stream.reads > before + 20)  # type: ignore[misc]


class Download:
    """One that goes on; it ends for good where nothing comes for 15 s."""

    def __init__(self, lab: Lab, who: str) -> None:
        self.reads = 0
        self._socket = lab.socket(who, socket.AF_INET, socket.SOCK_STREAM)
        self._socket.settimeout(15)
        self._socket.connect(("1.2.3.4", 80))
        self._socket.sendall(f"GET /bytes/{10**12} HTTP/1.1\r\nHost: lab\r\n\r\n".encode())
        self._is_over = threading.Event()
        self._reader = threading.Thread(target=self._read)

    def _read(self) -> None:
        while not self._is_over.wait(0.005) and self._socket.recv(1 << 16):
            self.reads += 1

    def __enter__(self) -> Download:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._reader.join()
        self._socket.close()
