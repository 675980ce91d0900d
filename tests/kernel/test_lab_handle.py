"""What one can do with a lab that is up, and what `Lab.up` says where it cannot build one."""

from __future__ import annotations

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from sidegate.home import Home, Medium, load_home
from sidegate.lab import lab as lab_module
from sidegate.lab import machine
from sidegate.lab.asking import http_get
from sidegate.lab.blueprint import Blueprint, Rules, blueprint
from sidegate.lab.capture import capture
from sidegate.lab.carriers import interfaces_that_carry
from sidegate.lab.check import set_gateway
from sidegate.lab.lab import Lab
from sidegate.packet import Arp
from sidegate.problems import Exit, Problems
from tests.kernel.lab_traces import processes, wait_until

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(load_home("simple")) as up:
        yield up


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """No process of this block is left, nor an open file in this process."""
    comm = Path("/proc/self/comm")
    before, name = comm.read_text(), f"t-{uuid.uuid4().hex[:12]}"
    gc.collect()  # what earlier tests left open in cycles is not to be closed in between
    files = set(os.listdir("/proc/self/fd"))
    comm.write_text(name)  # every child forked from here has it too (prctl(2), PR_SET_NAME)
    try:
        yield
    finally:
        comm.write_text(before)

    def left() -> list[int]:
        return [p.pid for p in processes() if comm_of(p.pid) == name]

    wait_until(lambda: not left(), lambda: str(left()))
    assert set(os.listdir("/proc/self/fd")) <= files


def comm_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


