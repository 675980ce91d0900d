"""What is told without a daemon: from the sets' listings alone."""

from __future__ import annotations

import json
from ipaddress import IPv4Address

import pytest

from sidegate.gateway import view
from sidegate.gateway.box import programs
from sidegate.gateway.config import ClientConfig, Config
from sidegate.gateway.view import ClientView, LeaseView, called, none_called
from sidegate.problems import Problems

TV, PHONE, NAS = ("02:00:00:00:00:10", "02:00:00:00:00:11", "02:00:00:00:00:12")
SETS = {
    "clients4": [
        {"elem": {"val": {"concat": [TV, "192.168.1.16"]}, "expires": 3599, "counter": {"packets": 2, "bytes": 90}}},
        {"elem": {"val": {"concat": [PHONE, "192.168.1.17"]}, "expires": 9, "counter": {"packets": 1, "bytes": 60}}},
        {"elem": {"val": {"concat": [NAS, "192.168.1.18"]}, "expires": 9, "counter": {"packets": 5, "bytes": 99}}},
    ],
    "direct4": [{"elem": {"val": {"concat": [TV, "192.168.1.16"]}, "timeout": 300, "expires": 200}}],
    "replies4": [{"elem": {"val": "192.168.1.17", "expires": 9, "counter": {"packets": 7, "bytes": 700}}}],
}


def nft_prints(monkeypatch: pytest.MonkeyPatch, *answer: object) -> None:
    def attempt(*arguments: str) -> tuple[object, ...]:
        return answer or (0, json.dumps({"nftables": [{"set": {"elem": SETS[arguments[-1]]}}]}), "")

    monkeypatch.setattr(programs, "attempt", attempt)


def test_clients_as_the_kernel_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    nft_prints(monkeypatch)
    config = Config(client=(ClientConfig(NAS, "nas", "never"),))
    told = [
        (c.name, c.path, c.decided, c.proof_left_s, c.up_packets, c.up_bytes, c.down_packets, c.down_bytes)
        for c in view.clients_in_kernel(config)
    ]
    assert told == [
        ("", "direct", True, 200, 2, 90, 0, 0),
        ("", "masqueraded", False, None, 1, 60, 7, 700),
        ("nas", "direct", True, None, 5, 99, 0, 0),
    ]
    assert view.client_of(view.elements("direct4")[0]).ip == IPv4Address("192.168.1.16")


def test_set_that_is_not_there_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    nft_prints(monkeypatch, 1, "", "Error: No such file or directory\nlist set inet sidegate direct4\n")
    assert view.elements("direct4") == ()


@pytest.mark.parametrize(
    ("answer", "words"),
    [((1, "", "Operation not permitted (you must be root)"), "not permitted"), ((0, "[]", ""), "not a listing")],
)
def test_other_answers_are_told(monkeypatch: pytest.MonkeyPatch, answer: tuple[int, str, str], words: str) -> None:
    """Taken for an empty set, they made `clients` say that there were none."""
    nft_prints(monkeypatch, *answer)
    with pytest.raises(Problems, match=words):
        view.elements("clients4")


def client(last: int, name: str = "", calls_itself: str = "") -> ClientView:
    lease = LeaseView("ours", name=calls_itself) if calls_itself else None
    mac = f"02:00:00:00:00:0{last}"
    return ClientView(ip=IPv4Address(f"192.168.1.{last}"), mac=mac, name=name, path="direct", lease=lease)


@pytest.mark.parametrize("word", ["192.168.1.1", "02:00:00:00:00:01", "02-00-00-00-00-01", "TV"])
def test_who_is_meant(word: str) -> None:
    """A device that calls itself as another is called does not get between."""
    tv, other = client(1, "tv"), client(2, calls_itself="tv")
    assert called(word, (tv, other)) == [tv]


def test_what_devices_call_themselves_is_a_name_too() -> None:
    phone, quiet = client(1, calls_itself="Phone"), client(2)
    assert called("phone", (phone, quiet)) == [phone]
    assert called("laptop", (phone, quiet)) == []
    assert "192.168.1.1, 192.168.1.2" in none_called("laptop", (phone, quiet)).remedy
