"""`apply` and `undo` on a box of paper: every state from every other, and failures anywhere.

tests/kernel/test_gateway_apply.py and test_gateway_killed.py ask the same of the kernel.
"""

from __future__ import annotations

import contextlib
import copy
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.apply import Box, Changes, Report, apply, undo
from sidegate.gateway.box.facts import Facts
from sidegate.gateway.box.journal import ChildStep
from sidegate.gateway.desired import Accept, Desired, PolicyRoute, Sysctl
from sidegate.problems import Problem, Problems
from tests.gateway.test_decide import facts


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of journals would wait minutes for a disk that others use too; what is on it is asked elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class PaperBox:
    """Holds what a kernel would hold and notes what it was told. fails_at: the number of the change it refuses."""

    def __init__(self, sysctls: dict[str, str], fails_at: int = 0) -> None:
        self.sysctls = dict(sysctls)
        self.table: str | None = None
        self.accepts: list[str] = []
        self.routes: dict[str, tuple[bool, bool]] = {}
        self.told: list[str] = []
        self.fails_at = fails_at

    def state(self) -> Any:
        return copy.deepcopy((self.sysctls, self.table, self.accepts, self.routes))

    def _tell(self, line: str) -> None:
        if len(self.told) + 1 == self.fails_at:
            self.fails_at = 0
            raise Problems(Problem("box", "refused"))
        self.told.append(line)

    def read_sysctl(self, path: str) -> str | None:
        return self.sysctls.get(path)

    def write_sysctl(self, path: str, value: str) -> None:
        self._tell(f"{path}={value}")
        self.sysctls[path] = value

    def list_table(self) -> str | None:
        return self.table

    def check(self, text: str) -> None:
        if "nonsense" in text:
            raise Problems(Problem("nft", "nonsense"))

    def nft(self, text: str) -> None:
        self._tell(f"nft {text.strip()}")
        self.table = None if text.startswith("delete") else f"listing of {text}"

    def has_accept(self, accept: Accept) -> bool:
        return accept.place in self.accepts

    def insert_accept(self, accept: Accept) -> None:
        self._tell(f"insert {accept.place}")
        self.accepts.append(accept.place)

    def has_parts(self, route: PolicyRoute) -> tuple[bool, bool]:
        return self.routes.get(route.place, (False, False))

    def add_route(self, route: PolicyRoute) -> None:
        """Killed in the midst of it, the rule is missing."""
        self._tell(f"route {route.family}")
        self.routes[route.place] = (False, True)
        self._tell(f"rule {route.family}")
        self.routes[route.place] = (True, True)

    def delete_route(self, route: PolicyRoute) -> None:
        self._tell(f"delete route {route.family}")
        del self.routes[route.place]

    def delete_rule(self, route: PolicyRoute) -> None:
        self._tell(f"delete rule {route.family}")
        self.routes[route.place] = (False, True)

    def end_child(self, child: ChildStep) -> bool:
        self._tell(f"end {child.name}")
        return True

    def delete_accept(self, accept: Accept) -> None:
        self._tell(f"delete {accept.place}")
        self.accepts.remove(accept.place)


PATHS = ("all/send_redirects", "eth0/send_redirects", "eth0/rp_filter", "eth0/forwarding", "eth1/forwarding")
FRESH = dict(zip(PATHS, ("1", "1", "1", "0", "0"), strict=True))


def accept(chain: str) -> Accept:
    return Accept("nft", "ip", "filter", chain, "eth0", "its policy is drop")


def route(family: Literal[4, 6]) -> PolicyRoute:
    return PolicyRoute(family, 0x5D000000, 0xFF000000, 5093, "why")


def desired(
    ruleset: str = "table", chains: tuple[str, ...] = (), families: tuple[Literal[4, 6], ...] = (), **values: str
) -> Desired:
    wanted = {p: values.get(p, "0" if "redirects" in p else "1") for p in ("all/send_redirects", "eth0/forwarding")}
    items = tuple(Sysctl(p, v, "why") for p, v in wanted.items())
    return Desired(items, tuple(map(accept, chains)), ruleset, "why", routes=tuple(map(route, families)))


def seen(box: PaperBox) -> Facts:
    return msgspec.structs.replace(facts(), table=box.table, boot_id=journals.boot_id())


def up(box: PaperBox, wanted: Desired, state_dir: Path) -> Changes:
    return apply(wanted, seen(box), box, state_dir)


def test_paper_box_is_a_box() -> None:
    box: Box = PaperBox({})
    assert box.list_table() is None


def test_order_of_the_steps(tmp_path: Path) -> None:
    box = PaperBox(FRESH)
    changes = up(box, desired(chains=("FORWARD",), families=(4,)), tmp_path)
    assert box.told == [
        "all/send_redirects=0",
        "insert nft ip filter FORWARD",
        "route 4",
        "rule 4",
        "nft table",
        "eth0/forwarding=1",
    ]
    assert [c.why for c in changes.changes] == ["why", "its policy is drop", "why", "why", "why"]
    box.told.clear()
    assert undo(box, tmp_path) == Report(
        restored=(
            "sysctl eth0/forwarding=0",
            "nft table inet sidegate removed",
            "ipv4 rule 5093: fwmark 0x5d000000/0xff000000 lookup 5093 removed",
            "accept in nft ip filter FORWARD removed",
            "sysctl all/send_redirects=1",
        )
    )
    assert box.told == [
        "eth0/forwarding=0",
        "nft delete table inet sidegate",
        "delete route 4",
        "delete nft ip filter FORWARD",
        "all/send_redirects=1",
    ]


