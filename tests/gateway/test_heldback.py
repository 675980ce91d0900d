"""What is told of devices that the kernel holds back."""

from __future__ import annotations

import pytest

from sidegate.gateway import view
from sidegate.gateway.clients.heldback import LOOK_S, MOST_TOLD, HeldBack
from sidegate.gateway.ruleset.nft import Element
from sidegate.gateway.ruleset.restraint import CONNECTIONS, NAMES

TV, PHONE = "02:00:00:00:00:10", "02:00:00:00:00:11"


def test_each_is_told_once_and_hinted_at_while_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sets: dict[str, tuple[Element, ...]] = {}
    told: list[str] = []
    monkeypatch.setattr(view, "elements", lambda name: sets.get(name, ()))
    held = HeldBack(told.append, lambda mac: {TV: "tv", PHONE: "phone"}.get(mac, mac))
    held.look(0.0)
    assert (told, held.hints()) == ([], ())
    sets[CONNECTIONS.held] = (Element((TV,), 7),)
    held.look(LOOK_S - 1)
    assert held.hints() == ()
    held.look(LOOK_S)
    sets |= {CONNECTIONS.held: (Element((TV,), 9),), NAMES.held: (Element((PHONE,), 1),)}
    held.look(2 * LOOK_S)
    assert [words.split(" than ")[0] for words in told] == [
        "tv begins more connections through the proxy",
        "phone asks this box for more names",
    ]
    assert [words.rpartition("; ")[2] for words in held.hints()] == ["so far 1 packets", "so far 9 packets"]
    sets[NAMES.held] = tuple(Element((f"02:ff:00:00:00:{i:02x}",), 1) for i in range(40))
    told.clear()
    held.look(3 * LOOK_S)
    assert [len(told), len(held.hints())] == [MOST_TOLD + 1] * 2
    assert told[-1] == "30 more devices are held back as well"
    sets.clear()
    held.look(4 * LOOK_S)
    assert held.hints() == ()
