"""`sidegate lab` and `sidegate demo` as a user types them."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidegate.demo.result import Result
from sidegate.home import load_home, shipped_homes
from tests.kernel.lab_traces import assert_nothing_left, marked, traces, wait_until

pytestmark = pytest.mark.kernel

SIDEGATE = (sys.executable, "-m", "sidegate")
WITHIN_S = 150
"""For a command that takes seconds on a machine that has time."""


class Run:
    """`run("list")` is `sidegate lab list`, of a user who has no other labs than those in `runtime`."""

    def __init__(self, runtime: Path) -> None:
        self.env = os.environ | {"XDG_RUNTIME_DIR": str(runtime)}

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        env = self.env | options.pop("env", {})
        return subprocess.run(
            [*SIDEGATE, "lab", *words], capture_output=True, text=True, timeout=WITHIN_S, env=env, **options
        )

    def begin(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([*SIDEGATE, "lab", *words], stdout=subprocess.PIPE, env=self.env, text=True, **options)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    assert run("down", "--all").returncode == 0


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """With the lab `simple` up."""
    run = Run(tmp_path_factory.mktemp("runtime"))
    assert run("up", "simple").returncode == 0
    yield run
    assert run("down", "simple").returncode == 0


def pid_of(run: Run, name: str) -> int:
    (pid,) = (lab["pid"] for lab in json.loads(run("list", "--json").stdout)["labs"] if lab["name"] == name)
    return int(pid)


class TestUpAndDown:
    def test_a_lab_from_up_to_down(self, run: Run) -> None:
        up = run("up", "bypass")
        assert up.returncode == 0, up.stderr
        assert up.stdout.startswith("bypass is up: ")
        seen = traces(pid_of(run, "bypass"))
        assert "bypass" in run("list").stdout
        down = run("down", "bypass")
        assert (down.returncode, down.stdout) == (0, "bypass is gone.\n")
        assert_nothing_left(seen)
        assert run("list").stdout.startswith("no lab is up")
        assert run("down", "bypass").returncode == 2

    def test_json(self, run: Run) -> None:
        up = json.loads(run("up", "simple", "--name", "mine", "--json").stdout)
        assert (up["schema"], up["name"]) == (1, "mine")
        assert up["ms"] > 0
        listed = json.loads(run("list", "--json").stdout)
        lab = {"name": "mine", "home": "simple", "pid": up["pid"], "machines": up["machines"]}
        assert listed == {"schema": 1, "labs": [lab], "homes": list(shipped_homes())}
        assert json.loads(run("down", "--all", "--json").stdout) == {"schema": 1, "ended": ["mine"]}

    def test_several_at_once(self, run: Run) -> None:
        for name in ("one", "two"):
            assert run("up", "simple", "--name", name).returncode == 0
        assert run("exec", "one", "phone", "hostname").stdout == "phone\n"
        assert run("down", "one", "one", "two").stdout == "one is gone.\ntwo is gone.\n"

    def test_a_name_is_taken_and_the_first_lab_stays(self, run: Run) -> None:
        run("up", "simple")
        before = pid_of(run, "simple")
        second = run("up", "simple")
        assert (second.returncode, second.stdout) == (2, "")
        assert second.stderr == ("simple: a lab of this name is up\n    sidegate lab down simple, or give --name\n")
        assert pid_of(run, "simple") == before

    def test_a_name_that_is_none_leaves_nothing(self, run: Run) -> None:
        up = run("up", "simple", "--name", "../x")
        assert up.returncode == 2
        assert "cannot be the name of a lab" in up.stderr
        assert json.loads(run("list", "--json").stdout)["labs"] == []

    def test_one_unknown_name_and_nothing_is_ended(self, run: Run) -> None:
        run("up", "simple")
        down = run("down", "simple", "castle")
        assert (down.returncode, down.stdout) == (2, "")
        assert "labs that are up: simple" in down.stderr
        assert pid_of(run, "simple")

    def test_up_with_a_gateway_that_forwards(self, run: Run) -> None:
        assert run("up", "bypass", "--gateway", "forwarding").returncode == 0
        forward = run("exec", "bypass", "gateway", "cat", "/proc/sys/net/ipv4/ip_forward")
        assert forward.stdout == "1\n"

    def test_up_with_dhcp(self, run: Run) -> None:
        assert run("up", "simple", "--dhcp").returncode == 0
        assert "--dhcp-range" in run("exec", "simple", "router", "pgrep", "-a", "dnsmasq").stdout

    def test_proxies_are_shown_with_their_links(self, run: Run) -> None:
        up = run("up", "split", "--name", "mine")
        assert up.stdout.splitlines()[1] == "Its proxies: sidegate lab show mine"
        links = json.loads(run("show", "mine", "--json").stdout)["links"]
        shown = run("show", "mine").stdout
        assert list(links) == [f"proxy-{s}" for s in ("socks", "http-proxy", "shadowsocks", "vmess", "vless", "trojan")]
        assert shown.splitlines()[-6:] == [f"{name}: {link}" for name, link in links.items()]
        assert "It says, whatever DNS server is asked, that foreign.example is 123.100.96.66, 2a05:100::66." in shown

    def test_a_lab_without_proxies_is_shown(self, run: Run) -> None:
        run("up", "simple")
        assert run("show", "simple").stdout.endswith("\nThe ISP drops what is sent to 203.0.113.66.\n")

    def test_up_with_a_home_file(self, run: Run, tmp_path: Path) -> None:
        text = Path(sys.modules["sidegate"].__file__ or "").parent.joinpath("homes/simple.toml").read_text()
        (tmp_path / "mine.toml").write_text(text)
        assert run("up", "mine.toml", cwd=tmp_path).stdout.startswith("mine is up")
        assert run("exec", "mine", "phone", "hostname", cwd="/").stdout == "phone\n"

    def test_from_a_folder_that_is_gone(self, run: Run, tmp_path: Path) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        command = f'rmdir {gone}; exec "$@"'
        up = subprocess.run(
            ["sh", "-c", command, "sh", *SIDEGATE, "lab", "up", "simple"],
            cwd=gone,
            env=run.env,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
        )
        assert (up.returncode, up.stderr) == (0, "")
        assert run("exec", "simple", "phone", "pwd", cwd="/").stdout == "/\n"

    def test_with_no_standard_files_at_all(self, run: Run) -> None:
        command = 'exec "$@" <&- >&- 2>&-'
        up = subprocess.run(
            ["sh", "-c", command, "sh", *SIDEGATE, "lab", "up", "simple"], env=run.env, timeout=WITHIN_S
        )
        assert up.returncode == 0
        assert run("exec", "simple", "phone", "hostname").stdout == "phone\n"

    @pytest.mark.parametrize("wait_s", [0, 0.02, 0.05, 0.1, 0.2])
    def test_ctrl_c_ends_it_half_way(self, wait_s: float, run: Run, tmp_path: Path) -> None:
        """Whenever it comes: either there is a lab with a record, or there is nothing."""
        mark = f"{tmp_path}-{wait_s}"
        env = run.env | {"SIDEGATE_TEST_MARK": mark}
        command = [*SIDEGATE, "lab", "up", "velop-mesh", "--gateway", "forwarding"]
        with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, start_new_session=True) as up:
            wait_until(lambda: len(marked(mark)) > 1 or up.poll() is not None)
            time.sleep(wait_s)
            os.killpg(up.pid, signal.SIGINT)
            _, said = up.communicate(timeout=WITHIN_S)
        assert b"Traceback" not in said
        assert up.returncode in (0, 130)
        if up.returncode == 0:
            run("down", "velop-mesh")
        wait_until(lambda: not marked(mark), lambda: str(marked(mark)))
        assert json.loads(run("list", "--json").stdout)["labs"] == []

    def test_ctrl_c_as_it_tells_that_it_is_up_comes_too_late(self, run: Run) -> None:
        with run.begin("up", "simple", start_new_session=True) as up:
            assert up.stdout
            assert up.stdout.readline().startswith("simple is up")
            os.killpg(up.pid, signal.SIGINT)
            assert up.wait(WITHIN_S) == 0
        assert pid_of(run, "simple")

    def test_a_lab_that_was_killed_is_forgotten(self, run: Run) -> None:
        run("up", "simple")
        seen = traces(pid_of(run, "simple"))
        os.kill(pid_of(run, "simple"), signal.SIGKILL)
        assert_nothing_left(seen)
        assert run("down", "simple").returncode == 2
        assert run("up", "simple").returncode == 0


class TestExec:
    def test_input_output_and_exit_code_are_the_programs(self, at: Run) -> None:
        assert at("exec", "simple", "phone", "cat", input="hi\n").stdout == "hi\n"
        done = at("exec", "simple", "phone", "sh", "-c", "echo out; echo err >&2; exit 7")
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
        assert at("exec", "simple", "phone", "no-such-program").returncode == 127
        assert at("exec", "simple", "phone", "sh", "-c", "kill -9 $$").returncode == -signal.SIGKILL

    @pytest.mark.parametrize("option", ["--help", "-h", "--json", "--"])
    def test_options_are_the_programs(self, option: str, at: Run) -> None:
        assert at("exec", "simple", "phone", "printf", "%s", "x", option).stdout == f"x{option}"

    def test_two_dashes_may_come_before_the_program(self, at: Run) -> None:
        assert at("exec", "simple", "phone", "--", "printf", "%s", "x", "--").stdout == "x--"
        assert at("exec", "simple", "phone", "--").returncode == 2

    def test_an_unknown_machine_is_told(self, at: Run) -> None:
        for words in (("exec", "simple", "fone", "true"), ("capture", "simple", "fone"), ("shell", "simple", "fone")):
            done = at(*words)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr.startswith('simple: no machine "fone"\n    machines here: internet, router')

    def test_only_what_is_about_the_terminal_is_inherited(self, at: Run) -> None:
        env = {"TERM": "xterm-256color", "NOTIFY_SOCKET": "/run/x", "HOME": "/root", "SECRET": "x"}
        seen = dict(line.split("=", 1) for line in at("exec", "simple", "phone", "env", env=env).stdout.splitlines())
        assert seen.pop("TERM") == "xterm-256color"
        assert {"COLUMNS", "LINES", "TZ", "COLORTERM", "NO_COLOR", "PATH"} >= set(seen) - {
            "HOME",
            "LC_ALL",
            "STATE_DIRECTORY",
        }
        assert seen["HOME"] == "/run"

    def test_no_file_of_ours_is_open_in_the_program(self, at: Run) -> None:
        done = at("exec", "simple", "phone", "sh", "-c", "ls -l /proc/self/fd", stdin=subprocess.DEVNULL)
        files = [line.partition(" -> ")[2] for line in done.stdout.splitlines() if " -> " in line]
        assert len(files) == 4  # the three standard files, and the folder that ls reads
        assert [f.partition(":")[0] for f in files[:3]] == ["/dev/null", "pipe", "pipe"]

    def test_a_reader_that_has_enough_ends_the_program(self, at: Run) -> None:
        """Python ignores SIGPIPE; a program that inherited that would go on, and complain."""
        signals = at("exec", "simple", "phone", "grep", "SigIgn", "/proc/self/status").stdout
        assert int(signals.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0

    def test_sidegate_itself_runs_there(self, at: Run) -> None:
        done = at("exec", "simple", "phone", "sidegate", "--version")
        assert done.stdout.startswith("sidegate, version")


def test_a_shell_has_job_control_and_ctrl_c_reaches_only_its_job(at: Run) -> None:
    """On a terminal of its own, as a person would."""
    env = at.env | {"SHELL": "/bin/bash", "TERM": "dumb"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(sys.executable, [*SIDEGATE, "lab", "shell", "simple", "phone"], env)  # noqa: S606
    screen = Screen(terminal)
    screen.type("echo on $(hostname)\n")
    screen.wait_for("on phone\r\n")
    screen.type("sleep 1000\n")
    screen.wait_for("sleep 1000\r\n")
    wait_until(lambda: "sleep" in at("exec", "simple", "phone", "ps", "-o", "comm=", "-A").stdout)
    screen.type("\x03")
    screen.type("sleep 999 &\njobs; kill %1; exit 5\n")
    screen.wait_for("Running")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    assert code == 5
    assert "job control" not in screen.text
    assert "cannot" not in screen.text


class Screen:
    """What a terminal shows."""

    def __init__(self, fd: int) -> None:
        self.fd, self.text = fd, ""

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def wait_for(self, text: str) -> None:
        def shown() -> bool:
            if select.select([self.fd], [], [], 0.05)[0]:
                self.text += os.read(self.fd, 4096).decode(errors="replace")
            return text in self.text

        wait_until(shown, lambda: self.text)


class TestCapture:
    def test_frames_as_lines_and_as_a_file(self, at: Run, tmp_path: Path) -> None:
        path = tmp_path / "x.pcap"
        done = with_traffic(at, "capture", "simple", "phone", "eth0", "--count", "4", "--write", str(path))
        lines = done.stdout.splitlines()
        assert (done.returncode, len(lines)) == (0, 4)
        assert all("  eth0     " in line for line in lines)
        assert struct.unpack_from("=I", path.read_bytes()) == (0xA1B2C3D4,)

    def test_frames_as_json(self, at: Run) -> None:
        done = with_traffic(at, "capture", "simple", "phone", "--count", "3", "--json")
        frames = [json.loads(line) for line in done.stdout.splitlines()]
        assert [set(f) for f in frames] == [{"schema", "at_s", "interface", "is_outgoing", "text", "frame"}] * 3
        assert all(bytes.fromhex(f["frame"]) for f in frames)

    def test_ctrl_c_is_how_it_ends(self, at: Run) -> None:
        with at.begin("capture", "simple", "phone", stderr=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stderr
            while not select.select([process.stdout], [], [], 0)[0]:
                ask(at)
            process.send_signal(signal.SIGINT)
            assert (process.wait(WITHIN_S), process.stderr.read()) == (0, "")

    def test_what_cannot_be(self, at: Run) -> None:
        done = at("capture", "simple", "phone", "eth9")
        assert (done.returncode, done.stderr) == (2, 'phone: no interface "eth9"\n    interfaces here: lo, eth0\n')
        done = at("capture", "simple", "phone", "--write", "/no/such/folder/x.pcap")
        assert done.returncode == 2
        assert "cannot be written" in done.stderr


def ask(at: Run) -> None:
    """Makes the phone send something, for a moment."""
    at("exec", "simple", "phone", "bash", "-c", "for i in 1 2 3; do echo x >/dev/udp/192.168.1.1/7; sleep 0.1; done")


def with_traffic(at: Run, *words: str) -> subprocess.CompletedProcess[str]:
    """A command while the phone is never silent for long."""
    with at.begin(*words) as process:
        while process.poll() is None:
            ask(at)
        assert process.stdout
        return subprocess.CompletedProcess(words, process.returncode, process.stdout.read())


class TestCheck:
    def test_a_home_that_is_as_expected(self, run: Run) -> None:
        done = run("check", "bypass-removed")
        count = sum(len(e.v4) + len(e.v6) for e in load_home("bypass-removed").expect)
        assert done.returncode == 0
        assert done.stdout.splitlines()[-1] == f"{count} met, 0 not met"
        assert all(line.startswith("pass  gateway: ") for line in done.stdout.splitlines()[:-1])
        assert run("list").stdout.startswith("no lab is up")

    def test_a_home_that_is_not(self, run: Run, tmp_path: Path) -> None:
        source = Path(sys.modules["sidegate"].__file__ or "").parent / "homes/simple.toml"
        wrong = '[[expect]]\ngateway = "nothing"\nto = "server:81"\nv4 = { phone = "direct" }\nwhy = "a reason"\n'
        (tmp_path / "x.toml").write_text(source.read_text().partition("[[expect]]")[0] + wrong)
        done = run("check", str(tmp_path / "x.toml"))
        assert done.returncode == 1
        assert done.stdout == (
            "FAIL  gateway: nothing     phone -> server:81 (IPv4): dead, expected direct  [Connection refused]\n"
            "      a reason\n"
            "0 met, 1 not met\n"
        )
        told = json.loads(run("check", str(tmp_path / "x.toml"), "--json").stdout)
        assert (told["schema"], told["home"], told["met"]) == (1, "x", False)
        assert [(c["who"], c["expected"], c["found"]) for c in told["checks"]] == [("phone", "direct", "dead")]


def test_demo_from_end_to_end(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    command = [*SIDEGATE, "demo", "--report", str(report), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    result = msgspec.json.decode(done.stdout, type=Result)
    before, after = result.stages[0], result.stages[-1]
    assert {c.client for c in before.clients if c.v4 and not c.v4.ok} == {"desk-computer", "tablet", "phone"}
    assert all(c.v6 and c.v6.ok for c in before.clients)
    assert {c.client: c.v4.outcome for c in after.clients if c.v4} == {
        "my-computer": "direct",
        "nas": "direct",
        "desk-computer": "masqueraded",
        "tablet": "masqueraded",
        "phone": "masqueraded",
    }
    assert {p.client: p.verdict for p in result.probes} == {
        "my-computer": "direct",
        "nas": "direct",
        "desk-computer": "masquerade",
        "tablet": "masquerade",
        "phone": "masquerade",
    }
    assert all(p.evidence for p in result.probes)
    assert len(result.throughput) == 2
    assert result.split is not None
    assert result.split.client == "phone"
    assert [[v.outcome for v in scene.visits] for scene in result.split.scenes[:2]] == [
        ["straight", "lie", "dead"],
        ["straight", "proxied", "proxied"],
    ]
    assert result.split.ok
    text = report.read_text()
    assert text.lower().startswith("<!doctype html>")
    assert all(client.name in text for client in load_home("split").client)
    assert os.listdir(tmp_path) == ["report.html"]
