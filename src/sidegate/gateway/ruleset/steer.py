"""The split as sets and chains: Policy × the engine's ports -> text for nft. Pure.

The laws of the split, which go on from those of `nft.py`; how much of it one device may begin, `restraint.py` says

9. `split` is asked before a proof is. What it steers ends there, untracked: a proxied SYN touches no proof, no memory
   of masquerade and no conntrack, for it says nothing about a return path. What it leaves returns to the proofs.
10. A flow never flips. TCP is decided on its SYN; a later segment goes to the engine if the engine has a socket for
   just this flow, and nowhere else if it has none. A SYN sent again follows the first one: to the engine by that
   socket, straight by the memory of proofs and masquerade (`pending4`, `masqueraded4`) or, where there is none, of
   `straight`. UDP follows `steered`, one set for each of the engine's ports, and `straight`.
11. `tproxy` matches only while a socket listens. With nobody there the rule ends and the same packet goes on: straight,
   or with `on_failure = "block"` into `refused`, as segments of flows do that the engine had (`engaged`). Datagrams
   that go straight for want of an engine are not remembered: they are steered again once it is back.
   UDP for an upstream that carries none is refused at once, so that whoever sends it goes on over TCP.
12. Steered is what a LAN client sends to the internet by this interface. A destination that is not of the internet
   (`private`) is steered only by a rule with a network that contains it. What is neither TCP nor UDP goes straight.
13. The first rule that matches decides. Rules by network, port and client lead to the port `decided`; those by learned
   addresses and the default, where the traffic's own name may still tell, to `named`.

Sources: `nft_tproxy.c` nft_tproxy_eval_v4 (an established socket of the flow, else a listener at the port, else
NFT_BREAK) and nft_tproxy_validate (prerouting at any priority; fragments are joined at -400); `nft_socket.c`
nft_socket_eval (`transparent` is true of request and time-wait sockets too, `wildcard` ends the rule for them: so it is
asked second, and only listeners are kept out by it); `nf_reject_ipv4.c` (reject at prerouting: Linux 5.9).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from msgspec import Struct

from sidegate.gateway.config.fields import OnFailure, Quic
from sidegate.gateway.engine.idle import IDLE_S
from sidegate.gateway.ruleset import restraint, sparing
from sidegate.gateway.ruleset.among import Among
from sidegate.gateway.ruleset.networks import Listed, listed
from sidegate.gateway.ruleset.nfttext import FLOW, FLOW6, FLOWS_SIZE, MARKING, TUPLE, block, constant, dynamic
from sidegate.gateway.ruleset.restraint import CONNECTIONS, CROWDS, DATAGRAMS, DEVICE, STRAIGHT, STRANGERS
from sidegate.gateway.split.policy import BLOCK, DIRECT, PROXY, Policy, Rule, Source
from sidegate.gateway.split.ports import Ports

Kind = Literal["decided", "named"]

DATAGRAMS_S = 180
"""How long a UDP flow may pause and is still the same (RFC 4787 REQ-5: not under 2 minutes)."""
ENGAGED_S = IDLE_S
"""How long a proxied TCP connection may pause and is still known as one."""
LEARNED_SIZE = 65536
LEARNED_S = 30 * 86_400
"""How long an address stays in `names` while nobody looks, as without a daemon; see `dns.learned`."""

PRIVATE4 = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
)
"""Not of the internet (RFC 6890); the networks for documentation are left out, which nobody asks for but tests."""
INTERNET6 = "2000::/3"
"""All global unicast addresses (IANA, IPv6 address space); nothing else is steered."""


class Steering(Struct, frozen=True):
    """What decides the split's text.

    targets: for each name that a rule may send to, in order, where the engine listens; None: it does not work.
    held: places that are no target, or no more, and whose datagram flows stay there all the same: the upstream chosen
    before, while it works, and an engine that is ending. ipv6: whether IPv6 is split too. unsteered: LAN addresses
    whose own traffic is left alone, as of a proxy server on the LAN, which would get its own packets back. spares:
    whether there may be one (`sparing`).
    """

    policy: Policy
    targets: tuple[tuple[str, Ports | None], ...]
    held: tuple[Ports, ...] = ()
    on_failure: OnFailure = "direct"
    ipv6: bool = False
    unsteered: tuple[IPv4Address | IPv6Address, ...] = ()
    spares: bool = False

    @property
    def datagram_ports(self) -> list[int]:
        """Of the engine, where UDP flows may be."""
        places = [*self.held, *(ports for _, ports in self.targets if ports is not None)]
        return sorted({port for ports in places if ports.udp for port in (ports.decided, ports.named)})

    @property
    def families(self) -> tuple[Family, ...]:
        return (V4, V6) if self.ipv6 else (V4,)


class Family(Struct, frozen=True):
    """What nft calls things. here: the loopback address at which the engine's listener is looked for."""

    number: Literal[4, 6]
    ip: str
    flow: str
    here: str
    type: str


