"""The installed program at its place in /opt, and the mounts that systemd makes for the service."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from sidegate import __version__
from sidegate.install import layout
from tests.install.test_program import BASE_PYTHON, from_here
from tests.install.trees import DEBIAN, bare_tree

pytestmark = pytest.mark.kernel


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """A shell in user, mount and network namespaces of its own."""
    arguments = ["unshare", "--user", "--map-root-user", "--mount", "--net", "sh", "-euc", script]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60)


def test_it_runs_at_its_place(tmp_path: Path) -> None:
    """Its first line and its compiled files name /opt/sidegate, where it is only once it is mounted there."""
    assert "opt" in DEBIAN
    disk = bare_tree(tmp_path / "root")
    assert from_here("install", "--root", str(disk.root), "--python", str(BASE_PYTHON)).returncode == 0
    script = f"mount --bind {shlex.quote(str(disk.at('/opt')))} /opt\n{layout.CURRENT}/bin/sidegate --version"
    done = in_namespace(script)
    assert (done.stdout, done.stderr) == (f"sidegate, version {__version__}\n", "")


def test_below_a_read_only_proc_sys_the_network_can_be_written() -> None:
    """ProtectKernelTunables=yes with ReadWritePaths=/proc/sys/net, as systemd's namespace.c mounts it: the inner path
    is a mount of its own, which stays writable when the outer one becomes read-only."""
    done = in_namespace(
        """
        mount --bind /proc/sys /proc/sys
        mount --bind /proc/sys/net /proc/sys/net
        mount -o remount,bind,ro /proc/sys
        echo 1 >/proc/sys/net/ipv4/conf/lo/forwarding
        cat /proc/sys/net/ipv4/conf/lo/forwarding
        # a setting that belongs to this user namespace, as the network's do
        tee /proc/sys/user/max_uts_namespaces </proc/sys/user/max_uts_namespaces >/dev/null || true
        """
    )
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
    assert "Read-only file system" in done.stderr
