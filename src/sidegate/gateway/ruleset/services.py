"""What this box offers to the LAN itself, names and a proxy's port, as chains: for the LAN and nobody else. Pure.

`served` (nat) leads clients there: plain DNS that they send to other servers, and the port of the proxy. `guard`
(input) comes before the owner's own filter: it marks what the LAN may ask, as the split marks what it steers, so that
one accept lets both pass a firewall that drops by policy; and it drops what others send to these ports and to the
engine's. Nothing else is dropped. `bounds` (output) refuses what a client of the proxy's port has the engine send
anywhere but out to the LAN: this box's own services, of 127.0.0.1 too, its containers, its tunnels. Whatever a name is
said to be, here it is an address. `askers4` is who asks our resolver for names. One device may hold only so many TCP
connections to it (`tcp_askers`): dnsmasq gives each a process, and has a limit for all of them together. What it asks
by UDP beyond law 19 (`restraint`) is dropped. To the proxy's port it may hold as many as by way of the split.

What the server for direct names says of an alias holds addresses of another name, maybe of one that is proxied, and
dnsmasq keeps them for whoever asks next (`rfc1035.c` extract_addresses). Who is asked goes by the question alone. So
answers by UDP that hold more than one record get the bit CD: dnsmasq keeps no such answer, passes it on without the
bit, and learns the addresses for the name that was asked (`forward.c` reply_query, 2.85 to 2.92). For such names that
server is asked each time; mostly it is the main router, which has a cache. The checksum goes with it (RFC 768, field 0:
none), for nft mends none where bits are written (`nft_payload.c` nft_payload_set_eval).

`relieved` and `relief` are how names are answered while the resolver at port 53 is started anew: what the LAN asks by
UDP is led to another port, packet by packet. NAT would bind a client that keeps its source port to one resolver for as
long as it asks (`nf_conntrack_proto_udp.c`: each packet renews the entry), and so to one that is gone. TCP is NATed:
there the connection is what must stay with one resolver.

Sources: `nf_nat_redirect.c` nf_nat_redirect_ipv4 (to the first address of the interface that the packet came in by);
`nf_nat_core.c` (NAT needs a tracked flow: DNS is neither steered nor untracked where it is led here); `nft_payload.c`
nft_payload_set_eval (UDP's checksum follows; the answer is changed back before conntrack sees it); `nft_connlimit.c`
nft_connlimit_do_eval (`ct count`: connections that conntrack knows and that are not closed).
"""

from __future__ import annotations

from msgspec import Struct

from sidegate.gateway.ruleset import restraint
from sidegate.gateway.ruleset.nfttext import CLIENT, FOR_LAN_PORT, MARKING, OF_A_LAN6, STEERED, block
from sidegate.gateway.ruleset.restraint import CROWD, DEVICE, NAMES
from sidegate.gateway.split.ports import ENGINE_PORTS, RELIEF_PORT

DNS = "meta l4proto { tcp, udp } th dport 53"
TCP_ASKERS = "tcp_askers"
PORT_USERS = "port_users"
TCP_PER_ASKER = 10
"""Connections of one device to our resolver at a time; by its MAC address, for it may have as many others as it likes.
A resolver on the LAN keeps one or a few, and asks again by another when it is refused."""
_COUNTED_SIZE = 16384


class Services(Struct, frozen=True):
    """names: whether our resolver answers on port 53. redirects: whether it answers what was meant for other servers.

    relief: whether a second one answers in its place, at RELIEF_PORT.
    lan_port: of the proxy for the LAN; socks_port: where the engine offers it; lan_barred: the MAC addresses that it is
    shut to. has_engine: whether its ports are to be guarded. ipv6: whether the LAN is served by IPv6 too.
    """

    names: bool = False
    redirects: bool = False
    lan_port: int | None = None
    socks_port: int | None = None
    has_engine: bool = False
    ipv6: bool = False
    relief: bool = False
    lan_barred: tuple[str, ...] = ()

    @property
    def has_proxy_port(self) -> bool:
        """A port that leads nowhere is left closed."""
        return self.lan_port is not None and self.socks_port is not None

    @property
    def splits_names(self) -> bool:
        """Whether two who may disagree are asked for names."""
        return self.names and self.has_engine

    @property
    def leads(self) -> bool:
        return self.redirects or self.has_proxy_port or self.relief

    @property
    def guards(self) -> bool:
        return self.names or self.has_engine or self.has_proxy_port


class Lan(Struct, frozen=True):
    """Whom it is for. lan4: as rules ask for it. router: as of `nft.Shape`. ipv6: whether the set lan6 is there."""

    interface: str
    mac: str
    lan4: str
    router: str
    ipv6: bool


def chains(services: Services, lan: Lan) -> list[str]:
    found = []
    if services.leads:
        found += [
            block("chain", "served", _served(services, lan)),
            block("chain", "served_lan", _served_lan(services, lan)),
        ]
    if services.guards:
        found += [
            block("chain", "guard", _guard(services, lan.interface, lan.lan4)),
            block("chain", "lan_only", _lan_only(lan.lan4, ipv6=lan.ipv6)),
        ]
    if services.has_proxy_port:
        found.append(block("chain", "bounds", _bounds(lan.interface)))
    if services.names:
        found += [_RELIEF, restraint.holding_back(NAMES)]
    if services.relief:
        found.append(block("chain", "relieved", _relieved(lan.interface)))
    return found


