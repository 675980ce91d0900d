"""Which devices the kernel holds back now, because they begin too much: told once, and as long as it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sidegate.gateway import view
from sidegate.gateway.ruleset.restraint import CONNECTIONS, DATAGRAMS, NAMES, STRANGERS, Allowance

MOST_TOLD = 10
"""At a time: MAC addresses may be made up."""
LOOK_S = 30.0
"""Between looks: the kernel remembers for longer."""
_DOES: dict[Allowance, str] = {
    CONNECTIONS: "begins more connections through the proxy",
    DATAGRAMS: "begins more flows of UDP through the proxy",
    STRANGERS: "reaches more strangers through the proxy from one UDP port, as BitTorrent does,",
    NAMES: "asks this box for more names",
}


class HeldBack:
    """tell: an event. named: a device, by its MAC address, as a person knows it."""

    def __init__(self, tell: Callable[[str], None], named: Callable[[str], str]) -> None:
        self._tell, self._named = tell, named
        self._held: dict[tuple[Allowance, str], int] = {}
        self._look_at_s = 0.0

    def look(self, now: float) -> None:
        """now: `time.monotonic()`. Raises Problems."""
        if now < self._look_at_s:
            return
        self._look_at_s = now + LOOK_S
        before, self._held = self._held, dict(_listed())
        for words in self._sentences({who: "" for who in self._held if who not in before}):
            self._tell(words)

    def hints(self) -> tuple[str, ...]:
        return self._sentences({who: f"; so far {count} packets" for who, count in self._held.items()})

    def _sentences(self, ends: Mapping[tuple[Allowance, str], str]) -> tuple[str, ...]:
        """One for each, with this at its end."""
        listed = sorted(ends.items(), key=str)
        told = tuple(self._told(*who) + end for who, end in listed[:MOST_TOLD])
        left = len(listed) - MOST_TOLD
        return (*told, f"{left} more devices are held back as well") if left > 0 else told

    def _told(self, it: Allowance, mac: str) -> str:
        allowed = f"{it.at_once} at once and {it.rate} a {it.unit}"
        return f"{self._named(mac)} {_DOES[it]} than one device may ({allowed}): what is beyond is dropped"


def _listed() -> Iterator[tuple[tuple[Allowance, str], int]]:
    """Raises Problems."""
    for allowance in _DOES:
        for element in view.elements(allowance.held):
            yield (allowance, element.key[0]), element.packets or 0
