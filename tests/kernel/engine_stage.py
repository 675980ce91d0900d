"""A stage for the engine: real servers of every kind in a network namespace of their own, and the engine beside them.

Run as `unshare -Urn python -m tests.kernel.engine_stage`: it says on its standard output, as one line of JSON, what
came through each upstream.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import trustme
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from sidegate.gateway.engine.child import engine_child
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.upstream import Upstream
from sidegate.gateway.engine.xray import Engine
from sidegate.gateway.split.policy import Policy
from sidegate.gateway.split.ports import ports

Json = dict[str, Any]

SERVER, TARGET = "192.0.2.1", "198.51.100.1"
ID = "11111111-2222-4333-8444-555555555555"
KEY16 = base64.b64encode(bytes(range(16))).decode()
NAME = "proxy.example"
"""Of the servers that speak TLS, and of the target."""
_SERVE_XRAY = "import sys, xray; xray.startFromJSON(sys.stdin.read())"


class Pair:
    """A key of X25519's, as Xray writes it (Reality: URL-safe, WireGuard: plain)."""

    def __init__(self) -> None:
        private = X25519PrivateKey.generate()
        self.private, self.public = private.private_bytes_raw(), private.public_key().public_bytes_raw()


def plain64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Certificate:
    """Of NAME, signed by nobody that is known. pin: its SHA-256."""

    def __init__(self, directory: Path) -> None:
        made = trustme.CA().issue_cert(NAME)
        self.chain, self.key = directory / "chain.pem", directory / "key.pem"
        made.cert_chain_pems[0].write_to_path(str(self.chain))
        made.private_key_pem.write_to_path(str(self.key))
        self.pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.chain.read_text())).hexdigest()

    def settings(self) -> Json:
        return {"certificates": [{"certificateFile": str(self.chain), "keyFile": str(self.key)}]}


