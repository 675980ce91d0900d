"""A stage for the engine: real servers of every kind in a network namespace of their own, and the engine beside them.

Who goes on it: see engine_plays.
"""

from __future__ import annotations

import base64
import ctypes
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

import msgspec
import trustme
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from sidegate.gateway.engine.child import engine_child
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.upstream import Upstream
from sidegate.gateway.engine.xray import Engine

Json = dict[str, Any]

SERVER, TARGET, OTHER, RESOLVER = "192.0.2.1", "198.51.100.1", "198.51.100.2", "198.51.100.53"
DIRECT_RESOLVER = "192.0.2.53"
SILENT = "192.0.2.99"
"""Nobody is there."""
SERVER6, TARGET6 = "2001:db8:1::1", "2001:db8:2::1"
CLIENT6, BOX6 = "fd00::2", "fd00::1"
CLIENT, BOX, BOX_OUTSIDE = "10.0.0.2", "10.0.0.1", "172.16.0.2"
NAME = "proxy.example"
"""Of the servers that speak TLS, and of the target."""
HOSTS = {
    "listed.example": OTHER,
    "www.listed.example": OTHER,
    "other.example": TARGET,
    "six.example": TARGET6,
    NAME: RESOLVER,
}
"""Names that the upstream knows otherwise than the client."""
ID = "11111111-2222-4333-8444-555555555555"
KEY16 = base64.b64encode(bytes(range(16))).decode()
_CLONE_NEWNET = 0x40000000
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
    """Of NAME, signed by an authority that nobody knows. pin: its SHA-256. authority: a file with that one's own."""

    def __init__(self, directory: Path) -> None:
        self.authority = directory / "authority.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        made = authority.issue_cert(NAME)
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
        here: tuple[str, int] = self.connection.getsockname()
        body = f"{self.client_address[0]} at {here[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _Web(ThreadingHTTPServer):
    def server_bind(self) -> None:
        """Without looking for its own name, which takes seconds where there is no DNS."""
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Who breaks off is none of its business."""


class _Web6(_Web):
    address_family = socket.AF_INET6


def serve_target(certificate: Certificate) -> None:
    """HTTP on port 80, TLS on 443, UDP echo on 7; on 81 one who answers late."""
    for address, port in ((TARGET, 80), (OTHER, 80), (TARGET, 443), (TARGET6, 80)):
        server = (_Web6 if ":" in address else _Web)((address, port), _Page)
        if port == 443:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate.chain, certificate.key)
            context.set_alpn_protocols(["h2", "http/1.1"])
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=_answer_late, args=(socket.create_server((TARGET, 81)),), daemon=True).start()
    for address in (TARGET, TARGET6):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
        for it, port in zip(sockets, (7, 9), strict=True):
            it.bind((address, port))
        threading.Thread(target=_echo, args=sockets, daemon=True).start()


def _answer_late(server: socket.socket) -> None:
    """A while later than Xray by itself would wait for, once a client has said all."""
    while True:
        with suppress(OSError), server.accept()[0] as it:
            it.recv(2048)
            time.sleep(1.5)
            it.sendall(b"late")


def _echo(it: socket.socket, other: socket.socket) -> None:
    """Asked for it, another port answers: it gets through to a full cone alone."""
    while True:
        data, peer = it.recvfrom(2048)
        (other if data == b"other port" else it).sendto(data + b" from " + peer[0].encode(), peer)


class Resolver:
    """DNS over TCP, over TLS where there is a certificate, and over UDP. asked: the names, in order.

    closes: whether it closes a connection after its first answer. allows: so many connections at a time. open: so many
    there are; most: so many there were at a time, or at all over HTTPS.
    """

    closes, allows, open, most = True, 1000, 0, 0

    def __init__(self, address: str, answer: str, certificate: Certificate | None = None) -> None:
        self.asked: list[str] = []
        self._answer = socket.inet_aton(answer)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        if certificate:
            self._certificate = certificate
            self._context.load_cert_chain(certificate.chain, certificate.key)
            self._serve(self._accept, socket.create_server((address, 853)), True)
            self._serve(self._accept_https, socket.create_server((address, 443)))
        self._serve(self._accept, socket.create_server((address, 53)), False)
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((address, 53))
        self._serve(self._datagrams, datagrams)

    def _serve(self, function: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _accept(self, server: socket.socket, is_tls: bool) -> None:
        while True:
            it = server.accept()[0]
            if self.open >= self.allows:
                it.close()
            else:
                self.open += 1
                self.most = max(self.most, self.open)
                self._serve(self._converse, it, is_tls)

    def _converse(self, it: socket.socket, is_tls: bool) -> None:
        with (
            suppress(OSError),
            self._context.wrap_socket(it, server_side=True) if is_tls else it as stream,
            stream.makefile("rb") as words,
        ):
            while length := words.read(2):
                reply = self.reply(words.read(struct.unpack("!H", length)[0]))
                stream.sendall(struct.pack("!H", len(reply)) + reply)
                if self.closes:
                    break
        self.open -= 1

    def _accept_https(self, server: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate.chain, self._certificate.key)
        context.set_alpn_protocols(["h2"])
        while True:
            with suppress(OSError):
                self._serve(self._converse_https, context.wrap_socket(server.accept()[0], server_side=True))

    def _converse_https(self, it: socket.socket) -> None:
        """As much of HTTP/2 as DNS over HTTPS needs (RFC 9113 section 4.1): a question is the body of a POST."""
        self.most += 1
        with suppress(OSError), it, it.makefile("rb") as words:
            words.read(24)
            it.sendall(_frame(_SETTINGS, 0, 0))
            while head := words.read(9):
                body, kind, flags = words.read(int.from_bytes(head[:3], "big")), head[3], head[4]
                if kind == _SETTINGS and not flags:
                    it.sendall(_frame(_SETTINGS, 1, 0))
                if kind == _DATA and body:
                    stream = int.from_bytes(head[5:], "big")
                    it.sendall(_frame(_HEADERS, 4, stream, _STATUS_200) + _frame(_DATA, 1, stream, self.reply(body)))

    def _datagrams(self, it: socket.socket) -> None:
        while True:
            question, peer = it.recvfrom(2048)
            it.sendto(self.reply(question), peer)

    def reply(self, question: bytes) -> bytes:
        """An A record for whatever is asked (RFC 1035 section 4)."""
        end = question.index(b"\0", 12)
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        self.asked.append(".".join(labels))
        head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
        record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + self._answer
        return head + question[12 : end + 5] + record


_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_STATUS_200 = b"\x88"
"""RFC 7541 appendix A, entry 8."""


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


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
    """A server that lets its clients reach what it would take for a private network, and knows HOSTS."""
    settings = {"finalRules": [{"action": "allow"}], "domainStrategy": "UseIP"}
    freedom = {"protocol": "freedom", "settings": settings}
    config: Json = {"log": {"loglevel": "none"}, "inbounds": inbounds, "dns": {"hosts": HOSTS}}
    config["outbounds"] = [{**freedom, "sendThrough": SERVER}, {**freedom, "tag": "six", "sendThrough": SERVER6}]
    rule = {"ip": ["::/0"], "outboundTag": "six"}
    config["routing"] = {"domainStrategy": "IPOnDemand", "rules": [rule]}
    return running(sys.executable, "-c", _SERVE_XRAY, text=json.dumps(config))


@contextmanager
def engine(it: Engine, directory: Path, old: str = "", new: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Once it says that it is ready, or has ended. old, new: words to exchange in its configuration."""
    child = engine_child(it, directory)
    for file in child.files:
        assert old in child.files[0].text
        Path(file.path).write_text(file.text.replace(old, new) if old else file.text)
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