V4 = Family(4, "ip", FLOW, "127.0.0.1", "ipv4_addr")
V6 = Family(6, "ip6", FLOW6, "[::1]", "ipv6_addr")


class Memory(Struct, frozen=True):
    """How a SYN that went straight is known when it is sent again: by sets that the proofs fill, else by `straight`.

    has_begun: whether there is `begun4`, where a connection that is steered must not be, of an earlier one.
    """

    by_proofs: bool
    has_begun: bool

    def is_of_proofs(self, family: Family) -> bool:
        return self.by_proofs and family is V4

    def lines(self, family: Family) -> list[str]:
        if self.is_of_proofs(family):
            return [f"meta l4proto tcp {FLOW} @masqueraded4 return", f"meta l4proto tcp {TUPLE} @pending4 return"]
        return [f"meta l4proto tcp {family.flow} @straight{family.number} return"]


def is_splitting(policy: Policy | None) -> bool:
    """Whether anything may go another way than straight."""
    return policy is not None and (policy.default != DIRECT or any(r.send != DIRECT for r in policy.rules))


def learned_sets(policy: Policy, numbers: Sequence[int] = (4, 6)) -> tuple[str, ...]:
    """The sets that the resolver fills: for what rules name, `names` and `kept` of each family.

    By the names that they are for: so they are the same ones wherever a rule stands and wherever it sends.
    """
    named = dict.fromkeys(r.destination.names_key for r in policy.rules if r.destination and r.destination.has_names)
    return tuple(f"{kind}_{key}_{n}" for key in named for kind in ("names", "kept") for n in numbers)


def parts(steering: Steering, memory: Memory) -> tuple[list[str], list[str]]:
    """The split's sets, and its chains: `split4` and, with IPv6, `split6`, with all that they lead to."""
    networks = _of_rules(steering)
    return _sets(steering, networks), _chains(steering, memory, networks)


_Networks = dict[tuple[int, int], Listed]
"""By the rule's number and the family's."""


def _of_rules(steering: Steering) -> _Networks:
    rules, families = enumerate(steering.policy.rules), steering.families
    return {(i, f.number): listed(f.number, found) for i, r in rules for f in families if (found := _networks(r, f))}


_HELD_BACK = (CONNECTIONS, DATAGRAMS, STRANGERS)


