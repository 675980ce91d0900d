"""Share links -> upstreams. Pure; every link is a stranger's text.

socks5, http, https; ss as SIP002 and its older form say, with the ciphers of SIP022; vmess as v2rayN's JSON (version
2) and as a URL; vless and trojan as the share link proposal (XTLS/Xray-core, discussion 716); wireguard as v2rayN does.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_interface

import msgspec
from msgspec import Struct

from sidegate.gateway.engine.link_parts import (
    Url,
    Wrong,
    checked_host,
    checked_port,
    decoded,
    key32,
    query_of,
    split_link,
    unbase64,
    unbase64_bytes,
    url,
    user_id,
)
from sidegate.gateway.engine.link_streams import Parameters, checked_flow, stream_settings, tls_settings
from sidegate.gateway.engine.upstream import Json, Kind, Upstream
from sidegate.problems import Problem, Problems

_SS_KEY_BYTES = {
    "2022-blake3-aes-128-gcm": 16,
    "2022-blake3-aes-256-gcm": 32,
    "2022-blake3-chacha20-poly1305": 32,
}
_SS_CIPHERS = (
    "aes-128-gcm",
    "aes-256-gcm",
    "chacha20-poly1305",
    "chacha20-ietf-poly1305",
    "xchacha20-poly1305",
    "xchacha20-ietf-poly1305",
    *_SS_KEY_BYTES,
)
_VMESS_SECURITY = ("auto", "aes-128-gcm", "chacha20-poly1305", "none", "zero")
_NUMBER = re.compile(r"[0-9]{1,5}")
_LEFT_OUT = "…"


def upstream_of_link(link: str, where: str) -> Upstream:
    """Its name is what follows the # in the link, as it stands there: maybe empty, maybe anything.

    where: begins the message. Raises Problems, whose text shows nothing of the link.
    """
    try:
        return _read(link.strip())
    except Wrong as error:
        part = "the share link" if error.part == "link" else f"the share link's {error.part}"
        raise Problems(Problem(where, f"{part}: {error.what}", error.remedy)) from None


def _read(link: str) -> Upstream:
    if _LEFT_OUT in link.partition("#")[0]:
        raise Wrong("link", f"{_LEFT_OUT} stands for what an example leaves out", "put your own link there, all of it")
    scheme = split_link(link)[0]
    read = _READERS.get(scheme)
    if read is None and scheme in _OTHERS:
        remedy = 'ask for another kind of link, or set proxy.engine = "tproxy" and run a program that speaks it'
        raise Wrong("scheme", f"{_OTHERS[scheme]} is not spoken by the engine here", remedy)
    if read is None:
        raise Wrong("scheme", "not a kind of share link that is known", f"one of {', '.join(_READERS)}")
    return read(link)


def _upstream(it: Url, kind: Kind, outbound: Json, *, udp: bool = True) -> Upstream:
    host, port = it.server
    return Upstream(it.name, kind, host, port, outbound, udp, full_cone=udp)


def _server(it: Url) -> Json:
    host, port = it.server
    return {"address": host, "port": port}


# SOCKS, HTTP


def _socks(link: str) -> Upstream:
    it = url(link)
    return _upstream(it, "socks", {"protocol": "socks", "settings": _server(it) | _login(it)})


def _http(link: str) -> Upstream:
    it = url(link)
    outbound: Json = {"protocol": "http", "settings": _server(it) | _login(it)}
    if it.scheme == "https":
        # Left to itself Xray offers HTTP/2 as well, and then speaks it with a proxy that chose it but has no CONNECT.
        tls = {"alpn": ["http/1.1"], **tls_settings(Parameters(it.query, it.server[0], "tls"))}
        outbound["streamSettings"] = {"network": "raw", "security": "tls", "tlsSettings": tls}
    return _upstream(it, "http", outbound, udp=False)


def _login(it: Url) -> Json:
    """name:password, percent-encoded; or all of it in base64, as v2rayN writes it."""
    if not it.user:
        return {}
    text = it.user if ":" in it.user else _maybe_base64(it.user)
    name, _, password = text.partition(":")
    return {"user": decoded(name, "user name"), "pass": decoded(password, "password")}


def _maybe_base64(text: str) -> str:
    try:
        found = unbase64(decoded(text, "user name"), "user name")
    except Wrong:
        return text
    return found if ":" in found and found.isprintable() else text


# Shadowsocks


def _shadowsocks(link: str) -> Upstream:
    it = _ss_url(link)
    if it.get("plugin"):
        raise Wrong("plugin", "Shadowsocks plugins are not known here", "ask for a link without one, or for vless")
    method, colon, password = _ss_user(it.user or "").partition(":")
    method = method.lower()
    if not colon or not password:
        raise Wrong("password", "missing", "a link is ss://method:password@host:port")
    if method not in _SS_CIPHERS:
        raise Wrong("method", "not a cipher that Xray has", f"one of {', '.join(_SS_CIPHERS)}")
    if method in _SS_KEY_BYTES:
        password = _ss2022_keys(method, password)
    settings = _server(it) | {"method": method, "password": password}
    return _upstream(it, "shadowsocks", {"protocol": "shadowsocks", "settings": settings})


def _ss_url(link: str) -> Url:
    """The older form is base64 of method:password@host:port, as a whole."""
    scheme, body, name = split_link(link)
    body, _, query = body.partition("?")
    if "@" in body:
        return url(link)
    user, at, address = unbase64(body.rstrip("/"), "address").rpartition("@")
    if not at:
        raise Wrong("server", "missing", "a link is ss://method:password@host:port")
    # There is no percent encoding inside.
    return Url(scheme, user.replace("%", "%25"), address, query_of(query), name)


def _ss_user(user: str) -> str:
    """method:password, as it is or, where no colon shows, in base64 (SIP002)."""
    if ":" in user:
        return decoded(user, "password")
    plain = decoded(user, "password")
    return plain if ":" in plain else unbase64(plain, "password")


def _ss2022_keys(method: str, password: str) -> str:
    """Keys in base64; several, joined by colons, for a server that relays (SIP022 section 3.1, SIP023).

    As Xray takes them: in the standard alphabet, padded (sing-shadowsocks, shadowaead_2022, base64.StdEncoding).
    """
    length = _SS_KEY_BYTES[method]
    keys = [unbase64_bytes(key, "password") for key in password.split(":")]
    if any(len(key) != length for key in keys):
        raise Wrong("password", f"{method} needs a key of {length} bytes in base64")
    return ":".join(base64.b64encode(key).decode() for key in keys)


# VMess


class _VmessJson(Struct):
    """v2rayN's "Description of VMess share link", version 2. Numbers come as numbers and as texts."""

    add: str
    id: str
    port: int | str
    aid: int | str | None = 0
    scy: str | None = ""
    net: str | None = ""
    type: str | None = ""
    host: str | None = ""
    path: str | None = ""
    tls: str | None = ""
    sni: str | None = ""
    alpn: str | tuple[str, ...] | None = ""
    fp: str | None = ""
    ps: str | int | float | None = ""
    insecure: int | str | bool | None = ""


