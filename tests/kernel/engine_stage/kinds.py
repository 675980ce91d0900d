"""A server of every kind that Xray can be, and the share link that leads to each."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.kernel.engine_stage.addresses import NAME, SERVER, TARGET
from tests.kernel.engine_stage.certificate import Certificate

Json = dict[str, Any]
Kinds = dict[str, tuple[Json, str]]
"""name -> Xray's inbound (without port) and the share link that leads to it, with PORT for its port."""

ID = "11111111-2222-4333-8444-555555555555"
KEY16 = base64.b64encode(bytes(range(16))).decode()
_AT = f"{SERVER}:PORT"
_ACCOUNT = {"user": "name", "pass": "pass:word"}
_CLIENT = {"id": ID, "email": "a@b"}
_VISION: Json = {"clients": [{**_CLIENT, "flow": "xtls-rprx-vision"}], "decryption": "none"}


class Pair:
    """A key of X25519's, as Xray writes it (Reality: URL-safe, WireGuard: plain)."""

    def __init__(self) -> None:
        private = X25519PrivateKey.generate()
        self.private, self.public = private.private_bytes_raw(), private.public_key().public_bytes_raw()


def plain64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def link_of(template: str, port: int) -> str:
    text = template.replace("PORT", str(port))
    body = text.removeprefix("vmess-json:")
    return text if body is text else f"vmess://{base64.b64encode(body.encode()).decode()}"


def kinds(certificate: Certificate) -> Kinds:
    """WireGuard, which listens on no TCP port, is the last."""
    tls = {"security": "tls", "tlsSettings": certificate.settings()}
    pinned = f"security=tls&sni={NAME}&pcs={certificate.pin}"
    return {
        **_plain_proxies(tls, certificate.pin),
        **_shadowsocks(),
        **_vmess(tls, pinned),
        **_vless(tls, pinned),
        "vless-reality": _reality(),
        "trojan": (
            {"protocol": "trojan", "settings": {"clients": [{"password": "pw"}]}, "streamSettings": tls},
            f"trojan://pw@{_AT}?{pinned}",
        ),
        "wireguard": _wireguard(),
    }


def _plain_proxies(tls: Json, pin: str) -> Kinds:
    socks = {"auth": "password", "accounts": [_ACCOUNT], "udp": True, "ip": SERVER}
    http = {"protocol": "http", "settings": {"accounts": [_ACCOUNT]}}
    return {
        "socks": ({"protocol": "socks", "settings": socks}, f"socks5://name:pass%3Aword@{_AT}"),
        "http": (http, f"http://name:pass%3Aword@{_AT}"),
        "https": ({**http, "streamSettings": tls}, f"https://name:pass%3Aword@{_AT}?sni={NAME}&pcs={pin}"),
    }


def _shadowsocks() -> Kinds:
    old = {"method": "aes-128-gcm", "password": "pw", "network": "tcp,udp"}
    new = {"method": "2022-blake3-aes-128-gcm", "password": KEY16, "network": "tcp,udp"}
    other = {**old, "method": "chacha20-ietf-poly1305"}
    return {
        "ss": ({"protocol": "shadowsocks", "settings": old}, f"ss://{url64(b'aes-128-gcm:pw')}@{_AT}"),
        "ss-chacha20": (
            {"protocol": "shadowsocks", "settings": other},
            f"ss://{url64(b'chacha20-ietf-poly1305:pw')}@{_AT}",
        ),
        "ss2022": ({"protocol": "shadowsocks", "settings": new}, f"ss://2022-blake3-aes-128-gcm:{KEY16}@{_AT}"),
    }


def _vmess(tls: Json, pinned: str) -> Kinds:
    words = {"v": "2", "ps": "x", "add": SERVER, "port": "PORT", "id": ID, "aid": "0", "net": "tcp", "type": "none"}
    inbound = {"protocol": "vmess", "settings": {"clients": [_CLIENT]}}
    websocket = {"network": "ws", "wsSettings": {"path": "/w"}, **tls}
    return {
        "vmess": (inbound, "vmess-json:" + json.dumps(words)),
        "vmess-ws": (
            {**inbound, "streamSettings": websocket},
            f"vmess://{ID}@{_AT}?type=ws&path=%2Fw&host={NAME}&{pinned}",
        ),
    }


def _vless(tls: Json, pinned: str) -> Kinds:
    inbound = {"protocol": "vless", "settings": {"clients": [_CLIENT], "decryption": "none"}}
    vision = {"protocol": "vless", "settings": _VISION, "streamSettings": {"network": "raw", **tls}}
    grpc = {"network": "grpc", "grpcSettings": {"serviceName": "s"}, **tls}
    upgrade = {"network": "httpupgrade", "httpupgradeSettings": {"path": "/u"}, **tls}
    xhttp = {"network": "xhttp", "xhttpSettings": {"path": "/x"}, **tls}
    to = f"vless://{ID}@{_AT}"
    return {
        "vless-tls": (vision, f"{to}?type=tcp&flow=xtls-rprx-vision&{pinned}"),
        "vless-grpc": ({**inbound, "streamSettings": grpc}, f"{to}?type=grpc&serviceName=s&{pinned}"),
        "vless-httpupgrade": (
            {**inbound, "streamSettings": upgrade},
            f"{to}?type=httpupgrade&path=%2Fu&host={NAME}&{pinned}",
        ),
        "vless-xhttp": ({**inbound, "streamSettings": xhttp}, f"{to}?type=xhttp&path=%2Fx&alpn=h2&{pinned}"),
    }


def _reality() -> tuple[Json, str]:
    pair = Pair()
    settings = {
        "target": f"{TARGET}:443",
        "serverNames": [NAME],
        "shortIds": ["ab12"],
        "privateKey": url64(pair.private),
    }
    stream = {"network": "raw", "security": "reality", "realitySettings": settings}
    link = f"security=reality&pbk={url64(pair.public)}&sid=ab12&sni={NAME}&fp=chrome"
    return (
        {"protocol": "vless", "settings": _VISION, "streamSettings": stream},
        f"vless://{ID}@{_AT}?type=tcp&flow=xtls-rprx-vision&{link}",
    )


def _wireguard() -> tuple[Json, str]:
    server, own = Pair(), Pair()
    peer = {"publicKey": own.public.hex(), "allowedIPs": ["10.9.0.2/32"]}
    settings = {"secretKey": server.private.hex(), "address": ["10.9.0.1"], "peers": [peer], "noKernelTun": True}
    secret = plain64(own.private).replace("+", "%2B").replace("/", "%2F")
    query = f"publickey={plain64(server.public).replace('+', '%2B')}&address=10.9.0.2/32&mtu=1380"
    return {"protocol": "wireguard", "settings": settings}, f"wireguard://{secret}@{_AT}?{query}"
