"""The daemon's own stepping aside: begun and taken back as `aside.choice` says, and begun anew if its process dies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import structs

from sidegate.gateway.aside import handover, stepaside
from sidegate.gateway.aside.choice import AsideChoice, Move
from sidegate.gateway.aside.stepaside import Manner
from sidegate.gateway.box.facts import Facts, vantage_of
from sidegate.gateway.box.places import Places, running_pid
from sidegate.gateway.desired import Desired
from sidegate.gateway.health.table import Name, State
from sidegate.gateway.view import client_of, elements
from sidegate.problems import Exit, Problem, Problems

LASTS_S = 7 * 86400.0
"""For a daemon that dies meanwhile and does not come back; one that lives takes the clients back by itself."""
LOOK_S = 2.0
"""Between looks at whether the process lives, and after a failure."""


class StandingAside:
    """All times are `time.monotonic()`. cause: the check for which the router stands in; empty while it does not."""

    def __init__(self, at: Places, tell: Callable[[str], None]) -> None:
        self._at, self._tell = at, tell
        self._choice = AsideChoice()
        self._look_at_s = 0.0
        self._is_told_to = False
        self._held_back = ""
        self.cause = ""

    def resume(self, now: float) -> None:
        """Goes on with what a daemon before us began. Raises Problems."""
        aside = stepaside.load(self._at.state)
        if aside is not None and aside.cause:
            self.cause = aside.cause
            self._choice.stepped(now)

    def settle(self, facts: Facts) -> None:
        """What `down` began is taken back, now that this box forwards again.

        Where nothing is known of it, as after a power cut or `down --now`, devices may still be at the router all the
        same, for as long as they use what they know: round this box, and what is proxied with it.
        """
        vantage = vantage_of(facts)
        try:
            if self.cause:
                return
            if stepaside.take_back(self._at):
                self._tell("clients were told that this box is their gateway again")
            elif vantage is not None:
                stepaside.say_where_we_are(vantage, handover.clients(facts, []), times=1)
        except Problems as error:
            self._tell(f"fault: {error}")

    def desired(self, desired: Desired) -> Desired:
        """What is told to clients that ask, as it must be now."""
        return pointed_to_router(desired) if self.cause else desired

    def due(self, states: Mapping[Name, State], now: float, *, must_stay: bool) -> Move | None:
        """What to do now: `decide` it, let `desired` be told, then `perform`. must_stay: see `AsideChoice.move`."""
        self._held_back = (self._choice.cause(states) or "") if must_stay else ""
        aside, told = bool(self.cause), self._is_told_to
        return self._choice.move(states, now, is_aside=aside, is_told_to=told, must_stay=must_stay)

    def faults(self) -> tuple[Problem, ...]:
        """Why clients stay here although the router could have them."""
        return (_held_back(self._held_back),) if self._held_back else ()

    def take_back(self) -> None:
        """A person says so: as soon as the check is up."""
        self._is_told_to = bool(self.cause)

    def decide(self, move: Move, states: Mapping[Name, State], now: float) -> None:
        """From now on `desired` is what it is to be."""
        if move == "step aside":
            self.cause = self._choice.cause(states) or ""
            self._choice.stepped(now)
            self._tell(f"{self.cause} is down although the router and the internet are up: clients go to the router")
        else:
            is_up = any(name == self.cause and state == "up" for name, state in states.items())
            why = f"{self.cause} is up again" if is_up else "what is proxied may not go straight"
            self._tell(f"{why}: clients are taken back")
            self.cause = ""
        self._look_at_s, self._is_told_to = now, False

    def perform(self, facts: Facts, now: float) -> None:
        """Clients are where they are to be, by ARP; looked after again and again, as the process may be killed."""
        if now < self._look_at_s:
            return
        self._look_at_s = now + LOOK_S
        try:
            self._perform(facts)
        except Problems as error:
            self._tell(f"fault: stepping aside: {error}")

    def left_s(self) -> float | None:
        """How long the router stands in at most, should this daemon die; None while it does not. Raises Problems."""
        return stepaside.left_s(self._at) if self.cause else None

    def _perform(self, facts: Facts) -> None:
        begun = stepaside.load(self._at.state)
        if self.cause and (begun is None or running_pid(self._at.aside) is None):
            vantage = vantage_of(facts)
            if vantage is not None:
                told = handover.clients(facts, [client_of(e) for e in elements("clients4")])
                stepaside.begin(vantage, told, Manner(LASTS_S, cause=self.cause, is_steady=True), self._at)
        elif not self.cause and begun is not None and stepaside.take_back(self._at):
            self._tell("clients were told that this box is their gateway again")


def pointed_to_router(desired: Desired) -> Desired:
    """The router is named as the gateway, and this box advertises nothing."""
    server = desired.dhcp
    return structs.replace(
        desired, dhcp=structs.replace(server, gateway=server.router) if server else None, advertiser=None
    )


def _held_back(cause: str) -> Problem:
    what = (
        f"{cause} is down, and clients are not handed to the router, where what is proxied would go straight: "
        'proxy.on_failure is "block"; `sidegate down` hands them over all the same'
    )
    return Problem("stepping aside", what, "mend it, or sidegate down", Exit.FAULT)