def sets(services: Services) -> list[str]:
    """Of connections without a timeout, which would forget what is open: the kernel takes out who has nothing open
    (nft_connlimit_gc).
    """
    users = [_counting(PORT_USERS)] if services.has_proxy_port else []
    return [*users, *([_counting(TCP_ASKERS), NAMES.known, restraint.held_back(NAMES)] if services.names else [])]


def _counting(name: str) -> str:
    return block("set", name, [f"typeof {DEVICE}", f"size {_COUNTED_SIZE}", "flags dynamic"])


_TOO_MANY = (
    f"tcp dport {{ 53, {RELIEF_PORT} }} ct original proto-dst 53 ct state new"
    f" add @{TCP_ASKERS} {{ ether saddr ct count over {TCP_PER_ASKER} }} reject with tcp reset"
)
_MORE_THAN_AN_ANSWER = "@th,112,32 > 0x10000"
"""ANCOUNT and NSCOUNT, of a datagram: 8 octets of UDP come before the message (RFC 1035 section 4.1.1). With one answer
and an authority it may be the denial of what an alias stands for (RFC 2308 section 2)."""
_CD_OCTET, _CD = "@th,88,8", "0x10"
"""RFC 4035 section 3.2.2."""
_UNCACHED = (
    f"meta nfproto ipv4 udp sport 53 {_MORE_THAN_AN_ANSWER} {_CD_OCTET} set {_CD_OCTET} | {_CD} udp checksum set 0"
)
"""IPv4 alone: our resolver asks nobody by IPv6, where datagrams must have a checksum (RFC 8200 section 8.1)."""
_RELIEF = block(
    "chain",
    "relief",
    ["type filter hook output priority raw; policy accept;", f"udp sport {RELIEF_PORT} udp sport set 53"],
)
"""Always there: what was asked before the resolver at port 53 was back is answered after."""


def _relieved(interface: str) -> list[str]:
    """Behind every filter, the owner's too: they know of port 53."""
    return [
        "type filter hook input priority filter + 90; policy accept;",
        f'iifname "{interface}" udp dport 53 udp dport set {RELIEF_PORT}',
    ]


def _served(services: Services, lan: Lan) -> list[str]:
    """Link-local addresses ask by IPv6 whatever its mode. Names that are asked with a prefix that is not known yet (see
    `nft`) are led here as well, not past this box; `lan_only` lets nobody in by them.
    """
    from_router = [f"ether saddr {lan.router} return"] if lan.router else []
    asked = [f"ip6 saddr {prefix} {DNS} goto served_lan" for prefix in OF_A_LAN6]
    unknown = [*from_router, *asked] if services.redirects else []
    return [
        "type nat hook prerouting priority dstnat - 1; policy accept;",
        f'iifname != "{lan.interface}" return',
        f"ip saddr {lan.lan4} goto served_lan",
        *(["ip6 saddr @lan6 goto served_lan"] if lan.ipv6 else []),
        *(["ip6 saddr fe80::/10 goto served_lan"] if services.relief else []),
        *(unknown if lan.ipv6 else []),
    ]


def _served_lan(services: Services, lan: Lan) -> list[str]:
    lines = []
    if services.has_proxy_port:
        others = f"ether saddr != {{ {', '.join(services.lan_barred)} }} " if services.lan_barred else ""
        lines.append(f"fib daddr type local {others}tcp dport {services.lan_port} redirect to :{services.socks_port}")
    if services.relief:
        lines.append(f"fib daddr type local tcp dport 53 redirect to :{RELIEF_PORT}")
    if services.redirects:
        lines += [f"ip daddr {lan.lan4} return", *(["ip6 daddr @lan6 return"] if lan.ipv6 else [])]
        relief = [f"ether daddr {lan.mac} tcp dport 53 redirect to :{RELIEF_PORT}"] if services.relief else []
        lines += [*relief, f"ether daddr {lan.mac} {DNS} redirect"]
    return lines


def _bounds(interface: str) -> list[str]:
    """By the interface, which for every address of the box itself is `lo` (`route.c` ip_route_output_key_hash_rcu)."""
    return [
        "type filter hook output priority filter - 10; policy accept;",
        f'{FOR_LAN_PORT} oifname != "{interface}" meta l4proto tcp reject with tcp reset',
    ]


def _guard(services: Services, interface: str, lan4: str) -> list[str]:
    lines = [
        "type filter hook input priority filter - 10; policy accept;",
        f"{STEERED} accept",
        *([_UNCACHED] if services.splits_names else []),
        'iifname "lo" accept',
    ]
    if services.names:
        asker = f"ip saddr {lan4} update @askers4 {{ {CLIENT} }}"
        lines += [f'iifname "{interface}" {DNS} {asker}', f'iifname "{interface}" {_TOO_MANY}']
        lines.append(f'iifname "{interface}" udp dport 53 {NAMES.over} goto {NAMES.held}')
        lines.append(f'iifname "{interface}" {DNS} goto lan_only')
        to_relief = f"tcp dport {RELIEF_PORT} meta l4proto tcp ct original proto-dst 53"
        lines.append(f'iifname "{interface}" {to_relief} goto lan_only')
        lines.append(f"meta l4proto {{ tcp, udp }} th dport {RELIEF_PORT} drop")
    if services.has_proxy_port:
        to_socks = f"tcp dport {services.socks_port} meta l4proto tcp ct original proto-dst {services.lan_port}"
        too_many = f"ct state new add @{PORT_USERS} {{ {DEVICE} ct count over {CROWD} }} reject with tcp reset"
        lines += [f'iifname "{interface}" {to_socks} {too_many}', f'iifname "{interface}" {to_socks} goto lan_only']
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