def dns_answer(at: tuple[str, int], name: str, kind: int = 1) -> str:
    """The address, or why there is none."""
    question = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    question += b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.settimeout(3)
        it.sendto(question + struct.pack("!HH", kind, 1), at)
        try:
            reply = it.recv(2048)
        except OSError as error:
            return type(error).__name__
    return socket.inet_ntoa(reply[-4:]) if reply[6:8] != b"\0\0" else "nothing"


def dns_answers(at: tuple[str, int], names: Sequence[str]) -> list[str]:
    """As `dns_answer`, many of them at a time."""
    with ThreadPoolExecutor(20) as pool:
        return list(pool.map(lambda name: dns_answer(at, name), names))


def web_answer(port: int, host: str = TARGET) -> str:
    """What the page says, or why there is none."""
    try:
        with over_socks(port, host, 80) as it:
            it.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            return read_page(it)
    except OSError as error:
        return f"{type(error).__name__}"


def read_page(it: socket.socket) -> str:
    """Up to its end, or that of the connection: Xray tells the end of a server's words a second late."""
    answer = b""
    while not answer.rpartition(b"\r\n\r\n")[2].endswith(b"\n"):
        more = it.recv(4096)
        if not more:
            break
        answer += more
    return answer.rpartition(b"\r\n\r\n")[2].decode().strip() or "closed"


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


