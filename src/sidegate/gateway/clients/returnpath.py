"""The return path of every client, as a state machine. Pure: events in, commands out; it knows no clock of its own.

The laws

| standing | event | becomes | commands |
|---|---|---|---|
| (new) | seen | masqueraded | probe |
| masqueraded | probed: direct | direct | prove; probe again in `RENEW_S` |
| masqueraded | probed: masquerade | masqueraded | probe again in `RETRY_LONGEST_S` |
| masqueraded | probed: unknown | masqueraded | probe again, later each time |
| direct | probed: direct | direct | prove (renew); probe again in `RENEW_S` |
| direct | probed: masquerade | masqueraded | withdraw; probe again in `RETRY_LONGEST_S` |
| direct | probed: unknown | direct until the proof lapses | probe again, later each time |
| direct | lapsed (its proof timed out) | masqueraded | probe when it is active |
| direct | went stale (the kernel withdrew the proof) | masqueraded | probe, later each time it happens |
| any | forgotten (not seen for long) | (gone) | withdraw |
| any | probes lost (the prober broke) | as it was | probe |
| any but fixed | asked for | as it was | probe |
| any but fixed | doubted (the router or our place changed) | masqueraded | withdraw; probe |

Not in the table: a proof is never renewed without a probe, and a client that sends nothing is not probed again: its
proof lapses, which costs nothing, because it sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct

from sidegate.gateway.ruleset.nft import PROOF_TIMEOUT_S, Client

RENEW_S = 120.0
"""Between probes of a proved client: two may fail before its proof lapses."""
RETRY_FIRST_S = 5.0
RETRY_LONGEST_S = 300.0
STALE_CALM_S = 600.0
"""A proof that held this long before it went stale counts as the first to do so."""
FORGET_S = 3600.0
CLIENTS_MOST = 8192
"""Nobody new is met while so many are known: on a LAN of 5,000 devices somebody makes them up. Whom we do not know is
masqueraded, which works."""
_DOUBLINGS = 10
"""After as many the delay is the longest; without a bound 2**n outgrows a float in some days without internet."""

Path = Literal["direct", "masqueraded"]
Verdict = Literal["direct", "masquerade", "unknown"]


class Standing(Struct):
    """What we know of one client. Times are seconds of a monotonic clock.

    why: the reason of its return path, as a sentence. fixed: the configuration decides, nothing is probed.
    decided: whether a probe said anything since it was seen first.
    active_s: when it last sent something to the internet by way of us; None: never seen doing so.
    proved_until_s: when its proof lapses. probe_at_s: when it is to be probed; None: when it is active again.
    misses: probes without a verdict in a row. stales: proofs that went stale in a row.
    evidence: what the last probe sent and heard, packed by whoever probed.
    """

    client: Client
    path: Path
    why: str
    since_s: float
    seen_s: float
    fixed: bool = False
    active_s: float | None = None
    decided: bool = False
    probing: bool = False
    probed_s: float | None = None
    proved_until_s: float = 0.0
    probe_at_s: float | None = None
    misses: int = 0
    stales: int = 0
    evidence: bytes = b""


class Prove(Struct, frozen=True):
    """Let the kernel pass this client's new flows un-NATed for that long."""

    client: Client
    for_s: int = PROOF_TIMEOUT_S


class Withdraw(Struct, frozen=True):
    client: Client


Command = Prove | Withdraw


