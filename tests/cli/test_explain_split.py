"""What `explain` says of the split."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sidegate.cli import explain_split
from sidegate.cli.explain import wrong_now
from sidegate.cli.explain_split import Target, is_walked, look_up, split_lines, without_walk
from sidegate.gateway.aside.watch import StandingAside
from sidegate.gateway.box.places import Places
from sidegate.gateway.split.explaining import ExplainView
from sidegate.gateway.view import HealthView, StatusView
from sidegate.probe.dns import DnsAnswer
from sidegate.problems import Problems

OWN = IPv4Address("192.168.1.2")


def view(**more: object) -> ExplainView:
    return ExplainView(**{"goes": "straight", "rule": "the mode: direct", "why": "w", "decides": "kernel"} | more)  # type: ignore[arg-type]


@pytest.fixture
def resolving(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """ours: what our resolver answers; theirs: what this box's own does."""
    answers: dict[str, object] = {"ours": None, "theirs": "198.51.100.2"}

    def theirs(*_: object) -> list[object]:
        if answers["theirs"] is None:
            raise OSError(-2, "Name or service not known")
        return [(0, 0, 0, "", (answers["theirs"], 0))]

    monkeypatch.setattr(explain_split, "ask", lambda *_, **__: answers["ours"])
    monkeypatch.setattr("socket.getaddrinfo", theirs)
    return answers


def test_an_address_needs_no_question() -> None:
    assert look_up("203.0.113.9", OWN) == Target(IPv4Address("203.0.113.9"))


def test_our_resolver_is_asked_first(resolving: dict[str, object]) -> None:
    resolving["ours"] = DnsAnswer("NOERROR", ("203.0.113.9",))
    found = look_up("Bücher.Example", OWN)
    assert (str(found.address), found.name, found.by_us) == ("203.0.113.9", "xn--bcher-kva.example", True)
    assert found.how == ", as this box answers clients for xn--bcher-kva.example"


def test_where_none_of_ours_serves_the_boxs_own_is_asked(resolving: dict[str, object]) -> None:
    found = look_up("a.example", OWN)
    assert (str(found.address), found.by_us) == ("198.51.100.2", False)
    assert found.how == ", as this box's own resolver answers for a.example"


def test_a_name_that_we_refuse(resolving: dict[str, object]) -> None:
    resolving["ours"] = DnsAnswer("NXDOMAIN")
    found = look_up("ads.example", OWN)
    assert found.by_us
    assert found.how.endswith("; clients that ask this box are told NXDOMAIN, without an address")
    resolving["theirs"] = None
    with pytest.raises(Problems, match=r"no IPv4 address: Name or service not known; clients .* NXDOMAIN"):
        look_up("ads.example", OWN)


def test_what_is_no_name() -> None:
    with pytest.raises(Problems, match="no address: not a domain name"):
        look_up("a..example", OWN)


def test_what_is_said() -> None:
    proxied = view(
        goes="proxied", upstream="tokyo", rule='rule[0]: "tokyo"', decides="engine", dns="proxied", notes=("n",)
    )
    assert split_lines(proxied, by_us=True) == [
        "dns: asked through the upstream, as long as one works",
        'rule: rule[0]: "tokyo": w',
        "decided by: the engine",
        "goes: through the upstream tokyo",
        "note: n",
    ]
    assert split_lines(view(dns="direct"), by_us=False)[0] == "rule: the mode: direct: w"
    assert "restart" in split_lines(None, by_us=True)[0]


def test_only_what_leaves_this_box_as_it_came_is_walked() -> None:
    assert is_walked(view())
    for other, what in (
        (view(goes="proxied"), "no return path is needed"),
        (view(goes="refused"), "with a reset"),
        (view(decides="engine"), "to the destination"),
    ):
        assert not is_walked(other)
        assert what in without_walk(other)


def test_a_box_that_cannot_forward_and_keeps_everybody_says_what_to_type(tmp_path: Path) -> None:
    aside = StandingAside(Places(tmp_path, tmp_path), lambda _: None)
    aside.due({"router": "up", "internet": "up", "forwarding": "down"}, 1.0, must_stay=True)
    faults = tuple(f"{it.where}: {it.what}" for it in aside.faults())
    health = (HealthView("router", "up", 9.0, "it answers"), HealthView("forwarding", "down", 9.0, "no route"))
    told = wrong_now(StatusView(up=True, daemon=True, health=health, faults=(*faults, "another: thing")))
    assert told[0] == "fault: forwarding is down: no route"
    assert "`sidegate down` hands them over all the same" in told[1]
    assert len(told) == 2