def _sets(steering: Steering, networks: _Networks) -> list[str]:
    """Each named by what it holds or by the rule that it is of."""
    found: dict[str, str] = {}
    for family in steering.families:
        n = family.number
        if steering.unsteered and (own := [str(a) for a in steering.unsteered if a.version == n]):
            found[f"unsteered{n}"] = constant(f"unsteered{n}", family.type, sorted(own))
        found[f"straight{n}"] = dynamic(f"straight{n}", family.flow, FLOWS_SIZE, DATAGRAMS_S)
        for port in steering.datagram_ports:
            found[f"steered{port}_{n}"] = dynamic(f"steered{port}_{n}", family.flow, FLOWS_SIZE, DATAGRAMS_S)
        if steering.on_failure == "block":
            found[f"engaged{n}"] = dynamic(f"engaged{n}", family.flow, FLOWS_SIZE, ENGAGED_S)
        for i, rule in enumerate(steering.policy.rules):
            if (i, n) in networks:
                found |= dict(networks[i, n].sets())
            found |= dict(_learned(rule, family))
            for asked in (*_senders(rule.source, family), *_ports(rule)):
                found |= asked.sets
    restraints = [text for it in _HELD_BACK for text in (it.known, restraint.held_back(it))]
    spared = [sparing.KNOWN] if steering.spares else []
    return [*restraints, restraint.crowds(), STRAIGHT.known, *spared, *found.values()]


def _learned(rule: Rule, family: Family) -> Iterator[tuple[str, str]]:
    if rule.destination is not None and rule.destination.has_names:
        for kind in ("names", "kept"):
            name = f"{kind}_{rule.destination.names_key}_{family.number}"
            lines = [f"type {family.type}", f"size {LEARNED_SIZE}", "flags timeout", f"timeout {LEARNED_S}s"]
            yield name, block("set", name, lines)


def _networks(rule: Rule, family: Family) -> tuple[IPv4Network | IPv6Network, ...]:
    if rule.destination is None:
        return ()
    return rule.destination.networks4 if family is V4 else rule.destination.networks6


class Entry(Struct, frozen=True, order=True):
    """A port of the engine to which new flows are led. udp: of datagrams too."""

    port: int
    udp: bool

    def chain(self, family: Family) -> str:
        return f"entering{self.port}_{family.number}"


class Way(Struct, frozen=True, order=True):
    """Where a rule leads that neither sends straight nor blocks. quic: what becomes of UDP port 443."""

    send: str
    kind: Kind
    quic: Quic

    def chain(self, steering: Steering, family: Family) -> str:
        names = [name for name, _ in steering.targets]
        number = names.index(self.send) if self.send in names else "_lost"
        quic = "" if self.quic == "proxy" else f"_quic_{self.quic}"
        return f"to{number}_{self.kind}{quic}_{family.number}"

    def entry(self, steering: Steering) -> Entry | None:
        """None: nobody takes it."""
        ports = dict(steering.targets).get(self.send)
        return None if ports is None else Entry(ports.decided if self.kind == "decided" else ports.named, ports.udp)


def _chains(steering: Steering, memory: Memory, networks: _Networks) -> list[str]:
    found = [block("chain", "steered", [MARKING, "notrack", "accept"]), block("chain", "refused", _REFUSED)]
    found += map(restraint.holding_back, _HELD_BACK)
    found.append(block("chain", "begins", _BEGINS))
    for family in steering.families:
        n = family.number
        found += [block("chain", f"to_straight{n}", _to_straight(family, memory))]
        found += [block("chain", entry.chain(family), _entering(entry, family)) for entry in _entries(steering)]
        found += [
            block("chain", way.chain(steering, family), _to(way, steering, family, memory)) for way in _ways(steering)
        ]
        found += [block("chain", f"rules{n}", _rules(steering, family, networks))]
        found += [block("chain", f"datagrams{n}", _datagrams(steering, family))]
        found += [block("chain", f"engaged{n}", _engaged(steering, family))]
        found += [block("chain", f"segments{n}", _segments(steering, family))]
        found += [block("chain", f"split{n}", _split(steering, family))]
    return found


_REFUSED = ["meta l4proto tcp reject with tcp reset", "reject with icmpx port-unreachable"]


def _split(steering: Steering, family: Family) -> list[str]:
    """Of what begins something: segments of what was begun go to `segments`."""
    n = family.number
    return [*_unsteered(steering, family), f"meta l4proto udp goto datagrams{n}", f"goto rules{n}"]


def _segments(steering: Steering, family: Family) -> list[str]:
    lines = [*_unsteered(steering, family), f"socket transparent 1 goto engaged{family.number}"]
    if steering.on_failure == "block":
        lines.append(f"{family.flow} @engaged{family.number} goto refused")
    return lines