def kinds(certificate: Certificate) -> dict[str, tuple[Json, str]]:
    """name -> Xray's inbound (without port) and the share link that leads to it, with PORT for its port."""
    at = f"{SERVER}:PORT"
    reality, wire, own = Pair(), Pair(), Pair()
    account = {"user": "name", "pass": "pass:word"}
    tls = {"security": "tls", "tlsSettings": certificate.settings()}
    pinned = f"security=tls&sni={NAME}&pcs={certificate.pin}"
    clients = [{"id": ID, "email": "a@b"}]
    vless: Json = {"clients": clients, "decryption": "none"}
    vision: Json = {"clients": [{**clients[0], "flow": "xtls-rprx-vision"}], "decryption": "none"}
    real = {"target": f"{TARGET}:443", "serverNames": [NAME], "shortIds": ["ab12"]}
    reality_stream = {"security": "reality", "realitySettings": {**real, "privateKey": url64(reality.private)}}
    reality_link = f"security=reality&pbk={url64(reality.public)}&sid=ab12&sni={NAME}&fp=chrome"
    vmess = {"v": "2", "ps": "x", "add": SERVER, "port": "PORT", "id": ID, "aid": "0", "net": "tcp", "type": "none"}
    peer = {"publicKey": own.public.hex(), "allowedIPs": ["10.9.0.2/32"]}
    wireguard = {"secretKey": wire.private.hex(), "address": ["10.9.0.1"], "peers": [peer], "noKernelTun": True}
    wire_query = f"publickey={plain64(wire.public).replace('+', '%2B')}&address=10.9.0.2/32&mtu=1380"
    return {
        "socks": (
            {"protocol": "socks", "settings": {"auth": "password", "accounts": [account], "udp": True, "ip": SERVER}},
            f"socks5://name:pass%3Aword@{at}",
        ),
        "http": ({"protocol": "http", "settings": {"accounts": [account]}}, f"http://name:pass%3Aword@{at}"),
        "https": (
            {"protocol": "http", "settings": {"accounts": [account]}, "streamSettings": tls},
            f"https://name:pass%3Aword@{at}?sni={NAME}&pcs={certificate.pin}",
        ),
        "ss": (
            {"protocol": "shadowsocks", "settings": {"method": "aes-128-gcm", "password": "pw", "network": "tcp,udp"}},
            f"ss://{url64(b'aes-128-gcm:pw')}@{at}",
        ),
        "ss2022": (
            {
                "protocol": "shadowsocks",
                "settings": {"method": "2022-blake3-aes-128-gcm", "password": KEY16, "network": "tcp,udp"},
            },
            f"ss://2022-blake3-aes-128-gcm:{KEY16}@{at}",
        ),
        "vmess": (
            {"protocol": "vmess", "settings": {"clients": clients}},
            "vmess-json:" + json.dumps(vmess),
        ),
        "vmess-ws": (
            {
                "protocol": "vmess",
                "settings": {"clients": clients},
                "streamSettings": {"network": "ws", "wsSettings": {"path": "/w"}, **tls},
            },
            f"vmess://{ID}@{at}?type=ws&path=%2Fw&host={NAME}&{pinned}",
        ),
        "vless-tls": (
            {"protocol": "vless", "settings": vision, "streamSettings": {"network": "raw", **tls}},
            f"vless://{ID}@{at}?type=tcp&flow=xtls-rprx-vision&{pinned}",
        ),
        "vless-grpc": (
            {
                "protocol": "vless",
                "settings": vless,
                "streamSettings": {"network": "grpc", "grpcSettings": {"serviceName": "s"}, **tls},
            },
            f"vless://{ID}@{at}?type=grpc&serviceName=s&{pinned}",
        ),
        "vless-httpupgrade": (
            {
                "protocol": "vless",
                "settings": vless,
                "streamSettings": {"network": "httpupgrade", "httpupgradeSettings": {"path": "/u"}, **tls},
            },
            f"vless://{ID}@{at}?type=httpupgrade&path=%2Fu&host={NAME}&{pinned}",
        ),
        "vless-xhttp": (
            {
                "protocol": "vless",
                "settings": vless,
                "streamSettings": {"network": "xhttp", "xhttpSettings": {"path": "/x"}, **tls},
            },
            f"vless://{ID}@{at}?type=xhttp&path=%2Fx&alpn=h2&{pinned}",
        ),
        "vless-reality": (
            {"protocol": "vless", "settings": vision, "streamSettings": {"network": "raw", **reality_stream}},
            f"vless://{ID}@{at}?type=tcp&flow=xtls-rprx-vision&{reality_link}",
        ),
        "trojan": (
            {"protocol": "trojan", "settings": {"clients": [{"password": "pw"}]}, "streamSettings": tls},
            f"trojan://pw@{at}?{pinned}",
        ),
        "wireguard": (
            {"protocol": "wireguard", "settings": wireguard},
            f"wireguard://{plain64(own.private).replace('+', '%2B').replace('/', '%2F')}@{at}?{wire_query}",
        ),
    }


def link_of(template: str, port: int) -> str:
    text = template.replace("PORT", str(port))
    body = text.removeprefix("vmess-json:")
    return text if body is text else f"vmess://{base64.b64encode(body.encode()).decode()}"


# Servers


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{self.client_address[0]} {self.headers['Host']}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def serve_target(certificate: Certificate) -> None:
    """HTTP on port 80, TLS on 443, UDP echo on 7."""
    for port in (80, 443):
        server = ThreadingHTTPServer((TARGET, port), _Page)
        if port == 443:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate.chain, certificate.key)
            context.set_alpn_protocols(["h2", "http/1.1"])
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind((TARGET, 7))
    threading.Thread(target=_echo, args=(echo,), daemon=True).start()


def _echo(it: socket.socket) -> None:
    while True:
        data, peer = it.recvfrom(2048)
        it.sendto(data + b" from " + str(peer[1]).encode(), peer)


@contextmanager
def running(*command: str, text: str = "", **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr, **options)
    try:
        assert program.stdin is not None
        program.stdin.write(text.encode())
        program.stdin.close()
        yield program
    finally:
        program.terminate()
        program.wait()


