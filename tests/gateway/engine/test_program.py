"""What the engine's process allows itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sidegate.gateway.engine import program
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.program import leave_to_xray, most_files, on_ipv4_alone
from sidegate.gateway.engine.xray import Engine, xray_config
from sidegate.gateway.split.policy import Policy


@pytest.mark.parametrize(("mib", "files"), [(256, 6144), (1024, 24576), (8192, 65536)])
def test_files_are_as_many_as_the_memory_holds(mib: int, files: int) -> None:
    assert most_files(f"MemTotal: {1024 * mib:>15} kB\nMemFree: 1 kB\n") == files


def test_on_a_kernel_without_ipv6_nobody_listens_there() -> None:
    config = xray_config(Engine(Policy(), (upstream_of_link("socks5://192.0.2.1:1080", ""),)))
    listeners = [*config["inbounds"], *config["relayed"]]
    before = [it["listen"] for it in listeners]
    on_ipv4_alone(config)
    assert before.count("::") == 3
    assert [it["listen"] for it in listeners] == [it.replace("::", "0.0.0.0") for it in before]


def test_what_xray_refuses_is_not_led_to_by_the_relay_either() -> None:
    links = ("socks5://192.0.2.1:1080#one", "http://192.0.2.2:3128#two")
    upstreams = tuple(upstream_of_link(link, "") for link in links)
    config = xray_config(Engine(Policy(), upstreams))
    leave_to_xray(config, 0)
    networks = {it["tag"]: it["settings"].get("network") for it in config["inbounds"]}
    assert (networks["decided-0"], networks["decided-1"]) == ("tcp,udp", "udp")
    assert [it["name"] for it in config["relayed"]] == ["two"]


def test_modules_are_in_reach_where_their_path_is_not(tmp_path: Path) -> None:
    """A path that is gone stands for one that leads through a directory of mode 0700: root would go through that."""
    home = tmp_path / "home"
    (home / "lib").mkdir(parents=True)
    (home / "lib" / "treasure.py").write_text("print('found')")
    told = (
        f"import os, sys; from {program.__name__} import keep_modules_in_reach; sys.path.append({str(home / 'lib')!r})"
    )
    told += f"; keep_modules_in_reach(); os.rename({str(home)!r}, {str(tmp_path / 'gone')!r}); import treasure, wave"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("found\n", "")


def test_a_thread_of_ours_that_fails_ends_the_process_which_is_started_again() -> None:
    """Else Xray would go on, and what the thread does be lost without a word."""
    told = f"import signal, threading; from {program.__name__} import _lead"
    told += "; threading.Thread(target=_lead, args=(lambda: 1 / 0,), daemon=True).start(); signal.pause()"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