def _unsteered(steering: Steering, family: Family) -> list[str]:
    n = family.number
    return [f"{family.ip} saddr @unsteered{n} return"] if any(a.version == n for a in steering.unsteered) else []


def _engaged(steering: Steering, family: Family) -> list[str]:
    """Two rules, so that a full set does not keep the segment from the engine."""
    remember = [f"update @engaged{family.number} {{ {family.flow} }}"] if steering.on_failure == "block" else []
    return ["socket wildcard 1 return", *remember, "goto steered"]


def _datagrams(steering: Steering, family: Family) -> list[str]:
    """Where nobody listens any more the flow is decided anew."""
    n, flow = family.number, family.flow
    lines = [f"{flow} @straight{n} update @straight{n} {{ {flow} }} return"]
    for port in steering.datagram_ports:
        steered = f"steered{port}_{n}"
        lines.append(f"{flow} @{steered} {_tproxy(port, family)} update @{steered} {{ {flow} }} goto steered")
    return [*lines, f"goto rules{n}"]


def _tproxy(port: int, family: Family) -> str:
    return f"meta l4proto {{ tcp, udp }} tproxy {family.ip} to {family.here}:{port}"


def _to_straight(family: Family, memory: Memory) -> list[str]:
    """A SYN of a connection that the engine has answered already stays with it."""
    remembered = "udp" if memory.is_of_proofs(family) else "{ tcp, udp }"
    return [
        f"meta l4proto tcp socket transparent 1 goto engaged{family.number}",
        f"meta l4proto {remembered} {STRAIGHT.over} return",
        f"meta l4proto {remembered} update @straight{family.number} {{ {family.flow} }}",
    ]


def _to(way: Way, steering: Steering, family: Family, memory: Memory) -> list[str]:
    lines = _of_quic(way, family) + memory.lines(family)
    if memory.has_begun and family is V4:
        lines.append(f"meta l4proto tcp delete @begun4 {{ {TUPLE} }} delete @pending4 {{ {TUPLE} }}")
    if (entry := way.entry(steering)) is not None:
        lines += [] if entry.udp else ["meta l4proto udp goto refused"]
        lines.append(f"{_tproxy(entry.port, family)} goto {entry.chain(family)}")
    if steering.on_failure == "block":
        lines.append("meta l4proto { tcp, udp } goto refused")
    return lines


def _entering(entry: Entry, family: Family) -> list[str]:
    """The first packet of a flow, for which somebody listens. A full set keeps nobody from the engine."""
    steered = f"steered{entry.port}_{family.number}"
    remember = [f"meta l4proto udp update @{steered} {{ {family.flow} }}"] if entry.udp else []
    return ["jump begins", *remember, "goto steered"]


_BEGINS = [
    f"meta l4proto tcp {CONNECTIONS.over} goto {CONNECTIONS.held}",
    f"meta l4proto tcp {DEVICE} @{CROWDS} goto {CONNECTIONS.held}",
    f"meta l4proto udp {DATAGRAMS.over} goto {DATAGRAMS.held}",
    f"meta l4proto udp {STRANGERS.over} goto {STRANGERS.held}",
]
"""For all ports and families."""


def _of_quic(way: Way, family: Family) -> list[str]:
    if way.quic == "proxy":
        return []
    return [f"udp dport 443 goto {'refused' if way.quic == 'block' else f'to_straight{family.number}'}"]


def _ways(steering: Steering) -> list[Way]:
    ways = {Way(r.send, kind, r.quic) for r in steering.policy.rules for kind in _kinds(r) if _is_steered(r)}
    if steering.policy.default == PROXY:
        ways.add(Way(PROXY, "named", steering.policy.quic))
    return sorted(ways)


def _entries(steering: Steering) -> list[Entry]:
    return sorted({entry for way in _ways(steering) if (entry := way.entry(steering)) is not None})