def _vmess(link: str) -> Upstream:
    body = split_link(link)[1]
    if "@" in body:
        it = url(link)
        fields = Parameters(it.query, it.server[0])
        return _vmess_upstream(it.name, it.server, decoded(it.user or "", "id"), fields, fields.get("encryption"))
    return _vmess_of_json(body, split_link(link)[2])


def _vmess_of_json(body: str, fragment: str) -> Upstream:
    try:
        it = msgspec.json.decode(unbase64(body.partition("?")[0].rstrip("/"), "content"), type=_VmessJson)
    except (msgspec.MsgspecError, RecursionError):
        remedy = "it is base64 of a JSON object with add, port and id"
        raise Wrong("content", "not what v2rayN writes", remedy) from None
    if str(it.aid or 0) != "0":
        raise Wrong("aid", "VMess with MD5, which Xray no longer has", "ask for a link with aid 0")
    server = checked_host(it.add.strip()), checked_port(str(it.port))
    name = str(it.ps) if it.ps not in (None, "") else fragment
    return _vmess_upstream(name, server, it.id, Parameters(_proposed(it), server[0]), it.scy or "")


def _proposed(it: _VmessJson) -> Mapping[str, str]:
    """The JSON's fields under the names of the share link proposal.

    Panels write `none` as the type of every transport, of those too where it is a mode.
    """
    transport, kind = it.net or "tcp", it.type or ""
    query = {"type": transport, "security": it.tls or "none", "host": it.host, "path": it.path, "sni": it.sni}
    alpn = it.alpn if isinstance(it.alpn, str) else ",".join(it.alpn or ())
    query |= {"alpn": alpn, "fp": it.fp, "insecure": str(it.insecure or "")}
    has_mode = transport in ("grpc", "gun", "xhttp", "splithttp")
    query |= {"mode": "" if kind == "none" else kind} if has_mode else {"headerType": kind}
    if transport in ("kcp", "mkcp"):
        query["seed"] = it.path
    return {key: value for key, value in query.items() if value}


