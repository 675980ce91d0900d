"""The split, for the daemon's loop: a configuration and its files -> what engine, resolver and kernel are to do now.

`plan` reads and judges, and changes nothing. `want` has engine and resolver do what a plan says; `situation` is what
the kernel's rules are decided for, with the places that engine and resolver serve at this moment. So the kernel never
leads anybody to a place where nobody is yet, and what is slow to start delays nothing that is decided without it.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

import msgspec
from msgspec import Struct

from sidegate.gateway import programs, view
from sidegate.gateway.apply import Change
from sidegate.gateway.config import Config
from sidegate.gateway.decide import NO_SPLIT, Situation
from sidegate.gateway.dhcp.leases import Lease
from sidegate.gateway.dns import here, learned, terms
from sidegate.gateway.dns.child import Resolving
from sidegate.gateway.dns.hosts import hosts_file
from sidegate.gateway.dns.resolver import Proxied, Resolver
from sidegate.gateway.engine.choice import Standing
from sidegate.gateway.engine.foreign import Foreign
from sidegate.gateway.engine.lasting import lasting
from sidegate.gateway.engine.supervision import Supervision, Wanted
from sidegate.gateway.engine.trial import Question, question
from sidegate.gateway.engine.upstream import Upstream
from sidegate.gateway.engine.upstreams import Upstreams, upstreams
from sidegate.gateway.engine.xray import Engine, has_ipv6
from sidegate.gateway.facts import Facts
from sidegate.gateway.places import Places
from sidegate.gateway.split import rules
from sidegate.gateway.split.policy import BLOCK, DIRECT, PROXY, Destination, Policy
from sidegate.gateway.split.ports import Ports
from sidegate.gateway.split.shelf import Material, Shelf
from sidegate.gateway.split.times import local_now
from sidegate.gateway.steer import learned_sets
from sidegate.gateway.view import ProxyView, SplitView, UpstreamView
from sidegate.problems import Problem

SETTLE_S = 2.0
"""How long the first `up` waits for engine and resolver before it goes on without."""
MUTE_S = 5.0
"""A resolver that is silent for so long is not just being started anew."""
READY_LOOK_S = 0.05
_LOOK_AGAIN_S = 0.01


class Plan(Struct, frozen=True):
    """What a configuration means at this moment. until: when the clock changes its rules next, in UTC; None: never."""

    config: Config = Config()
    material: Material = Material()
    upstreams: Upstreams = Upstreams()
    policy: Policy = Policy()
    check: Question | None = None
    until: datetime | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether an engine of our own is needed."""
        return self._needs_engine and self.config.proxy.engine == "xray" and bool(self.upstreams.found)

    @property
    def is_foreign(self) -> bool:
        return self._needs_engine and self.config.proxy.engine == "tproxy"

    @property
    def _needs_engine(self) -> bool:
        return rules.is_proxied(self.policy) or self.config.proxy.lan_port is not None

    @property
    def aims(self) -> tuple[str, ...]:
        """`proxy`, and each upstream that a rule names."""
        named = dict.fromkeys(r.send for r in self.policy.rules if r.send not in (PROXY, DIRECT, BLOCK))
        return (PROXY, *named) if self._needs_engine else ()


