"""Carries packets from node to node until nothing moves any more.

The queue is the kernel's own: a frame that leaves a veth goes to the end of the receiving CPU's backlog
(net/core/dev.c, netif_rx), so packets take turns in the order in which they were sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sidegate.walk.conntrack import INVALID, UNTRACKED, Tracking
from sidegate.walk.data import Decision, Hop, Packet
from sidegate.walk.network import Bridge, Network, Node, Port

TTL = 64
"""net.ipv4.ip_default_ttl, and IPv6's hop limit (RFC 8200 section 3, net/ipv6/addrconf.c)."""
_MOST_HOPS = 2000

Deliver = Callable[[Node, Packet], None]


class Engine:
    """hops: what happened so far. drops: where packets ended that were meant to go on, as (node, law).

    only: the one node that does anything; None for all.
    """

    def __init__(self, network: Network, only: Node | None = None) -> None:
        self.network, self.only = network, only
        self.hops: list[Hop] = []
        self.drops: list[tuple[str, str, Packet]] = []
        self.step = 0
        self.deliver: Deliver = _nobody
        self._queue: deque[tuple[Port, Packet]] = deque()
        self._replies: list[tuple[Node, Packet]] = []
        self._notes: list[Decision] = []
        self._leaves: list[tuple[str, Packet]] = []

    def send(self, node: Node, packet: Packet) -> None:
        """A program or the kernel of this machine sends; MACs are filled in. Begins a hop of its own."""
        self._notes, self._leaves = [], []
        self._output(node, packet, None)
        self._close(node, None, packet)

    def put(self, port: Port, packet: Packet) -> None:
        """A frame as it is, MACs and all, out of a port: what an AF_PACKET socket does."""
        self._notes, self._leaves = [], []
        self._leave(port, packet)
        self._close(port.node, None, packet)

    def receive(self, port: Port, packet: Packet) -> None:
        """A frame as it is comes in by this port."""
        self._queue.append((port, packet))

    def reply(self, node: Node, packet: Packet) -> None:
        """Like `send`, once the packet in hand is done with: what a socket or the kernel answers."""
        self._replies.append((node, packet))

    def run(self) -> None:
        """Until all is quiet."""
        queue = self._queue
        while queue:
            port, packet = queue.popleft()
            self._arrive(port, packet)
            if len(self.hops) > _MOST_HOPS:
                self.drops.append((port.node.name, "loop", packet))
                queue.clear()

    # Frames

    def _arrive(self, port: Port, packet: Packet) -> None:
        node = port.node
        self._notes, self._leaves = [], []
        if port.bridge is not None:
            self._bridge(node, port, port.bridge, packet)
        elif packet.dst_mac != port.mac:
            self._notes.append(_NOT_OURS)
        else:
            self._input(node, port.name, packet)
        self._close(node, port.name, packet)
        if self._replies:
            replies, self._replies = self._replies, []
            for sender, answer in replies:
                self.send(sender, answer)

    def _close(self, node: Node, enters: str | None, before: Packet | None) -> None:
        self.hops.append(Hop(self.step, node.name, enters, before, tuple(self._leaves), tuple(self._notes)))

    def _leave(self, port: Port, packet: Packet) -> None:
        self._leaves.append((port.name, packet))
        if port.peer is not None and self.only in (None, port.peer.node):
            self._queue.append((port.peer, packet))

    def _end(self, node: Node, law: str, packet: Packet, *about: str) -> None:
        self._notes.append(Decision(law, about))
        self.drops.append((node.name, law, packet))

    def _bridge(self, node: Node, port: Port, bridge: Bridge, packet: Packet) -> None:
        bridge.known[packet.src_mac] = port
        if node.filters and ":" not in packet.src:
            self._bridge_filtered(node, port, bridge, packet)
        elif packet.dst_mac == bridge.mac:
            self._notes.append(Decision("up", (bridge.name,)))
            self._input(node, bridge.name, packet)
        else:
            self._pass_on(bridge, port, packet, node)

    def _pass_on(self, bridge: Bridge, came: Port | None, packet: Packet, node: Node) -> None:
        """By the forwarding database, or to all."""
        out = bridge.known.get(packet.dst_mac)
        if out is None:
            self._notes.append(Decision("flood", (bridge.name,)))
            for port in bridge.ports:
                if port is not came:
                    self._leave(port, packet)
        elif out is came:
            self._end(node, "same-port", packet, bridge.name)
        else:
            self._notes.append(_fdb(bridge, out))
            self._leave(out, packet)

    def _bridge_filtered(self, node: Node, port: Port, bridge: Bridge, packet: Packet) -> None:
        """br_netfilter_hooks.c: PRE_ROUTING, forwarding database, FORWARD, POST_ROUTING, all within the bridge.

        A frame for the bridge itself stays within it too where its new destination is on it.
        """
        tracking, changed = self._prerouting(node, bridge.name, packet)
        neighbour = self._new_neighbour(node, bridge, packet, changed)
        goes_up = packet.dst_mac == bridge.mac and not neighbour
        self._notes.insert(0, Decision("up", (bridge.name,)) if goes_up else _FILTERED)
        if changed is None or tracking is None:
            return
        if goes_up or neighbour == "":
            if not goes_up:
                self._notes.append(Decision("captured-dnat", (changed.dst,)))
            self._routed(node, bridge.name, changed, tracking)
            return
        if neighbour:
            self._notes.append(Decision("bridged-dnat", (neighbour,)))
            changed = _with_macs(changed, packet.src_mac, node.neighbours.get(neighbour, ""))
        self._bridge_on(node, port, bridge, changed, tracking)

    @staticmethod
    def _new_neighbour(node: Node, bridge: Bridge, before: Packet, after: Packet | None) -> str | None:
        """Whom on this bridge a changed destination leads to; empty: nobody; None: it was not changed."""
        if after is None or after.dst == before.dst:
            return None
        way = node.route(after.dst) if after.dst not in node.own else None
        return way[1] if way and way[0] == bridge.name else ""

    def _bridge_on(self, node: Node, port: Port, bridge: Bridge, packet: Packet, tracking: Tracking) -> None:
        if not self._forward_allowed(node, bridge.name, packet, tracking):
            return
        sent = self._postrouting(node, bridge.name, bridge.name, packet, tracking)
        if sent is not None:
            self._pass_on(bridge, port, sent, node)

    # Netfilter

    def _prerouting(self, node: Node, interface: str, packet: Packet) -> tuple[Tracking | None, Packet | None]:
        """(what conntrack says, the packet after destination NAT); None for the packet: dropped."""
        if node.blocked and packet.dst in node.blocked:
            self._end(node, "blocked", packet, packet.dst)
            return None, None
        if node.nat is None or ":" in packet.src:
            return UNTRACKED, packet
        if node.table is not None and (why := node.table.untracked(packet)):
            self._notes.append(Decision("ct-untracked", (why,)))
            return UNTRACKED, packet
        tracking = node.nat.conntrack.track(packet, self._notes)
        changed = node.nat.pass_hook("prerouting", tracking, packet, (interface, ""), self._notes)
        if changed is None:
            self._end_of_nat(node, packet)
        return tracking, changed

    def _end_of_nat(self, node: Node, packet: Packet) -> None:
        self.drops.append((node.name, self._notes[-1].law, packet))

    def _forward_allowed(self, node: Node, came: str, packet: Packet, tracking: Tracking) -> bool:
        if node.nat is None or ":" in packet.src:
            return True
        rules = node.nat.rules
        if rules.drop_invalid and tracking is INVALID:
            self._end(node, "drop-invalid", packet)
            return False
        if not rules.stateful or came != "wan":
            return True
        entry = tracking.entry
        if tracking.info not in ("new", "invalid", "untracked") or (entry and entry.translates_destination):
            return True
        self._end(node, "drop-wan", packet)
        return False

    def _postrouting(self, node: Node, came: str, leaves: str, packet: Packet, tracking: Tracking) -> Packet | None:
        """Source NAT, then confirm; None: dropped."""
        if node.nat is None or ":" in packet.src:
            return packet
        if tracking.entry is None:
            self._notes.append(_NO_NAT)
            return packet
        changed = node.nat.pass_hook("postrouting", tracking, packet, (came, leaves), self._notes)
        if changed is None:
            self._end_of_nat(node, packet)
            return None
        node.nat.conntrack.confirm(tracking)
        return changed

    # Routing

    def _input(self, node: Node, interface: str, packet: Packet) -> None:
        """ip_input.c, ip_rcv: a packet for this machine's MAC address."""
        tracking, changed = self._prerouting(node, interface, packet)
        if changed is not None and tracking is not None:
            self._routed(node, interface, changed, tracking)

    def _routed(self, node: Node, interface: str, packet: Packet, tracking: Tracking) -> None:
        """route.c, ip_route_input_slow."""
        if node.proxied and self._is_for_engine(packet):
            self._notes.append(_TPROXY)
            self._local(node, packet, tracking)
        elif packet.src in node.own:
            self._end(node, "martian", packet, packet.src)
        elif node.rp_filter and not self._comes_right(node, interface, packet):
            self._end(node, "rp-filter", packet, packet.src, interface)
        elif packet.dst in node.own:
            self._notes.append(Decision("local", (packet.dst,)))
            self._local(node, packet, tracking)
        elif not node.forwards:
            self._end(node, "not-forwarding", packet)
        else:
            self._forward(node, interface, packet, tracking)

    def _is_for_engine(self, packet: Packet) -> bool:
        return packet.src in self.network.lan and packet.dst not in self.network.lan and packet.protocol == "tcp"

    @staticmethod
    def _comes_right(node: Node, interface: str, packet: Packet) -> bool:
        """Strict mode (RFC 3704 section 2.2)."""
        way = node.route(packet.src)
        return way is not None and way[0] == interface

    def _local(self, node: Node, packet: Packet, tracking: Tracking) -> None:
        if node.nat is not None and tracking.entry is not None:
            changed = node.nat.pass_hook("input", tracking, packet, ("", ""), self._notes)
            if changed is None:
                self._end_of_nat(node, packet)
                return
            packet = changed
            node.nat.conntrack.confirm(tracking)
        self.deliver(node, packet)

    def accept_redirect(self, node: Node, packet: Packet) -> None:
        """route.c, __ip_do_redirect: only from the gateway in use."""
        to = packet.inner.dst if packet.inner else ""
        way = node.route(to)
        if not node.accept_redirects or way is None or (node.redirected.get(to) or way[1]) != packet.src:
            self._notes.append(Decision("ignore-redirect", ("it is configured so",)))
            return
        node.redirected[to] = packet.gateway
        self._notes.append(Decision("accept-redirect", (to, packet.gateway)))

    def _forward(self, node: Node, interface: str, packet: Packet, tracking: Tracking) -> None:
        """ip_forward.c, ip_forward."""
        way = node.route(packet.dst)
        if way is None:
            self._end(node, "no-route", packet, packet.dst)
            self._error(node, packet, tracking, "network unreachable")
            return
        if packet.ttl <= 1:
            self._end(node, "ttl-exceeded", packet)
            self._error(node, packet, tracking, "time exceeded")
            return
        leaves, via = way
        self._notes.append(Decision("route", (via, leaves)))
        aged = _aged(packet)
        if leaves == interface and node.send_redirects and self._is_on_link(node, interface, packet.src, via):
            self._send_redirect(node, aged, tracking, via)
        if not self._forward_allowed(node, interface, aged, tracking):
            return
        sent = self._postrouting(node, interface, leaves, aged, tracking)
        if sent is not None:
            self._transmit(node, leaves, via, sent)

    @staticmethod
    def _is_on_link(node: Node, interface: str, *addresses: str) -> bool:
        """Directly reached by this interface (route.c, __mkroute_input: inet_addr_onlink)."""
        return ":" not in addresses[0] and all(node.route(a) == (interface, a) for a in addresses)

    def _send_redirect(self, node: Node, packet: Packet, tracking: Tracking, via: str) -> None:
        """route.c, ip_rt_send_redirect: the first to a host at once, the next not before 40 ms later."""
        if packet.src in node.redirects_sent:
            return
        node.redirects_sent.add(packet.src)
        self._notes.append(Decision("send-redirect", (packet.src, via)))
        self._error(node, packet, tracking, "redirect", via)

    def _error(self, node: Node, packet: Packet, tracking: Tracking, kind: str, gateway: str = "") -> None:
        """icmp.c, icmp_send: about a packet in hand; it inherits the packet's connection (nf_conntrack_attach)."""
        if packet.inner is not None:
            return
        way = node.route(packet.src)
        if way is None:
            return
        own = next((a for a in node.addresses.get(way[0], ()) if (":" in a) == (":" in packet.src)), "")
        quoted = _with_macs(packet, "", "")
        error = Packet("", "", own, packet.src, "icmp", 0, 0, TTL, kind, quoted, gateway)
        inherited: Tracking | None = None
        if tracking.entry is not None:
            info = "related" if tracking.backwards else "related reply"
            inherited = Tracking(info, tracking.entry, not tracking.backwards)  # type: ignore[arg-type]
        self._output(node, error, inherited)

    def note(self, law: str, *about: str) -> None:
        """What a socket decided about the packet in hand."""
        self._notes.append(Decision(law, about))

    def report(self, node: Node, packet: Packet, kind: str) -> None:
        """The kernel of a machine sends an ICMP error about a packet it was given, as a hop of its own."""
        if node.route(packet.src) is None:
            self._end(node, "no-route", packet, packet.src)
        else:
            error = Packet("", "", packet.dst, packet.src, "icmp", 0, 0, TTL, kind, _with_macs(packet, "", ""))
            self.reply(node, error)

    def _output(self, node: Node, packet: Packet, tracking: Tracking | None) -> None:
        """ip_output.c, __ip_local_out. tracking: None asks conntrack."""
        to = node.redirected.get(packet.dst) if node.redirected else None
        way = node.route(packet.dst)
        if way is None:
            self._end(node, "no-route", packet, packet.dst)
            return
        leaves, via = way
        if to:
            via = to
            self._notes.append(Decision("redirected", (via,)))
        if node.nat is not None and ":" not in packet.src:
            if tracking is None:
                tracking = node.nat.conntrack.track(packet, self._notes)
            changed = node.nat.pass_hook("output", tracking, packet, ("", leaves), self._notes)
            if changed is None:
                return
            changed = self._postrouting(node, "", leaves, changed, tracking)
            if changed is None:
                return
            packet = changed
        self._notes.append(Decision("route", (via, leaves)))
        self._transmit(node, leaves, via, packet)

    def _transmit(self, node: Node, leaves: str, via: str, packet: Packet) -> None:
        mac = node.neighbours.get(via)
        if mac is None:
            self._end(node, "no-neighbour", packet, via)
            return
        self._notes.append(Decision("neighbour", (via, mac)))
        port = node.ports.get(leaves)
        if port is not None:
            self._leave(port, _with_macs(packet, port.mac, mac))
            return
        bridge = node.bridges[leaves]
        self._pass_on(bridge, None, _with_macs(packet, bridge.mac, mac), node)


def _nobody(node: Node, packet: Packet) -> None:
    """Where no sockets are."""


def _with_macs(packet: Packet, src: str, dst: str) -> Packet:
    return Packet(
        src, dst, packet.src, packet.dst, packet.protocol, packet.sport, packet.dport, packet.ttl, packet.kind,
        packet.inner, packet.gateway, packet.numbers,
    )  # fmt: skip


def _aged(packet: Packet) -> Packet:
    return Packet(
        packet.src_mac, packet.dst_mac, packet.src, packet.dst, packet.protocol, packet.sport, packet.dport,
        packet.ttl - 1, packet.kind, packet.inner, packet.gateway, packet.numbers,
    )  # fmt: skip


_FDB: dict[tuple[str, str], Decision] = {}


def _fdb(bridge: Bridge, out: Port) -> Decision:
    key = (bridge.name, out.name)
    found = _FDB.get(key)
    if found is None:
        found = _FDB[key] = Decision("fdb" if bridge.name == "br-lan" else "hardware", key)
    return found


_NO_NAT = Decision("nat-none")
_NOT_OURS, _FILTERED, _TPROXY = Decision("not-ours"), Decision("filtered"), Decision("tproxy")
