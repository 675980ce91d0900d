"""Labs come and go: several at once, and nothing is left of them however they end."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from sidegate.home import Home, load_home, load_router
from sidegate.lab.asking import http_get
from sidegate.lab.check import check
from sidegate.lab.lab import Lab
from sidegate.problems import Exit, Problems
from tests.kernel.lab_traces import (
    Traces,
    assert_nothing_left,
    assert_unchanged,
    left_of,
    marked,
    processes,
    spaces_of,
    surroundings,
    traces,
    wait_until,
)

pytestmark = pytest.mark.kernel

ROOT = os.geteuid() == 0
NOBODY = 65534
HOLD = """
import sys, time
from sidegate.home import load_home
from sidegate.lab.lab import Lab
with Lab.up(load_home(sys.argv[1])) as lab:
    print(lab.pid, flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def simple() -> Home:
    return load_home("simple")


def held(home: str, **options: object) -> subprocess.Popen[str]:
    """A process, leader of a session of its own, that builds a lab, tells its PID 1 and sleeps inside the `with`."""
    command = [sys.executable, "-c", HOLD, home]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, **options)  # type: ignore[call-overload,no-any-return]


class TestSideBySide:
    def test_two_of_the_same_home_do_not_meet_and_the_machine_keeps_its_network(self, simple: Home) -> None:
        before = surroundings()
        with Lab.up(simple, name="one") as one, Lab.up(simple, name="two") as two:
            assert not set(traces(one.pid).spaces) & set(traces(two.pid).spaces)
            one.run("router", "ip", "link", "set", "wan", "down")
            assert not one.call("phone", http_get, "1.2.3.4", 80, "/", 0.3).ok
            assert two.call("phone", http_get, "1.2.3.4").ok
            seen = traces(one.pid), traces(two.pid)
        for lab in seen:
            assert_nothing_left(lab)
        assert_unchanged(before)

    def test_ending_one_leaves_the_other(self, simple: Home) -> None:
        one, two = Lab.up(simple), Lab.up(simple)
        seen = traces(two.pid)
        one.down()
        one.down()
        assert two.call("phone", http_get, "1.2.3.4").ok
        two.down()
        assert_nothing_left(seen)


class TestNothingIsLeft:
    def test_after_down(self, simple: Home) -> None:
        lab = Lab.up(simple)
        seen = traces(lab.pid)
        lab.down()
        assert left_of(seen) == ""

    def test_after_an_exception(self, simple: Home) -> None:
        seen: list[Traces] = []

        def fail_inside() -> None:
            with Lab.up(simple) as lab:
                seen.append(traces(lab.pid))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_inside()
        assert_nothing_left(seen[0])

    def test_after_down_with_work_and_sockets_still_open(self, simple: Home) -> None:
        """Functions that run on a machine hold its network: they end with the lab."""
        with Lab.up(simple) as lab:
            waiting = lab.begin("phone", sleep_long)
            wait_until(lambda: str(os.readlink(f"/proc/{waiting.pid}/ns/net")) in traces(lab.pid).spaces)
            program = lab.start("phone", "sleep", "1000")
            seen = traces(lab.pid)
        assert program.wait(60) != 0
        assert_nothing_left(seen)
        with pytest.raises(RuntimeError, match="the lab is down"):
            waiting.result()

    @pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
    def test_after_a_signal_to_the_process_that_holds_it(self, end: signal.Signals) -> None:
        with held("simple", stderr=subprocess.DEVNULL) as process:
            assert process.stdout
            seen = traces(int(process.stdout.readline()))
            os.killpg(process.pid, end)
            process.wait()
        assert_nothing_left(seen)

    def test_after_kill_of_its_first_process(self, simple: Home) -> None:
        with Lab.up(simple) as lab:
            seen = traces(lab.pid)
            os.kill(lab.pid, signal.SIGKILL)
            assert_nothing_left(seen)

    def test_after_kill_of_a_process_with_work_on_a_machine(self) -> None:
        """The function would go on, and hold the machine's network, were it not tied to who asked."""
        script = HOLD.replace("    print", "    w = lab.begin('phone', long)\n    print")
        script = script.replace("with Lab", "def long() -> int:\n    time.sleep(1000)\n    return 1\nwith Lab")
        with subprocess.Popen([sys.executable, "-c", script, "simple"], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            seen = traces(int(process.stdout.readline()))
            process.kill()
        assert_nothing_left(seen)

    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
    @pytest.mark.parametrize("trial", range(6))
    def test_after_a_signal_while_it_is_built(self, end: signal.Signals, trial: int) -> None:
        """At a random point from the first process in other namespaces on."""
        mark = str(uuid.uuid4())
        with held("velop-mesh", env=os.environ | {"SIDEGATE_TEST_MARK": mark}, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: len(marked(mark)) > 1 or process.poll() is not None)
            time.sleep(random.uniform(0, 0.15))  # noqa: S311 - no secret
            elsewhere = frozenset[str]().union(*(spaces_of(p.pid) for p in marked(mark))) - spaces_of("self")
            inside = frozenset(p for p in processes() if spaces_of(p.pid) & elsewhere)
            os.killpg(process.pid, end)
            process.wait()
        assert_nothing_left(Traces(inside, frozenset(), elsewhere))
        wait_until(lambda: not marked(mark), lambda: str(marked(mark)))


def sleep_long() -> int:
    time.sleep(1000)
    return 1


RELEASE = """
import sys
from sidegate.home import load_home
from sidegate.lab.lab import Lab
lab = Lab.up(load_home("simple"))
print(lab.pid, flush=True)
lab.release()
"""


@contextmanager
def released(**options: object) -> Iterator[int]:
    """PID 1 of a lab whose builder has ended; ends it if the test did not."""
    with subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, "-c", RELEASE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    ) as process:
        said, _ = process.communicate(timeout=60)
    pid = int(said)
    handle = os.pidfd_open(pid)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)