class Splitter:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    leases: those that our DHCP server gave, for the LAN's own names.
    """

    def __init__(self, at: Places, tell: Callable[[str], None], leases: Callable[[], Iterable[Lease]]) -> None:
        self._tell, self._leases = tell, leases
        self._shelf = Shelf(at.state)
        self._engine = Supervision(at, tell, self._lasting)
        self._foreign = Foreign(tell)
        self._resolving = Resolving(at, tell)
        self._plan = Plan()
        self._facts: Facts | None = None
        self._resolver: Resolver | None = None
        self._answers = False
        self._mute_since_s: float | None = None
        self._age_at_s = time.monotonic() + learned.LOOK_EVERY_S
        self._poll = select.epoll()
        for part in (self._engine, self._resolving):
            self._poll.register(part, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    @property
    def plan_in_force(self) -> Plan:
        return self._plan

    # Reading

    def plan(self, config: Config, *, is_tolerant: bool = False) -> Plan:
        """Raises Problems with all that is wrong with the files that the configuration names, and with its upstreams.

        is_tolerant: list files that cannot be used are empty: for a start that no person sees.
        """
        material = self._shelf.read(config, is_tolerant=is_tolerant)
        found = upstreams(config, _text_of)
        now = local_now()
        policy = rules.policy(config, material, found.names, now)
        problems = (*material.warnings, *found.problems, *rules.hints(config, material, found.names))
        check = question(config.proxy.check)
        return Plan(config, material, found, policy, check, rules.next_turn(config, now), problems)

    # Doing

    def ask_first(self, plan: Plan, facts: Facts) -> None:
        """What speaks against it on this box. Raises Problems."""
        if plan.config.resolves:
            self._resolving.ask_first(facts)

    def begin(self, plan: Plan, facts: Facts) -> tuple[Change, ...]:
        """`want`, and waits for engine and resolver, SETTLE_S at the most: an engine that cannot start keeps nobody.

        The engine comes first: a name that is asked meanwhile would be resolved as if nobody proxied.
        """
        end_s = time.monotonic() + SETTLE_S
        self._want_engine(plan, facts, time.monotonic())
        self._await(end_s, lambda: not plan.is_ours or self._engine.state.serves)
        changes = self._want_resolver()
        self._await(end_s, lambda: self._resolver is None or self._resolving.serves())
        return changes

    def want(self, plan: Plan, facts: Facts, now: float) -> tuple[Change, ...]:
        """From the next `turn` on this holds; what it changes. Raises Problems where a file cannot be written."""
        self._want_engine(plan, facts, now)
        return self._want_resolver()

    def situation(self, plan: Plan) -> Situation:
        """What the kernel's rules are decided for: this plan, with whoever serves now."""
        if not rules.is_split(plan.policy) and not plan.aims and not plan.config.resolves:
            return NO_SPLIT
        return Situation(
            policy=plan.policy,
            targets=tuple((name, self._place(plan, name)) for name in plan.aims),
            held=self._engine.held() if plan.is_ours else (),
            answers_names=self._answers and plan.config.resolves,
            unsteered=_on_lan(plan, self._facts),
        )

    def carried(self, plan: Plan) -> str:
        """What nft is to be told with the ruleset for this plan, so that no address that a name had is forgotten.

        Raises Problems.
        """
        old, new = self._plan.policy, plan.policy
        if not rules.is_split(new) or _named(old) == _named(new):
            return ""
        families = _families(plan)
        sets = {name: view.elements(name) for name in learned_sets(old, families)}
        return learned.carried(old, new, sets, families)

    def try_all(self, now: float) -> None:
        """Somebody asks: each upstream is tried as soon as may be."""
        self._engine.try_all(now)

    def forget(self) -> None:
        """The kernel's sets were lost: what names have for addresses is to be learned again."""
        self._resolving.forget()

    def turn(self, now: float) -> bool:
        """Whether the situation is another one now. Raises Problems."""
        engine = self._engine.turn(now)
        foreign = self._foreign.turn(now)
        if engine or foreign:
            self._want_resolver()
        self._resolving.turn(now)
        clock = self._mind_clock(now)
        self._age(now)
        return self._hear(now) or engine or foreign or clock

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although nothing came in; None: never."""
        now = time.monotonic()
        until_s = None if self._plan.until is None else now + (self._plan.until - datetime.now(UTC)).total_seconds()
        is_due = self._resolver is not None and not self._resolving.serves() and self._resolving.pid() is not None
        parts = (self._engine.next_deadline(), self._foreign.next_deadline(), self._resolving.next_deadline())
        times = (*parts, until_s, self._age_at_s, now + READY_LOOK_S if is_due else None)
        return min((t for t in times if t is not None), default=None)

    def close(self) -> None:
        """Lets go of engine and resolver; they go on."""
        self._engine.close()
        self._resolving.close()
        self._poll.close()

    # What is known

    def faults(self) -> tuple[Problem, ...]:
        """What is wrong now."""
        return (*self._engine.faults(), *self._foreign.faults(), *self._resolving.faults())

    def hints(self) -> tuple[str, ...]:
        """What somebody should know of the configuration's files."""
        return tuple(f"{p.where}: {p.what}" for p in self._plan.problems)

    def via(self, send: str) -> str | None:
        """The upstream that carries what a rule sends there; None: none works."""
        if self._plan.is_foreign:
            return "another program" if self._foreign.listens else None
        name = self._engine.state.chosen if send == PROXY else send
        return name if self._engine.state.serves and self._engine.place(name) is not None else None

    def view(self, now: float) -> SplitView | None:
        """For `status`; None where nothing is split and no name is answered."""
        plan = self._plan
        if not rules.is_split(plan.policy) and not plan.aims and not plan.config.resolves:
            return None
        return SplitView(
            rules=len(plan.policy.rules),
            default=plan.policy.default,
            next_turn=plan.until.astimezone().isoformat(timespec="seconds") if plan.until else "",
            proxy=self._proxy_view(now) if plan.aims else None,
            resolves=self._resolving.serves() if plan.config.resolves else None,
            resolver_pid=self._resolving.pid(),
            proxied_names=self._resolver.proxied if self._resolver else "",
        )

    def _proxy_view(self, now: float) -> ProxyView:
        proxy, state = self._plan.config.proxy, self._engine.state
        known = {it.name: it for it in self._plan.upstreams.found}
        standings = [s for s in self._engine.standings() if s.name in known]
        return ProxyView(
            engine=proxy.engine,
            serves=self._foreign.listens if self._plan.is_foreign else state.serves,
            mode=proxy.mode,
            on_failure=proxy.on_failure,
            chosen=state.chosen or "",
            why=self._engine.why,
            pid=self._engine.pid(),
            ending=len(state.leaving),
            upstreams=tuple(_upstream_view(s, known[s.name], state.chosen, now) for s in standings),
        )

    # How it is done

    def _want_engine(self, plan: Plan, facts: Facts, now: float) -> None:
        self._plan, self._facts = plan, facts
        self._engine.want(self._wanted(plan, facts) if plan.is_ours else None, now)
        self._foreign.want(plan.config.proxy.tproxy_port if plan.is_foreign else None, now)

    def _place(self, plan: Plan, name: str) -> Ports | None:
        if plan.is_foreign:
            return self._foreign.place()
        return self._engine.place(self._engine.state.chosen if name == PROXY else name)

    def _wanted(self, plan: Plan, facts: Facts) -> Wanted:
        config, proxy = plan.config, plan.config.proxy
        engine = Engine(
            policy=plan.policy,
            upstreams=plan.upstreams.found,
            proxied_dns=config.dns.proxied,
            direct_dns=terms.direct_servers(config, facts, here.own_servers()),
            has_ipv6=has_ipv6(config.ipv6.mode),
            serves_lan=proxy.lan_port is not None,
        )
        return Wanted(engine, proxy.choose, plan.check or question(proxy.check))

    def _want_resolver(self) -> tuple[Change, ...]:
        """Raises Problems where a file cannot be written."""
        plan, facts = self._plan, self._facts
        if facts is None:
            return ()
        wanted = terms.resolver(plan.config, facts, plan.policy, here.own_servers(), self._proxied())
        port = self._engine.dns_port()
        if wanted is not None and port is not None:
            wanted = msgspec.structs.replace(wanted, engine_port=port)
        self._resolver = wanted
        names = hosts_file(plan.config.client, self._leases(), plan.config.dhcp.domain.rstrip(".").lower())
        return self._resolving.want(wanted, names)

    def _lasting(self, generation: int) -> int:
        """Connections that it still carries. Raises Problems."""
        lan: list[IPv4Network | IPv6Network] = [*self._facts.lan, *self._facts.lan6] if self._facts else []
        return lasting(generation, self._engine.places(generation), lan)

    def _proxied(self) -> Proxied:
        """Names that are proxied are asked by the upstream while there is one that works."""
        is_asked = self._engine.dns_port() is not None if self._plan.is_ours else self._foreign.listens
        if is_asked:
            return "asked"
        return "direct" if self._plan.config.proxy.on_failure == "direct" else "refused"

    def _await(self, end_s: float, condition: Callable[[], bool]) -> None:
        while True:
            now = time.monotonic()
            self._engine.turn(now)
            self._foreign.turn(now)
            self._resolving.turn(now)
            self._hear(now)
            if condition() or now >= end_s:
                return
            time.sleep(_LOOK_AGAIN_S)

    def _hear(self, now: float) -> bool:
        """Whether the resolver answers, and did not before, or the other way. Being started anew is no silence."""
        before = self._answers
        if self._resolver is None:
            self._answers, self._mute_since_s = False, None
        elif self._resolving.serves():
            self._answers, self._mute_since_s = True, None
        elif self._answers:
            self._mute_since_s = self._mute_since_s or now
            self._answers = now < self._mute_since_s + MUTE_S
        return self._answers != before

    def _age(self, now: float) -> None:
        """Raises Problems."""
        if now < self._age_at_s:
            return
        self._age_at_s = now + learned.LOOK_EVERY_S
        sets = {name: view.elements(name) for name in learned_sets(self._plan.policy, _families(self._plan))}
        if text := learned.ageing(sets):
            programs.run("nft", "--file", "-", text=text)

    def _mind_clock(self, now: float) -> bool:
        """Whether the clock turned a rule on or off; also where it was set."""
        plan = self._plan
        if plan.until is None or datetime.now(UTC) < plan.until or self._facts is None:
            return False
        wall = local_now()
        policy = rules.policy(plan.config, plan.material, plan.upstreams.names, wall)
        fresh = msgspec.structs.replace(plan, policy=policy, until=rules.next_turn(plan.config, wall))
        self._tell("a rule turned on or off by the clock")
        self.want(fresh, self._facts, now)
        return True


