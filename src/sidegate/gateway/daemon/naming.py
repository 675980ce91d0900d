"""Names for the LAN, for the daemon's loop: our resolver, whom it asks, the LAN's own names, and what names taught.

Whether it answers is what leads clients to it. One that ended and is started again is not silent: that takes less time
than a client waits for its answer.

Where rules name others than before, the resolver comes first (`want_first`): by one and the same transaction the kernel
goes by the new rules and leads clients to whoever answers, and learns, as these have it. Otherwise a name that is
proxied from now on would still be asked straight, and its address would be nobody's for as long as a client keeps it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import msgspec

from sidegate.gateway import view
from sidegate.gateway.box import journal as journals
from sidegate.gateway.box import programs
from sidegate.gateway.box.apply import Change
from sidegate.gateway.box.facts import Facts, list_table
from sidegate.gateway.box.journal import Journal, TableStep
from sidegate.gateway.box.places import Places
from sidegate.gateway.daemon.splitplan import Plan
from sidegate.gateway.dhcp.leases import Lease
from sidegate.gateway.dns import here, learned, terms
from sidegate.gateway.dns.child import Resolving
from sidegate.gateway.dns.hosts import hosts_file
from sidegate.gateway.dns.places import Name
from sidegate.gateway.dns.resolver import Proxied, Resolver
from sidegate.gateway.ruleset.nft import Client
from sidegate.gateway.ruleset.nftchange import blocks
from sidegate.gateway.ruleset.steer import learned_sets
from sidegate.gateway.split.policy import DIRECT, Policy, Rule
from sidegate.problems import Problem, Problems

MUTE_S = 5.0
"""A resolver that is silent for so long is not just being started again."""
ASKS_WITHIN_S = 300.0
"""A device in use asks for a name within so long: an answer holds a minute (CLIENT_TTL_S)."""
HOSTS_S = 5.0
"""Between looks at who has which lease."""
READY_LOOK_S = 0.05
"""Between looks whether one that starts serves already."""


class Naming:
    """Wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    leases: those that our DHCP server gave.
    """

    def __init__(self, at: Places, tell: Callable[[str], None], leases: Callable[[], Iterable[Lease]]) -> None:
        self._state, self._tell, self._leases = at.state, tell, leases
        self._resolving = Resolving(at, tell)
        self._plan = Plan()
        self._made_of: tuple[object, ...] = ()
        self._resolver: Resolver | None = None
        self._names = ""
        self._untold: tuple[Problem, ...] = ()
        self._former: learned.Former = {}
        self._is_former_over = False
        self._answers = False
        self._said = (False, self.lead, False)
        self._is_awaited = False
        self._mute_since_s: float | None = None
        self._answers_since_s: float | None = None
        self._age_at_s = time.monotonic() + learned.LOOK_EVERY_S
        self._hosts_at_s = 0.0
        self._poll = select.epoll()
        self._poll.register(self._resolving, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    @property
    def answers(self) -> bool:
        """Whether clients may be led here."""
        return self._answers

    def ask_first(self, plan: Plan, facts: Facts) -> None:
        """What speaks against it on this box. Raises Problems."""
        if plan.config.resolves:
            self._resolving.ask_first(facts)

    def want(self, plan: Plan, facts: Facts, proxied: Proxied, engine_port: int | None) -> tuple[Change, ...]:
        """From the next `turn` on names are answered so. engine_port: where proxied names are asked, on 127.0.0.1.

        What that will change. Raises Problems where a file cannot be written.
        """
        own = here.own_servers()
        made_of = (plan, facts.interface, facts.lan, facts.router.address, own, proxied, engine_port)
        if made_of == self._made_of:
            return ()
        if plan.policy != self._plan.policy:
            self._former = learned.former(self._plan.policy, plan.policy, self._former)
            self._is_former_over = False
        # What cannot be written is wanted again.
        self._plan, self._made_of = plan, ()
        wanted = terms.resolver(plan.config, facts, plan.policy, own, proxied)
        if wanted is not None and wanted.proxied == "asked" and engine_port is not None:
            wanted = msgspec.structs.replace(wanted, engine_port=engine_port)
        self._resolver, self._names = wanted, self._hosts()
        changes = self._resolving.want(wanted, self._names)
        self._made_of, self._untold = made_of, ()
        return changes

    def want_first(
        self, plan: Plan, facts: Facts, proxied: Proxied, engine_port: int | None, ruleset: str
    ) -> tuple[Change, ...]:
        """As `want`, before the kernel goes by the plan; `has_followed` says when it may.

        ruleset: that is to be in force next. Raises Problems.
        """
        before = self._resolver
        filled = learned_sets(self._plan.policy, self._plan.families)
        if names := set(learned_sets(plan.policy, plan.families)).difference(filled):
            open_sets(ruleset, names, self._state)
        changes = self.want(plan, facts, proxied, engine_port)
        self._is_awaited = _is_first(before, self._resolver) or (self._answers and _is_other(before, self._resolver))
        return changes

    def has_followed(self) -> bool:
        """Whether there is whoever answers names in another way since `want_first`, or there is none and it fails."""
        if not self._is_awaited:
            return True
        return self._resolving.is_ready() if self._answers else bool(self._resolving.faults())

    @property
    def lead(self) -> Name:
        """Which of the two resolvers clients are to be led to."""
        return self._resolving.lead

    def led(self, name: Name) -> None:
        """They are, now."""
        self._resolving.led(name)

    def asked(self, plan: Plan) -> Policy:
        """What the kernel's rules are made of: a plan's policy, and what may still be learned for it as before."""
        is_known = plan.policy == self._plan.policy
        return learned.still_asked(plan.policy, self._former) if is_known and not self._is_former_over else plan.policy

    def applied(self) -> None:
        """The kernel asks what `asked` said, and has been told what `carried` said."""
        if self._is_former_over:
            self._former, self._is_former_over = {}, False
            self._said = (*self._said[:2], False)

    def turn(self, now: float) -> bool:
        """Whether the kernel's rules are to be others than before the turn.

        Clients are to be led elsewhere, to it, to the other one, or to none; or what was learned before a change is to
        be carried. Raises Problems.
        """
        self._resolving.turn(now)
        if self._resolver is not None and now >= self._hosts_at_s:
            self._hosts_at_s = now + HOSTS_S
            self._tell_names()
        self._age(now)
        self._hear(now)
        self._answers_since_s = (self._answers_since_s or now) if self._answers else None
        self._is_former_over = bool(self._former) and self._resolving.has_followed()
        before, self._said = self._said, (self._answers, self.lead, self._is_former_over)
        return self._said != before

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although nothing came in; None: never."""
        is_starting = self._resolver is not None and self._resolving.pid() is not None and not self._resolving.answers()
        ready_s = time.monotonic() + READY_LOOK_S if is_starting else None
        hosts_s = self._hosts_at_s if self._resolver is not None else None
        times = (self._resolving.next_deadline(), ready_s, hosts_s, self._age_at_s)
        return min((t for t in times if t is not None), default=None)

    def carried(self) -> str:
        """What nft is to be told with the next rules, so that no address that a name had is forgotten.

        Raises Problems.
        """
        if not self._is_former_over:
            return ""
        before = [it for named in self._former.values() for it in named]
        names = learned_sets(Policy(tuple(Rule("", DIRECT, it) for it in before)), self._plan.families)
        return learned.carried(self._former, {name: view.elements(name) for name in names}, self._plan.families)

    def forget(self) -> None:
        """The kernel's sets were lost: what addresses names have is to be learned again, and who asks for names."""
        self._answers_since_s = None
        self._resolving.forget()

    def serves(self) -> bool:
        return self._resolving.answers()

    def pid(self) -> int | None:
        return self._resolving.pid()

    def askers(self, now: float) -> frozenset[Client] | None:
        """Who asked for a name of late; None where that says nothing yet, or no rule has names. Raises Problems."""
        is_known = self._answers_since_s is not None and now >= self._answers_since_s + ASKS_WITHIN_S
        if not is_known or not learned_sets(self._plan.policy):
            return None
        return frozenset(view.client_of(it) for it in view.elements("askers4"))

    @property
    def proxied(self) -> Proxied | None:
        """What becomes of names that are proxied; None where none is, or we answer none."""
        return self._resolver.proxied if self._resolver and self._resolver.names.proxies else None

    def faults(self) -> tuple[Problem, ...]:
        """What is wrong now."""
        return (*self._resolving.faults(), *self._untold)

    def hints(self) -> tuple[str, ...]:
        """Whom this box itself is to ask, and who is not there, where that is whom we would ask."""
        if self._resolver is None or self._plan.config.dns.servers:
            return ()
        asked = ", ".join(map(str, self._resolver.direct))
        return tuple(
            f"{here.RESOLV_CONF} names the DNS server {it}, where nobody listens: names are asked at {asked} instead"
            " (start that server, name another one there, or set dns.servers)"
            for it in here.deserted()
        )

    def close(self) -> None:
        """Lets go; it goes on."""
        self._resolving.close()
        self._poll.close()

    def _hosts(self) -> str:
        config = self._plan.config
        return hosts_file(config.client, self._leases(), config.dhcp.domain.rstrip(".").lower())

    def _tell_names(self) -> None:
        """What cannot be written is a fault, and tried again."""
        names = self._hosts()
        if names == self._names:
            return
        try:
            self._resolving.want(self._resolver, names)
        except Problems as error:
            self._untold = error.problems
        else:
            self._names, self._untold = names, ()

    def _age(self, now: float) -> None:
        """Raises Problems."""
        if now < self._age_at_s:
            return
        self._age_at_s = now + learned.LOOK_EVERY_S
        if text := learned.ageing(self._sets()):
            programs.run("nft", "--file", "-", text=text)

    def _sets(self) -> learned.Sets:
        """Raises Problems."""
        names = learned_sets(self._plan.policy, self._plan.families)
        return {name: view.elements(name) for name in names}

    def _hear(self, now: float) -> None:
        if self._resolver is None:
            self._answers, self._mute_since_s = False, None
        elif self._resolving.answers():
            self._answers, self._mute_since_s = True, None
        elif self._answers:
            self._mute_since_s = self._mute_since_s or now
            self._answers = now < self._mute_since_s + MUTE_S


