"""When the daemon hands clients to the router by itself, and when it takes them back. Pure, without a clock of its own.

The laws

- Only for a check that says so in `health.TABLE`, and only while the router and the internet by way of it are up: a
  client that is moved to a dead router has gained nothing.
- Taken back when each such check is up again, and not before the clients have stayed for a while: a minute the first
  time, four times as long each further time within six hours, an hour at the most. So nothing flaps. A person who says
  `sidegate up` need not wait, but for the check.
- What is not known moves nobody.
- Nobody at all where what is proxied may never go straight (`rules.fails_closed`): by the router's way it would.
  Whoever is there already is taken back at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sidegate.gateway.health.table import TABLE, Name, State

Move = Literal["step aside", "take back"]

FIRST_STAY_S, LONGEST_STAY_S, MEMORY_S = 60.0, 3600.0, 6 * 3600.0
CAUSES: tuple[Name, ...] = tuple(check.name for check in TABLE if check.steps_aside)


class AsideChoice:
    """All times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._stepped_s: list[float] = []
        self._until_s = 0.0

    def stepped(self, now_s: float) -> None:
        """Clients were handed over just now, or a daemon before us did it."""
        self._stepped_s = [t for t in self._stepped_s if now_s - t < MEMORY_S] + [now_s]
        self._until_s = now_s + min(FIRST_STAY_S * 4.0 ** (len(self._stepped_s) - 1), LONGEST_STAY_S)

    def cause(self, states: Mapping[Name, State]) -> Name | None:
        """The check that is down and moves clients, if the router could have them."""
        if states.get("router") != "up" or states.get("internet") != "up":
            return None
        return next((name for name in CAUSES if states.get(name) == "down"), None)

    def move(
        self,
        states: Mapping[Name, State],
        now_s: float,
        *,
        is_aside: bool,
        is_told_to: bool = False,
        must_stay: bool = False,
    ) -> Move | None:
        """What to do now. is_told_to: a person has said to take the clients back. must_stay: see the last law."""
        if must_stay:
            return "take back" if is_aside else None
        if not is_aside:
            return "step aside" if self.cause(states) else None
        is_well = all(states.get(name) == "up" for name in CAUSES)
        return "take back" if is_well and (is_told_to or now_s >= self._until_s) else None
