"""Connection tracking and NAT of one machine: laws 2 to 6 of `laws`.

The table's shape is the kernel's: an entry is found by the tuple of either direction. TCP is in `windows`. ICMP
errors: nf_conntrack_proto_icmp.c.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from sidegate.walk.data import ANY_PORT, Decision, Packet, Protocol, Tracked
from sidegate.walk.windows import Connection, Fate, tcp_index

Tuple = tuple[str, str, int, str, int]
"""(protocol, source, its port, destination, its port); an echo: (…, id, destination, 8 or 0), as the kernel has it."""
Info = Literal["new", "established", "reply", "related", "related reply", "invalid", "untracked"]
Kind = Literal["source", "destination"]
Hook = Literal["prerouting", "input", "output", "postrouting"]

ECHO, ECHO_REPLY = 8, 0


class Entry:
    """A connection.

    source_done, destination_done: NAT of this kind is decided. masqueraded: the interface bound to.
    tcp: None for others.
    """

    __slots__ = ("assured", "confirmed", "dead", "destination_done", "masqueraded", "original", "replied", "reply",
                 "source_done", "tcp")  # fmt: skip

    def __init__(self, original: Tuple) -> None:
        self.original = original
        self.reply = inverted(original)
        self.tcp = Connection() if original[0] == "tcp" else None
        self.replied = self.assured = self.confirmed = self.dead = False
        self.source_done = self.destination_done = False
        self.masqueraded: str | None = None

    @property
    def translates_source(self) -> bool:
        if self.original[0] == "icmp":
            return (self.reply[3], self.reply[2]) != self.original[1:3]
        return self.reply[3:] != self.original[1:3]

    @property
    def translates_destination(self) -> bool:
        if self.original[0] == "icmp":
            return self.reply[1] != self.original[3]
        return self.reply[1:3] != self.original[3:]


class Tracking(NamedTuple):
    """What conntrack says about one packet. backwards: it goes in the reply direction."""

    info: Info
    entry: Entry | None = None
    backwards: bool = False


UNTRACKED, INVALID = Tracking("untracked"), Tracking("invalid")


class Forward(Struct, frozen=True):
    """A destination NAT rule. to: None for a redirect to the box itself."""

    interface: str
    protocol: Protocol
    port: int
    to: tuple[str, int] | None = None


class Rules(Struct, frozen=True):
    """The ruleset of a machine, as far as it decides about packets.

    inward: destination NAT. masquerade: the interface it applies to, `*` for all. snat: (interface, address).
    sidegate: the LAN interface, where the gateway's own table is loaded. stateful: only what belongs to a known
    connection or a port forward comes in from the WAN. drop_invalid: forwarded INVALID packets are dropped.
    """

    inward: tuple[Forward, ...] = ()
    masquerade: str | None = None
    snat: tuple[str, str] | None = None
    sidegate: str | None = None
    stateful: bool = False
    drop_invalid: bool = False


def inverted(it: Tuple) -> Tuple:
    """The tuple of the other direction; an echo keeps its id (nf_conntrack_proto_icmp.c)."""
    protocol, src, sport, dst, dport = it
    if protocol == "icmp":
        return (protocol, dst, sport, src, ECHO_REPLY if dport == ECHO else ECHO)
    return (protocol, dst, dport, src, sport)


def tuple_of(packet: Packet) -> Tuple:
    """The packet's own tuple; not for ICMP errors."""
    if packet.protocol == "icmp":
        return ("icmp", packet.src, packet.sport, packet.dst, ECHO if packet.kind == "echo request" else ECHO_REPLY)
    return (packet.protocol, packet.src, packet.sport, packet.dst, packet.dport)


def readdressed(packet: Packet, src: str, sport: int, dst: str, dport: int) -> Packet:
    """The packet with another tuple."""
    return Packet(
        packet.src_mac, packet.dst_mac, src, dst, packet.protocol, sport, dport, packet.ttl, packet.kind, packet.inner,
        packet.gateway, packet.numbers,
    )  # fmt: skip