def test_a_released_lab_outlives_its_process_until_it_is_told_to_end() -> None:
    with released() as pid:
        seen = traces(pid)
        assert len(seen.inside) > 6
        os.kill(pid, signal.SIGTERM)
        assert_nothing_left(seen)


def test_a_released_lab_keeps_nothing_of_its_builder() -> None:
    """A process of the lab that kept the caller's pipe open would hang whoever reads it."""
    folder_fd = os.open("/usr", os.O_RDONLY)
    with released(stderr=subprocess.STDOUT, pass_fds=[folder_fd], cwd="/usr") as pid:
        kept = {member: files_of(member.pid) for member in traces(pid).inside}
        assert sum(map(bool, kept.values())) > 6
        for files in kept.values():
            assert "/usr" not in files
            assert not files & {os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)} - {"/dev/null"}
    os.close(folder_fd)


def files_of(pid: int) -> set[str]:
    """What a process holds open, and its folder; nothing of one that helped to build and ends meanwhile."""
    with suppress(FileNotFoundError, ProcessLookupError):
        folder = f"/proc/{pid}/fd"
        return {os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)} | {os.readlink(f"/proc/{pid}/cwd")}
    return set()


def as_nobody(work: Callable[[], None]) -> None:
    """Runs it in a child without any privilege. What Python imports late must be imported before."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            # As after an exec: else /proc/PID/uid_map of its children belongs to root (proc_pid(5)).
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
            work()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_without_root_a_home_is_built_and_shows_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sidegate` itself is not started, and files are read before: nobody may do so where they are in root's home."""
    home = load_home("velop-mesh")
    router = load_router(home.router.profile)
    monkeypatch.setattr("sidegate.lab.lab.load_router", lambda _: router)

    def work() -> None:
        with Lab.up(home) as lab:
            assert lab.run("phone", "id", "-u").stdout == "0\n"
            lab.run("gateway", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
            assert lab.call("nas", http_get, "1.2.3.4").detail == "internet"
            assert not lab.call("phone", http_get, "1.2.3.4", 80, "/", 0.5).ok
            seen = traces(lab.pid)
        assert_nothing_left(seen)

    if not ROOT:
        work()
        return
    http_get("localhost", 9)
    with Lab.up(home):
        pass
    as_nobody(work)


_ON_A_GATEWAY = """
import os, subprocess, sys
from pathlib import Path
from sidegate.home import load_home
from sidegate.lab.lab import Lab

def run(*command):
    subprocess.run(command, check=True)

run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
os.makedirs("/mnt/upper/sidegate"), os.makedirs("/mnt/work")
Path("/mnt/upper/sidegate/sidegate.toml").write_text("its own")
run("mount", "-t", "overlay", "overlay", "-o", "lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work", "/etc")
with Lab.up(load_home("simple")) as lab:
    print(lab.run("computer", "sh", "-c", "ls -A /etc/sidegate; touch /etc/sidegate/new").stdout, end="")
print(os.listdir("/etc/sidegate"))
"""


def test_a_box_that_is_a_gateway_lends_no_lab_its_configuration() -> None:
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", _ON_A_GATEWAY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("['sidegate.toml']\n", 0), done.stderr


def test_without_a_user_namespace_root_builds_and_others_are_told(simple: Home) -> None:
    if not ROOT:
        with pytest.raises(Problems, match="no namespaces: Operation not permitted") as caught:
            Lab.up(simple, user_namespace=False)
        assert caught.value.exit_code == Exit.MISSING
        return
    before = surroundings()
    with Lab.up(simple, user_namespace=False) as lab:
        assert all(c.is_met for c in check(lab))
        assert os.readlink(f"/proc/{lab.pid}/ns/user") == os.readlink("/proc/self/ns/user")
        assert lab.run("phone", "cat", "/etc/resolv.conf").stdout == "nameserver 192.168.1.1\n"
        seen = traces(lab.pid)
    assert_nothing_left(seen)
    assert_unchanged(before)