def _vmess_upstream(name: str, server: tuple[str, int], user: str, fields: Parameters, security: str) -> Upstream:
    security = security or "auto"
    if security not in _VMESS_SECURITY:
        raise Wrong("encryption", "not a cipher that VMess has", f"one of {', '.join(_VMESS_SECURITY)}")
    settings = {"address": server[0], "port": server[1], "id": user_id(user), "security": security}
    outbound: Json = {"protocol": "vmess", "settings": settings, "streamSettings": stream_settings(fields)}
    return Upstream(name, "vmess", *server, outbound)


# VLESS, Trojan


def _vless(link: str) -> Upstream:
    it = url(link)
    fields = Parameters(it.query, it.server[0])
    settings = _server(it) | {
        "id": user_id(decoded(it.user or "", "id")),
        "flow": checked_flow(fields),
        "encryption": fields.get("encryption", "none"),
    }
    return _upstream(
        it, "vless", {"protocol": "vless", "settings": settings, "streamSettings": stream_settings(fields)}
    )


def _trojan(link: str) -> Upstream:
    it = url(link)
    fields = Parameters(it.query, it.server[0], "tls")
    password = decoded(it.user or "", "password")
    if not password:
        raise Wrong("password", "missing", "a link is trojan://password@host:port")
    if fields.get("flow"):
        raise Wrong("flow", "Trojan has none any more", "ask for a link without flow")
    outbound: Json = {"protocol": "trojan", "settings": _server(it) | {"password": password}}
    return _upstream(it, "trojan", outbound | {"streamSettings": stream_settings(fields)})


# WireGuard


def _wireguard(link: str) -> Upstream:
    it = url(link)
    host, port = it.server
    peer: Json = {
        "endpoint": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "publicKey": _key(it.get("publickey") or it.get("publicKey") or it.get("pk"), "publickey"),
    }
    if it.get("presharedkey"):
        peer["preSharedKey"] = _key(it.get("presharedkey"), "presharedkey")
    if it.get("keepalive"):
        peer["keepAlive"] = _number(it.get("keepalive"), "keepalive", 0, 65535)
    settings: Json = {
        "secretKey": _key(decoded(it.user or "", "private key"), "private key"),
        "address": _addresses(it.get("address") or it.get("ip")),
        "peers": [peer],
        "mtu": _number(it.get("mtu", "1420"), "mtu", 1280, 9000),
        "noKernelTun": True,
    }
    if it.get("reserved"):
        settings["reserved"] = _reserved(it.get("reserved"))
    return _upstream(it, "wireguard", {"protocol": "wireguard", "settings": settings})


def _key(text: str, part: str) -> str:
    key32(text, part)
    return text


def _number(text: str, part: str, least: int, most: int) -> int:
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise Wrong(part, f"not a number from {least} to {most}")
    return int(text)


def _addresses(text: str) -> list[str]:
    """Of this end inside the tunnel. Raises Wrong."""
    try:
        found = [str(ip_interface(word.strip()).ip) for word in text.split(",") if word.strip()]
    except ValueError:
        raise Wrong("address", "not addresses such as 10.0.0.2/32") from None
    if not found:
        raise Wrong("address", "missing", "the address inside the tunnel, as address=10.0.0.2/32")
    return found


def _reserved(text: str) -> list[int]:
    numbers = [_number(word.strip(), "reserved", 0, 255) for word in text.split(",")]
    if len(numbers) != 3:
        raise Wrong("reserved", "not three numbers such as 1,2,3")
    return numbers


_READERS: dict[str, Callable[[str], Upstream]] = {
    "socks5": _socks,
    "socks": _socks,
    "socks5h": _socks,
    "http": _http,
    "https": _http,
    "ss": _shadowsocks,
    "vmess": _vmess,
    "vless": _vless,
    "trojan": _trojan,
    "wireguard": _wireguard,
    "wg": _wireguard,
}
_OTHERS = {
    "anytls": "AnyTLS",
    "hy2": "Hysteria 2",
    "hysteria": "Hysteria",
    "hysteria2": "Hysteria 2",
    "naive": "NaiveProxy",
    "naive+https": "NaiveProxy",
    "naive+quic": "NaiveProxy",
    "snell": "Snell",
    "socks4": "SOCKS4",
    "ssr": "ShadowsocksR",
    "trojan-go": "Trojan-Go",
    "tuic": "TUIC",
}
"""Other kinds of links that subscriptions have in them, by their schemes."""
