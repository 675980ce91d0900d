"""Plans: what a configuration and its files mean for the split, all errors at once, and when that changes by itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from sidegate.gateway.config import Config, parse_config
from sidegate.gateway.daemon import splitplan
from sidegate.gateway.daemon.splitplan import CLOCK_S, Plan, Planner
from sidegate.gateway.engine.subscription import copy_path
from sidegate.problems import Problems

LINK = "socks5://192.0.2.10:1080#one"
ADDRESS = "https://lists.example/mine"


@pytest.fixture
def planner(tmp_path: Path) -> Iterator[Planner]:
    made = Planner(tmp_path, lambda _: None)
    yield made
    made.close()


class Fetched:
    """Subscriptions that have brought something, once."""

    def __init__(self) -> None:
        self.has_news = True

    def turn(self, now: float, proxy_port: int | None) -> bool:
        before, self.has_news = self.has_news, False
        return before

    def next_deadline(self) -> float | None:
        return None

    def copies(self) -> tuple[()]:
        return ()

    faults = copies

    def close(self) -> None: ...


def config(text: str) -> Config:
    return parse_config(text, "test")


def test_nothing_is_split_by_default(planner: Planner) -> None:
    plan = planner.plan(Config())
    assert (plan.is_empty, plan.aims, plan.is_ours, plan.is_foreign) == (True, (), False, False)


@pytest.mark.parametrize(
    ("text", "aims", "is_ours", "is_foreign"),
    [
        (f'[proxy]\nupstream = "{LINK}"', (), False, False),
        (f'[proxy]\nupstream = "{LINK}"\nmode = "all"', ("proxy",), True, False),
        (f'[proxy]\nupstream = "{LINK}"\nlan_port = 1080', ("proxy",), True, False),
        (
            f'[proxy]\nupstream = "{LINK}"\n[[rule]]\ndomain = ["a.example"]\nsend = "one"',
            ("proxy", "one"),
            True,
            False,
        ),
        ('[[rule]]\ndomain = ["a.example"]\nsend = "block"', (), False, False),
        ('[proxy]\nengine = "tproxy"\nmode = "all"', ("proxy",), False, True),
        (f'[proxy]\nsubscription = "{ADDRESS}"\nmode = "all"', ("proxy",), False, False),
    ],
)
def test_what_needs_an_engine(
    planner: Planner, text: str, aims: tuple[str, ...], is_ours: bool, is_foreign: bool
) -> None:
    plan = planner.plan(config(text))
    assert (plan.aims, plan.is_ours, plan.is_foreign) == (aims, is_ours, is_foreign)


def test_all_errors_at_once_and_no_secret(planner: Planner) -> None:
    text = '[proxy]\nupstream = "trojan://hush@"\nlist = ["/no/such/list"]\ncheck = "ftp://x"\n'
    with pytest.raises(Problems) as caught:
        planner.plan(config(text))
    assert [p.where for p in caught.value.problems] == ["proxy.upstream", "/no/such/list", "proxy.check"]
    assert "hush" not in str(caught.value)


def test_a_start_without_a_person_does_without_a_list(planner: Planner) -> None:
    plan = planner.plan(config(f'[proxy]\nupstream = "{LINK}"\nlist = ["/no/such/list"]'), is_tolerant=True)
    assert [p.where for p in plan.faults()] == ["/no/such/list"]
    assert [p.where for p in plan.notes() if p.where.startswith("/")] == []
    assert planner.plan(config(f'[proxy]\nupstream = "{LINK}"')).faults() == ()


def test_a_list_that_was_mended_is_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    made = Planner(tmp_path, said.append)
    wanted = config(f'[proxy]\nupstream = "{LINK}"\nlist = ["{tmp_path}/list"]')
    for _ in range(2):
        made.take(made.plan(wanted, is_tolerant=True))
    (tmp_path / "list").write_text("a.example\n")
    for _ in range(2):
        made.take(made.plan(wanted))
    made.close()
    what = f"{tmp_path}/list: cannot be read: No such file or directory"
    assert said == [f"fault: {what}: it counts as empty", f"over: {what}"]


def test_no_upstream_is_a_fault_where_one_is_needed(planner: Planner) -> None:
    without = f'[proxy]\nsubscription = "{ADDRESS}"\n'
    assert planner.plan(config(without)).faults() == ()
    (fault,) = planner.plan(config(without + 'mode = "all"')).faults()
    assert fault.what.startswith("there is no upstream")


def test_the_last_good_copy_of_a_subscription_is_used(planner: Planner, tmp_path: Path) -> None:
    text = f'[proxy]\nsubscription = "{ADDRESS}"\nmode = "all"'
    assert planner.plan(config(text)).upstreams.names == ()
    path = copy_path(ADDRESS, tmp_path)
    path.parent.mkdir()
    path.write_text(LINK)
    plan = planner.plan(config(text))
    assert (plan.upstreams.names, plan.is_ours) == (("one",), True)


def test_another_set_of_subscriptions_is_another_thing_to_wait_for(planner: Planner) -> None:
    plan = planner.plan(config(f'[proxy]\nsubscription = "{ADDRESS}"'))
    assert planner.take(plan)
    assert not planner.take(plan)
    assert planner.take(Plan())


def test_the_clock_turns_a_rule(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its boundary, and where somebody sets the clock past it; not a moment before."""
    told = datetime(2026, 11, 23, 7, 30).astimezone()
    monkeypatch.setattr(splitplan, "local_now", lambda: told)
    text = f'[proxy]\nupstream = "{LINK}"\n[[rule]]\ntime = ["08:00-09:00"]\ncidr = ["192.0.2.0/24"]\nsend = "block"'
    plan = planner.plan(config(text))
    assert plan.policy.rules == ()
    assert plan.until == told + timedelta(minutes=30)
    plan = msgspec.structs.replace(plan, until=datetime.now(UTC) + timedelta(minutes=30))
    assert planner.turn(plan, 1000.0, None) is not None
    assert planner.next_deadline(plan, 1000.0) == 1000.0 + CLOCK_S, "the clock may be set meanwhile"
    plan = msgspec.structs.replace(plan, until=datetime.now(UTC) + timedelta(seconds=CLOCK_S / 3))
    due_s = planner.next_deadline(plan, 1000.0)
    assert due_s is not None
    assert 1000.0 < due_s <= 1000.0 + CLOCK_S / 3
    fresh = planner.plan(config(text))
    assert planner.turn(fresh, 2000.0, None) is None
    told += timedelta(minutes=45)
    turned = planner.turn(fresh, 2000.0 + CLOCK_S, None)
    assert turned is not None
    assert [rule.send for rule in turned.policy.rules] == ["block"]


