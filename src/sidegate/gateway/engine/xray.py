"""Policy and upstreams -> Xray's configuration. Pure; the names are those of Xray 26.10, infra/conf/.

What the kernel has decided (`decided`) goes to its upstream; sniffing gives the upstream the name that the traffic
shows, in place of an address that a lying resolver may have made up. What it could not decide (`named`) is judged once
more by that name, with the address kept: what then goes straight goes where the client wanted. What is proxied after
all passes a loopback, which takes it for `decided`. Where an upstream needs it, TCP passes a pipe (`silence`).

Everything that leaves is marked, or it would be steered again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from sidegate.gateway.config.fields import Ipv6Mode
from sidegate.gateway.engine import geodata, lanport
from sidegate.gateway.engine.idle import IDLE_S
from sidegate.gateway.engine.lanport import LanPort
from sidegate.gateway.engine.plain import plain_proxy
from sidegate.gateway.engine.sets import domains_of, networks_of
from sidegate.gateway.engine.silence import needs_pipe, pipe, tcp_tag
from sidegate.gateway.engine.sniffing import SHARED_ECH_NAMES
from sidegate.gateway.engine.upstream import Json, Upstream
from sidegate.gateway.split.policy import BLOCK, DIRECT, PROXY, Policy, Rule
from sidegate.gateway.split.ports import dns_port, engine_mark, ports, upstream_mark

_SERVERLESS = ("freedom", "direct")
"""The same by two names (Xray-core infra/conf/xray.go, outboundConfigLoader): everybody answers its sockets."""
_HALF_CLOSED_S = 10
"""How long a server may be silent after its client has said all: Xray's own 1 s is short for an answer. It does not
hand that end on, though: a server that waits for it waits in vain."""
_SERVER_DONE_S = 1
"""How long a client may be silent after its server has said all. The server's end reaches the client so much later:
less would be none at all (whole seconds), and cuts off an upload whose server answers before it has all of it."""
_TIMES = {"connIdle": IDLE_S, "downlinkOnly": _HALF_CLOSED_S, "uplinkOnly": _SERVER_DONE_S}
"""Of TCP. UDP ends after 2 minutes, as RFC 4787 REQ-5 has it (app/proxyman/inbound/worker.go)."""
_STRAIGHT, _REFUSED, _DNS, _DNS_STRAIGHT, _DNS_IN = "direct", "block", "dns", "dns-direct", "dns-in"
_DNS_HERE = "dns-here"


class Engine(Struct, frozen=True):
    """What the engine is to do. generation: below GENERATIONS. upstreams: one at least.

    proxied_dns: as `dns.proxied`, one at least; what is asked at dns_port, and over HTTPS, passes upstream number
    dns_by. direct_dns: who resolves the upstreams' own servers; empty: whom this box asks. has_ipv6: whether proxied
    names may have IPv6 addresses. lan: for `proxy.lan_port`; None: there is no such port.
    """

    policy: Policy
    upstreams: tuple[Upstream, ...]
    generation: int = 0
    proxied_dns: tuple[str, ...] = ("1.1.1.1", "8.8.8.8")
    direct_dns: tuple[IPv4Address, ...] = ()
    has_ipv6: bool = False
    lan: LanPort | None = None
    dns_by: int = 0


def asks_names(upstreams: Sequence[Upstream], proxied_dns: Sequence[str]) -> bool:
    """Whether the engine resolves names itself, by its module: for DNS over HTTPS, and what it sends into a tunnel."""
    is_tunnel = any(it.kind in ("wireguard", "other") for it in upstreams)
    return is_tunnel or any(it.startswith("https://") for it in proxied_dns)


def has_ipv6(mode: Ipv6Mode) -> bool:
    return mode == "gateway"


def xray_json(it: Engine) -> str:
    """The text for Xray. Its secrets are those of the upstreams."""
    return msgspec.json.format(msgspec.json.encode(xray_config(it)), indent=1).decode()


def xray_config(it: Engine) -> Json:
    """In the order in which it is best read."""
    numbers = range(len(it.upstreams))
    return {
        "upstreams": [u.name for u in it.upstreams],
        "relayed": list(_relayed(it)),
        "log": {"loglevel": "warning", "access": "none"},
        "policy": {"levels": {"0": _TIMES}},
        "inbounds": [
            *(inbound for i in numbers for inbound in (*_inbounds(it, i), *_dns_inbounds(it, i))),
            *(lanport.inbounds(it.generation, len(it.upstreams), _sniffing()) if it.lan else ()),
            _dns_inbound(_DNS_IN, "127.0.0.1", dns_port(it.generation)),
        ],
        "outbounds": [_NOWHERE, *(_outbound(it, i) for i in numbers), *(_again(i) for i in numbers), *_others(it)],
        "dns": _dns(it),
        "routing": {"domainStrategy": "IPIfNonMatch" if it.lan else "AsIs", "rules": list(_routing(it))},
    }


# Inbounds


def _inbounds(it: Engine, i: int) -> Iterator[Json]:
    own = ports(it.generation, i)
    network = "tcp,udp" if plain_proxy(it.upstreams[i]) is None else "udp"
    yield _steered(it, f"decided-{i}", own.decided, _sniffing(), network)
    yield _steered(it, f"named-{i}", own.named, {**_sniffing(), "routeOnly": True})
    settings = {"auth": "noauth", "udp": it.upstreams[i].udp}
    yield {"tag": f"socks-{i}", "listen": "127.0.0.1", "port": own.socks, "protocol": "mixed", "settings": settings}


def _relayed(it: Engine) -> Iterator[Json]:
    """What the engine's process does itself with TCP, in the place of `decided` (`relay`)."""
    for i, upstream in enumerate(it.upstreams):
        proxy = plain_proxy(upstream)
        if proxy is not None:
            at = {"name": upstream.name, "listen": "::", "port": ports(it.generation, i).decided}
            marks = {"mark": engine_mark(it.generation), "proxy_mark": upstream_mark(it.generation)}
            yield {**at, **marks, "proxy": proxy}