def open_sets(ruleset: str, names: Collection[str], state: Path) -> None:
    """Makes these sets of a ruleset that is not in force yet. state: where the journal is. Raises Problems.

    From now on the journal knows them: otherwise a look at the box would find a table that is not as we left it, and
    make it anew, with empty sets.
    """
    journal, listing = journals.load(state) or Journal(journals.boot_id()), list_table()
    table = (journal.table if listing is not None else None) or TableStep("")
    text = learned.opened(ruleset, set(names).difference(name for _, name in blocks(table.ruleset)))
    if not text:
        return
    opened = TableStep(table.ruleset + text)
    if listing is None:
        # What there was not before is written down first: whoever undoes it goes by the journal alone.
        journals.save(msgspec.structs.replace(journal, table=opened), state)
    programs.run("nft", "--file", "-", text=text)
    if listing == table.listing:
        opened = msgspec.structs.replace(opened, listing=list_table())
        journals.save(msgspec.structs.replace(journal, table=opened), state)


def _is_first(before: Resolver | None, now: Resolver | None) -> bool:
    return before is None and now is not None


def _is_other(before: Resolver | None, now: Resolver | None) -> bool:
    """Whether there are both, and names are answered in another way: whom the engine is asked by changes nothing."""
    if before is None or now is None:
        return False
    return msgspec.structs.replace(now, engine_port=before.engine_port, proxied=before.proxied) != before
