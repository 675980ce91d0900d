"""The power goes, at every moment: what the real commands did to the disk, cut anywhere, is something to start from.

Recorded once, in the lab, from every process that takes part. Then every tree that a cut may leave is started from: all
of them on a box of paper, some of them on the kernel.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.apply import undo
from sidegate.gateway.box.places import Places
from sidegate.gateway.change import history, pending, rollback
from sidegate.gateway.dhcp.leases import parse_leases, read_leases, recover
from sidegate.lab.lab import Lab
from sidegate.problems import Problems
from tests import powercut
from tests.gateway.test_apply import FRESH, PaperBox, desired, up
from tests.kernel.gateway_lab import wait_for
from tests.kernel.looking import look
from tests.kernel.test_dhcp import as_a_dhcp_client, get_lease, home, leases, mac
from tests.powercut.disk import Disk, Op, Tree, cuts, lay_out

pytestmark = pytest.mark.kernel

ROOT = "/run/state"
DHCP = '[dhcp]\nmode = "server"\n'
A, B, C = DHCP, f'{DHCP}[nat]\nmasquerade = "always"\n', f'{DHCP}[nat]\nmasquerade = "never"\n'
RECORDED = (
    "env",
    f"PYTHONPATH={Path(powercut.__file__).parent / 'site'}",
    f"POWERCUT_ROOT={ROOT}",
    "POWERCUT_LOG=/run/operations",
)
LATER = ("unshare", "--time", "--boottime", "100000")
MAY_BE_IN_FORCE: dict[str, set[str | None]] = {
    "up": {None, A},
    "lease": {A},
    "reload": {A, B},
    "confirm": {B},
    "rollback": {B},
    "down": {B},
    "up again": {B},
    "stop": {B},
}
"""After a cut in this phase; None: nothing was in force yet. What waits to be confirmed never is."""


class Recording(Struct):
    """What was done to the disk in which phase, and the lease that a client got."""

    ops: list[Op]
    lease: str

    @property
    def last(self) -> Tree:
        *_, (_, _, tree) = cuts(self.ops, ROOT)
        return tree

    def a_cut_in(self, phase: str, has: str) -> Tree:
        """The last one of the phase in which this file is there."""
        found = [tree for _, at, tree in cuts(self.ops, ROOT) if at == phase and f"{ROOT}/{has}" in tree]
        return found[-1]


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Made once, whichever worker comes first: it takes seconds."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with open(shared / "recording.json", "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_size == 0:
            file.write(msgspec.json.encode(record()))
        file.seek(0)
        return msgspec.json.decode(file.read(), type=Recording)


def record() -> Recording:
    with Lab.up(home()) as lab:
        as_a_dhcp_client(lab, "phone")
        begin_phase(lab, "up")
        recorded(lab, "up", A)
        begin_phase(lab, "lease")
        lease = get_phones_lease(lab)
        begin_phase(lab, "reload")
        recorded(lab, "up", B)
        begin_phase(lab, "confirm")
        recorded(lab, "up --confirm 600", C)
        begin_phase(lab, "rollback")
        recorded(lab, "status", None, LATER)
        for phase, words in (("down", "down"), ("up again", "up -c /run/sidegate.toml"), ("stop", "down")):
            begin_phase(lab, phase)
            recorded(lab, words, B if phase == "up again" else None)
        return Recording(operations(lab), lease)


def operations(lab: Lab) -> list[Op]:
    """Until now; of the line that is just being written nothing."""
    text = lab.run("gateway", "cat", "/run/operations").stdout
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def begin_phase(lab: Lab, name: str) -> None:
    line = json.dumps({"do": "phase", "path": name})
    lab.run("gateway", "sh", "-c", "cat >>/run/operations", text=f"{line}\n")


def recorded(lab: Lab, words: str, config: str | None, first: tuple[str, ...] = ()) -> None:
    """One command of Sidegate."""
    if config is not None:
        lab.run("gateway", "sh", "-c", "cat >/run/sidegate.toml", text=config)
        words += "" if "-c " in words else " -c /run/sidegate.toml"
    command = (*RECORDED, *first, sys.executable, "-m", "sidegate", *words.split())
    # `status` ends with 1 after a rollback, which is what it has to tell.
    lab.run("gateway", *command, check=words != "status")


def get_phones_lease(lab: Lab) -> str:
    lease = f"{mac(lab, 'phone')} {get_lease(lab, 'phone')[0]}"
    wait_for(lambda: "leases.copy" in lab.run("gateway", "ls", f"{ROOT}/dhcp").stdout)
    wait_for(lambda: lease in leases(lab, "leases.copy"))
    wait_for(lambda: is_safe(lab, lease))
    return lease


def is_safe(lab: Lab, lease: str) -> bool:
    """Whether the copy has it whatever is cut now: it is read by others before all is noted of it, and on the disk."""
    disk = Disk(ROOT)
    for op in operations(lab):
        disk.do(op)
    return all(lease in read_copy(tree) for tree in disk.trees())


@pytest.fixture
def next_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "boot_id", lambda: "the next boot")


def start(at: Places, file: Path) -> str | None:
    """As a start without a person does it (`become_daemon`), on a box of paper. What is in force then."""
    rollback.honour(at)
    waiting = pending.load(at.state)
    assert waiting is None or waiting.back_to is not None, "it was up before, so there is something to go back to"
    try:
        chosen = history.choose(file, at.state, by_person=False)
    except Problems:
        return None
    history.record(chosen, at.state)
    return chosen.text


def comes_and_goes(state: Path) -> None:
    box = PaperBox(FRESH)
    assert up(box, desired(), state).changes
    undo(box, state)
    assert (box.sysctls, box.table, journals.load(state)) == (FRESH, None, None)


@pytest.mark.usefixtures("next_boot")
def test_every_cut_is_something_to_start_from(recording: Recording, tmp_path: Path) -> None:
    seen = set[Any]()
    broken = tmp_path / "broken.toml"
    broken.write_text("[nat")
    for count, phase, tree in cuts(recording.ops, ROOT):
        if (phase, key := str(sorted(tree.items()))) in seen:
            continue
        seen.add((phase, key))
        at = Places(tmp_path / str(count) / str(len(seen)) / "state", tmp_path / "run")
        lay_out(tree, ROOT, at.state)
        held = read_copy(tree)
        in_force = start(at, broken)
        assert (count, phase, in_force in MAY_BE_IN_FORCE[phase]) == (count, phase, True), (in_force, tree)
        assert (count, held <= recovered(at.state)) == (count, True)
        assert phase == "up" or phase == "lease" or recording.lease in held
        comes_and_goes(at.state)
    assert {phase for phase, _ in seen} == set(MAY_BE_IN_FORCE), "each of them wrote something"
    assert len(seen) > 60


DAMAGES = (b"", b"{", bytes(200), b"\xff\xfe")


@pytest.mark.parametrize("damage", DAMAGES, ids=range(len(DAMAGES)))
@pytest.mark.usefixtures("next_boot")
def test_a_disk_that_lost_what_it_had_written_keeps_nobody_from_starting(
    recording: Recording, tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """As cheap memory cards do: any one file is damaged, or all of them are."""
    file = tmp_path / "sidegate.toml"
    file.write_text(B)
    names = ("journal.json", "pending.json", "config-history.json", "step-aside.json", "dhcp/leases.copy")
    last = recording.last
    for i, damaged in enumerate([*((name,) for name in names), names]):
        at = Places(tmp_path / str(i) / "state", tmp_path / "run")
        lay_out(last, ROOT, at.state)
        for name in damaged:
            (at.state / name).write_bytes(damage)
        rollback.honour(at)
        told = journals.set_damaged_aside(at.state)
        assert (told is not None) == ("journal.json" in damaged)
        assert ("It was set aside" in capsys.readouterr().err) == ("pending.json" in damaged)
        assert history.choose(file, at.state, by_person=False).text == B
        assert recovered(at.state) <= {recording.lease}
        comes_and_goes(at.state)


def read_copy(tree: Tree) -> set[str]:
    text, is_whole = parse_leases((tree.get(f"{ROOT}/dhcp/leases.copy") or b"").decode())
    assert is_whole
    return {f"{it.mac} {it.ip}" for it in text}


def recovered(state: Path) -> set[str]:
    """By all that dnsmasq may have left of its own file: nothing, a part of a line, zeros."""
    live, copy = state / "dhcp" / "leases", state / "dhcp" / "leases.copy"
    found = []
    for left in (b"", b"179536", bytes(300)):
        live.parent.mkdir(parents=True, exist_ok=True)
        live.write_bytes(left)
        recover(live, copy, 1.0)
        found.append({f"{it.mac} {it.ip}" for it in read_leases(live)})
    return set.intersection(*found)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.up(home()) as up:
        yield up


def power_on(lab: Lab, tree: Tree) -> subprocess.Popen[str]:
    """Files as they were left, another boot id, nothing of ours in the kernel; then as systemd starts it."""
    script = "echo next >/run/boot_id; mount --bind /run/boot_id /proc/sys/kernel/random/boot_id\n"
    for path, content in sorted(tree.items()):
        text = "" if content is None else base64.b64encode(content).decode()
        script += (
            f"mkdir -p {path}\n"
            if content is None
            else f"mkdir -p $(dirname {path}); echo {text} | base64 -d >{path}\n"
        )
    lab.run("gateway", "sh", "-c", "sh -s", text=script)
    return lab.start("gateway", sys.executable, "-m", "sidegate", "up", "-c", "/run/sidegate.toml", "--foreground")


def test_the_box_comes_back_with_leases_and_rules(recording: Recording, lab: Lab) -> None:
    """Cut while a change waited to be confirmed, and the file on the box is the one that nobody confirmed."""
    as_a_dhcp_client(lab, "phone")
    lab.run("gateway", "sh", "-c", "cat >/run/sidegate.toml", text=C)
    daemon = power_on(lab, recording.a_cut_in("confirm", "pending.json"))
    wait_for(lambda: (status(lab).get("dhcp") or {}).get("pid"))
    now = status(lab)
    assert (now["up"], now["masquerade"]) == (True, "always")
    assert recording.lease == f"{mac(lab, 'phone')} {get_lease(lab, 'phone')[0]}"
    assert "masquerade" in lab.run("gateway", "nft", "list", "table", "inet", "sidegate").stdout
    lab.run("gateway", sys.executable, "-m", "sidegate", "down", "--now")
    assert daemon.wait(60) == 0


def status(lab: Lab) -> dict[str, Any]:
    told = look(lab, "gateway", "status", "--json").stdout
    return dict(json.loads(told or "{}"))