def _steered(it: Engine, tag: str, port: int, sniffing: Json, network: str = "tcp,udp") -> Json:
    """TPROXY, both families: it listens on all addresses, and takes the address a packet was for as its destination."""
    return {
        "tag": tag,
        "listen": "::",
        "port": port,
        "protocol": "dokodemo-door",
        "settings": {"network": network, "followRedirect": True},
        "streamSettings": {"sockopt": {"tproxy": "tproxy", "mark": engine_mark(it.generation)}},
        "sniffing": sniffing,
    }


def _sniffing() -> Json:
    return {
        "enabled": True,
        "destOverride": ["http", "tls", "quic"],
        "domainsExcluded": [f"full:{name}" for name in sorted(SHARED_ECH_NAMES)],
    }


def _dns_inbounds(it: Engine, i: int) -> Iterator[Json]:
    for k, (address, port) in enumerate(dns_endpoints(it.generation, i, it.proxied_dns)):
        yield _dns_inbound(f"asked-{i}-{k}", address, port)


def _dns_inbound(tag: str, address: str, port: int) -> Json:
    """For questions over TCP; those that come as datagrams are led here by `questions`, few connections for all."""
    settings = {"network": "tcp", "address": "127.0.0.1", "port": 53}
    return {"tag": tag, "listen": address, "port": port, "protocol": "dokodemo-door", "settings": settings}


# Outbounds


def _outbound(it: Engine, i: int) -> Json:
    """The upstream's, with our tag and mark, and its server's name looked up by our own DNS servers."""
    upstream = it.upstreams[i]
    stream = dict(upstream.outbound.get("streamSettings") or {})
    has_server = upstream.outbound.get("protocol") not in _SERVERLESS
    mark = upstream_mark(it.generation) if has_server else engine_mark(it.generation)
    sockopt = {"domainStrategy": _strategy(it), **(stream.get("sockopt") or {}), "mark": mark}
    return {**upstream.outbound, "tag": f"to-{i}", "streamSettings": {**stream, "sockopt": sockopt}}


def _strategy(it: Engine) -> str:
    return "ForceIPv4v6" if it.has_ipv6 else "ForceIPv4"


def _again(i: int) -> Json:
    settings = {"inboundTag": f"again-{i}", "sniffing": _sniffing()}
    return {"tag": f"again-{i}", "protocol": "loopback", "settings": settings}


