"""Bridge probes of many clients over one socket: for a loop, or all at once."""

from __future__ import annotations

from ipaddress import IPv4Address

from sidegate.packet import Mac
from sidegate.probe.bridge import BridgeProbe, BridgeResult
from sidegate.probe.bridge_plan import DEFAULT_TARGETS, Plan
from sidegate.probe.talk import Vantage
from sidegate.probe.wire import Wire, run


class Prober:
    """Bridge probes of many clients over one socket, for a selectors loop.

    Wait for `fileno` to be readable until `next_deadline`, then call `on_readable` or `on_time`. At most 16 probes
    run at once, at most about `rate` frames per second go out. All times are `time.monotonic()`.
    Raises Problems when made, and from `on_readable` and `on_time` when the interface is gone: then `close` it.
    """

    def __init__(
        self,
        vantage: Vantage,
        targets: tuple[IPv4Address, ...] = DEFAULT_TARGETS,
        plan: Plan = Plan(),  # noqa: B008 (frozen)
        rate: float = 200,
    ) -> None:
        self._vantage, self._targets, self._plan = vantage, targets, plan
        self._wire: Wire[BridgeResult] = Wire(vantage.interface, vantage.ip, rate=rate)

    def fileno(self) -> int:
        return self._wire.fileno()

    def start(self, client_ip: IPv4Address, client_mac: Mac) -> int:
        """Begin a probe with the next turn; returns its key."""
        return self._wire.start(BridgeProbe(self._vantage, client_ip, client_mac, self._targets, self._plan).talk())

    def on_readable(self, now: float) -> None:
        self._wire.turn(now)

    def on_time(self, now: float) -> None:
        self._wire.turn(now)

    def next_deadline(self) -> float | None:
        return self._wire.next_deadline()

    def finished(self) -> list[tuple[int, BridgeResult]]:
        """Results since the last call, with their keys."""
        return self._wire.finished()

    def close(self) -> None:
        self._wire.close()


def probe_bridge(
    vantage: Vantage,
    clients: tuple[tuple[IPv4Address, Mac], ...],
    targets: tuple[IPv4Address, ...] = DEFAULT_TARGETS,
    plan: Plan = Plan(),  # noqa: B008 (frozen)
) -> list[BridgeResult]:
    """Probe clients, one result each in their order. Blocks, typically 0.2 to 0.5 s. Raises Problems."""
    with Wire[BridgeResult](vantage.interface, vantage.ip) as wire:
        return run(wire, *(BridgeProbe(vantage, ip, mac, targets, plan).talk() for ip, mac in clients))
