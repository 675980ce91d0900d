"""Upstreams as their owner meets them, in a home whose provider lies and blocks: lists of them, and what is told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sidegate.lab.asking import udp_echo
from tests.kernel import split_home
from tests.kernel.gateway_lab import Box, Connection, wait_for
from tests.kernel.split_home import (
    DOMESTIC4,
    FOREIGN,
    FOREIGN4,
    PROXY,
    WAN,
    bare,
    insisting,
    page,
    proxy_state,
    upstreams,
)

pytestmark = pytest.mark.kernel

HOME = split_home.HOME
LIST_PORT = 8090
ABROAD = f'[[rule]]\ndomain = ["foreign.example"]\nsend = "proxy"\n[[rule]]\ncidr = ["{FOREIGN4}/32"]\nsend = "proxy"\n'


@pytest.fixture
def box(lab_box: Box) -> Iterator[Box]:
    yield lab_box
    lab_box.sidegate("down", "--now")


def up(box: Box, proxy: str, more: str = ABROAD) -> None:
    box.up("--config", write(box, proxy, more))


def write(box: Box, proxy: str, more: str = ABROAD) -> str:
    """The configuration, with a question to the upstreams that is answered in this home."""
    return box.write("/run/s.toml", f'[proxy]\ncheck = "http://{FOREIGN4}/"\n{proxy}\n{more}')


class _List(BaseHTTPRequestHandler):
    """Says what `text` is."""

    text = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def listing(box: Box, text: str) -> Iterator[None]:
    """A subscription at the provider's, for as long as this lasts."""
    server = ThreadingHTTPServer(("", 0), type("Now", (_List,), {"text": text}), bind_and_activate=False)
    server.socket.close()
    server.socket = box.lab.socket("internet", socket.AF_INET, socket.SOCK_STREAM)
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.socket.bind((DOMESTIC4, LIST_PORT))
    server.server_activate()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def test_subscriptions_that_come_late(box: Box) -> None:
    """Unreachable, rubbish, good: each time it is told, what there was is used, and no connection is dropped."""
    links, token = box.lab.links(), "token-hunter2"
    one, other = (f"http://{DOMESTIC4}:{LIST_PORT}/{token}/{number}" for number in (1, 2))

    def faults() -> list[str]:
        box.probe_again()
        return [it for it in box.status()["faults"] if it.startswith("proxy.subscription")]

    up(box, f'subscription = "{one}"')
    wait_for(lambda: faults() == ["proxy.subscription[0]: cannot be fetched: Connection refused"])
    assert page(box, "nas", FOREIGN) == WAN
    with listing(box, links["proxy-socks"]):
        wait_for(lambda: not faults() and page(box, "nas", FOREIGN) == PROXY)
    with Connection(box.lab, "phone", FOREIGN4) as proxied, Connection(box.lab, "phone", DOMESTIC4) as direct:
        with listing(box, "<html>Log in"):
            write(box, f'subscription = ["{one}", "{other}"]')
            box.sidegate("reload")
            wait_for(lambda: [it for it in faults() if "what was fetched is not used" in it])
        assert list(upstreams(box)) == ["proxy-socks"]
        with listing(box, links["proxy-vless"]):
            wait_for(lambda: not faults() and list(upstreams(box)) == ["proxy-socks", "proxy-vless"])
        assert page(box, "nas", FOREIGN) == PROXY
        assert proxied.is_alive()
        assert direct.is_alive()
    assert token not in "".join(box.sidegate("status", *how, check=False).stdout for how in ((), ("--json",)))


def test_why_an_upstream_does_not_work(box: Box) -> None:
    """A wrong password, nobody there, nobody at all, a name that nobody knows: no secret is told."""
    links = {
        "guess": f"socks5://lab:hunter2@{PROXY}:1080#guess",
        "dead": f"socks5://{PROXY}:9#dead",
        "ss": f"ss://2022-blake3-aes-128-gcm:AAECAwQFBgcICQoLDA0ODw==@{PROXY}:8388#ss",
        "unknown": "trojan://hunter2@nobody.example:443#unknown",
        "named": "socks5://lab:hunter2@proxy.example:1080#named",
    }
    listed = ", ".join(f'"{link}"' for link in links.values())
    up(box, f"upstream = [{listed}]")

    def whys() -> dict[str, str]:
        box.probe_again()
        found = upstreams(box)
        return (
            {name: it["why"] for name, it in found.items()}
            if all(it["state"] == "down" for it in found.values())
            else {}
        )

    words = {
        "guess": "its server answers, and lets nothing through: look at its user name and password",
        "dead": f"its server {PROXY}:9 refuses connections: nothing listens there",
        "ss": "its server answers, and lets nothing through: look at its password and cipher and this box's clock",
        "unknown": "its server's name nobody.example cannot be looked up",
        "named": "look at whether proxy.example:1080 is reachable and its user name and password",
    }

    def is_told() -> bool:
        found = whys()
        return all(w in found.get(n, "") for n, w in words.items())

    wait_for(is_told, within_s=90)
    assert "hunter2" not in box.sidegate("status", check=False).stdout + json.dumps(box.status())


def test_a_dead_upstream_is_known_before_anything_is_led_to_it(box: Box) -> None:
    up(box, f'upstream = "socks5://{PROXY}:9"')
    assert page(box, "nas", FOREIGN) == WAN
    assert proxy_state(box)["chosen"] == ""


def test_udp_for_an_upstream_that_carries_none_is_refused_at_once(box: Box) -> None:
    up(box, f'upstream = "{box.lab.links()["proxy-http-proxy"]}"\n')
    wait_for(lambda: proxy_state(box)["chosen"] == "proxy-http-proxy")
    for who in ("nas", "phone"):
        assert bare(box, who, FOREIGN4) == PROXY
        assert insisting(box, who, udp_echo, FOREIGN4).detail == "Connection refused"
        assert insisting(box, who, udp_echo, DOMESTIC4).ok
    assert "http (no UDP)" in box.sidegate("status").stdout
    words = ("explain", "192.168.1.127", FOREIGN4, "--proto", "udp", "--json")
    assert "carries no UDP: it is refused at once" in box.sidegate(*words, check=False).stdout