_NOWHERE: Json = {"tag": _REFUSED, "protocol": "blackhole"}
"""The first outbound, which gets what no rule takes."""


def _others(it: Engine) -> Iterator[Json]:
    sockopt = {"mark": engine_mark(it.generation)}
    yield {"tag": _STRAIGHT, "protocol": "freedom", "streamSettings": {"sockopt": sockopt}}
    if it.lan is not None:
        yield lanport.outbound(it.generation, it.lan, _strategy(it))
    for i, upstream in enumerate(it.upstreams):
        yield from [pipe(i)] if needs_pipe(upstream) else ()
        yield from (_dns_outbound(it, i, k) for k in range(len(it.proxied_dns)))


# DNS


def dns_endpoints(generation: int, upstream: int, proxied_dns: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Where the engine answers for each of the servers, through this upstream: address and port, UDP and TCP."""
    return tuple((f"127.0.0.{1 + k}", ports(generation, upstream).socks + 1) for k in range(len(proxied_dns)))


def _dns_outbound(it: Engine, i: int, k: int) -> Json:
    """Questions pass as they are, over TCP: not every upstream carries UDP. With DNS over TLS (RFC 7858) inside of TLS.

    DNS over HTTPS is spoken by Xray's dns module alone, which knows addresses only. Records that would hide the name
    of a connection from the rules (RFC 9460, types 64 and 65) are not passed, nor IPv6 addresses (28) that would lead
    round this box.
    """
    server = it.proxied_dns[k]
    hides = {"action": "return", "qType": "64-65" if it.has_ipv6 else "28,64-65"}
    sockopt: Json = {"dialerProxy": f"to-{i}"}
    if urlsplit(server).scheme == "https":
        rules: list[Json] = [{"action": "hijack", "qType": "1,28"}, {"action": "return"}]
        return {"tag": f"dns-{i}-{k}", "protocol": "dns", "settings": {"rules": rules}}
    host, port, is_tls = _server(server)
    settings: Json = {"rewriteNetwork": "tcp", "rewriteAddress": host, "rewritePort": port}
    settings["rules"] = [hides, {"action": "direct"}]
    stream: Json = {"security": "tls", "tlsSettings": {"serverName": host}} if is_tls else {}
    return {
        "tag": f"dns-{i}-{k}",
        "protocol": "dns",
        "settings": settings,
        "streamSettings": {**stream, "sockopt": sockopt},
    }


def _server(text: str) -> tuple[str, int, bool]:
    """Of an address or `tls://`: host, port, and whether it is DNS over TLS."""
    if "://" not in text:
        return text, 53, False
    at = urlsplit(text)
    return at.hostname or "", at.port or 853, True


def _dns(it: Engine) -> Json:
    """The names of the upstreams' own servers, never asked through an upstream; DNS over HTTPS; WireGuard's needs.

    What the LAN's port wants is asked of our resolver, if that serves; nobody else asks then, see `asks_names`. It has
    a cache: Xray's would keep a refusal for ten minutes (app/dns/dnscommon.go parseResponse), and what was told while
    no upstream worked.
    """
    here: Json = {"address": str(it.lan and it.lan.names_at), "tag": _DNS_HERE, "queryStrategy": _query_strategy(it)}
    here["disableCache"] = True
    proxied = [_module_server(it, server) for server in it.proxied_dns]
    servers = [*_direct_servers(it), *([here] if it.lan and it.lan.names_at else proxied)]
    # One after the other, each would be waited for 4 s (app/dns/nameserver.go): of several one is enough.
    how: Json = {"disableFallbackIfMatch": True, "enableParallelQuery": True}
    return {"servers": servers, "queryStrategy": "UseIP", "tag": _DNS, **how}


def _direct_servers(it: Engine) -> Iterator[Json]:
    names = sorted({u.host for u in it.upstreams if _is_name(u.host)})
    for address in ([str(a) for a in it.direct_dns] or ["localhost"]) if names else []:
        domains = [f"full:{name}" for name in names]
        server: Json = {"address": address, "domains": domains, "skipFallback": True, "tag": _DNS_STRAIGHT}
        yield {**server, "queryStrategy": _query_strategy(it)}


def _module_server(it: Engine, server: str) -> Json:
    """The dns module speaks no TLS: there it asks the same server over TCP, by the upstream all the same."""
    is_url = urlsplit(server).scheme == "https"
    host = _server(server)[0]
    address = server if is_url else f"tcp://[{host}]:53" if ":" in host else f"tcp://{host}:53"
    return {"address": address, "queryStrategy": _query_strategy(it), "tag": _DNS}


def _query_strategy(it: Engine) -> str:
    return "UseIP" if it.has_ipv6 else "UseIPv4"


def _is_name(host: str) -> bool:
    return bool(host) and ":" not in host and not host.replace(".", "").isdigit()


# Routing


def _routing(it: Engine) -> Iterator[Json]:
    """The first rule that matches decides, here as everywhere."""
    yield {"inboundTag": [_DNS_STRAIGHT, _DNS_HERE], "outboundTag": _STRAIGHT}
    yield {"inboundTag": [_DNS], "outboundTag": f"to-{it.dns_by}"}
    yield {"inboundTag": [_DNS_IN], "outboundTag": f"dns-{it.dns_by}-0"}
    for i in range(len(it.upstreams)):
        yield from _to_upstream(it, i, f"decided-{i}", f"socks-{i}", f"again-{i}")
        for k in range(len(it.proxied_dns)):
            yield {"inboundTag": [f"asked-{i}-{k}"], "outboundTag": f"dns-{i}-{k}"}
    yield from lanport.routing(it.policy, it.lan, it.upstreams) if it.lan else ()
    yield from _judging(it)
    for i in range(len(it.upstreams)):
        yield from _to_upstream(it, i, f"named-{i}")


def _to_upstream(it: Engine, i: int, *inbounds: str) -> Iterator[Json]:
    if needs_pipe(it.upstreams[i]):
        yield {"inboundTag": list(inbounds), "network": "tcp", "outboundTag": tcp_tag(it.upstreams[i], i)}
    yield {"inboundTag": list(inbounds), "outboundTag": f"to-{i}"}


def _judging(it: Engine) -> Iterator[Json]:
    """Of what came in by `named`, by the name that it showed: what showed none passes on to its upstream."""
    for number, rule in enumerate(it.policy.rules):
        for condition in _conditions(number, rule):
            yield from _sent(it, rule.send, condition)
    yield from _sent(it, it.policy.default, {"domain": ["regexp:.+"]})


def _conditions(number: int, rule: Rule) -> Iterator[Json]:
    """One for the rule's domains, one for its networks: either may hold.

    Devices are known here by their addresses only, so rules for MAC addresses are the kernel's, and what it sends by
    them does not come by here. Without a name there is nothing to judge anew.
    """
    if rule.source is not None and rule.source.macs:
        return
    common = _common(rule)
    if rule.destination is None:
        yield from [{**common, "domain": ["regexp:.+"]}]
        return
    if rule.destination.has_names:
        yield {**common, "domain": [f"ext:{geodata.FILE}:{domains_of(number)}"]}
    if rule.destination.networks4 or rule.destination.networks6:
        yield {**common, "domain": ["regexp:.+"], "ip": [f"ext:{geodata.FILE}:{networks_of(number)}"]}


def _common(rule: Rule) -> Json:
    common: Json = {}
    if rule.ports is not None:
        common["port"] = ",".join(f"{a}-{b}" if a != b else str(a) for a, b in rule.ports)
    if rule.protocol is not None:
        common["network"] = rule.protocol
    if rule.source is not None:
        common["sourceIP"] = [str(network) for network in (*rule.source.networks4, *rule.source.networks6)]
    return common


def _sent(it: Engine, send: str, condition: Json) -> Iterator[Json]:
    numbers = range(len(it.upstreams))
    if send == PROXY:
        yield from ({"inboundTag": [f"named-{i}"], **condition, "outboundTag": f"again-{i}"} for i in numbers)
        return
    others = {DIRECT: _STRAIGHT, BLOCK: _REFUSED}
    names = [u.name for u in it.upstreams]
    tag = others.get(send) or f"again-{names.index(send)}"
    yield {"inboundTag": [f"named-{i}" for i in numbers], **condition, "outboundTag": tag}