def test_values_before_are_never_overwritten(tmp_path: Path) -> None:
    """A second `up` after somebody took the first one's work back."""
    box = PaperBox(FRESH)
    up(box, desired(), tmp_path)
    box.sysctls["eth0/forwarding"] = "7"
    up(box, desired(), tmp_path)
    undo(box, tmp_path)
    assert box.sysctls == FRESH


def test_verdict_after_undo_is_looked_up(tmp_path: Path) -> None:
    class Stubborn(PaperBox):
        def write_sysctl(self, path: str, value: str) -> None:
            if path != "eth0/forwarding" or value == "1":
                super().write_sysctl(path, value)

    box = Stubborn(FRESH)
    up(box, desired(), tmp_path)
    with pytest.raises(Problems, match="eth0/forwarding: still 1, it was 0 before"):
        undo(box, tmp_path)
    assert journals.load(tmp_path) is not None
    assert box.table is None


def test_setting_that_is_not_there_is_told_before_anything_is_done(tmp_path: Path) -> None:
    box = PaperBox({"all/send_redirects": "1"})
    with pytest.raises(Problems, match="eth0/forwarding: no such setting"):
        up(box, desired(), tmp_path)
    assert (box.told, list(tmp_path.iterdir())) == ([], [])


EVERYWHERE, OTHERS = "6/all/forwarding", ("6/default/forwarding", "6/eth0/forwarding", "6/eth1/forwarding")


class OldKernel(PaperBox):
    """Before Linux 6.17: IPv6 forwarding of `all` sets that of every interface (`addrconf.c` addrconf_forward_change).

    dies_at: the number of the write before which the power goes.
    """

    def __init__(self, values: tuple[str, ...], dies_at: int = 0) -> None:
        super().__init__(FRESH | {EVERYWHERE: "0"} | dict(zip(OTHERS, values, strict=True)))
        self.dies_at = dies_at

    def write_sysctl(self, path: str, value: str) -> None:
        self.dies_at -= 1
        if self.dies_at == 0:
            raise KeyboardInterrupt
        super().write_sysctl(path, value)
        if path == EVERYWHERE:
            self.sysctls |= dict.fromkeys(OTHERS, value)


FORWARDS6 = Desired(
    (Sysctl(EVERYWHERE, "1", "why", OTHERS), Sysctl("6/eth0/forwarding", "1", "why")), (), "table", "why"
)
VALUES = st.tuples(*[st.sampled_from("01")] * 3)


@given(VALUES)
def test_interfaces_that_the_kernel_sets_along_stay_as_they_were(values: tuple[str, ...]) -> None:
    with TemporaryDirectory() as name:
        box = OldKernel(values)
        before = box.state()
        up(box, FORWARDS6, Path(name))
        assert [box.sysctls[p] for p in OTHERS] == [values[0], "1", values[2]]
        assert up(box, FORWARDS6, Path(name)) == Changes()
        undo(box, Path(name))
        assert box.state() == before


@given(VALUES, st.integers(1, 12))
@settings(deadline=None)
def test_interfaces_that_the_kernel_sets_along_are_put_back_from_wherever_it_ended(
    values: tuple[str, ...], dies_at: int
) -> None:
    with TemporaryDirectory() as name:
        box = OldKernel(values, dies_at)
        before = box.state()
        with contextlib.suppress(KeyboardInterrupt):
            up(box, FORWARDS6, Path(name))
            undo(box, Path(name))
        undo(box, Path(name))
        assert box.state() == before


DESIRED = st.builds(
    desired,
    st.sampled_from(["table", "other table"]),
    st.lists(st.sampled_from(["FORWARD", "f", "g"]), unique=True).map(tuple),
    st.sampled_from([(), (4,), (4, 6)]),
)


def box_as(wanted: Desired, state_dir: Path) -> Any:
    box = PaperBox(FRESH)
    up(box, wanted, state_dir)
    return box.state()


@given(st.lists(DESIRED, min_size=1, max_size=4), st.integers(0, 16))
@settings(max_examples=150, deadline=None)
def test_every_state_from_every_other_with_a_failure_anywhere(states: list[Desired], fails_at: int) -> None:
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        state_dir, box = Path(one), PaperBox(FRESH, fails_at)
        before = box.state()
        for wanted in states:
            try:
                up(box, wanted, state_dir)
            except Problems:
                assert journals.load(state_dir) is not None or box.state() == before
                up(box, wanted, state_dir)
            now, alone = box.state(), box_as(wanted, Path(two))
            assert (now[:2], sorted(now[2]), now[3]) == (alone[:2], sorted(alone[2]), alone[3])
            told = len(box.told)
            assert (up(box, wanted, state_dir), len(box.told)) == (Changes(), told)
            undo(PaperBox(FRESH), Path(two))
        try:
            undo(box, state_dir)
        except Problems:
            undo(box, state_dir)
        assert (box.state(), list(state_dir.iterdir())) == (before, [])
