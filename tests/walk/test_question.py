"""What a person may ask, and what is refused; the probe walked; the command line."""

from __future__ import annotations

import json

import pytest

from sidegate.cli.main import main
from sidegate.home import load_home, load_router, shipped_homes
from sidegate.walk.question import proved_clients


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["walk", *words])
    said = capsys.readouterr()
    return int(str(ended.value.code)), said.out, said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nosuch", "phone", "server"), "no such home"),
        (("velop-mesh", "nobody", "server"), 'nobody is called "nobody"'),
        (("velop-mesh", "phone", "9.9.9.9"), "nobody in this home file has this address"),
        (("velop-mesh", "phone", "1.2.3"), "neither a name in this home nor an IP address"),
        (("velop-mesh", "phone", "server:99999"), '"99999" is no port'),
        (("velop-mesh", "phone", "server:80", "--proto", "icmp"), "ICMP knows no ports"),
        (("velop-mesh", "phone", "phone"), "asks itself"),
        (("velop-mesh", "phone", "blocked-site", "--family", "6"), "has no IPv6 address"),
        (("velop-mesh", "phone", "2001:db8:cafe::4", "--family", "4"), "not an IPv4 address"),
        (("velop-mesh", "phone", "server", "--no-forwarding", "--proxied"), "does not forward"),
        (("velop-mesh", "phone", "server", "--proto", "sctp"), "sctp"),
        (("tests/golden/homes/ring-of-nodes.toml", "a", "b"), "a ring of nodes"),
        (("tests/golden/homes/contradictory.toml", "a", "b"), "contradictory.toml"),
    ],
)
def test_what_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("words", "code", "verdict"),
    [
        (("phone", "server"), 1, "reply-lost-private-source"),
        (("phone", "server", "--family", "6"), 0, "delivered"),
        (("phone", "[2001:db8:cafe::4]:80"), 0, "delivered"),
        (("phone", "Server.example:80", "--masquerade", "all"), 0, "delivered"),
        (("phone", "server", "--masquerade", "auto"), 0, "delivered"),
        (("phone", "server", "--no-forwarding"), 1, "not-forwarding"),
        (("phone", "server", "--proxied"), 0, "delivered"),
        (("phone", "blocked-site", "--masquerade", "all"), 1, "blocked-by-isp"),
        (("phone", "server:5555", "--masquerade", "all"), 1, "connection-refused"),
        (("phone", "192.168.1.99"), 1, "no-neighbour"),
        (("server", "router:25565"), 1, "reply-to-other-tuple"),
        (("server", "router:4444"), 1, "connection-refused"),
    ],
)
def test_questions_in_the_articles_home(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, verdict: str
) -> None:
    ended, out, _ = run(capsys, "velop-mesh", *words, "--json")
    told = json.loads(out)
    assert (told["schema"], told["walk"]["verdict"]["code"], ended) == (1, verdict, code)


def test_every_format_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    starts = {"text": "192.168.1.126 asks", "mermaid": "graph TD", "svg": "<svg", "json": "{"}
    for shape, start in starts.items():
        assert run(capsys, "velop-mesh", "phone", "server", "--format", shape)[1].startswith(start)


@pytest.mark.parametrize("name", shipped_homes())
def test_the_probe_proves_whom_the_home_expects_direct(name: str) -> None:
    home = load_home(name)
    proved = set(proved_clients(home, load_router(home.router.profile)))
    for expect in home.expect:
        if expect.gateway == "sidegate" and expect.to == "server":
            direct = {client for client, outcome in expect.v4.items() if outcome == "direct"}
            behind = {c.name for c in home.client if c.gateway == "gateway"}
            assert direct & behind == proved & set(expect.v4) & behind
