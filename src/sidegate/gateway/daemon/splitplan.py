"""What a configuration means for the split at this moment: its lists, upstreams and subscriptions, read and judged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct, structs

from sidegate.gateway.config import Config
from sidegate.gateway.engine.subscription import Copy, Subscriptions
from sidegate.gateway.engine.trial import Question, question
from sidegate.gateway.engine.upstreams import Upstreams, upstreams
from sidegate.gateway.split import rules
from sidegate.gateway.split.policy import BLOCK, DIRECT, PROXY, Policy
from sidegate.gateway.split.shelf import Material, Shelf
from sidegate.gateway.split.times import local_now
from sidegate.problems import Exit, Problem, Problems

CLOCK_S = 15.0
"""Between looks whether the clock was set, and before a plan that was not taken is made again."""
_NO_UPSTREAM = Problem(
    "proxy",
    "there is no upstream: no subscription has given one, so proxy.on_failure holds",
    "mend proxy.subscription, or name one in proxy.upstream",
    Exit.FAULT,
)


class Plan(Struct, frozen=True):
    """check: what is asked through each upstream. until: when the clock changes the rules next, in UTC; None: never.

    problems: what is no error and yet worth knowing.
    """

    config: Config = Config()
    material: Material = Material()
    upstreams: Upstreams = Upstreams()
    policy: Policy = Policy()
    check: Question | None = None
    until: datetime | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether an engine of our own is needed, and has somewhere to send."""
        return self._needs_engine and self.config.proxy.engine == "xray" and bool(self.upstreams.found)

    @property
    def is_foreign(self) -> bool:
        """Whether another program is the engine."""
        return self._needs_engine and self.config.proxy.engine == "tproxy"

    @property
    def is_empty(self) -> bool:
        """Whether all goes straight, and nobody is to answer names."""
        return not rules.is_split(self.policy) and not self.aims and not self.config.resolves

    @property
    def aims(self) -> tuple[str, ...]:
        """`proxy`, and each upstream that a rule names."""
        named = dict.fromkeys(r.send for r in self.policy.rules if r.send not in (PROXY, DIRECT, BLOCK))
        return (PROXY, *named) if self._needs_engine else ()

    def notes(self) -> tuple[Problem, ...]:
        """What is no error and yet worth knowing now: files may have changed since."""
        return (*self.problems, *self.material.changes())

    def faults(self) -> tuple[Problem, ...]:
        """What somebody configured, and is not so now."""
        is_without = self._needs_engine and self.config.proxy.engine == "xray" and not self.upstreams.found
        return (*self.material.unusable, *((_NO_UPSTREAM,) if is_without else ()))

    @property
    def families(self) -> tuple[int, ...]:
        """The IP versions that are split."""
        return (4, 6) if self.config.ipv6.mode == "gateway" else (4,)

    @property
    def _needs_engine(self) -> bool:
        return rules.is_proxied(self.policy) or self.config.proxy.lan_port is not None