def serving(inbounds: list[Json]) -> Any:
    """A server that lets its clients reach what it would take for a private network."""
    freedom = {"protocol": "freedom", "settings": {"finalRules": [{"action": "allow"}]}}
    config = {"log": {"loglevel": os.environ.get("STAGE_LOG", "none")}, "inbounds": inbounds, "outbounds": [freedom]}
    return running(sys.executable, "-c", _SERVE_XRAY, text=json.dumps(config))


@contextmanager
def engine(it: Engine, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Until it says that it is ready, or ends."""
    child = engine_child(it, directory)
    for file in child.files:
        Path(file.path).write_text(file.text)
    with running(*child.command) as program:
        wait_until(lambda: program.poll() is not None or _is_ready(child.ready, program.pid))
        yield program


def _is_ready(path: str, pid: int) -> bool:
    return Path(path).exists() and Path(path).read_text().strip() == str(pid)


def wait_until(holds: Callable[[], object], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


# Clients


def over_socks(port: int, host: str, to_port: int) -> socket.socket:
    """RFC 1928. Raises OSError."""
    it = socket.create_connection(("127.0.0.1", port), 5)
    it.sendall(b"\x05\x01\x00")
    assert it.recv(2) == b"\x05\x00"
    name = host.encode()
    it.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack("!H", to_port))
    reply = it.recv(10)
    if reply[:2] != b"\x05\x00":
        raise OSError(f"SOCKS says {reply!r}")
    return it


def web_answer(port: int, host: str = TARGET) -> str:
    """What the page says, or why there is none."""
    try:
        with over_socks(port, host, 80) as it:
            it.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            answer = _read_line(it)
    except OSError as error:
        return f"{type(error).__name__}"
    return answer.rpartition(b"\r\n\r\n")[2].decode().strip() or "closed"


def _read_line(it: socket.socket) -> bytes:
    """Up to the end of the page, or of the connection: Xray tells the end of a server's words a second late."""
    answer = b""
    while not answer.rpartition(b"\r\n\r\n")[2].endswith(b"\n"):
        more = it.recv(4096)
        if not more:
            break
        answer += more
    return answer


def udp_answer(port: int) -> str:
    """Of the echo server, over a UDP association."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as control:
            control.sendall(b"\x05\x01\x00")
            control.recv(2)
            control.sendall(b"\x05\x03\x00\x01" + bytes(6))
            reply = control.recv(10)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
                it.settimeout(3)
                header = b"\x00\x00\x00\x01" + socket.inet_aton(TARGET) + struct.pack("!H", 7)
                it.sendto(header + b"hello", ("127.0.0.1", struct.unpack("!H", reply[8:10])[0]))
                return it.recv(2048)[10:].split()[0].decode()
    except OSError as error:
        return f"{type(error).__name__}"
    except IndexError:
        return "refused"


# The play


def set_up_network() -> None:
    for command in ("link set lo up", f"addr add {SERVER}/32 dev lo", f"addr add {TARGET}/32 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)


def upstreams_of(links: dict[str, str]) -> tuple[Upstream, ...]:
    return tuple(msgspec.structs.replace(upstream_of_link(link, name), name=name) for name, link in links.items())


def main() -> None:
    set_up_network()
    with tempfile.TemporaryDirectory() as path:
        directory = Path(path)
        certificate = Certificate(directory)
        serve_target(certificate)
        made = kinds(certificate)
        inbounds = [
            {**inbound, "listen": SERVER, "port": 2000 + i, "tag": name}
            for i, (name, (inbound, _)) in enumerate(made.items())
        ]
        links = {name: link_of(link, 2000 + i) for i, (name, (_, link)) in enumerate(made.items())}
        upstreams = upstreams_of(links)
        with serving(inbounds), engine(Engine(Policy(), upstreams), directory) as program:
            told = {name: _told(ports(0, i).socks, upstreams[i]) for i, name in enumerate(links)}
            told["ended"] = {"code": program.poll()}
    print(json.dumps(told))


def _told(port: int, it: Upstream) -> Json:
    with suppress(TimeoutError):
        # The servers may still be starting.
        wait_until(lambda: " " in web_answer(port), 3)
    return {"web": web_answer(port), "udp": udp_answer(port) if it.udp else "none"}


if __name__ == "__main__":
    main()