class Conntrack:
    """The table of one machine."""

    def __init__(self) -> None:
        self.table: dict[Tuple, tuple[Entry, bool]] = {}

    def forget(self) -> None:
        """As after a reboot, `conntrack -F`, or when all timeouts have passed."""
        self.table.clear()

    def track(self, packet: Packet, notes: list[Decision]) -> Tracking:
        """nf_conntrack_core.c, nf_conntrack_in."""
        if packet.inner is not None:
            return self._track_error(packet, packet.inner, notes)
        key = tuple_of(packet)
        found = self.table.get(key)
        if found is None:
            return self._begin(packet, key, notes)
        entry, backwards = found
        seen = entry.replied
        if entry.tcp is not None:
            fate = self._tcp(entry, entry.tcp, backwards, packet, notes)
            if fate == "reopened":
                self.kill(entry)
                return self._begin(packet, key, notes)
            if fate == "invalid":
                return INVALID
        if backwards:
            entry.replied = True
            notes.append(_REPLY)
            return Tracking("reply", entry, True)
        notes.append(_ESTABLISHED if seen else _UNREPLIED)
        return Tracking("established" if seen else "new", entry)

    def _begin(self, packet: Packet, key: Tuple, notes: list[Decision]) -> Tracking:
        if packet.protocol == "icmp" and key[4] != ECHO:
            notes.append(Decision("ct-invalid", ("an echo reply that nobody asked for",)))
            return INVALID
        entry = Entry(key)
        if entry.tcp is not None and not entry.tcp.begin(tcp_index(packet.kind), packet.numbers or None):
            notes.append(Decision("ct-invalid", (f"{packet.kind} begins no connection",)))
            return INVALID
        notes.append(_PICKED_UP if entry.tcp and entry.tcp.state == "ESTABLISHED" else _NEW)
        return Tracking("new", entry)

    def _tcp(self, entry: Entry, tcp: Connection, backwards: bool, packet: Packet, notes: list[Decision]) -> Fate:
        """Takes a segment (nf_conntrack_proto_tcp.c, nf_conntrack_tcp_packet)."""
        old, index = tcp.state, tcp_index(packet.kind)
        fate = tcp.take(index, backwards, packet.numbers or None, entry.replied, entry.assured)
        if fate == "invalid":
            notes.append(Decision("ct-invalid", (f"{index.upper()} in state {old}",)))
        elif fate == "accepted" and not entry.replied:
            if index == "rst":
                self.kill(entry)
                notes.append(_KILLED)
        elif fate == "accepted" and old in ("SYN_RECV", "ESTABLISHED") and tcp.state == "ESTABLISHED":
            entry.assured = True
        return fate

    def _track_error(self, packet: Packet, quoted: Packet, notes: list[Decision]) -> Tracking:
        """An error belongs to the connection that the packet it quotes was answered by."""
        found = self.table.get(inverted(tuple_of(quoted)))
        if found is None or packet.dst != (found[0].reply if found[1] else found[0].original)[3]:
            notes.append(Decision("ct-invalid", ("an error about no known connection",)))
            return INVALID
        entry, backwards = found
        notes.append(_RELATED)
        return Tracking("related reply" if backwards else "related", entry, backwards)

    def kill(self, entry: Entry) -> None:
        """nf_ct_kill: the packet in hand keeps its entry, later ones do not find it."""
        entry.dead = True
        self.table.pop(entry.original, None)
        self.table.pop(entry.reply, None)

    def confirm(self, tracking: Tracking) -> None:
        """nf_conntrack_core.c, __nf_conntrack_confirm: only now others can find it."""
        entry = tracking.entry
        if entry is not None and not entry.confirmed and not tracking.backwards:
            entry.confirmed = True
            self.table[entry.original] = (entry, False)
            self.table[entry.reply] = (entry, True)  # one tuple for both, as of a LAND packet: this one is found

    def is_taken(self, reply: Tuple, but: Entry) -> bool:
        """nf_nat_core.c, nf_nat_used_tuple."""
        found = self.table.get(reply)
        return found is not None and found[0] is not but

    def listing(self, node: str) -> tuple[Tracked, ...]:
        """What `conntrack -L` shows, sorted."""
        entries = {id(entry): entry for entry, _ in self.table.values()}.values()
        return tuple(sorted(tracked(node, entry) for entry in entries))


