"""The lab's proxy servers: one real Xray server for all of them, and the share links by which clients find them.

A proxy asks from its own server's address, so that a server can tell whether it was asked by way of the proxy. Names
that it is given it resolves at the honest DNS servers. Its secrets are made of its name: they are no secrets.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlencode

from sidegate.home import Home
from sidegate.lab import namespaces as ns
from sidegate.lab.internet import proxies
from sidegate.lab.papers import Papers
from sidegate.lab.parts import Machine, Proxy
from sidegate.problems import Exit, Problem, Problems

USER = "lab"
_CIPHER = "2022-blake3-aes-128-gcm"
_LISTENS_WITHIN_S = 15.0


def links(home: Home, pins: Mapping[str, str], *, by_name: bool = False) -> dict[str, str]:
    """A share link for each proxy of a home, by the proxy's name, as in "proxy-vless".

    pins: what `Papers.pins` says. by_name: the link names the server by its domain instead of its IPv4 address, where
    it has one.
    """
    found = [proxy for server in home.internet.server for proxy in proxies(server)]
    return {it.name: link(it, (by_name and it.domain) or it.v4, pins.get(it.domain, "")) for it in found}


def link(proxy: Proxy, host: str, pin: str) -> str:
    """Its share link, as the programs that speak the protocol write it.

    pin: of the certificate, for what shows one: Xray believes only authorities that it brings along.
    """
    end, name = f"{host}:{proxy.port}", quote(proxy.name)
    tls = urlencode({"security": "tls", "sni": proxy.domain, "pcs": pin, "type": "tcp"})
    if proxy.service in ("socks", "http-proxy"):
        scheme = "socks5" if proxy.service == "socks" else "http"
        return f"{scheme}://{USER}:{password(proxy)}@{end}#{name}"
    if proxy.service == "shadowsocks":
        who = urlsafe_b64encode(f"{_CIPHER}:{password(proxy)}".encode()).decode().rstrip("=")
        return f"ss://{who}@{end}#{name}"
    if proxy.service == "vmess":
        return f"vmess://{b64encode(json.dumps(_vmess(proxy, host)).encode()).decode()}"
    if proxy.service == "vless":
        return f"vless://{identity(proxy)}@{end}?encryption=none&{tls}#{name}"
    return f"trojan://{password(proxy)}@{end}?{tls}#{name}"


def _vmess(proxy: Proxy, host: str) -> dict[str, str]:
    """v2rayN's form of a VMess link, version 2."""
    secret = {"id": str(identity(proxy)), "aid": "0", "scy": "auto"}
    return {"v": "2", "ps": proxy.name, "add": host, "port": str(proxy.port), **secret, "net": "tcp", "type": "none"}


def password(proxy: Proxy) -> str:
    """For Shadowsocks a key of 16 bytes in base64, as its 2022 ciphers want it (SIP022, section 2.2)."""
    digest = sha256(proxy.name.encode())
    return b64encode(digest.digest()[:16]).decode() if proxy.service == "shadowsocks" else digest.hexdigest()[:20]


def identity(proxy: Proxy) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_DNS, proxy.name)


def serve(machine: Machine, pid: int, papers: Papers | None, ready: Callable[[int], None]) -> None:
    """Runs the Xray server until this process ends; says that it is ready once every port listens. Raises Problems."""
    ns.enter_network(pid)  # before the library is loaded: it starts threads at once, and each has a network of its own
    try:
        import xray  # type: ignore[import-untyped]
    except ImportError:
        what = "this home's proxies are Xray servers, and the library is missing"
        raise Problems(Problem("xray", what, "pip install Xray-core", Exit.MISSING)) from None
    text = json.dumps(server_config(machine, papers))
    ended: list[str] = []
    running = threading.Thread(target=lambda: ended.append(str(xray.startFromJSON(text))), daemon=True)
    running.start()
    _wait_for_ports(machine.proxies, ended)
    ready(0)
    running.join()


