"""The transport and the security of a vmess, vless or trojan link -> Xray's `streamSettings`. Pure.

The parameters are those of the "VMessAEAD / VLESS share link" proposal (XTLS/Xray-core, discussion 716, issue 91);
the names in Xray are those of its infra/conf/transport_method.go and transport_security.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from sidegate.gateway.engine.link_parts import Wrong, checked_host, key32
from sidegate.gateway.engine.upstream import Json

_TLS_PIN = "the certificate's SHA-256 as pcs=… in the link lets in a certificate that nobody signed"
_YES = ("1", "true")
_HEX = re.compile(r"([0-9A-Fa-f]{2}){0,8}")
_PIN = re.compile(r"([0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")
_FINGERPRINT = re.compile(r"[a-z0-9_]{1,40}")
_FLOWS = ("", "xtls-rprx-vision", "xtls-rprx-vision-udp443")


class Parameters:
    """Of a link, under the proposal's names. host: the server's. default_security: where the link names none."""

    def __init__(self, query: Mapping[str, str], host: str, default_security: str = "none") -> None:
        self._query, self.host = query, host
        self.security = self.get("security", default_security).lower()
        self.transport = _TRANSPORTS.get(self.get("type", "tcp").lower(), self.get("type"))

    def get(self, key: str, default: str = "") -> str:
        return self._query.get(key) or default


def stream_settings(it: Parameters) -> Json:
    """Raises Wrong."""
    make = _SETTINGS.get(it.transport)
    if make is None:
        raise Wrong("type", "not a transport that Xray has", f"one of {', '.join(sorted(_SETTINGS))}")
    settings: Json = {"network": it.transport, "security": it.security}
    key, own = make(it)
    if own:
        settings[key] = own
    settings |= _security(it)
    if it.get("fm"):
        settings["finalmask"] = _object(it.get("fm"), "fm")
    return settings


def checked_flow(it: Parameters) -> str:
    """VLESS' flow. Raises Wrong."""
    flow = it.get("flow")
    if flow not in _FLOWS:
        raise Wrong("flow", "not a flow that Xray has", "none, or xtls-rprx-vision")
    if flow and it.transport == "raw" and it.security == "none" and it.get("encryption", "none") == "none":
        raise Wrong("flow", "it needs TLS or Reality", "ask for a link with security=tls or security=reality")
    return flow


def _object(text: str, part: str) -> Json:
    try:
        found = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise Wrong(part, "not a JSON object") from None
    return found


# Transports


def _raw(it: Parameters) -> tuple[str, Json]:
    header = it.get("headerType", "none")
    if header not in ("none", "http"):
        raise Wrong("headerType", "not none or http")
    if header == "none":
        return "rawSettings", {}
    request: Json = {"path": it.get("path", "/").split(",")}
    if it.get("host"):
        request["headers"] = {"Host": it.get("host").split(",")}
    return "rawSettings", {"header": {"type": "http", "request": request}}


def _ws(it: Parameters) -> tuple[str, Json]:
    return "wsSettings", _path_and_host(it)


def _httpupgrade(it: Parameters) -> tuple[str, Json]:
    return "httpupgradeSettings", _path_and_host(it)


def _path_and_host(it: Parameters) -> Json:
    return {"path": it.get("path", "/")} | ({"host": it.get("host")} if it.get("host") else {})


def _grpc(it: Parameters) -> tuple[str, Json]:
    settings: Json = {"serviceName": it.get("serviceName") or it.get("path")}
    if it.get("authority"):
        settings["authority"] = it.get("authority")
    if it.get("mode", "gun") not in ("gun", "multi", "guna"):
        raise Wrong("mode", "not gun or multi")
    return "grpcSettings", settings | ({"multiMode": True} if it.get("mode") == "multi" else {})


def _xhttp(it: Parameters) -> tuple[str, Json]:
    settings = _path_and_host(it)
    if it.get("mode"):
        settings["mode"] = it.get("mode")
    if settings.get("mode", "auto") not in ("auto", "packet-up", "stream-up", "stream-one"):
        raise Wrong("mode", "not auto, packet-up, stream-up or stream-one")
    if it.get("extra"):
        settings["extra"] = _object(it.get("extra"), "extra")
    return "xhttpSettings", settings