def tracked(node: str, entry: Entry) -> Tracked:
    """An entry as data."""
    protocol: Protocol = entry.original[0]  # type: ignore[assignment]
    original, reply = entry.original[1:], entry.reply[1:]
    if protocol == "icmp":
        original, reply = (*original[:3], 0), (*reply[:3], 0)
    state = entry.tcp.state if entry.tcp else ""
    return Tracked(node, protocol, original, reply, state, entry.replied, entry.assured)


class Nat:
    """NAT of one machine: asks the rules for a connection's first packet, and translates all of them."""

    def __init__(self, conntrack: Conntrack, rules: Rules, addresses: dict[str, str], lan: frozenset[str]) -> None:
        """addresses: of each interface, IPv4. lan: IPv4 addresses that are not the internet's."""
        self.conntrack, self.rules, self.addresses, self.lan = conntrack, rules, addresses, lan

    def pass_hook(
        self, hook: Hook, tracking: Tracking, packet: Packet, interfaces: tuple[str, str], notes: list[Decision]
    ) -> Packet | None:
        """The packet after this hook's NAT; None: dropped. interfaces: (in, out), empty where the hook has none.

        nf_nat_core.c, nf_nat_inet_fn; nf_nat_proto.c, nf_nat_ipv4_fn.
        """
        entry = tracking.entry
        if entry is None:
            return packet
        kind: Kind = "source" if hook in ("postrouting", "input") else "destination"
        if packet.inner is not None:
            return self._error(kind, tracking, entry, packet, packet.inner, notes)
        if tracking.info == "new" and not (entry.source_done if kind == "source" else entry.destination_done):
            self._decide(hook, kind, entry, packet, interfaces, notes)
        elif self._is_stray(hook, tracking, entry, interfaces[1]):
            notes.append(Decision("nat-interface-changed", (entry.masqueraded or "", interfaces[1])))
            self.conntrack.kill(entry)
            return None
        elif tracking.info == "new" and hook == "postrouting":
            notes.append(_DECIDED)
        return self._translate(kind, tracking, entry, packet, notes)

    @staticmethod
    def _is_stray(hook: Hook, tracking: Tracking, entry: Entry, out: str) -> bool:
        bound = entry.masqueraded is not None and hook == "postrouting" and not tracking.backwards
        return bound and entry.masqueraded != out

    def _decide(
        self, hook: Hook, kind: Kind, entry: Entry, packet: Packet, interfaces: tuple[str, str], notes: list[Decision]
    ) -> None:
        if kind == "destination":
            entry.destination_done = True
            if not (hook == "prerouting" and self._inward(entry, packet, interfaces[0], notes)):
                notes.append(_NULL_DESTINATION)
        else:
            entry.source_done = True
            if not (hook == "postrouting" and self._outward(entry, packet, interfaces, notes)):
                entry.reply = self._free(entry.reply, entry, packet, notes)
                notes.append(_NULL_SOURCE)

    def _inward(self, entry: Entry, packet: Packet, interface: str, notes: list[Decision]) -> bool:
        for rule in self.rules.inward:
            if (rule.interface, rule.protocol, rule.port) == (interface, packet.protocol, packet.dport):
                law = "nat-dnat" if rule.to else "nat-redirect"
                address, port = rule.to or (self.addresses[interface], packet.dport)
                entry.reply = (packet.protocol, address, port, packet.src, packet.sport)
                notes.append(Decision(law, (f"{address}:{port}",)))
                return True
        return False

    def _outward(self, entry: Entry, packet: Packet, interfaces: tuple[str, str], notes: list[Decision]) -> bool:
        rules, (came, leaves) = self.rules, interfaces
        if rules.sidegate and came == leaves == rules.sidegate and self._is_upstream(packet):
            if packet.protocol == "tcp" and packet.kind != "SYN":
                notes.append(Decision("nat-keep", (packet.src,)))
                return True
            self._masquerade(entry, packet, leaves, notes)
            return True
        if rules.masquerade in (leaves, "*"):
            self._masquerade(entry, packet, leaves, notes)
            return True
        if rules.snat and rules.snat[0] == leaves:
            address = rules.snat[1]
            self._set_source(entry, packet, address, notes)
            notes.append(Decision("nat-snat", (packet.src, address)))
            return True
        return False

    def _is_upstream(self, packet: Packet) -> bool:
        return packet.src in self.lan and packet.dst not in self.lan

    def _masquerade(self, entry: Entry, packet: Packet, leaves: str, notes: list[Decision]) -> None:
        address = self.addresses[leaves]
        self._set_source(entry, packet, address, notes)
        entry.masqueraded = leaves
        notes.append(Decision("nat-masquerade", (packet.src, address, leaves)))

    def _set_source(self, entry: Entry, packet: Packet, address: str, notes: list[Decision]) -> None:
        protocol, src, sport, _, dport = entry.reply
        entry.reply = self._free((protocol, src, sport, address, dport), entry, packet, notes)

    def _free(self, reply: Tuple, entry: Entry, packet: Packet, notes: list[Decision]) -> Tuple:
        """The tuple, or one with a port that nobody can foresee where it is taken (get_unique_tuple)."""
        if not self.conntrack.is_taken(reply, entry):
            return reply
        notes.append(Decision("nat-port-taken", (str(packet.sport),)))
        protocol, src, sport, dst, dport = reply
        return (protocol, src, ANY_PORT, dst, dport) if protocol == "icmp" else (protocol, src, sport, dst, ANY_PORT)

    def _translate(self, kind: Kind, tracking: Tracking, entry: Entry, packet: Packet, notes: list[Decision]) -> Packet:
        """nf_nat_packet: towards the inverse of the other direction's tuple."""
        backwards = tracking.backwards
        which = entry.translates_source if (kind == "source") != backwards else entry.translates_destination
        if not which:
            return packet
        _, src, sport, dst, dport = inverted(entry.original if backwards else entry.reply)
        if kind == "source":
            changed = _with_source(packet, src, sport)
            notes.append(Decision("nat-source", (_end(packet.src, packet.sport), _end(src, sport))))
        else:
            changed = _with_destination(packet, dst, sport if packet.protocol == "icmp" else dport)
            notes.append(Decision("nat-destination", (_end(packet.dst, packet.dport), _end(dst, dport))))
        return changed

    def _error(
        self, kind: Kind, tracking: Tracking, entry: Entry, packet: Packet, inner: Packet, notes: list[Decision]
    ) -> Packet | None:
        """nf_nat_icmp_reply_translation."""
        translates = entry.translates_source, entry.translates_destination
        if packet.kind == "redirect" and (not (entry.source_done and entry.destination_done) or any(translates)):
            notes.append(Decision("nat-redirect-dropped"))
            return None
        backwards = tracking.backwards
        if not translates[(kind == "source") == backwards]:
            return packet
        other = entry.original if backwards else entry.reply
        _, src, sport, dst, dport = other
        icmp = inner.protocol == "icmp"
        if kind == "source":
            inner = readdressed(inner, inner.src, sport if icmp else inner.sport, dst, 0 if icmp else dport)
            changed = readdressed(packet, dst, packet.sport, packet.dst, packet.dport)
        else:
            inner = readdressed(inner, src, sport, inner.dst, inner.dport)
            changed = readdressed(packet, packet.src, packet.sport, src, packet.dport)
        notes.append(Decision("nat-error"))
        return msgspec.structs.replace(changed, inner=inner)


def _with_source(packet: Packet, src: str, sport: int) -> Packet:
    return readdressed(packet, src, sport, packet.dst, packet.dport)


def _with_destination(packet: Packet, dst: str, port: int) -> Packet:
    if packet.protocol == "icmp":
        return readdressed(packet, packet.src, port, dst, packet.dport)
    return readdressed(packet, packet.src, packet.sport, dst, port)


def _end(address: str, port: int) -> str:
    return f"{address}:{'?' if port == ANY_PORT else port}" if port else address


_NEW, _UNREPLIED, _ESTABLISHED = Decision("ct-new"), Decision("ct-unreplied"), Decision("ct-established")
_REPLY, _PICKED_UP, _RELATED = Decision("ct-reply"), Decision("ct-picked-up"), Decision("ct-related")
_DECIDED = Decision("nat-decided")
_KILLED = Decision("ct-killed")
_NULL_SOURCE, _NULL_DESTINATION = Decision("nat-null", ("source",)), Decision("nat-null", ("destination",))