def _is_steered(rule: Rule) -> bool:
    return rule.send not in (DIRECT, BLOCK)


def _kinds(rule: Rule) -> Iterator[Kind]:
    if rule.destination is None or rule.destination.networks4 or rule.destination.networks6:
        yield "decided"
    if rule.destination is not None and rule.destination.has_names:
        yield _by_name(rule)


def _by_name(rule: Rule) -> Kind:
    """The engine knows no MAC addresses, and would take such a rule for nobody's, or for everybody's."""
    return "decided" if rule.source is not None and rule.source.macs else "named"


def _rules(steering: Steering, family: Family, networks: _Networks) -> list[str]:
    policy, n = steering.policy, family.number
    lines = [sparing.straight(n)] if steering.spares else []
    lines += [line for i, rule in enumerate(policy.rules) for line in _rule(i, rule, steering, family, networks)]
    if policy.default != PROXY:
        return [*lines, f"goto to_straight{n}"]
    way = Way(PROXY, "named", policy.quic)
    public = "ip daddr != @private4 " if family is V4 else ""
    return [*lines, f"{public}goto {way.chain(steering, family)}", *([f"goto to_straight{n}"] if public else [])]


def _rule(i: int, rule: Rule, steering: Steering, family: Family, networks: _Networks) -> list[str]:
    """One rule of the policy as one of nft for each way in which it may match."""
    where = {DIRECT: f"to_straight{family.number}", BLOCK: "refused"}
    lines = []
    for conditions, way in _alternatives(i, rule, family, networks):
        chain = way.chain(steering, family) if way is not None else where[rule.send]
        lines.append(" ".join([*conditions, "goto", chain]))
    return lines


def _alternatives(i: int, rule: Rule, family: Family, networks: _Networks) -> Iterator[tuple[list[str], Way | None]]:
    is_steered = _is_steered(rule)
    for source in _sources(rule.source, family):
        for destination, kind, is_network in _destinations(i, rule, family, networks):
            public = ["ip daddr != @private4"] if is_steered and not is_network and family is V4 else []
            yield (
                [*source, *_protocol(rule), *destination, *public],
                Way(rule.send, kind, rule.quic) if is_steered else None,
            )


def _destinations(i: int, rule: Rule, family: Family, networks: _Networks) -> list[tuple[list[str], Kind, bool]]:
    """Conditions, the way they lead, and whether it is a network of the rule that holds the address."""
    if rule.destination is None:
        return [([], "decided", False)]
    found: list[tuple[list[str], Kind, bool]] = []
    if (i, family.number) in networks:
        found.append((networks[i, family.number].conditions, "decided", True))
    if rule.destination.has_names:
        key = rule.destination.names_key
        sets_of = [f"{family.ip} daddr @{kind}_{key}_{family.number}" for kind in ("names", "kept")]
        found += [([condition], _by_name(rule), False) for condition in sets_of]
    return found


def _sources(source: Source | None, family: Family) -> list[list[str]]:
    if source is None:
        return [[]]
    return [[asked.condition] for asked in _senders(source, family)]


def _senders(source: Source | None, family: Family) -> list[Among]:
    if source is None:
        return []
    networks = source.networks4 if family is V4 else source.networks6
    found = [
        Among("ether saddr", "ether_addr", source.macs),
        Among(f"{family.ip} saddr", family.type, tuple(map(str, networks))),
    ]
    return [asked for asked in found if asked.values]


def _protocol(rule: Rule) -> list[str]:
    if rule.ports is None:
        return [f"meta l4proto {rule.protocol}"] if rule.protocol else []
    return [f"meta l4proto {rule.protocol or '{ tcp, udp }'} {asked.condition}" for asked in _ports(rule)]


def _ports(rule: Rule) -> list[Among]:
    ranges = tuple(str(a) if a == b else f"{a}-{b}" for a, b in rule.ports or ())
    return [Among("th dport", "inet_service", ranges)] if ranges else []