def test_rules_whose_time_has_come_are_made_again_where_they_were_not_taken(planner: Planner) -> None:
    """But not at once, and again, and again."""
    text = f'[proxy]\nupstream = "{LINK}"\n[[rule]]\ntime = ["08:00-09:00"]\ncidr = ["192.0.2.0/24"]\nsend = "block"'
    late = msgspec.structs.replace(planner.plan(config(text)), until=datetime.now(UTC) - timedelta(seconds=1))
    assert planner.turn(late, 1000.0, None) is not None
    assert planner.next_deadline(late, 1000.0) == 1000.0 + CLOCK_S
    assert planner.turn(late, 1001.0, None) is None
    assert planner.turn(late, 1000.0 + CLOCK_S, None) is not None


def test_what_a_subscription_brought_is_told_until_it_is_taken(planner: Planner) -> None:
    planner._subscriptions = Fetched()  # type: ignore[assignment]
    plan = planner.plan(config(f'[proxy]\nupstream = "{LINK}"'))
    assert planner.turn(plan, 1000.0, None) is not None
    assert planner.turn(plan, 1001.0, None) is None
    assert planner.next_deadline(plan, 1001.0) == 1000.0 + CLOCK_S
    again = planner.turn(plan, 1000.0 + CLOCK_S, None)
    assert again is not None
    planner.take(again)
    assert planner.turn(again, 1000.0 + 2 * CLOCK_S, None) is None


def test_what_a_subscription_brings_takes_no_rules_away(planner: Planner, tmp_path: Path) -> None:
    """Lists are read when a person says so: one that is gone, or half written, would else send its sites straight."""
    path = tmp_path / "list"
    wanted = config(f'[proxy]\nupstream = "{LINK}"\nlist = ["{path}"]\n[lists]\nbad_lines = "refuse"\n')
    path.write_text("a.example\n")
    plan = planner.plan(wanted)
    for break_it in (lambda: path.write_text("b.example\n!!\n"), path.unlink):
        break_it()
        planner._subscriptions = Fetched()  # type: ignore[assignment]
        turned = planner.turn(plan, 1000.0, None)
        assert turned is not None
        assert (turned.policy, turned.faults()) == (plan.policy, ())
        assert [note.where for note in turned.notes()] == [str(path)], "it has changed, and that is told"


def test_a_list_that_a_start_did_without_is_looked_for(planner: Planner, tmp_path: Path) -> None:
    path = tmp_path / "list"
    plan = planner.plan(config(f'[proxy]\nupstream = "{LINK}"\nlist = ["{path}"]'), is_tolerant=True)
    path.write_text("a.example\n")
    planner._subscriptions = Fetched()  # type: ignore[assignment]
    turned = planner.turn(plan, 1000.0, None)
    assert turned is not None
    assert (plan.policy.rules, len(turned.policy.rules), turned.faults()) == ((), 1, ())
