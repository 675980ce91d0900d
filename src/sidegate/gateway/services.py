"""What this box offers to the LAN itself, names and a proxy's port, as chains: for the LAN and nobody else. Pure.

`served` (nat) leads clients there: plain DNS that they send to other servers, and the port of the proxy. `guard`
(input) comes before the owner's own filter: it marks what the LAN may ask, as the split marks what it steers, so that
one accept lets both pass a firewall that drops by policy; and it drops what others send to these ports and to the
engine's. Nothing else is dropped.

Sources: `nf_nat_redirect.c` nf_nat_redirect_ipv4 (to the first address of the interface that the packet came in by);
`nf_nat_core.c` (NAT needs a tracked flow: DNS is neither steered nor untracked where it is led here).
"""

from __future__ import annotations

from msgspec import Struct

from sidegate.gateway.nfttext import MARKING, STEERED, block
from sidegate.gateway.split.ports import ENGINE_PORTS

DNS = "meta l4proto { tcp, udp } th dport 53"


class Services(Struct, frozen=True):
    """names: whether our resolver answers on port 53. redirects: whether it answers what was meant for other servers.

    lan_port: of the proxy for the LAN; socks_port: where the engine offers it. has_engine: whether its ports are to be
    guarded. ipv6: whether the LAN is served by IPv6 too.
    """

    names: bool = False
    redirects: bool = False
    lan_port: int | None = None
    socks_port: int | None = None
    has_engine: bool = False
    ipv6: bool = False

    @property
    def has_proxy_port(self) -> bool:
        """A port that leads nowhere is left closed."""
        return self.lan_port is not None and self.socks_port is not None

    @property
    def leads(self) -> bool:
        return self.redirects or self.has_proxy_port

    @property
    def guards(self) -> bool:
        return self.names or self.has_engine or self.has_proxy_port


def chains(services: Services, interface: str, mac: str, lan4: str, *, ipv6: bool) -> list[str]:
    """lan4: as rules ask for it. ipv6: whether the set lan6 is there."""
    found = []
    if services.leads:
        found += [
            block("chain", "served", _served(interface, lan4, ipv6=ipv6)),
            block("chain", "served_lan", _served_lan(services, mac, lan4, ipv6=ipv6)),
        ]
    if services.guards:
        found += [
            block("chain", "guard", _guard(services, interface)),
            block("chain", "lan_only", _lan_only(lan4, ipv6=ipv6)),
        ]
    return found


def _served(interface: str, lan4: str, *, ipv6: bool) -> list[str]:
    return [
        "type nat hook prerouting priority dstnat - 1; policy accept;",
        f'iifname != "{interface}" return',
        f"ip saddr {lan4} goto served_lan",
        *(["ip6 saddr @lan6 goto served_lan"] if ipv6 else []),
    ]


def _served_lan(services: Services, mac: str, lan4: str, *, ipv6: bool) -> list[str]:
    lines = []
    if services.has_proxy_port:
        lines.append(f"fib daddr type local tcp dport {services.lan_port} redirect to :{services.socks_port}")
    if services.redirects:
        lines += [f"ip daddr {lan4} return", *(["ip6 daddr @lan6 return"] if ipv6 else [])]
        lines.append(f"ether daddr {mac} {DNS} redirect")
    return lines


def _guard(services: Services, interface: str) -> list[str]:
    lines = [
        "type filter hook input priority filter - 10; policy accept;",
        f"{STEERED} accept",
        'iifname "lo" accept',
    ]
    if services.names:
        lines.append(f'iifname "{interface}" {DNS} goto lan_only')
    if services.has_proxy_port:
        to_socks = f"tcp dport {services.socks_port} meta l4proto tcp ct original proto-dst {services.lan_port}"
        lines.append(f'iifname "{interface}" {to_socks} goto lan_only')
    if services.has_engine:
        first, last = ENGINE_PORTS
        lines.append(f"meta l4proto {{ tcp, udp }} th dport {first}-{last} drop")
    return lines


def _lan_only(lan4: str, *, ipv6: bool) -> list[str]:
    """Link-local addresses never come from beyond the LAN (RFC 4291 section 2.5.6)."""
    lines = [f"ip saddr {lan4} {MARKING} accept"]
    if ipv6:
        lines += [f"ip6 saddr @lan6 {MARKING} accept"]
    return [*lines, f"ip6 saddr fe80::/10 {MARKING} accept", "drop"]
