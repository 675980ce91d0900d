"""A proxy that stands on the LAN, with this box as its gateway: what it sends does not come back to it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from sidegate.home import load_home
from sidegate.lab.asking import http_get
from tests.kernel.gateway_lab import PATIENCE_S, Box, wait_for
from tests.kernel.looking import look
from tests.kernel.split_home import FOREIGN4, FOREIGN6, WAN, served

pytestmark = pytest.mark.kernel

HOME = load_home("split")
NAS, NAMER = HOME.client_named("nas"), HOME.client_named("my-computer")
OURS6, ROUTER6 = "2001:db8:1:1::2", "2001:db8:1:1::1"
SECOND, CHECK = "192.168.1.200", "192.0.2.1"
MOST = 6
"""Connections that the proxy makes by each family: where they come back to it, there would be no end."""
CONF = f"""
[proxy]
upstream = "socks5://{{host}}:1080#nas"
check = "http://{CHECK}/"

[[rule]]
cidr = ["{FOREIGN4}/32", "{FOREIGN6}/128"]
send = "proxy"

[ipv6]
mode = "gateway"

[dns]
mode = "off"
servers = ["{NAMER.v4}"]
"""


class Proxy:
    """A SOCKS5 server (RFC 1928) on the home's NAS, which sends from another address than it is found by.

    asked: for whom, in their order. What it is checked by it answers itself.
    """

    def __init__(self, box: Box) -> None:
        self.asked: list[str] = []
        self._free = {f: [box.lab.socket("nas", f, socket.SOCK_STREAM) for _ in range(MOST)] for f in _FROM}
        self.heard = box.lab.socket("nas", socket.AF_INET, socket.SOCK_STREAM)
        self.heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.heard.bind((str(NAS.v4), 1080))
        self.heard.listen()
        _begin(self._serve)

    def _serve(self) -> None:
        while True:
            _begin(self._talk, self.heard.accept()[0])

    def _talk(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as said:
            said.read(said.read(2)[1])
            client.sendall(b"\x05\x00")
            family = socket.AF_INET6 if said.read(4)[3] == 4 else socket.AF_INET
            address = socket.inet_ntop(family, said.read(16 if family == socket.AF_INET6 else 4))
            port = int.from_bytes(said.read(2), "big")
            if address == CHECK:
                client.sendall(_DONE)
                while said.readline().strip():
                    pass
                client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                return
            self.asked.append(address)
            with self._free[family].pop() as server:
                server.bind((_FROM[family], 0))
                server.connect((address, port))
                client.sendall(_DONE)
                _begin(_copy, client, server)
                _copy(server, client)


_DONE = b"\x05\x00\x00\x01" + bytes(6)
_FROM = {socket.AF_INET: SECOND, socket.AF_INET6: str(NAS.v6)}


def _names(heard: socket.socket) -> None:
    """A name server that knows the proxy's name and nothing else."""
    while len((said := heard.recvfrom(2048))[0]) > 12:
        asked, asker = said
        name = asked[12 : asked.index(0, 12)]
        is_it = (name, asked[len(name) + 14]) == (b"\x03nas\x03lan", 1)
        answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + NAS.v4.packed if is_it else b""
        head = asked[:2] + b"\x81\x80\x00\x01\x00" + bytes([is_it]) + bytes(4)
        heard.sendto(head + asked[12 : len(name) + 17] + answer, asker)


def _copy(source: socket.socket, to: socket.socket) -> None:
    while data := source.recv(4096):
        to.sendall(data)


def _begin(what: Callable[..., None], *about: socket.socket) -> None:
    """Until a socket is closed, or there is none left."""

    def run() -> None:
        with contextlib.suppress(OSError, IndexError):
            what(*about)

    threading.Thread(target=run, daemon=True).start()


@pytest.fixture
def proxy(lab_box: Box) -> Iterator[Proxy]:
    """And a name server on another device."""
    box = lab_box
    cable = box.shell("ip -o -4 address show scope global", "nas").split()[1]
    box.shell(f"ip address add {SECOND}/24 dev {cable}; ip -6 route replace default via {OURS6}", "nas")
    box.shell(f"ip -6 route replace default via {OURS6}", NAMER.name)
    namer = box.lab.socket(NAMER.name, socket.AF_INET, socket.SOCK_DGRAM)
    namer.bind((str(NAMER.v4), 53))
    _begin(_names, namer)
    it = Proxy(box)
    yield it
    for waits in (it.heard, namer):
        with contextlib.suppress(OSError):
            waits.shutdown(socket.SHUT_RDWR)
        waits.close()
    box.sidegate("down", "--now")
    box.shell(f"ip address del {SECOND}/24 dev {cable}; ip -6 route replace default via {ROUTER6}", "nas")
    box.shell(f"ip -6 route replace default via {ROUTER6}", NAMER.name)


@pytest.mark.parametrize("host", [str(NAS.v4), "nas.lan"])
def test_what_a_proxy_on_the_lan_sends_goes_straight_from_whatever_address(
    lab_box: Box, proxy: Proxy, host: str
) -> None:
    """Found by its address or by a name. The name server, which the engine asks too, is proxied like anybody."""
    box = lab_box
    served(box.up("--config", box.write("/run/nas.toml", CONF.format(host=host))))
    seen = [box.lab.call(NAMER.name, http_get, it, 80, "/who", PATIENCE_S) for it in (FOREIGN4, FOREIGN6)]
    assert proxy.asked == [FOREIGN4, FOREIGN6]
    assert [it.detail.split()[0] for it in seen] == [WAN, str(NAS.v6)]
    wait_for(lambda: any(f"{NAS.v4}, {SECOND}: another device behind" in hint for hint in box.status()["hints"]))
    told = json.loads(look(box.lab, "gateway", "explain", SECOND, FOREIGN4, "--json").stdout)["split"]
    assert (told["goes"], told["rule"]) == ("straight", "none: straight")
