"""Our one nft table as text: pure; golden files hold what comes out.

The laws of the table, 4 to 8 of them in the chains of `proofs.py`; `steer.py` (9 to 13), `inbound.py` (14, 15),
`restraint.py` (16 to 19) and `sparing.py` (20) go on with them

1. Only what a LAN client sends to the internet by way of this box is decided on: in and out by one interface, from a
   LAN address, to an address outside the LAN. Everything else leaves the chains at their first rules.
2. `source_nat` masquerades every *new tracked* flow it sees. It knows no clients and no proofs.
3. So a flow keeps its address by not being tracked when it begins: `proved` sets `notrack`. A full set, a lost element,
   a deleted proof make the `notrack` rule fail, and the flow is masqueraded: slower, never broken.
4. TCP is decided on its SYN. A connection that began directly is known, until it is answered (`pending4`) and after
   (`begun4`), and not tracked, whatever becomes of the proof. It is in one of the two or in none, and in none as soon
   as a SYN of its ports goes another way, or they are a later connection's: so both may be asked before anything
   else is, for only a client's SYN to the internet gets there. A segment of one that is not known, or no more, is
   picked up by conntrack and bound to its own address (`snat ip to ip saddr`), so that a flow begun direct stays
   direct. Bound, not passed by, and just before the owner's own NAT rules: a `MASQUERADE` of theirs would rewrite it
   in mid-flow.
5. A flow begun masqueraded stays so when the proof comes: established ones because only SYNs, datagrams and echo
   requests are ever `notrack`ed; SYNs sent again and datagrams because `masqueraded4` remembers their tuple.
6. UDP and echo requests of proved clients are decided packet by packet, or a tunnel with a fixed port whose client
   roamed would refresh its un-NATed conntrack entry for ever and never come back. Only where a proof *lapsed*, with no
   sign against it (`stale4`), as without a daemon, datagrams of a flow begun direct (`datagrams4`) stay so, or calls
   would end.
7. The proof is watched: a SYN (`pending4`) is answered by the client's first ACK. A SYN sent again, with no handshake
   of this client completed in the second before (`answered4`), is masqueraded, and in `retried4` from then on. That
   alone says nothing of the proof: most such servers are dead, and withdrawing it moves the client's calls and games
   to another address. Where the masqueraded SYN is answered, the return path is in doubt (`doubted4`), for a packet
   may have been lost; a second such connection, with no direct handshake in between, deletes the proof.
8. DNS of a proved client stays masqueraded: that costs nothing, and a client that roamed must find names before it
   sends the SYNs that law 7 needs.

What a connection costs: its SYN and the first ACK one new element each; whatever follows one lookup (`underway`). What
tells is how many expressions nft evaluates (`nf_tables_core.c` nft_do_chain), some 15 ns each, the hidden ones too: it
asks for the family in each rule with an address, for the protocol in each with `tcp`, and copies the name for
`iifname`. A lookup is 40 ns more, a new element 300. No element is deleted and entered again for the same client:
`nft_set_hash.c` leaves the dead ones in their bucket until it collects them (nft_rhash_gc), and all lookups of that
client walk past them.

Sources: `nft_ct.c` nft_notrack_eval (no effect on what is tracked already, hence priority raw); `nf_nat_core.c`
nf_nat_inet_fn (untracked: no NAT; rules only for new connections); `nf_conntrack_proto_tcp.c` (pick-up with
tcp_loose, 300 s while no reply is seen); `nft_dynset.c` (an update of a full set ends the rule); iifname in
postrouting: Linux 5.7, commit 28f8bfd1ac94.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

from msgspec import Struct

from sidegate.gateway.config import Masquerade
from sidegate.gateway.desired import TABLE
from sidegate.gateway.ruleset import inbound, proofs, services, sparing, steer
from sidegate.gateway.ruleset.inbound import Forwarded
from sidegate.gateway.ruleset.nfttext import (
    CLIENT,
    COUNTED,
    FLOW,
    FLOWS_SIZE,
    HAS_ACK,
    NO_SYN,
    OF_A_LAN6,
    SYN,
    TUPLE,
    block,
    constant,
    dynamic,
)
from sidegate.gateway.ruleset.services import Services
from sidegate.gateway.ruleset.steer import INTERNET6, PRIVATE4, Memory, Steering

CLIENTS_SIZE = 16384
"""Enough for 5,000 clients with three addresses each."""
ASKERS_S = 86_400
"""Whoever asked for no name for so long asks somebody else."""
PROOF_TIMEOUT_S = 300
ANSWERED_S = 1
"""No SYN is sent again sooner (RFC 6298 section 2.1): what was answered so lately was answered after the first one."""


class Client(Struct, frozen=True, order=True):
    """A client as the sets name it. mac: lower case."""

    mac: str
    ip: IPv4Address


class Element(Struct, frozen=True):
    """One element of a set. key: its parts. packets, bytes: since it was added; None where the set does not count.

    expires_s: whole seconds left; None for an element without timeout.
    """

    key: tuple[str, ...]
    packets: int | None = None
    bytes: int | None = None
    expires_s: int | None = None


class Shape(Struct, frozen=True):
    """What decides the table's text.

    mac: of the interface. masquerade: for clients without a setting of their own; own: for those with one.
    lan6: the LAN's IPv6 networks, as far as this box has addresses of them. steering: None: everything goes straight.
    router: the MAC address of the main router, empty: not known. forwarded: see `inbound`.
    """

    interface: str
    mac: str
    lan: tuple[IPv4Network, ...]
    masquerade: Masquerade
    own: tuple[tuple[str, Masquerade], ...] = ()
    lan6: tuple[IPv6Network, ...] = ()
    steering: Steering | None = None
    services: Services = Services()
    router: str = ""
    forwarded: tuple[Forwarded, ...] = ()

    def having(self, *settings: Masquerade) -> list[str]:
        """MAC addresses whose own setting is one of these and not the common one."""
        return sorted(mac for mac, own in self.own if own in settings and own != self.masquerade)

    @property
    def lan4(self) -> str:
        """As rules ask for it: one network is compared, which costs a fraction of looking into a set."""
        return str(self.lan[0]) if len(self.lan) == 1 else "@lan4"

    @property
    def has_auto(self) -> bool:
        """Whether any client's return path is to be proved."""
        return self.masquerade == "auto" or bool(self.having("auto"))

    @property
    def decides(self) -> bool:
        """Whether what becomes of a packet is decided before conntrack sees it."""
        return self.has_auto or self.steering is not None

    @property
    def has_ipv6(self) -> bool:
        """Whether IPv6 of the LAN is looked at."""
        return self.services.ipv6 or self.splits_ipv6

    @property
    def splits_ipv6(self) -> bool:
        return self.steering is not None and self.steering.ipv6

    @property
    def knows_every_syn(self) -> bool:
        """Whether the proofs remember every client's SYN."""
        return self.masquerade == "auto" and not self.own