def _wait_for_ports(servers: tuple[Proxy, ...], ended: list[str]) -> None:
    end = time.monotonic() + _LISTENS_WITHIN_S
    waiting = [(address, proxy.port) for proxy in servers for address in (proxy.v4, proxy.v6) if address]
    while waiting:
        waiting = [it for it in waiting if not _listens(*it)]
        if ended or (waiting and time.monotonic() > end):
            what = f"does not listen: {ended[0]}" if ended else f"does not listen within {_LISTENS_WITHIN_S:g} s"
            raise Problems(Problem("xray", what, exit_code=Exit.FAULT))
        if waiting:
            time.sleep(0.01)


def _listens(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as trial:
        return trial.connect_ex((address, port)) == 0


def server_config(machine: Machine, papers: Papers | None) -> dict[str, Any]:
    """Xray's own configuration. Every proxy leaves by outbounds of its own, one for each family."""
    servers = machine.proxies
    honest = next((d for d in machine.daemons if any("dnsmasq-internet" in word for word in d)), ())
    at = [word.partition("=")[2] for word in honest if word.startswith("--listen-address=")]
    return {
        "log": {"loglevel": "none"},
        "dns": {"servers": [a for a in at if ":" not in a] or ["localhost"], "queryStrategy": "UseIPv4"},
        "inbounds": [
            _inbound(proxy, address, papers) for proxy in servers for address in (proxy.v4, proxy.v6) if address
        ],
        "outbounds": [outbound for proxy in servers for outbound in _outbounds(proxy)],
        "routing": {"domainStrategy": "AsIs", "rules": [rule for proxy in servers for rule in _rules(proxy)]},
    }


def _inbound(proxy: Proxy, address: str, papers: Papers | None) -> dict[str, Any]:
    protocol = "http" if proxy.service == "http-proxy" else proxy.service
    made = {"tag": f"{proxy.name}@{address}", "listen": address, "port": proxy.port, "protocol": protocol}
    made["settings"] = _settings(proxy, address)
    if papers and proxy.service in ("vless", "trojan"):
        shown = papers.of(proxy.v4)
        paper = {"certificate": shown.chain.splitlines(), "key": shown.key.splitlines()}
        made["streamSettings"] = {"network": "tcp", "security": "tls", "tlsSettings": {"certificates": [paper]}}
    return made


def _settings(proxy: Proxy, address: str) -> dict[str, Any]:
    accounts = [{"user": USER, "pass": password(proxy)}]
    per_service: dict[str, dict[str, Any]] = {
        "socks": {"auth": "password", "accounts": accounts, "udp": True, "ip": address},
        "http-proxy": {"accounts": accounts},
        "shadowsocks": {"method": _CIPHER, "password": password(proxy), "network": "tcp,udp"},
        "vmess": {"clients": [{"id": str(identity(proxy))}]},
        "vless": {"clients": [{"id": str(identity(proxy))}], "decryption": "none"},
        "trojan": {"clients": [{"password": password(proxy)}]},
    }
    return per_service[proxy.service]


def _outbounds(proxy: Proxy) -> list[dict[str, Any]]:
    def freedom(family: int, address: str) -> dict[str, Any]:
        made = {"tag": f"{proxy.name}-{family}", "protocol": "freedom", "sendThrough": address}
        return {**made, "streamSettings": {"sockopt": {"domainStrategy": f"UseIPv{family}"}}}

    return [freedom(4, proxy.v4), *([freedom(6, proxy.v6)] if proxy.v6 else [])]


def _rules(proxy: Proxy) -> list[dict[str, Any]]:
    of_this = {"type": "field", "inboundTag": [f"{proxy.name}@{address}" for address in (proxy.v4, proxy.v6)]}
    six = [{**of_this, "ip": ["::/0"], "outboundTag": f"{proxy.name}-6"}] if proxy.v6 else []
    return [*six, {**of_this, "outboundTag": f"{proxy.name}-4"}]
