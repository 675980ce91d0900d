"""The split, for the daemon's loop: a configuration and its files -> what engine, resolver and kernel are to do now.

`plan` reads and judges, and changes nothing. `prepare` begins what a plan needs before the kernel goes by it.
`situation` is what the kernel's rules are decided for, with the places that engine and resolver serve at this moment.
`want` has engine and resolver do all that a plan says. So the kernel never leads anybody where nobody is yet.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network

from msgspec import structs

from sidegate.gateway.box.apply import Change
from sidegate.gateway.box.facts import Facts
from sidegate.gateway.box.places import Places
from sidegate.gateway.config import Config
from sidegate.gateway.daemon.coming import SETTLE_S, SURE_S, Coming
from sidegate.gateway.daemon.engineplan import may_be_on_lan, upstreams_on_lan, wanted
from sidegate.gateway.daemon.naming import Naming
from sidegate.gateway.daemon.splitplan import Plan, Planner
from sidegate.gateway.daemon.splitview import split_view
from sidegate.gateway.decide import NO_SPLIT, Situation, decide
from sidegate.gateway.dhcp.leases import Lease
from sidegate.gateway.dns.places import NAME as RESOLVER
from sidegate.gateway.dns.places import RELIEF
from sidegate.gateway.dns.resolver import Proxied
from sidegate.gateway.engine.foreign import Foreign
from sidegate.gateway.engine.lasting import lasting
from sidegate.gateway.engine.supervision import Supervision
from sidegate.gateway.engine.taken import taken
from sidegate.gateway.ruleset.nft import Client
from sidegate.gateway.split.explaining import FOREIGN
from sidegate.gateway.split.policy import PROXY
from sidegate.gateway.split.ports import Ports
from sidegate.gateway.view import SplitView
from sidegate.problems import Problem, Problems

FALL_BACK_S = 3.0
"""After the engine's end, before proxied names are resolved without it: by then it is back, as a rule, and an answer of
a lying resolver would be believed for a minute."""
_LOOK_AGAIN_S = 0.01
_OFTEN_S = 0.02
"""Between looks whether a plan is prepared."""
_FIRST = "what is proxied goes through it"
_WAITS = (
    "another engine waits for its place: those before still end their connections. Until then the kernel decides "
    "alone, by the addresses of names: two that share one go the same way, and an upstream that is new works not yet"
)


class Splitter:
    """Wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    leases: those that our DHCP server gave, for the LAN's own names.
    """

    def __init__(self, at: Places, tell: Callable[[str], None], leases: Callable[[], Iterable[Lease]]) -> None:
        self._tell = tell
        self._planner = Planner(at.state, tell)
        self._engine = Supervision(at, tell, self._lasting)
        self._foreign = Foreign(tell)
        self._naming = Naming(at, tell, leases)
        self._plan = Plan()
        self._facts: Facts | None = None
        self._lost_s: float | None = None
        self._has_fallen_back = False
        self._coming: Coming | None = None
        self._begun: tuple[Change, ...] = ()
        self._poll = select.epoll()
        for part in (self._planner, self._engine, self._naming):
            self._poll.register(part, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    @property
    def plan_in_force(self) -> Plan:
        return self._plan

    def plan(self, config: Config, *, is_tolerant: bool = False) -> Plan:
        """See `Planner.plan`. Raises Problems."""
        return self._planner.plan(config, is_tolerant=is_tolerant)

    def ask_first(self, plan: Plan, facts: Facts) -> None:
        """What speaks against it on this box. Raises Problems.

        A port that the LAN has already is not asked about again: whoever came there later keeps no change from it.
        """
        self._naming.ask_first(plan, facts)
        port = plan.config.proxy.lan_port
        if port is None or not plan.is_ours or port == self._plan.config.proxy.lan_port:
            return
        if problem := taken(port, [*facts.lan, *facts.lan6]):
            raise Problems(problem)

    def begin(self, plan: Plan, facts: Facts) -> tuple[Change, ...]:
        """`want`, and waits for engine and resolver, SETTLE_S at the most: an engine that cannot start keeps nobody.

        The engine comes first: a name that is asked meanwhile would be resolved as if nobody proxied.
        """
        end_s = time.monotonic() + SETTLE_S
        started = self._want_engine(plan, facts, time.monotonic())
        self._foreign.turn(time.monotonic())
        if plan.is_ours:
            _await(self._engine, lambda: self._engine.state.serves, end_s)
            _await(self._engine, lambda: self._engine.is_sure, min(end_s, time.monotonic() + SURE_S))
        changes = (*started, *self._begin_names(plan, facts, time.monotonic()))
        if plan.config.resolves:
            _await(self._naming, self._naming.serves, end_s)
        return changes

    def want(self, plan: Plan, facts: Facts, now: float) -> tuple[Change, ...]:
        """From the next `turn` on this holds; what it changes.

        Raises Problems where a file cannot be written; the plan before is in force then.
        """
        begun = self._begun
        self.give_up()
        named = self._want_names(plan, facts, now)
        return (*begun, *self._want_engine(plan, facts, now), *named)

    @property
    def is_preparing(self) -> bool:
        """Whether a plan waits for what it needs: until then nothing else is to be brought about."""
        return self._coming is not None

    def prepare(self, plan: Plan, facts: Facts, now: float) -> bool:
        """What the plan needs is begun, in place of what was being prepared; whether it is there already.

        Where it is not, `turn` gives the plan once it is. Raises Problems.
        """
        self.give_up()
        if plan.is_foreign:
            self._foreign.want(plan.config.proxy.tproxy_port, now)
            self._foreign.turn(now)
        awaits_engine = self._lacks_engine(plan)
        begun = self._start_engine(plan, facts, now) if awaits_engine else ()
        self._coming = Coming(plan, facts, now, awaits_engine, not self._engine.state.serves, begun)
        try:
            if self._is_prepared(self._coming, now):
                return True
        except Problems:
            self.give_up()
            raise
        # Or the loop would be woken for what is not looked at.
        self._poll.modify(self._planner, 0)
        return False

    def give_up(self) -> None:
        """What is being prepared is not wanted any more. The next `want` has engine and resolver go back."""
        if self._coming is not None:
            self._coming, self._begun = None, ()
            self._poll.modify(self._planner, select.EPOLLIN)

    def situation(self, plan: Plan, *, as_settled: bool = False) -> Situation:
        """What the kernel's rules are decided for: this plan, with whoever serves now.

        as_settled: as if the engine went by it already.
        """
        if plan.is_empty:
            return NO_SPLIT
        judges = as_settled or plan.is_foreign or self._engine.judges(plan.policy)
        return Situation(
            policy=self._naming.asked(plan),
            targets=tuple((name, _judging(self._place(plan, name), judges=judges)) for name in plan.aims),
            held=self._held(plan, judges=judges) if plan.is_ours else (),
            answers_names=self._naming.answers and plan.config.resolves,
            unsteered=upstreams_on_lan(plan, self._facts) if self._facts else (),
            spares=self._may_spare(plan),
            has_relief=self._naming.lead == RELIEF,
            lan_port=self._engine.lan_port() if plan.is_ours else None,
        )

    def applied(self, situation: Situation) -> None:
        """The kernel's rules are those of this situation now."""
        self._naming.applied()
        if situation.answers_names:
            self._naming.led(RELIEF if situation.has_relief else RESOLVER)

    def carried(self) -> str:
        """See `Naming.carried`. Raises Problems."""
        return self._naming.carried()

    def forget(self) -> None:
        """The kernel's sets were lost."""
        self._naming.forget()

    def try_all(self, now: float) -> None:
        """Somebody asks: each upstream is tried as soon as may be, and what lists upstreams is asked for again."""
        self._engine.try_all(now)
        self._planner.try_again(now)

    def turn(self, now: float) -> Plan | None:
        """A plan that the box is to be brought to, which may be the one in force: its situation is another one now.

        Raises Problems.
        """
        is_other = any([self._engine.turn(now), self._foreign.turn(now)])
        self._mind_loss(now)
        if self._coming is not None:
            self._naming.turn(now)
            return self._coming.plan if self._is_prepared(self._coming, now) else None
        for change in self._want_names(self._plan, self._facts, now) if self._facts is not None else ():
            self._tell(f"{change.what}: {change.why}")
        is_other = self._naming.turn(now) or is_other
        place = self._engine.place(self._engine.state.chosen)
        plan = self._planner.turn(self._plan, now, place.socks if place else None)
        if plan is not None and self._facts is not None:
            return plan if self.prepare(plan, self._facts, now) else None
        return self._plan if is_other else None

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although nothing came in; None: never."""
        now = time.monotonic()
        parts = (self._engine.next_deadline(), self._foreign.next_deadline(), self._naming.next_deadline())
        if self._coming is not None:
            return min(now + _OFTEN_S, *(t for t in parts if t is not None))
        falls_back_s = self._lost_s + FALL_BACK_S if self._lost_s is not None and not self._has_fallen_back else None
        times = (*parts, falls_back_s, self._planner.next_deadline(self._plan, now))
        return min((t for t in times if t is not None), default=None)

    def close(self) -> None:
        """Lets go of engine and resolver; they go on."""
        for part in (self._planner, self._engine, self._naming):
            part.close()
        self._poll.close()

    # What is known

    def faults(self) -> tuple[Problem, ...]:
        """What is wrong now."""
        parts = (self._planner, self._engine, self._foreign, self._naming)
        return (*self._plan.faults(), *(fault for part in parts for fault in part.faults()))

    def hints(self) -> tuple[str, ...]:
        """What somebody should know of the configuration's files, and of whom names are asked."""
        found = tuple(f"{p.where}: {p.what}" for p in self._plan.notes())
        return (*found, *self._naming.hints(), *((_WAITS,) if self._engine.waits else ()))

    @property
    def spares(self) -> bool:
        """Whether the kernel looks for upstreams' servers on the LAN."""
        return self._may_spare(self._plan)

    def askers(self, now: float) -> frozenset[Client] | None:
        """See `Naming.askers`. Raises Problems."""
        return self._naming.askers(now)

    def via(self, send: str) -> str | None:
        """The upstream that carries what a rule sends there; None: none works."""
        if self._plan.is_foreign:
            return FOREIGN if self._foreign.listens else None
        name = self._engine.state.chosen if send == PROXY else send
        return name if self._engine.state.serves and self._engine.place(name) is not None else None

    def carries_udp(self, name: str) -> bool:
        """Whether this upstream does; another program is taken to."""
        return all(it.udp for it in self._plan.upstreams.found if it.name == name)

    def view(self, now: float) -> SplitView | None:
        """For `status`; None where nothing is split and no name is answered."""
        return split_view(self._plan, self._engine, self._foreign, self._naming, self.hints(), now)

    # How it is done

    def _want_engine(self, plan: Plan, facts: Facts, now: float) -> tuple[Change, ...]:
        if plan is not self._plan and self._planner.take(plan):
            # What it stood for before is closed, and with that no longer waited for (epoll(7)).
            self._poll.register(self._planner, select.EPOLLIN)
        self._plan, self._facts = plan, facts
        self._foreign.want(plan.config.proxy.tproxy_port if plan.is_foreign else None, now)
        return self._start_engine(plan, facts, now)

    def _start_engine(self, plan: Plan, facts: Facts, now: float) -> tuple[Change, ...]:
        self._engine.want(wanted(plan, facts) if plan.is_ours else None, now)
        why = "rules or upstreams are others; connections that are open stay with the one before"
        why = _WAITS if self._engine.waits else why
        is_first = self._engine.state.generation is None
        return (Change("engine starts", _FIRST if is_first else why),) if self._engine.starts else ()

    def _may_spare(self, plan: Plan) -> bool:
        return self._facts is not None and plan.is_ours and may_be_on_lan(plan, self._facts)

    def _lacks_engine(self, plan: Plan) -> bool:
        """Whether there is no engine that could do what it asks, if not by its rules."""
        if not plan.is_ours:
            return False
        known = {it.name for it in self._engine.standings()}
        return not self._engine.state.serves or not known.issuperset(name for name in plan.aims if name != PROXY)

    def _is_prepared(self, it: Coming, now: float) -> bool:
        """Goes on as far as it can be. Raises Problems."""
        engine = self._engine
        serves = engine.state.serves and engine.judges(it.plan.policy)
        if not it.has_engine(now, serves=serves, is_sure=engine.is_sure, fails=engine.fails):
            return False
        if it.names_s is None:
            it.names_s = now
            self._begun = (*it.begun, *self._begin_names(it.plan, it.facts, now))
        return it.has_names(now, have_followed=self._naming.has_followed())

    def _begin_names(self, plan: Plan, facts: Facts, now: float) -> tuple[Change, ...]:
        """Names are answered as the plan has it, and learned, before the kernel goes by it. Raises Problems."""
        ruleset = decide(plan.config, facts, self.situation(plan)).ruleset
        return self._naming.want_first(plan, facts, self._proxied(plan, now), self._engine.dns_port(), ruleset)

    def _want_names(self, plan: Plan, facts: Facts, now: float) -> tuple[Change, ...]:
        """Raises Problems where a file cannot be written."""
        return self._naming.want(plan, facts, self._proxied(plan, now), self._engine.dns_port())

    def _proxied(self, plan: Plan, now: float) -> Proxied:
        """Names that are proxied are asked by the upstream while there is one that works."""
        self._has_fallen_back = not self._is_asked(plan, now)
        if not self._has_fallen_back:
            return "asked"
        return "direct" if plan.config.proxy.on_failure == "direct" else "refused"

    def _is_asked(self, plan: Plan, now: float) -> bool:
        if not plan.is_ours:
            return self._foreign.listens
        is_lost = self._lost_s is not None and now >= self._lost_s + FALL_BACK_S
        return self._engine.dns_port() is not None and not is_lost

    def _mind_loss(self, now: float) -> None:
        """Since when the engine does not serve."""
        is_lost = self._plan.is_ours and not self._engine.state.serves
        self._lost_s = (self._lost_s or now) if is_lost else None

    def _place(self, plan: Plan, name: str) -> Ports | None:
        if plan.is_foreign:
            return self._foreign.place()
        return self._engine.place(self._engine.state.chosen if name == PROXY else name)

    def _held(self, plan: Plan, *, judges: bool) -> tuple[Ports, ...]:
        """Where datagram flows may be but in the places for new ones."""
        places = () if judges else dict.fromkeys(self._place(plan, name) for name in plan.aims)
        return (*self._engine.held(), *(it for it in places if it is not None))

    def _lasting(self, generation: int) -> int:
        """Connections that it still carries. Raises Problems."""
        lan: list[IPv4Network | IPv6Network] = [*self._facts.lan, *self._facts.lan6] if self._facts else []
        return lasting(generation, self._engine.places(generation), lan)


def _judging(place: Ports | None, *, judges: bool) -> Ports | None:
    """An engine that goes by the rules before is asked for nothing: it could send straight what is proxied now."""
    return place if place is None or judges else structs.replace(place, named=place.decided)


def _await(part: Supervision | Naming, condition: Callable[[], bool], end_s: float) -> None:
    """Until it is so, or something is wrong with it, or it is time."""
    part.turn(time.monotonic())
    while not condition() and not part.faults() and time.monotonic() < end_s:
        time.sleep(_LOOK_AGAIN_S)
        part.turn(time.monotonic())