def ruleset(shape: Shape) -> str:
    """The transaction that replaces our table, whether or not it is there."""
    head = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
    split = steer.parts(shape.steering, Memory(shape.knows_every_syn, shape.has_auto)) if shape.steering else ([], [])
    body = [*_sets(shape), *split[0], *_chains(shape), *split[1]]
    return head + f'table inet {TABLE} {{\n\tcomment "made by sidegate"\n\n' + "\n".join(body) + "}\n"


def _sets(shape: Shape) -> list[str]:
    sets = [
        *(
            [constant("lan4", "ipv4_addr", [str(n) for n in shape.lan], "flags interval")]
            if len(shape.lan) != 1
            else []
        ),
        *([_lan6(shape.lan6)] if shape.has_ipv6 else []),
        *([_PRIVATE4] if shape.steering or shape.router else []),
        dynamic("clients4", CLIENT, CLIENTS_SIZE, 3600, "counter"),
        dynamic("replies4", "ip daddr", CLIENTS_SIZE, 3600, "counter"),
        *([dynamic("askers4", CLIENT, CLIENTS_SIZE, ASKERS_S)] if shape.services.names else []),
        *services.sets(shape.services),
        *inbound.sets(shape.router, shape.forwarded),
    ]
    if shape.has_auto:
        sets += [
            dynamic("direct4", CLIENT, CLIENTS_SIZE, PROOF_TIMEOUT_S),
            dynamic("stale4", CLIENT, CLIENTS_SIZE, PROOF_TIMEOUT_S),
            dynamic("answered4", CLIENT, CLIENTS_SIZE, ANSWERED_S),
            dynamic("doubted4", CLIENT, CLIENTS_SIZE, 60),
            dynamic("pending4", TUPLE, FLOWS_SIZE, 10),
            dynamic("begun4", TUPLE, FLOWS_SIZE, 120),
            dynamic("retried4", TUPLE, FLOWS_SIZE, 30),
            dynamic("masqueraded4", FLOW, FLOWS_SIZE, 120),
            dynamic("datagrams4", FLOW, FLOWS_SIZE, 120),
        ]
    for name, macs in (("not_auto", _not_auto(shape)), ("auto", _only_auto(shape)), ("nat", _nat(shape))):
        if macs:
            sets.append(constant(name, "ether_addr", macs))
    return sets


_PRIVATE4 = constant("private4", "ipv4_addr", PRIVATE4, "flags interval")