class ReturnPaths:
    """All clients' standings."""

    def __init__(self) -> None:
        self._standings: dict[Client, Standing] = {}

    def __iter__(self) -> Iterator[Standing]:
        return iter(self._standings.values())

    def __len__(self) -> int:
        return len(self._standings)

    def proofs(self, now_s: float) -> list[Prove]:
        """Those that hold, each for the time that is left to it: for a kernel that has lost them."""
        left = [(s.client, int(s.proved_until_s - now_s)) for s in self._standings.values() if _is_proved(s)]
        return [Prove(client, left_s) for client, left_s in left if left_s > 0]

    def get(self, client: Client) -> Standing | None:
        return self._standings.get(client)

    def seen(self, client: Client, now_s: float, *, active: bool) -> bool:
        """It is there. active: it sent something by way of us just now. True if it is known only now."""
        standing = self._standings.get(client)
        is_new = standing is None
        if standing is None:
            if len(self._standings) >= CLIENTS_MOST:
                return False
            why = "new here: masqueraded until a probe proves that the router answers it directly"
            standing = Standing(client, "masqueraded", why, now_s, now_s, probe_at_s=now_s)
            self._standings[client] = standing
        standing.seen_s = now_s
        if active:
            standing.active_s = now_s
            if standing.probe_at_s is None and not standing.probing:
                standing.probe_at_s = now_s
        return is_new

    def fixed(self, client: Client, path: Path, now_s: float, *, active: bool) -> bool:
        """It is there, and the configuration says what its return path is. True if it is known only now."""
        known = self._standings.get(client)
        if known is None and len(self._standings) >= CLIENTS_MOST:
            return False
        standing = known or Standing(client, path, "the configuration says so", now_s, now_s, fixed=True, decided=True)
        self._standings[client] = standing
        standing.seen_s = now_s
        standing.active_s = now_s if active else standing.active_s
        return known is None

    def adopted(self, client: Client, expires_s: float, now_s: float) -> None:
        """An earlier daemon proved it, and the kernel still knows."""
        why = "proved by an earlier run; to be probed again"
        until_s = now_s + expires_s
        standing = Standing(client, "direct", why, now_s, now_s, proved_until_s=until_s, probe_at_s=now_s)
        self._standings[client] = standing

    def due(self, now_s: float) -> list[Client]:
        """Whom to probe now; each is taken as being probed until `probed` says what came of it.

        Who sent nothing since the last probe waits until it does.
        """
        due = [s for s in self._standings.values() if s.probe_at_s is not None and s.probe_at_s <= now_s]
        for standing in due:
            standing.probe_at_s = None
            standing.probing = _is_worth_a_probe(standing)
            if standing.probing:
                standing.probed_s = now_s
        return [s.client for s in due if s.probing]

    def next_due_s(self) -> float | None:
        """When `due` has something to do; None: not before something happens."""
        return min((s.probe_at_s for s in self._standings.values() if s.probe_at_s is not None), default=None)

    def next_lapse_s(self) -> float | None:
        """When `lapse` has something to do; None: nobody is proved."""
        return min((s.proved_until_s for s in self._standings.values() if _is_proved(s)), default=None)

    def probed(
        self, client: Client, verdict: Verdict, reason: str, now_s: float, evidence: bytes = b""
    ) -> list[Command]:
        """What a probe said. A client forgotten meanwhile is left alone."""
        standing = self._standings.get(client)
        if standing is None:
            return []
        standing.probing, standing.decided, standing.evidence = False, True, evidence
        if verdict == "unknown":
            standing.misses += 1
            standing.probe_at_s = now_s + _delay_s(standing.misses - 1)
            if standing.path == "masqueraded":
                standing.why = reason
            return []
        standing.misses = 0
        if verdict == "direct":
            return self._prove(standing, reason, now_s)
        standing.probe_at_s = now_s + RETRY_LONGEST_S
        was_direct = standing.path == "direct"
        self._turn(standing, "masqueraded", reason, now_s)
        return [Withdraw(client)] if was_direct else []

    def went_stale(self, clients: Iterable[Client], now_s: float) -> list[Client]:
        """The kernel saw connections of these proved clients stay unanswered, and withdrew the proofs.

        Returns those of them that were taken for direct until now.
        """
        fallen = []
        for client in clients:
            standing = self._standings.get(client)
            if standing is None or not _is_proved(standing):
                continue
            calm = now_s - standing.since_s >= STALE_CALM_S
            standing.stales = 1 if calm else standing.stales + 1
            standing.probe_at_s = now_s + (0.0 if standing.stales == 1 else _delay_s(standing.stales))
            self._turn(standing, "masqueraded", "connections stayed unanswered: the proof was withdrawn", now_s)
            fallen.append(client)
        return fallen

    def lapse(self, now_s: float) -> list[Client]:
        """Proofs whose time is over: the kernel has dropped them by itself."""
        lapsed = [s for s in self._standings.values() if _is_proved(s) and s.proved_until_s <= now_s]
        for standing in lapsed:
            self._turn(standing, "masqueraded", "its proof lapsed while it was silent or could not be probed", now_s)
        return [s.client for s in lapsed]

    def forget(self, now_s: float) -> list[Command]:
        """Drops whom nobody has seen for `FORGET_S`."""
        gone = [s for s in self._standings.values() if s.seen_s + FORGET_S <= now_s]
        for standing in gone:
            del self._standings[standing.client]
        return [Withdraw(s.client) for s in gone if _is_proved(s)]

    def probes_lost(self, now_s: float) -> None:
        """What was being probed will get no verdict: to be probed again."""
        for standing in self._standings.values():
            if standing.probing:
                standing.probing, standing.probed_s, standing.probe_at_s = False, None, now_s

    def drop(self, clients: Iterable[Client]) -> None:
        """The configuration says something else about them now: to be met again. Their proofs are the caller's."""
        for client in clients:
            self._standings.pop(client, None)

    def probe_all(self, now_s: float) -> int:
        """Somebody asks: each is probed as soon as may be, and keeps its return path until then. Returns how many."""
        asked = [s for s in self._standings.values() if not s.fixed]
        for standing in asked:
            standing.probing, standing.probe_at_s, standing.probed_s = False, now_s, None
        return len(asked)

    def doubt_all(self, why: str, now_s: float) -> list[Command]:
        """The router or our place changed: every proof is void, and everybody is probed again."""
        doubted = [s for s in self._standings.values() if not s.fixed]
        proved = [s for s in doubted if s.path == "direct"]
        for standing in doubted:
            standing.probe_at_s, standing.probing, standing.decided = now_s, False, False
            standing.probed_s = None
        for standing in proved:
            self._turn(standing, "masqueraded", why, now_s)
        return [Withdraw(s.client) for s in proved]

    def _prove(self, standing: Standing, reason: str, now_s: float) -> list[Command]:
        standing.proved_until_s = now_s + PROOF_TIMEOUT_S
        standing.probe_at_s = now_s + RENEW_S
        self._turn(standing, "direct", reason, now_s)
        return [Prove(standing.client)]

    def _turn(self, standing: Standing, path: Path, why: str, now_s: float) -> None:
        if standing.path != path:
            standing.since_s = now_s
        standing.path, standing.why = path, why


def _is_proved(standing: Standing) -> bool:
    return standing.path == "direct" and not standing.fixed


def _delay_s(times: int) -> float:
    return min(RETRY_FIRST_S * 2.0 ** min(times, _DOUBLINGS), RETRY_LONGEST_S)


def _is_worth_a_probe(standing: Standing) -> bool:
    if standing.probed_s is None or not standing.decided:
        return True
    return standing.active_s is not None and standing.active_s >= standing.probed_s
