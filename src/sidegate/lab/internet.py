"""The internet's machine: servers with their names, the home's ISP with its blocks and lies, as pure data."""

from __future__ import annotations

from collections.abc import Iterator

from sidegate.home import CERTIFIED_SERVICES, PROXY_SERVICES, SERVICE_PORTS, Home, Isp, Lie, Server
from sidegate.lab.parts import INTERNET, Machine, Proxy, Rules, dnsmasq, other_end, settings

_AS_IN_LIFE = ("--local=/#/", "--max-tcp-connections=1000")
"""dnsmasq is to say that no other name exists, instead of that it cannot tell (REFUSED), and to serve more than the 20
TCP connections at a time that it thinks enough for a home."""


def internet(home: Home) -> Machine:
    """Everything outside of the home."""
    servers = home.internet.server
    return Machine(
        INTERNET,
        settings(False, False),
        addresses=tuple(_address_lines(home)),
        rules=(Rules(("nft", "-f", "-"), _isp_rules(home)),),
        daemons=tuple(_resolvers(home)),
        listens=tuple(listener for server in servers for listener in _listeners(server)),
        certificates=tuple(_certificates(servers)),
        proxies=tuple(proxy for server in servers for proxy in proxies(server)),
    )


def resolvers(home: Home) -> tuple[str, ...]:
    """Whom the home's router asks for names: the ISP's server, else every DNS server there is."""
    if home.internet.isp:
        return (str(home.internet.isp.resolver),)
    return tuple(str(s.v4) for s in home.internet.server if "dns" in s.serves)


def proxies(server: Server) -> Iterator[Proxy]:
    """Its proxy services, in the order of the file."""
    v6 = str(server.v6) if server.v6 else ""
    for service in server.serves:
        if service in PROXY_SERVICES:
            name = f"{server.name}-{service}"
            yield Proxy(service, name, server.domain or "", str(server.v4), v6, SERVICE_PORTS[service])


def _addresses(server: Server) -> list[str]:
    return [str(server.v4), *([str(server.v6)] if server.v6 else [])]


def _address_lines(home: Home) -> Iterator[str]:
    wan = home.modem.wan if home.modem else home.router.wan
    yield f"addr add {other_end(wan)}/{wan.network.prefixlen} dev wan"
    if home.router.wan6 and home.router.lan6:
        wan6 = home.router.wan6
        yield f"addr add {other_end(wan6)}/{wan6.network.prefixlen} dev wan nodad"
        yield f"route add {home.router.lan6.network} via {wan6.ip}"
    for server in home.internet.server:
        yield from (f"addr add {a} dev lo{' nodad' if ':' in a else ''}" for a in _addresses(server))
    if home.internet.isp:
        yield f"addr add {home.internet.isp.resolver} dev lo"


def _listeners(server: Server) -> Iterator[tuple[str, str, int]]:
    for service in server.serves:
        if service == "dns" or service in PROXY_SERVICES:
            continue
        ports = (SERVICE_PORTS[service], *(server.ports if service == "http" else ()))
        yield from ((service, address, port) for address in _addresses(server) for port in ports)


def _certificates(servers: tuple[Server, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for server in servers:
        if server.domain and any(service in CERTIFIED_SERVICES for service in server.serves):
            yield server.domain, tuple(_addresses(server))


def _resolvers(home: Home) -> Iterator[tuple[str, ...]]:
    """The honest DNS servers, and the ISP's."""
    named = [(server.domain, _addresses(server)) for server in home.internet.server if server.domain]
    records = [f"--host-record={domain},{','.join(addresses)}" for domain, addresses in named]
    honest = [a for server in home.internet.server if "dns" in server.serves for a in _addresses(server)]
    if honest:
        yield dnsmasq("internet", *(f"--listen-address={a}" for a in honest), *records, *_AS_IN_LIFE)
    if isp := home.internet.isp:
        lies = [option for lie in isp.lie for option in _lie_options(lie)]
        truths = [r for r, (domain, _) in zip(records, named, strict=True) if not _is_lied_about(domain, isp)]
        at = (f"--listen-address={a}" for a in _isp_resolvers(home, isp))
        yield dnsmasq("isp", *at, *truths, *lies, *_AS_IN_LIFE)


def _isp_resolvers(home: Home, isp: Isp) -> tuple[str, ...]:
    """Its IPv4 address, and for what it forges over IPv6 the ISP's end of the access line."""
    wan6 = home.router.wan6
    return (str(isp.resolver), *([other_end(wan6)] if wan6 and isp.forges else []))


def _is_lied_about(domain: str, isp: Isp) -> bool:
    return any(f".{domain}".endswith(f".{lie.domain}") for lie in isp.lie)


def _lie_options(lie: Lie) -> Iterator[str]:
    """dnsmasq's `--address` answers the name and all below it."""
    for address in (lie.v4, lie.v6):
        if address is not None:
            yield f"--address=/{lie.domain}/{address}"


def _isp_rules(home: Home) -> str:
    """What the ISP drops, and the questions that it answers itself. Both only where the home's packets come in."""
    blocks = [f'iifname "wan" ip{"6" if a.version == 6 else ""} daddr {a} drop' for a in home.internet.blocked]
    text = _chain("arriving", "type filter hook prerouting priority raw", blocks)
    isp = home.internet.isp
    if isp and isp.forges:
        targets = [f"ip{'6' if ':' in a else ''} to {a}" for a in _isp_resolvers(home, isp)]
        forged = [f'iifname "wan" {p} dport 53 dnat {target}' for target in targets for p in ("udp", "tcp")]
        text += _chain("forging", "type nat hook prerouting priority dstnat", forged)
    return f"table inet isp {{\n{text}}}\n"


def _chain(name: str, head: str, rules: list[str]) -> str:
    lines = "".join(f"        {rule}\n" for rule in rules)
    return f"    chain {name} {{\n        {head}; policy accept;\n{lines}    }}\n"