def _lan6(networks: Iterable[IPv6Network]) -> str:
    """Empty while none is known: the rules are the same then."""
    listed = [str(n) for n in networks]
    if not listed:
        return block("set", "lan6", ["type ipv6_addr", "flags interval"])
    return constant("lan6", "ipv6_addr", listed, "flags interval")


def _not_auto(shape: Shape) -> list[str]:
    return shape.having("always", "never") if shape.masquerade == "auto" else []


def _only_auto(shape: Shape) -> list[str]:
    return [] if shape.masquerade == "auto" else shape.having("auto")


def _nat(shape: Shape) -> list[str]:
    """Whose setting differs from the common one in whether it is masqueraded at all."""
    return shape.having("auto", "always") if shape.masquerade == "never" else shape.having("never")


def _chains(shape: Shape) -> list[str]:
    chains = [block("chain", "foreign", inbound.foreign(shape.router, shape.mac))] if shape.router else []
    chains += [block("chain", "underway", _underway(shape))] if shape.decides else []
    chains += [block("chain", "upstream", _upstream(shape))]
    if shape.has_auto:
        chains += proofs.CHAINS
    if shape.steering is not None:
        chains.append(_REPLIES)
        chains += [block("chain", "upstream6", _upstream6(shape))] if shape.splits_ipv6 else []
        chains += [block("chain", "leaving6", _leaving6(shape))] if shape.splits_ipv6 else []
        chains += _sparing(shape, shape.steering) if shape.steering.spares else []
    lan = services.Lan(shape.interface, shape.mac, shape.lan4, shape.router, shape.has_ipv6)
    chains += services.chains(shape.services, lan)
    return [*chains, block("chain", "downstream", _downstream(shape)), *_source_nat(shape)]


def _sparing(shape: Shape, steering: Steering) -> list[str]:
    return sparing.chains(shape.interface, shape.lan4, shape.router, ipv6=shape.has_ipv6, servers=steering.unsteered)


def _upstream(shape: Shape) -> list[str]:
    """Of TCP nothing but SYNs stays here where anything is decided on them."""
    return [
        "type filter hook prerouting priority raw; policy accept;",
        *([f"{NO_SYN} goto underway"] if shape.decides else []),
        *_ours(shape),
        *(_leaving(shape) if shape.decides else []),
        *(["jump split4"] if shape.steering else []),
        *(_prove_or_remember(shape) if shape.has_auto else []),
    ]


def _underway(shape: Shape) -> list[str]:
    """What was begun direct comes first: whatever is in these two sets is a client's, and ours, since its SYN was."""
    known = [f"{TUPLE} @begun4 notrack update @clients4 {{ {CLIENT} }} return", f"{TUPLE} @pending4 goto answered"]
    return [
        *(known if shape.has_auto else []),
        *_ours(shape),
        *(["jump segments4"] if shape.steering else []),
        *([f"meta nfproto ipv4 {CLIENT} @direct4 {TUPLE} @retried4 {HAS_ACK} goto doubt"] if shape.has_auto else []),
    ]


def _ours(shape: Shape) -> list[str]:
    """Leaves what is not a client's packet to the internet, and DNS that is led to our resolver: it must be tracked.

    ether daddr: leaves multicast out, and what only crosses the interface where it is a bridge with br_netfilter.
    """
    return [
        f'iifname != "{shape.interface}" return',
        *(["meta nfproto ipv6 goto upstream6"] if shape.splits_ipv6 else []),
        f"ip saddr != {shape.lan4} {'goto foreign' if shape.router else 'return'}",
        f"ip daddr {shape.lan4} return",
        f"ether daddr != {shape.mac} return",
        COUNTED,
        *inbound.answers(shape.interface, shape.forwarded),
        *_names(shape),
    ]


def _upstream6(shape: Shape) -> list[str]:
    """Clients have a new prefix before this box knows it, or while it has lost its own address: who sends is asked by
    what an address of the LAN may be. What the main router sends comes from the internet.
    """
    return [
        "ip6 saddr @lan6 goto leaving6",
        *([f"ether saddr {shape.router} return"] if shape.router else []),
        *(f"ip6 saddr {prefix} goto leaving6" for prefix in OF_A_LAN6),
    ]


def _leaving6(shape: Shape) -> list[str]:
    return [
        "ip6 daddr @lan6 return",
        f"ip6 daddr != {INTERNET6} return",
        f"ether daddr != {shape.mac} return",
        *inbound.answers(shape.interface, shape.forwarded),
        *_names(shape),
        f"{NO_SYN} goto segments6",
        *_leaving(shape),
        "jump split6",
    ]


def _names(shape: Shape) -> list[str]:
    return ["th dport 53 meta l4proto { tcp, udp } return"] if shape.services.redirects else []