def _kcp(it: Parameters) -> tuple[str, Json]:
    if it.get("seed") or it.get("headerType", "none") != "none":
        remedy = "ask for a link with fm=… (finalmask) in their place"
        raise Wrong("type", "mKCP with a header or a seed, which Xray no longer has", remedy)
    return "kcpSettings", {}


_SETTINGS: dict[str, Callable[[Parameters], tuple[str, Json]]] = {
    "raw": _raw,
    "ws": _ws,
    "grpc": _grpc,
    "httpupgrade": _httpupgrade,
    "xhttp": _xhttp,
    "kcp": _kcp,
}
_TRANSPORTS = {name: name for name in _SETTINGS} | {
    "tcp": "raw",
    "websocket": "ws",
    "splithttp": "xhttp",
    "mkcp": "kcp",
    "gun": "grpc",
}


# Security


def _security(it: Parameters) -> Json:
    if it.security == "none":
        return {}
    if it.security == "tls":
        return {"tlsSettings": tls_settings(it)}
    if it.security == "reality":
        if it.transport not in ("raw", "xhttp", "grpc"):
            raise Wrong("type", "Reality goes with raw (tcp), xhttp and grpc only")
        return {"realitySettings": _reality(it)}
    raise Wrong("security", "not none, tls or reality")


def tls_settings(it: Parameters) -> Json:
    """Raises Wrong."""
    for key in ("allowInsecure", "insecure", "allow_insecure", "skip-cert-verify"):
        if it.get(key).lower() in _YES:
            raise Wrong(key, "the server's certificate would not be checked, which Xray refuses", _TLS_PIN)
    settings: Json = {"serverName": _server_name(it)}
    if it.get("alpn"):
        settings["alpn"] = [word.strip() for word in it.get("alpn").split(",") if word.strip()]
    if it.get("fp"):
        settings["fingerprint"] = _fingerprint(it.get("fp"))
    if it.get("ech"):
        settings["echConfigList"] = it.get("ech")
    if it.get("pcs"):
        settings["pinnedPeerCertSha256"] = _pins(it.get("pcs"))
    if it.get("vcn"):
        settings["verifyPeerCertByName"] = it.get("vcn")
    return settings


def _server_name(it: Parameters) -> str:
    """Where no name is given: the HTTP host, else the server itself (the proposal, section 4.4.2)."""
    text = it.get("sni") or it.get("peer")
    if not text and it.transport in ("ws", "httpupgrade", "xhttp"):
        text = it.get("host")
    return _named("sni", text) if text else it.host


def _named(part: str, text: str) -> str:
    try:
        return checked_host(text)
    except Wrong:
        raise Wrong(part, "not a domain name") from None


def _fingerprint(text: str) -> str:
    if not _FINGERPRINT.fullmatch(text.lower()):
        raise Wrong("fp", "not the name of a browser", "such as chrome or firefox")
    return text.lower()


def _pins(text: str) -> str:
    """Joined by commas; by ~ in older links."""
    pins = [pin.strip() for pin in text.replace("~", ",").split(",") if pin.strip()]
    if not all(_PIN.fullmatch(pin) for pin in pins):
        raise Wrong("pcs", "not the SHA-256 of a certificate, in hexadecimal")
    return ",".join(pins)


def _reality(it: Parameters) -> Json:
    if not it.get("pbk"):
        raise Wrong("pbk", "Reality needs the server's public key", "ask for a link with pbk=…")
    key32(it.get("pbk"), "pbk")
    if not _HEX.fullmatch(it.get("sid")):
        raise Wrong("sid", "not up to 16 hexadecimal digits, an even number of them")
    if not it.get("spx", "/").startswith("/"):
        raise Wrong("spx", "does not begin with /")
    settings: Json = {
        "serverName": _named("sni", it.get("sni") or it.host),
        "fingerprint": _fingerprint(it.get("fp", "chrome")),
        "publicKey": it.get("pbk").rstrip("=").replace("+", "-").replace("/", "_"),
        "shortId": it.get("sid"),
        "spiderX": it.get("spx", "/"),
    }
    return settings | ({"mldsa65Verify": it.get("pqv")} if it.get("pqv") else {})