def _named(policy: Policy) -> list[tuple[int, Destination | None]]:
    """What the learned sets are for: they go by a rule's place."""
    return [(i, r.destination) for i, r in enumerate(policy.rules) if r.destination and r.destination.has_names]


def _families(plan: Plan) -> tuple[int, ...]:
    return (4, 6) if plan.config.ipv6.mode == "gateway" else (4,)


def _upstream_view(standing: Standing, it: Upstream, chosen: str | None, now: float) -> UpstreamView:
    latency_ms = standing.latency_ms
    return UpstreamView(
        name=it.name,
        kind=it.kind,
        server=it.where,
        state=standing.state,
        since_s=round(now - standing.since_s, 1),
        why=standing.why,
        latency_ms=None if latency_ms is None else round(latency_ms, 1),
        is_chosen=it.name == chosen,
    )


def _text_of(path: str) -> str:
    return Path(path).read_text("utf-8")


def _on_lan(plan: Plan, facts: Facts | None) -> tuple[IPv4Address | IPv6Address, ...]:
    """Upstreams' servers on the LAN: their own traffic, steered, would come back to them."""
    if facts is None:
        return ()
    found = set()
    for upstream in plan.upstreams.found:
        with contextlib.suppress(ValueError):
            address = ip_address(upstream.host)
            found |= {address} if any(address in network for network in facts.lan) else set()
    return tuple(sorted(found, key=str))