class TestErrors:
    def test_up_and_down_leave_nothing_either(self) -> None:
        with leaving_nothing(), Lab.up(load_home("simple")) as lab:
            assert comm_of(lab.pid) == comm_of(os.getpid())

    @pytest.mark.parametrize(
        ("missing", "where"), [("dnsmasq", ["internet: dnsmasq", "router: dnsmasq"]), ("ip", ["ip"])]
    )
    def test_a_missing_program(
        self, missing: str, where: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for program in {"ip", "nft", "tc", "dnsmasq"} - {missing}:
            (tmp_path / program).symlink_to(str(shutil.which(program, path=machine._ENVIRONMENT["PATH"])))
        monkeypatch.setitem(machine._ENVIRONMENT, "PATH", str(tmp_path))
        with leaving_nothing(), pytest.raises(Problems) as caught:
            Lab.up(load_home("simple"))
        assert [p.where for p in caught.value.problems] == where
        assert {(p.what, p.remedy) for p in caught.value.problems} == {("this program is missing", "make setup")}
        assert caught.value.exit_code == Exit.MISSING

    def test_a_ruleset_that_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lab_module, "blueprint", with_rules("router", Rules(("nft", "-f", "-"), "add nonsense\n")))
        with leaving_nothing(), pytest.raises(Problems) as caught:
            Lab.up(load_home("simple"))
        (problem,) = caught.value.problems
        assert (problem.where, problem.exit_code) == ("router: nft -f -", Exit.FAULT)
        assert "syntax error" in problem.what
        assert "add nonsense" in problem.what

    def test_a_program_that_fails_without_a_word(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lab_module, "blueprint", with_rules("phone", Rules(("false",), "")))
        with leaving_nothing(), pytest.raises(Problems, match=r"^phone: false: exit 1$"):
            Lab.up(load_home("simple"))

    def test_a_kernel_without_br_netfilter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only a router that filters its bridge needs it."""
        exists = Path.exists
        monkeypatch.setattr(Path, "exists", lambda path: "net/bridge" not in str(path) and exists(path))
        with leaving_nothing(), pytest.raises(Problems, match="br_netfilter is not loaded") as caught:
            Lab.up(load_home("velop-mesh"))
        problems = caught.value.problems
        assert [p.where for p in problems] == ["net/bridge/bridge-nf-call-iptables"]
        assert problems[0].remedy.startswith("sudo modprobe br_netfilter")
        assert caught.value.exit_code == Exit.MISSING
        with Lab.up(load_home("simple")) as lab:
            assert lab.call("phone", http_get, "1.2.3.4").ok

    @pytest.mark.parametrize("program", ["nsenter", "setpriv"])
    def test_a_missing_way_in(self, lab: Lab, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for other in {"nsenter", "setpriv"} - {program}:
            (tmp_path / other).symlink_to(str(shutil.which(other)))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(Problems, match=f"{program}: this program is missing") as caught:
            lab.run("phone", "true")
        assert caught.value.exit_code == Exit.MISSING


def with_rules(machine: str, rules: Rules) -> object:
    """A `blueprint` that gives one machine these rules."""

    def drawn(home: Home, *args: object, **options: object) -> Blueprint:
        plan = blueprint(home, *args, **options)  # type: ignore[arg-type]
        machines = (msgspec.structs.replace(m, rules=(rules,)) if m.name == machine else m for m in plan.machines)
        return msgspec.structs.replace(plan, machines=tuple(machines))

    return drawn


def in_namespace(setting: str, *command: str) -> subprocess.CompletedProcess[str]:
    """`sidegate` where a shell script has changed the surroundings, in namespaces of its own."""
    script = f'set -e; {setting}; exec "$@"'
    argv = ["unshare", "-Urm", "sh", "-c", script, "sh", sys.executable, "-m", "sidegate", *command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


class TestSurroundings:
    def test_a_kernel_that_gives_no_user_namespaces(self) -> None:
        done = in_namespace("echo 0 >/proc/sys/user/max_user_namespaces", "lab", "check", "simple")
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("lab: no namespaces: unshare: No space left on device\n    run it as root")
        assert "user.max_user_namespaces" in done.stderr

    def test_a_container_that_covers_proc(self) -> None:
        """As Docker does: nobody inside may mount another /proc then (fs/namespace.c, mnt_already_visible)."""
        done = in_namespace("mount --bind /dev/null /proc/version", "lab", "check", "simple")
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("lab: mount /proc: Operation not permitted\n    in a container")

    @pytest.mark.parametrize(
        "state",
        ["true", "touch resolv.conf", "ln -s /run/no/such/file resolv.conf", "ln -s /nowhere resolv.conf"],
        ids=["absent", "empty", "link into run", "dangling link"],
    )
    def test_any_resolv_conf(self, state: str) -> None:
        """Laid over /etc, so that the machine keeps its own."""
        folder = "mkdir /tmp/x/u /tmp/x/w"
        covered = "mount -t overlay overlay -o lowerdir=/etc,upperdir=/tmp/x/u,workdir=/tmp/x/w /etc"
        setting = (
            f"mkdir -p /tmp/x; mount -t tmpfs none /tmp/x; {folder}; {covered}; cd /etc; rm -f resolv.conf; {state}"
        )
        script = (
            "from sidegate.home import load_home; from sidegate.lab.lab import Lab\n"
            "with Lab.up(load_home('simple')) as lab: print(lab.run('phone', 'cat', '/etc/resolv.conf').stdout)"
        )
        command = [
            "unshare",
            "-Urm",
            "sh",
            "-c",
            f'set -e; {setting}; cd /; exec "$@"',
            "sh",
            sys.executable,
            "-c",
            script,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr) == ("nameserver 192.168.1.1\n\n", "")


class TestHandle:
    def test_run(self, lab: Lab) -> None:
        assert lab.run("phone", "cat", text="hello").stdout == "hello"
        assert lab.run("phone", "sh", "-c", "exit 9", check=False).returncode == 9
        with pytest.raises(subprocess.CalledProcessError):
            lab.run("phone", "false")

    def test_an_unknown_machine_is_told_with_those_there_are(self, lab: Lab) -> None:
        for act in (lambda: lab.run("fone", "true"), lambda: lab.call("fone", http_get, "1.2.3.4")):
            with pytest.raises(Problems, match='no machine "fone"') as caught:
                act()
            assert "phone, tablet" in caught.value.problems[0].remedy

    def test_a_program_ends_with_its_handle(self, lab: Lab) -> None:
        with lab.start("phone", "sh", "-c", "echo $$; exec sleep 1000", stdout=subprocess.PIPE) as program:
            assert program.stdout
            inside = program.stdout.readline().strip()
            program.terminate()
        wait_until(lambda: lab.run("phone", "test", "-e", f"/proc/{inside}", check=False).returncode != 0)

    def test_a_machine_sees_the_lab_and_no_other_process(self, lab: Lab) -> None:
        ids = {int(name) for name in lab.run("phone", "ls", "/proc").stdout.split() if name.isdigit()}
        assert {1, lab.holder("phone").inside} <= ids
        assert len(ids) < 30
        assert lab.run("phone", "ls", "/run").stdout.split() == ["lab", "lock"]

    def test_a_call_gives_data_back(self, lab: Lab) -> None:
        assert lab.call("phone", interfaces) == ["lo", "eth0"]
        assert lab.call("router", sum_of, [1, 2], 3) == 6

    def test_a_call_that_fails_tells_where(self, lab: Lab) -> None:
        with pytest.raises(RuntimeError, match="ValueError: as told") as caught:
            lab.call("phone", failing)
        assert "in failing" in str(caught.value)

    def test_a_call_that_ends_without_a_word(self, lab: Lab) -> None:
        with pytest.raises(RuntimeError, match="without a word"):
            lab.call("phone", vanishing)

    def test_a_call_that_exits_or_returns_what_cannot_be_told(self, lab: Lab) -> None:
        with pytest.raises(RuntimeError, match="SystemExit"):
            lab.call("phone", leaving)
        with pytest.raises(RuntimeError, match="cannot encode object"):
            lab.call("phone", telling_the_untellable)

    def test_calls_run_at_once_and_a_result_is_there_once(self, lab: Lab) -> None:
        waiting = [lab.begin("phone", sum_of, [i], 1) for i in range(5)]
        assert [w.result() for w in reversed(waiting)] == [5, 4, 3, 2, 1]
        with pytest.raises(RuntimeError, match="fetched already"):
            waiting[0].result()

    def test_a_call_can_be_stopped(self, lab: Lab) -> None:
        waiting = lab.begin("phone", waiting_for_ever)
        waiting.stop()
        with pytest.raises(RuntimeError, match="without a word"):
            waiting.result()

    def test_a_socket_lives_on_its_machine_and_not_in_programs(self, lab: Lab) -> None:
        with lab.socket("phone", socket.AF_INET, socket.SOCK_STREAM) as asker:
            assert not os.get_inheritable(asker.fileno())
            asker.settimeout(15)
            asker.connect(("192.168.1.1", 80))
            assert asker.getsockname()[0] == str(lab.home.client_named("phone").v4)

    def test_a_socket_that_cannot_be_made(self, lab: Lab) -> None:
        with pytest.raises(RuntimeError, match="OSError"):
            lab.socket("phone", socket.AF_INET, 99)

    def test_capture_hears_what_passes(self, lab: Lab) -> None:
        asking = lab.begin("phone", asking_for_ever, "192.168.1.1")
        heard = []
        for one in capture(lab, "phone", "eth0"):
            heard.append(one)
            # The router may ask too, whether the phone is still there, and be answered.
            if isinstance(one.frame.body, Arp) and one.frame.body.reply and not one.is_outgoing and len(heard) > 1:
                break
        asking.abandon()
        assert {one.interface for one in heard} == {"eth0"}
        assert {one.is_outgoing for one in heard} == {True, False}

    def test_capture_refuses_an_interface_that_is_not_there(self, lab: Lab) -> None:
        with pytest.raises(Problems, match='phone: no interface "eth1"'):
            next(capture(lab, "phone", "eth1"))


@pytest.mark.parametrize("name", ["velop-mesh", "bypass-removed"])
def test_every_wire_carries_from_the_start(name: str) -> None:
    with Lab.up(load_home(name)) as lab:
        links = {m: json.loads(lab.run(m, "ip", "-json", "link").stdout) for m in lab.machines}
    wanted = {m: set(interfaces_that_carry(lab.plan, m)) for m in lab.machines}
    assert {m: {it["ifname"] for it in found if it["operstate"] == "UP"} for m, found in links.items()} == wanted


class TestRoaming:
    def test_a_client_that_moves_keeps_its_address_and_changes_its_fate(self) -> None:
        with Lab.up(load_home("velop-mesh")) as lab:
            set_gateway(lab, "forwarding")
            places: tuple[tuple[str, Medium, str | None, bool], ...] = (
                ("study", "wifi", None, False),
                ("router", "wire", None, True),
                ("router", "wifi", "radio0", False),
                ("study", "wire", None, False),
                ("router", "wire", None, True),
            )
            for at, by, radio, reaches in places:
                lab.move("nas", at, by, radio)
                wait_until(lambda: lab.call("nas", http_get, "192.168.1.1", 80, "/", 0.5).ok)
                answer = lab.call("nas", http_get, "1.2.3.4", 80, "/", 15.0 if reaches else 0.5)
                assert (at, by, answer.ok) == (at, by, reaches)

    def test_who_and_where_must_be_known(self, lab: Lab) -> None:
        with pytest.raises(Problems, match='no client "router"'):
            lab.move("router", "router", "wire")
        with pytest.raises(Problems, match='no box "attic"') as caught:
            lab.move("phone", "attic", "wire")
        assert caught.value.problems[0].remedy == "boxes here: router"
        with pytest.raises(Problems, match='nobody uses "radio1" of "router"') as caught:
            lab.move("phone", "router", "wifi", "radio1")
        assert caught.value.problems[0].remedy == "used there: chip, radio0"


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def sum_of(numbers: list[int], more: int) -> int:
    return sum(numbers) + more


def failing() -> int:
    raise ValueError("as told")


def vanishing() -> int:
    os._exit(0)


def leaving() -> int:
    sys.exit(0)


def telling_the_untellable() -> object:
    return object()


def waiting_for_ever() -> int:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).recv(1)
    return 0


def asking_for_ever(address: str) -> int:
    """For a page, and each time first where that address is: who listens to it may begin late."""
    while True:
        subprocess.run(["ip", "neigh", "flush", "all"], env=machine.main_environment(), check=True)
        http_get(address)
        time.sleep(0.02)
