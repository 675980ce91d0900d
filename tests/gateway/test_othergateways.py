"""Who else is a gateway, and by what it is known."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address

from sidegate.gateway.health.othergateways import MOST_CALLERS, Caller, Callers, others
from sidegate.probe.conflict import ASK_S
from sidegate.probe.dhcp import Offer

US, ROUTER, BOX, AWAY = (IPv4Address(f"192.168.1.{n}") for n in (2, 1, 3, 9))
CALLER: Caller = ("02:00:00:00:00:03", BOX)
KNOWN = (US, ROUTER)


def offer(server: IPv4Address, *gateways: IPv4Address) -> Offer:
    return Offer(server, "02:00:00:00:00:07", IPv4Address("192.168.1.50"), gateways)


def steady(*asked_s: float, now: float) -> frozenset[Caller]:
    callers = Callers()
    for at_s in asked_s:
        callers.heard(CALLER, at_s)
    return callers.steady(now)


def hints(forwarding: Mapping[Caller, str], steady: Collection[Caller], offers: Iterable[Offer]) -> list[str]:
    return [it.hint() for it in others(forwarding, steady, offers, KNOWN)]


def test_who_asks_steadily() -> None:
    assert steady(0, 1, 3, now=3) == frozenset(), "as a device that has just come"
    assert steady(0, ASK_S, now=ASK_S) == {CALLER}
    assert steady(0, ASK_S, now=5 * ASK_S) == frozenset(), "it has gone"
    assert steady(0, 5 * ASK_S, now=5 * ASK_S) == frozenset(), "it has come again"


def test_a_crowd_that_is_made_up() -> None:
    callers = Callers()
    for at_s in (0, ASK_S):
        for n in range(1000):
            callers.heard((f"02:00:00:00:{n // 256:02x}:{n % 256:02x}", BOX), at_s)
    assert len(callers.steady(ASK_S)) == MOST_CALLERS


def test_each_is_told_with_what_speaks_for_it() -> None:
    assert hints({}, (), ()) == hints({}, (CALLER,), [offer(ROUTER, ROUTER), offer(ROUTER, US), offer(ROUTER)]) == []
    (hint,) = hints({CALLER: "box"}, (), ())
    assert hint.startswith("box forwards packets itself: another gateway on this LAN, or a router;")
    (hint,) = hints({CALLER: "box"}, (CALLER,), ())
    assert hint.startswith(
        "box forwards packets itself and asks for its own address steadily, as Sidegate does: a second Sidegate"
    )
    (hint,) = hints({}, (CALLER,), [offer(BOX, BOX)])
    assert "192.168.1.3 asks for its own address steadily" in hint
    assert "is handed out as the gateway by the DHCP server 192.168.1.3: a second Sidegate" in hint
    (hint,) = hints({}, (), [offer(ROUTER, AWAY), offer(ROUTER, AWAY)])
    assert hint.startswith("192.168.1.9 is handed out as the gateway by the DHCP server 192.168.1.1: another gateway")