# Networks


Inside = Callable[[Callable[[], Any]], Any]
"""Does something in another network: sockets that are made there stay there, and so do programs."""


@contextmanager
def network(interface: str, box: str, other: str) -> Iterator[Inside]:
    """A network of its own with the address `other`, at the end of a wire to this one, which is `box` there."""
    child = subprocess.Popen(["unshare", "-n", "sleep", "120"])
    try:
        wait_until(lambda: os.readlink(f"/proc/{child.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY)

        def inside(action: Callable[[], Any]) -> Any:
            _enter(there)
            try:
                return action()
            finally:
                _enter(here)

        sh(f"ip link add {interface} type veth peer name eth0 netns {child.pid}")
        sh(f"ip addr add {box}/24 dev {interface}; ip link set {interface} up; ip link set lo up")
        inside(lambda: sh(f"ip link set lo up; ip addr add {other}/24 dev eth0; ip link set eth0 up"))
        inside(lambda: sh(f"ip route add default via {box}"))
        yield inside
    finally:
        child.kill()
        child.wait()


def _enter(namespace: int) -> None:
    """This thread (setns(2))."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def sh(script: str) -> None:
    subprocess.run(["sh", "-ec", script], check=True)


def upstreams_of(links: dict[str, str]) -> tuple[Upstream, ...]:
    return tuple(msgspec.structs.replace(upstream_of_link(link, name), name=name) for name, link in links.items())


class Stage:
    """The internet, made in the network in which this is called."""

    def __init__(self, directory: Path) -> None:
        for address in (SERVER, TARGET, OTHER, RESOLVER, DIRECT_RESOLVER):
            sh(f"ip addr add {address}/32 dev lo")
        for address in (SERVER6, TARGET6):
            sh(f"ip addr add {address}/128 dev lo nodad")
        self.directory = directory
        self.certificate = Certificate(directory)
        self.resolver = Resolver(RESOLVER, "203.0.113.5", self.certificate)
        self.direct_resolver = Resolver(DIRECT_RESOLVER, SERVER)
        serve_target(self.certificate)
        made = kinds(self.certificate)
        self.inbounds = [
            {**inbound, "listen": SERVER, "port": 2000 + i, "tag": name}
            for i, (name, (inbound, _)) in enumerate(made.items())
        ]
        self.links = {name: link_of(link, 2000 + i) for i, (name, (_, link)) in enumerate(made.items())}


@contextmanager
def stage() -> Iterator[Stage]:
    """Servers behind this box, which has no more than a way to them."""
    with (
        tempfile.TemporaryDirectory() as path,
        network("wan", BOX_OUTSIDE, "172.16.0.1") as inside,
        ExitStack() as stack,
    ):
        sh("ip route add default via 172.16.0.1")
        it = inside(lambda: Stage(Path(path)))
        inside(lambda: stack.enter_context(serving(it.inbounds)))
        wait_until(lambda: inside(lambda: _is_listening(2000 + len(it.inbounds) - 2)))
        yield it


def _is_listening(port: int) -> bool:
    with socket.socket() as it:
        return it.connect_ex((SERVER, port)) == 0