def _leaving(shape: Shape) -> list[str]:
    """What leaves by another interface, as into a tunnel, is not ours, untracked it would miss its own NAT; and what
    is meant for this box neither. Asked of what begins something alone: it is dear."""
    return [f'fib daddr oifname != "{shape.interface}" return']


_REPLIES = block(
    "chain", "replies", ["type filter hook output priority raw; policy accept;", "socket transparent 1 notrack"]
)
"""What the engine's sockets answer belongs to flows that are not tracked."""


def _prove_or_remember(shape: Shape) -> list[str]:
    only = ["ether saddr != @auto return"] if _only_auto(shape) else []
    other = ["ether saddr @not_auto return"] if _not_auto(shape) else []
    return [
        *only,
        *other,
        f"meta nfproto ipv4 {CLIENT} @direct4 goto proved",
        "meta l4proto tcp goto remember",
        f"meta l4proto udp {CLIENT} != @stale4 {FLOW} @datagrams4 goto untracked_udp",
        "meta l4proto udp goto remember",
    ]


def _downstream(shape: Shape) -> list[str]:
    """Direct packets are known by the first two comparisons; where nothing is masqueraded nothing is tracked for us."""
    through = f'iifname "{shape.interface}" oifname "{shape.interface}"'
    tracked = "ct direction reply " if _is_masquerading(shape) else ""
    return [
        "type filter hook forward priority filter; policy accept;",
        f"{tracked}ip daddr {shape.lan4} ip saddr != {shape.lan4} {through} update @replies4 {{ ip daddr }}",
    ]


def _is_masquerading(shape: Shape) -> bool:
    return shape.masquerade != "never" or bool(_nat(shape))


def _source_nat(shape: Shape) -> list[str]:
    macs = _nat(shape)
    if not _is_masquerading(shape):
        return []
    exempt = f"ether saddr {'!= ' if shape.masquerade == 'never' else ''}@nat return"
    lines = [
        "type nat hook postrouting priority srcnat - 1; policy accept;",
        f'iifname != "{shape.interface}" return',
        f'oifname != "{shape.interface}" return',
        "meta nfproto != ipv4 return",
        f"ip saddr != {shape.lan4} return",
        f"ip daddr {shape.lan4} return",
        *([exempt] if macs else []),
        f"{SYN} masquerade",
        "meta l4proto tcp snat ip to ip saddr",
        "masquerade",
    ]
    return [block("chain", "source_nat", lines)]


def prove(clients: Iterable[Client], timeout_s: int = PROOF_TIMEOUT_S) -> str:
    """The transaction that puts these clients into `direct4` for timeout_s, or renews them. Empty for no clients.

    Add, delete, add: adding alone keeps the old timeout of an element that is there (before Linux 6.11), deleting
    alone fails for one that is not. What made an earlier proof stale is wiped from `stale4`, so that whoever is in
    both sets went stale after this proof.
    """
    keys = _keys(clients)
    if not keys:
        return ""
    timed = _listed([f"{key} timeout {timeout_s}s" for key in keys])
    return _removed("stale4", keys) + _removed("direct4", keys) + f"add element inet {TABLE} direct4 {timed}\n"


def withdraw(clients: Iterable[Client]) -> str:
    """The transaction that takes these clients out of `direct4`, whether or not they are in. Empty for no clients.

    They are in `stale4` then, for something speaks against the proof: it did not just lapse.
    """
    keys = _keys(clients)
    return _removed("direct4", keys) + f"add element inet {TABLE} stale4 {_listed(keys)}\n" if keys else ""


def _removed(name: str, keys: list[str]) -> str:
    target = f"element inet {TABLE} {name} {_listed(keys)}"
    return f"add {target}\ndelete {target}\n"


def _keys(clients: Iterable[Client]) -> list[str]:
    return [f"{c.mac} . {c.ip}" for c in sorted(set(clients))]


def _listed(keys: list[str]) -> str:
    return "{ " + ", ".join(keys) + " }"


def parse_elements(text: str) -> tuple[Element, ...]:
    """The elements in what `nft -j list set …` printed. Raises ValueError for text of another shape."""
    try:
        objects = json.loads(text)["nftables"]
        sets = [o["set"] for o in objects if "set" in o]
        return tuple(_element(e) for s in sets for e in s.get("elem", ()))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a listing of nft: {error!r}") from None


def _element(data: Any) -> Element:
    """nft prints a bare value where there is nothing else to say, else {"elem": {"val": …, "expires": s, …}}."""
    fields = data["elem"] if isinstance(data, dict) and "elem" in data else {"val": data}
    value = fields["val"]
    key = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
    counter = fields.get("counter") or {}
    return Element(tuple(map(str, key)), counter.get("packets"), counter.get("bytes"), fields.get("expires"))
