"""A plan that is not in force yet: until whoever it needs serves, the box goes by the one before, as a whole. Pure.

A rule to an upstream that the engine does not know, or to an engine that does not run, would send its traffic straight
until it does, and its names would be asked of the provider. So the kernel's rules, and whom names are asked, stay as
they are until the new engine serves; then names are answered as the plan has it; then the kernel goes by it. Each step
has its time: what cannot start keeps no rule from its place.
"""

from __future__ import annotations

from msgspec import Struct

from sidegate.gateway.box.apply import Change
from sidegate.gateway.box.facts import Facts
from sidegate.gateway.daemon.splitplan import Plan

SETTLE_S = 5.0
"""How long an engine is waited for, if it does not fail."""
SURE_S = 3.0
"""How long of that for the upstream's first answer: names that were led to one that is dead would have none. Xray tries
a server that refuses five times in a second (common/retry), and two trials must say so."""
FOLLOWS_WITHIN_S = 4.5
"""How long rules wait for a resolver that answers as they have it: right after another change that is its GRACE_S, and
what dnsmasq takes to start, with 100,000 names 0.4 s. Less than an engine that ends its connections has (COUNT_S): the
kernel leads to it meanwhile."""


class Coming(Struct):
    """awaits_engine: whether there is no engine yet that could do it; is_first: because none serves.

    serves_s: since when that engine does. names_s: since when names are on the way. Times are `time.monotonic()`.
    """

    plan: Plan
    facts: Facts
    began_s: float
    awaits_engine: bool
    is_first: bool
    begun: tuple[Change, ...] = ()
    serves_s: float | None = None
    names_s: float | None = None

    def has_engine(self, now: float, *, serves: bool, is_sure: bool, fails: bool) -> bool:
        """Whether names may be next. serves: the engine that the plan needs. is_sure: see `Supervision.is_sure`."""
        if not self.awaits_engine or fails or now >= self.began_s + SETTLE_S:
            return True
        if not serves:
            return False
        self.serves_s = self.serves_s or now
        return is_sure or not self.is_first or now >= self.serves_s + SURE_S

    def has_names(self, now: float, *, have_followed: bool) -> bool:
        """Whether the kernel may be next."""
        return self.names_s is not None and (have_followed or now >= self.names_s + FOLLOWS_WITHIN_S)