class Planner:
    """Makes plans, and keeps the subscriptions of the one in force, for a selectors loop.

    Wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.
    """

    def __init__(self, state: Path, tell: Callable[[str], None]) -> None:
        self._state, self._tell = state, tell
        self._shelf = Shelf(state)
        self._sources: tuple[str, ...] = ()
        self._unusable: tuple[Problem, ...] = ()
        self._clock_at_s = 0.0
        self._turned_at: datetime | None = None
        self._owed_at_s: float | None = None
        self._subscriptions = Subscriptions((), state, tell)

    def fileno(self) -> int:
        return self._subscriptions.fileno()

    def plan(self, config: Config, *, is_tolerant: bool = False, known: Material | None = None) -> Plan:
        """Raises Problems with all that is wrong with the files that the configuration names, and with its upstreams.

        is_tolerant: list files that cannot be used are empty: for a start that no person sees. known: what is in the
        list files; None: they are read.
        """
        errors: list[Problem] = []
        material, found, check = known, Upstreams(), None
        copies = self._copies(config)
        try:
            found = upstreams(config, _text_of, [(it.where, it.text) for it in copies if it.text is not None])
        except Problems as error:
            errors += error.problems
        try:
            material = material or self._shelf.read(config, is_tolerant=is_tolerant)
        except Problems as error:
            errors += error.problems
        try:
            check = question(config.proxy.check)
        except Problems as error:
            errors += error.problems
        if errors or material is None:
            raise Problems(*errors)
        in_force = self.faults()
        stale = [it.problem for it in copies if it.problem is not None and it.problem not in in_force]
        told = (*stale, *material.brief, *found.problems, *rules.hints(config, material, found.names))
        return _at_this_moment(Plan(config, material, found, check=check, problems=told))

    def take(self, plan: Plan) -> bool:
        """This one is in force now; whether what `fileno` stands for is another one."""
        self._owed_at_s = None
        self._tell_files(plan.material.unusable)
        sources = plan.config.proxy.subscriptions
        if sources == self._sources:
            return False
        self._subscriptions.close()
        self._sources, self._subscriptions = sources, Subscriptions(sources, self._state, self._tell)
        return True

    def turn(self, plan: Plan, now: float, proxy_port: int | None) -> Plan | None:
        """Another plan, if the clock or a subscription asks for it: again and again, until one is taken.

        proxy_port: of an upstream that works. Raises Problems.
        """
        if self._subscriptions.turn(now, proxy_port) or (self._owed_at_s is not None and now >= self._owed_at_s):
            self._owed_at_s = now + CLOCK_S
            # Nobody has said that the lists are to be read again: one that is gone now keeps its rules.
            known = None if plan.material.unusable else plan.material
            return self.plan(plan.config, is_tolerant=True, known=known)
        is_turn = self._is_turn(plan)
        if plan.until is not None and (now >= self._clock_at_s or is_turn):
            self._clock_at_s = now + CLOCK_S
            self._turned_at = plan.until if is_turn else self._turned_at
            if rules.next_turn(plan.config, local_now()) != plan.until:
                self._tell("a rule turns on or off by the clock")
                return _at_this_moment(plan)
        return None

    def next_deadline(self, plan: Plan, now: float) -> float | None:
        """When `turn` has something to do although nothing came in; None: never."""
        is_new = plan.until is not None and plan.until != self._turned_at
        until_s = now + max(0.0, (plan.until - datetime.now(UTC)).total_seconds()) if plan.until and is_new else None
        clock_s = None if plan.until is None else max(now, self._clock_at_s)
        times = (self._subscriptions.next_deadline(), until_s, clock_s, self._owed_at_s)
        return min((t for t in times if t is not None), default=None)

    def try_again(self, now: float) -> None:
        """Somebody asks: subscriptions that were fetched in vain are fetched as soon as may be."""
        self._subscriptions.try_again(now)

    def faults(self) -> tuple[Problem, ...]:
        """What is wrong now with the subscriptions in force."""
        return self._subscriptions.faults()

    def close(self) -> None:
        self._subscriptions.close()

    def _is_turn(self, plan: Plan) -> bool:
        """Whether it is time for other rules, and they were not made yet."""
        return plan.until is not None and plan.until != self._turned_at and datetime.now(UTC) >= plan.until

    def _tell_files(self, unusable: tuple[Problem, ...]) -> None:
        """Those that count as empty, and those that do so no longer."""
        before, self._unusable = self._unusable, unusable
        for it in unusable:
            if it not in before:
                self._tell(f"fault: {it.where}: {it.what}: it counts as empty")
        for it in before:
            if it.where not in {other.where for other in unusable}:
                self._tell(f"over: {it.where}: {it.what}")

    def _copies(self, config: Config) -> tuple[Copy, ...]:
        if config.proxy.subscriptions == self._sources:
            return self._subscriptions.copies()
        others = Subscriptions(config.proxy.subscriptions, self._state, self._tell)
        try:
            return others.copies()
        finally:
            others.close()


def _at_this_moment(plan: Plan) -> Plan:
    """With the rules that hold now. Raises Problems."""
    wall = local_now()
    policy = rules.policy(plan.config, plan.material, plan.upstreams.names, wall)
    return structs.replace(plan, policy=policy, until=rules.next_turn(plan.config, wall))


def _text_of(path: str) -> str:
    return Path(path).read_text("utf-8")
