"""Kernel tests run on a real Linux kernel in namespaces of their own; here is decided whether this machine can.

A machine that lacks something skips every kernel test with the name of what it lacks. With SIDEGATE_REQUIRE_KERNEL=1,
as in CI, that is a failure instead, and so is any other skip below this directory.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.kernel.gateway_lab import Box

REQUIRED = os.environ.get("SIDEGATE_REQUIRE_KERNEL") == "1"


class Feature(NamedTuple):
    """trial: a shell command that succeeds where the feature works; remedy: what the person can do."""

    name: str
    trial: str
    remedy: str


_MODULE = "load it as root: modprobe {}; where modprobe finds no such module, take a kernel that has it"
FEATURES = (
    Feature("veth", "ip link add v0 type veth peer name v1", _MODULE.format("veth")),
    Feature("bridge", "ip link add name b0 type bridge && ip link set v0 master b0", _MODULE.format("bridge")),
    Feature(
        "br_netfilter",
        "echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables",
        _MODULE.format("br_netfilter") + ". Loaded, it filters this machine's own bridges too: "
        "sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 turns that off",
    ),
    Feature(
        "nft",
        "nft 'add table inet t; add chain inet t c { type nat hook postrouting priority 100; };"
        " add rule inet t c masquerade'",
        _MODULE.format("nft_masq") + "; the program comes with: make setup",
    ),
    Feature("tbf", "tc qdisc add dev v1 root tbf rate 10mbit burst 32k latency 50ms", _MODULE.format("sch_tbf")),
)


def _in_namespaces(script: str) -> subprocess.CompletedProcess[str]:
    """A shell script in new user, network and mount namespaces: it cannot touch the machine's own network."""
    command = ["unshare", "-Urnm", "sh", "-c", script]
    with_sbin = os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    return subprocess.run(command, capture_output=True, text=True, env=with_sbin, timeout=60)


def _sysctl(name: str) -> str:
    path = Path("/proc/sys", name)
    return path.read_text().strip() if path.exists() else ""


def why_no_namespaces(error: str) -> str:
    """What keeps user namespaces from working, and the remedy.

    error: what `unshare` printed. The sysctls: Ubuntu 23.10 and later let an unprivileged process make a user
    namespace, but without any capability in it (AppArmor); Debian's kernel.unprivileged_userns_clone and the kernel's
    user.max_user_namespaces (user_namespaces(7)) forbid making one.
    """
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0:
        return (
            "AppArmor gives an unprivileged user's namespaces no capabilities; "
            "run with sudo, or as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    for name, forbids in (("kernel/unprivileged_userns_clone", "0"), ("user/max_user_namespaces", "0")):
        if _sysctl(name) == forbids and (os.geteuid() != 0 or name.startswith("user/")):
            return f"{name.replace('/', '.')} is {forbids}; set it as root with sysctl"
    return f"{error.strip() or 'unshare failed'}; in a container, allow user namespaces (seccomp, CAP_SYS_ADMIN)"


@functools.cache
def missing_feature() -> str:
    """The first feature that this machine lacks, with the kernel's words and the remedy; empty if it lacks none."""
    try:
        # Capabilities in the namespaces are what AppArmor takes away, and only using them shows it.
        trial = _in_namespaces("ip link set lo up")
    except FileNotFoundError:
        return "user namespaces: the program unshare is missing; run: make setup"
    if trial.returncode != 0:
        return f"user namespaces: {why_no_namespaces(trial.stderr)}"
    # One child for all: a later feature uses the links of an earlier one.
    steps = [f"{{ {f.trial}; }} || {{ echo {i}; exit 1; }}" for i, f in enumerate(FEATURES)]
    trial = _in_namespaces("\n".join(steps))
    if trial.returncode == 0:
        return ""
    feature = FEATURES[int(trial.stdout)]
    return f"{feature.name}: {' '.join(trial.stderr.split())}; {feature.remedy}"


@pytest.fixture(scope="module")
def lab_box(request: pytest.FixtureRequest) -> Iterator[Box]:
    """The gateway of the home that the module calls HOME; nothing is started yet."""
    # This file is also used by itself, with none of the others beside it (tests/test_machinery.py).
    from tests.kernel.gateway_lab import gateway_in

    with gateway_in(request.module.HOME) as box:
        yield box


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture of a kernel test; pytest calls this only for items below this directory."""
    if lack := missing_feature():
        pytest.skip(f"this machine lacks {lack}")


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if REQUIRED and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"SIDEGATE_REQUIRE_KERNEL=1, but the test was skipped. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip by a marker, a fixture or the test itself; and what happened in the labs of a test that failed."""
    report = yield
    _refuse_skip(report)
    if report.when == "call" and report.failed:
        report.sections += _told_by_labs(item)
    return report


def _told_by_labs(item: pytest.Item) -> list[tuple[str, str]]:
    """Of those that a fixture made, which are still there."""
    fixtures = getattr(item, "funcargs", {})
    found = {name: getattr(it, "lab", it) for name, it in fixtures.items()}
    labs = {id(lab): (name, lab) for name, lab in found.items() if hasattr(lab, "holder")}
    if not labs:
        return []
    from tests.kernel.gateway_lab import happened

    return [(f"what happened on the gateway of {name}", happened(lab)) for name, lab in labs.values()]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A skip of a whole file."""
    report = yield
    _refuse_skip(report)
    return report
